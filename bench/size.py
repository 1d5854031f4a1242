"""Cost against size: users, videos, frames, width of the features and of the model, with fitted lines.

    python -m bench.size [--only NAME ...]

Each series varies one size, and everything else stays: a training step (forward, backward, AdamW), an
evaluation batch, the order of an epoch. Times are the best of some calls on one thread, in core-seconds. The
line `a + b * size` is fitted to relative errors, so that small sizes count as much as large ones; `off` is
what was measured over what the line says, and far from 1 is a bend.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.report import RESULTS, Report
from bench.timing import core_seconds
from mealrec import Batch, MealRec, MealRecConfig
from shards.stream.plan import Plan, cut_windows

ROOT = Path(__file__).resolve().parents[1]
ROWS, LENGTH, DIM = 32, 13, 64
CALLS, ENOUGH = 5, 8.0  # calls of each size, and core-seconds after which no more are made


class Series(NamedTuple):
    """One size that varies: its name, its values, and what makes the work of a value."""

    size: str
    values: Sequence[int]
    work: Callable[[int], Callable[[], object]]


def config_of(**sizes: Any) -> MealRecConfig:
    """A model of 10,000 videos by IDs, with some of its sizes changed."""
    sizes = {"videos": 10_000, "max_length": LENGTH, "dim": DIM, **sizes}
    return MealRecConfig(**sizes)


def batch_of(config: MealRecConfig) -> Batch:
    """Random histories without padding, and the frames of their videos."""
    generator = torch.Generator().manual_seed(0)
    item = torch.randint(1, config.videos + 1, (ROWS, LENGTH + 1), generator=generator)
    batch: Batch = {
        "sample_id": torch.arange(ROWS),
        "item": item[:, :-1].contiguous(),
        "target": item[:, 1:].contiguous(),
    }
    if config.width:
        video, row = batch["item"].unique(return_inverse=True)
        batch["features"] = torch.randn(len(video), config.frames, config.width, generator=generator)
        batch["frames"] = torch.full((len(video),), config.frames)
        batch["feature_row"] = row
    return batch


def training(config: MealRecConfig, softmax: str = "sampled") -> Callable[[], object]:
    """A step in plain PyTorch."""
    config.objective.softmax = softmax  # type: ignore[assignment]
    model, batch = MealRec(config), batch_of(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        losses: Any = model(batch)
        model.objective(losses, model.counts(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def evaluation(config: MealRecConfig) -> Callable[[], object]:
    """A batch of an evaluation."""
    model, batch = MealRec(config).eval(), batch_of(config)
    batch["target"] = batch["target"][:, -1].contiguous()
    return lambda: model(batch, task="target_rank", mask_history=False)


def epoch_order(users: int) -> Callable[[], object]:
    """The order of an epoch, and the rows of each batch, as the ranks work them out."""
    lengths = np.random.default_rng(0).integers(3, 30, users)

    def order() -> None:
        user, start, stop, _ = cut_windows(lengths, LENGTH, 0)
        shards = np.bincount(user // 50_000)
        plan = Plan(shards.tolist(), seed=0, epoch=0, batch_size=256)
        inputs = stop - 1 - start
        for span in range(plan.spans):
            size = sum(piece.hi - piece.lo for piece in plan.pieces(span))
            plan.batches(span, inputs[:size])

    return order


SERIES = {
    "step, 2,048 negatives": Series(
        "videos", (10**3, 10**4, 10**5, 10**6), lambda n: training(config_of(videos=n))
    ),
    "step, full softmax": Series(
        "videos", (10**3, 10**4, 10**5, 10**6), lambda n: training(config_of(videos=n), "full")
    ),
    "evaluation batch": Series(
        "videos", (10**3, 10**4, 10**5, 10**6), lambda n: evaluation(config_of(videos=n))
    ),
    "order of an epoch": Series("users", (10**3, 10**4, 10**5, 10**6), epoch_order),
    "step, full model": Series(
        "frames", (2, 4, 8, 16, 32, 64), lambda n: training(config_of(frames=n, width=64))
    ),
    "step, full model, 8 frames": Series(
        "feature width", (16, 64, 256, 1024, 4096), lambda n: training(config_of(frames=8, width=n))
    ),
    "step, full model, 8 frames of 64": Series(
        "model width", (16, 32, 64, 128, 256), lambda n: training(config_of(frames=8, width=64, dim=n))
    ),
}


def measure(work: Callable[[], object]) -> float:
    """Core-seconds of the best call, after one that does not count."""
    work()
    times: list[float] = []
    while len(times) < CALLS and sum(times) < ENOUGH:
        times.append(core_seconds(work))
    return min(times)


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """`a` and `b` of `a + b * size`, least squares of relative errors, neither below 0."""
    size, second = np.asarray(sizes, dtype=float), np.asarray(seconds)
    lines = np.stack([np.ones_like(size), size], axis=1) / second[:, None]
    a, b = np.linalg.lstsq(lines, np.ones_like(size), rcond=None)[0]
    if a < 0:
        a, b = 0.0, _proportional(lines[:, 1])
    elif b < 0:
        a, b = _proportional(lines[:, 0]), 0.0
    return float(a), float(b)


def _proportional(column: np.ndarray) -> float:
    return float(column.sum() / (column @ column))


def draw(measured: dict[str, list[float]], picture: Path) -> None:
    """Each series as a panel: points and the fitted line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, panels = plt.subplots(2, 4, figsize=(13, 6), layout="constrained")
    for panel, name in zip(panels.flat, measured, strict=False):
        series, seconds = SERIES[name], measured[name]
        a, b = fit(series.values, seconds)
        fine = np.geomspace(series.values[0], series.values[-1], 50)
        panel.loglog(fine, 1e3 * (a + b * fine), color="C0", alpha=0.5)
        panel.loglog(series.values, 1e3 * np.asarray(seconds), "o", color="C0")
        panel.set(title=name, xlabel=series.size, ylabel="core-ms")
        panel.set_xticks(series.values, [f"{value:g}" for value in series.values])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.3)
    for panel in panels.flat[len(measured) :]:
        panel.axis("off")
    figure.savefig(picture, dpi=110)


def main() -> None:
    """Measure each series, write the CSV, draw the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(SERIES), help="series (default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS / "size-cpu.csv", help="the CSV")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "size.png", help="the picture")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(settings.out)
    measured = {}
    for name in settings.only or SERIES:
        series = SERIES[name]
        seconds = measured[name] = [measure(series.work(value)) for value in series.values]
        a, b = fit(series.values, seconds)
        for value, second in zip(series.values, seconds, strict=True):
            report.add(
                series=name,
                **{"size of": series.size, "size": value, "core-ms": 1e3 * second},
                **{"a ms": 1e3 * a, "b us": 1e6 * b, "off": second / (a + b * value)},
            )
    draw(measured, settings.picture)
    report.close(f"drawn: {settings.picture}")


if __name__ == "__main__":
    main()
