"""The studies' figures, in the paper's form: readable in grey print and without colour vision."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.ledger import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"test hr@10": "HR@10", "test ndcg@10": "NDCG@10"}
# Greys in even steps with hatches, and markers with dashes: neither needs colour.
FILLS = ("#222222", "#ffffff", "#888888", "#cccccc", "#555555", "#eeeeee", "#aaaaaa", "#333333")
HATCHES = ("", "///", "", "...", "\\\\\\", "xxx", "---", "++")
MARKERS, DASHES = ("o", "s", "^", "D"), ("-", "--", "-.", ":")


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
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    users_of = {row["data"]: row["users"] for row in rows if row["users"]}
    users = [f"{n:,} users" + (f" of {data}" if len(users_of) > 1 else "") for data, n in users_of.items()]
    return f"{seeds} seed{'s' if counts[-1:] != [1] else ''}, {' and '.join(users)}"


def _value(row: Row, name: str) -> float:
    """Return a number of a row; NaN for an empty cell."""
    return math.nan if row[name] == "" else float(row[name])


def bars(rows: list[Row], path: Path) -> None:
    """Draw a panel per metric: a group of bars per data set, a bar per variant.

    Whiskers are standard deviations.
    """
    data = list(dict.fromkeys(row["data"] for row in rows))
    labels = list(dict.fromkeys(_label(row) for row in rows))
    figure, axes = _start(len(TITLES), 1, max(4.5, 0.55 * len(labels) * len(data)), 3.8)
    width = 0.8 / len(labels)
    for axis, (name, title) in zip(axes[0], TITLES.items(), strict=True):
        lowest = []
        for at, label in enumerate(labels):
            own = {row["data"]: row for row in rows if _label(row) == label}
            positions = [i + (at - (len(labels) - 1) / 2) * width for i in range(len(data))]
            heights = [_value(own[d], name) if d in own else math.nan for d in data]
            errors = [_value(own[d], f"{name} spread") if d in own else 0.0 for d in data]
            errors = [0.0 if math.isnan(error) else error for error in errors]  # of one seed
            axis.bar(
                positions, heights, width, yerr=errors, capsize=2,
                color=FILLS[at % len(FILLS)], hatch=HATCHES[at % len(HATCHES)], edgecolor="black",
                label=label, error_kw={"elinewidth": 1.0, "ecolor": "#c00000"},
            )  # fmt: skip
            lowest += [h - e for h, e in zip(heights, errors, strict=True) if not math.isnan(h)]
        if lowest:
            # Differences are small beside the level: the axis says where it begins.
            axis.set_ylim(bottom=max(0.0, 0.9 * min(lowest)))
        axis.set_xticks(range(len(data)), data)
        axis.set_ylabel(f"test {title}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    _finish(
        figure,
        path,
        f"Bars: means ({_sample(rows)}); whiskers: standard deviation over seeds. Axes do not begin at 0.",
    )


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
            weights = list(dict.fromkeys(row for row, _ in own))
            steps = list(dict.fromkeys(column for _, column in own))
            values = np.array([[_value(own[w, t], "test ndcg@10") for t in steps] for w in weights])
            image = axis.imshow(values, cmap="Greys", origin="lower", aspect="auto")
            middle = np.nanmin(values) + 0.55 * np.ptp(values[~np.isnan(values)]) if values.size else 0
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
                    yerr=[0.0 if row["seeds"] < 2 else _value(row, f"{metric} spread") for row in own],
                    marker=MARKERS[at % 4], linestyle=DASHES[at % 4], color=FILLS[(0, 4, 2, 6)[at % 4]],
                    markerfacecolor="white" if at % 2 else None, capsize=2, label=label,
                )  # fmt: skip
            axis.set_xlabel("noise $\\sigma$, in standard deviations of each feature")
            axis.set_ylabel(f"test {title}")
            axis.set_title(name)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    _finish(figure, path, f"Means ({_sample(rows)}); whiskers: standard deviation over seeds.")


def _label(row: Row) -> str:
    """Return the name of a bar's variant."""
    return f"{row['row']}, {row['column']}" if row["column"] else row["row"]


FIGURES: dict[str, Callable[[list[Row], Path], None]] = {
    "ablation": bars,
    "sensitivity": heat_maps,
    "robustness": lines,
    "universality": bars,
}
