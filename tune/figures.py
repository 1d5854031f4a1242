"""The studies' figures, in the paper's form: readable in grey print and without colour vision."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTERVAL = "95 % intervals over seeds and users"
TITLES = {"test hr@10": "HR@10", "test ndcg@10": "NDCG@10"}
PARTS = {"popularity": "target's training events", "history": "history"}
# Markers, dashes and greys in steps: none needs colour.
MARKERS, DASHES = ("o", "s", "^", "D"), ("-", "--", "-.", ":")
GREYS = ("#222222", "#555555", "#888888", "#aaaaaa")


def _start(columns: int, rows: int, width: float, height: float) -> tuple[Figure, Any]:
    """Make a figure and its axes [rows][columns], each of `width` x `height` inches."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: it can be searched and edited
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
    )
    return figure, axes


def _finish(figure: Figure, path: Path, note: str) -> None:
    """Write the figure, with a note below it."""
    from matplotlib import pyplot

    figure.supxlabel(note, fontsize=8)
    figure.savefig(path, dpi=160)
    pyplot.close(figure)


def _sample(rows: list[Row]) -> str:
    """Say what a mean is over: seeds, and users of each data set."""
    counts = sorted({row["seeds"] for row in rows if row["seeds"]})
    if not counts:
        return "no finished run"
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    users_of = {row["data"]: row["users"] for row in rows if row["users"]}
    users = [f"{n:,} users" + (f" of {data}" if len(users_of) > 1 else "") for data, n in users_of.items()]
    missing = "; incomplete" if any(row["missing"] for row in rows) else ""
    return f"{seeds} seed{'s' if counts[-1:] != [1] else ''}, {' and '.join(users)}{missing}"


def _value(row: Row, name: str) -> float:
    """Return a number of a row; NaN for an empty cell."""
    return math.nan if row[name] == "" else float(row[name])


def _whiskers(row: Row, name: str) -> tuple[float, float]:
    """Return how far the ends of the interval are below and above a number of a row."""
    value = _value(row, name)
    below, above = value - _value(row, f"{name} low"), _value(row, f"{name} high") - value
    return max(below, 0.0), max(above, 0.0)


def heat_maps(rows: list[Row], path: Path) -> None:
    """Draw NDCG@10 over loss weight and diffusion steps, a column per module and a line per data set.

    Darker is higher; a frame marks the cells that have more seeds than others.
    """
    import numpy as np
    from matplotlib.patches import Rectangle

    data = list(dict.fromkeys(row["data"] for row in rows))
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    counts = [row["seeds"] for row in rows if row["seeds"]]
    fewest = min(counts, default=0)
    figure, axes = _start(len(panels), len(data), 5.6, 4.2)
    for line, name in zip(axes, data, strict=True):
        for axis, panel in zip(line, panels, strict=True):
            own = {(r["row"], r["column"]): r for r in rows if (r["data"], r["panel"]) == (name, panel)}
            if not own:  # TCD, where there are no frames
                axis.set_axis_off()
                continue
            weights = list(dict.fromkeys(row for row, _ in own))
            steps = list(dict.fromkeys(column for _, column in own))
            values = np.array([[_value(own[w, t], "test ndcg@10") for t in steps] for w in weights])
            image = axis.imshow(values, cmap="Greys", origin="lower", aspect="auto")
            there = values[~np.isnan(values)]
            middle = there.min() + 0.55 * np.ptp(there) if there.size else 0.0
            for (i, j), value in np.ndenumerate(values):
                if not math.isnan(value):
                    shade = "white" if value > middle else "black"
                    axis.text(j, i, f"{value:.4f}", ha="center", va="center", fontsize=7, color=shade)
                if own[weights[i], steps[j]]["seeds"] > fewest:
                    axis.add_patch(Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, edgecolor=shade))
            axis.set_xticks(range(len(steps)), steps)
            axis.set_yticks(range(len(weights)), weights)
            letter = "T" if panel == "tcd" else "N"
            axis.set_xlabel(f"diffusion steps $T_{{{letter.lower()}}}$")
            axis.set_ylabel(f"loss weight $\\lambda_{letter}$")
            axis.set_title(f"{panel.upper()}, {name}")
            figure.colorbar(image, ax=axis, label="test NDCG@10")
    note = f"; framed: more than {fewest}" if fewest < max(counts, default=0) else ""
    _finish(figure, path, f"Test NDCG@10, means ({_sample(rows)}{note}); darker is higher.")


def lines(rows: list[Row], path: Path) -> None:
    """Draw metrics over the noise on the features: a panel per metric and data set, a line per variant."""
    data = list(dict.fromkeys(row["data"] for row in rows))
    labels = list(dict.fromkeys(row["row"] for row in rows))
    figure, axes = _start(len(TITLES), len(data), 4.6, 3.4)
    for line, name in zip(axes, data, strict=True):
        for axis, (metric, title) in zip(line, TITLES.items(), strict=True):
            for at, label in enumerate(labels):
                own = [row for row in rows if (row["data"], row["row"]) == (name, label)]
                axis.errorbar(
                    [float(row["column"]) for row in own],
                    [_value(row, metric) for row in own],
                    yerr=list(zip(*(_whiskers(row, metric) for row in own), strict=True)),
                    marker=MARKERS[at % 4], linestyle=DASHES[at % 4], color=GREYS[at % 4],
                    markerfacecolor="white" if at % 2 else None, capsize=2, label=label,
                )  # fmt: skip
            axis.set_xlabel("noise $\\sigma$, in standard deviations of each feature")
            axis.set_ylabel(f"test {title}")
            axis.set_title(name)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    _finish(figure, path, f"Means ({_sample(rows)}); whiskers: {INTERVAL}.")


def dots(rows: list[Row], path: Path) -> None:
    """Draw metrics and the difference from the baseline: a line per variant, of which there are many.

    A panel per data set and metric. Differences are of the same users and seeds, so they vary much less.
    """
    data = list(dict.fromkeys(row["data"] for row in rows))
    labels = list(dict.fromkeys(_label(row) for row in rows))[::-1]  # the first one at the top
    panels = {
        **{name: f"test {title}" for name, title in TITLES.items()},
        "difference": "difference in NDCG@10",
    }
    figure, axes = _start(len(panels), len(data), 3.6, max(2.0, 0.8 + 0.25 * len(labels)))
    for line, name in zip(axes, data, strict=True):
        for axis, (column, title) in zip(line, panels.items(), strict=True):
            own = [row for row in rows if row["data"] == name and row[column] != ""]
            _dots(axis, own, column, labels, named=axis is line[0])
            axis.set_title(f"{title}, {name}", fontsize=8)
        line[-1].axvline(0.0, color="#888888", linewidth=0.8)
    _finish(figure, path, f"Means ({_sample(rows)}); whiskers: {INTERVAL}.")


def _dots(axis: Any, rows: list[Row], name: str, labels: list[str], *, named: bool) -> None:
    """Draw a number of each row with its interval, at the height of its variant in `labels`."""
    axis.errorbar(
        [_value(row, name) for row in rows],
        [labels.index(_label(row)) for row in rows],
        xerr=list(zip(*(_whiskers(row, name) for row in rows), strict=True)) or None,
        fmt="o", markersize=4, capsize=2, color="#222222",
    )  # fmt: skip
    axis.set_yticks(range(len(labels)), labels if named else [], fontsize=7)
    axis.set_ylim(-0.5, len(labels) - 0.5)
    axis.tick_params(axis="x", labelsize=7)
    axis.locator_params(axis="x", nbins=5)


def forest(rows: list[Row], path: Path, table: str) -> None:
    """Draw differences from the baseline: a panel per data set and part of the users, a line per variant.

    table: the column that names the part, "popularity" or "history".
    """
    compared = [row for row in rows if row["difference"] != ""]
    data = list(dict.fromkeys(row["data"] for row in rows))
    parts = list(dict.fromkeys(row[table] for row in rows))
    labels = list(dict.fromkeys(_label(row) for row in compared))[::-1]  # the first one at the top
    figure, axes = _start(len(parts), len(data), 2.6, max(2.0, 0.8 + 0.25 * len(labels)))
    for line, name in zip(axes, data, strict=True):
        for axis, part in zip(line, parts, strict=True):
            own = [row for row in compared if (row["data"], row[table]) == (name, part)]
            _dots(axis, own, "difference", labels, named=axis is line[0])
            axis.axvline(0.0, color="#888888", linewidth=0.8)
            users = next((r["users"] for r in rows if (r["data"], r[table]) == (name, part)), 0)
            axis.set_title(f"{PARTS[table]} {part}\n{users:,} users of {name}", fontsize=8)
    _finish(figure, path, f"Difference in test NDCG@10 from the baseline; whiskers: {INTERVAL}.")


def curves(rows: list[Row], path: Path) -> None:
    """Draw validation NDCG@10 over epochs: a panel per data set and variant, a line per seed."""
    panels = list(dict.fromkeys((row["data"], row["variant"]) for row in rows))
    several = len({data for data, _ in panels}) > 1
    columns = min(len(panels), max(4, math.isqrt(len(panels))))
    figure, axes = _start(columns, -(-len(panels) // columns), 2.4, 1.9)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (data, variant) in zip(axes.flat, panels, strict=False):
        own = [row for row in rows if (row["data"], row["variant"]) == (data, variant)]
        for at, seed in enumerate(dict.fromkeys(row["seed"] for row in own)):
            of_seed = [row for row in own if row["seed"] == seed]
            axis.plot(
                [row["epoch"] for row in of_seed],
                [row["valid ndcg@10"] for row in of_seed],
                linestyle=DASHES[at % 4], marker=MARKERS[at % 4], markersize=2, linewidth=0.8,
                color="#222222",
            )  # fmt: skip
        axis.set_title(f"{variant}, {data}" if several else variant, fontsize=7)
        axis.tick_params(labelsize=6)
    _finish(figure, path, "Validation NDCG@10 over epochs, a line for each seed. Axes do not begin at 0.")


def _label(row: Row) -> str:
    """Return the name of a variant in a figure."""
    return f"{row['row']}, {row['column']}" if row["column"] else row["row"]


FIGURES: dict[str, Callable[[list[Row], Path], None]] = {
    "ablation": dots,
    "sensitivity": heat_maps,
    "robustness": lines,
    "universality": dots,
}
