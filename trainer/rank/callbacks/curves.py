"""curves.png: the run in one picture."""

from __future__ import annotations

import contextlib
from pathlib import Path

from trainer.metrics_file import read
from trainer.rank.callbacks.base import Callback
from trainer.rank.loop import Loop


class Curves(Callback):
    """Draws losses and validation metrics over steps, at the end and where a run fails (rank 0)."""

    def __init__(self, metrics: Path, picture: Path) -> None:
        self.metrics, self.picture = metrics, picture

    def on_end(self, loop: Loop) -> None:
        draw(self.metrics, self.picture)

    def on_error(self, loop: Loop, error: BaseException) -> None:
        with contextlib.suppress(OSError):  # the error may be that the disk is full
            draw(self.metrics, self.picture)


def draw(metrics: Path, picture: Path) -> None:
    """Draw losses on the left and validation scores on the right; nothing where nothing was logged."""
    records = read(metrics)
    steps = [record for record in records if "loss" in record]
    scores = [record for record in records if record.get("split") == "valid"]
    if not steps:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, ranking = figure.subplots(1, 2)
    for name in ("loss", "loss_rec", "loss_tcd", "loss_npd"):
        if any(record.get(name) for record in steps):
            losses.plot([r["step"] for r in steps], [r.get(name) for r in steps], label=name)
    losses.set(xlabel="step", title="training", yscale="log")
    losses.legend()
    for name in ("hr@10", "ndcg@10", "mrr"):
        ranking.plot(
            [r["step"] for r in scores], [r.get(name) for r in scores], marker="o", markersize=3, label=name
        )
    ranking.set(xlabel="step", title="validation")
    if scores:
        ranking.legend()
    figure.savefig(picture, dpi=120)
