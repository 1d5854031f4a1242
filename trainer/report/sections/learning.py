"""Losses and validation metrics over the steps of training."""

from __future__ import annotations

from trainer.report.blocks import Chart, Section
from trainer.report.charts import STEPS, curve
from trainer.report.comparison import Comparison

LOSSES = {
    "loss": "Loss",
    "loss_rec": "Ranking loss",
    "loss_tcd": "TCD loss",
    "loss_npd": "NPD loss",
}
METRICS = {"ndcg@10": "NDCG@10", "hr@10": "HR@10", "mrr": "MRR"}


def section(comparison: Comparison) -> Section:
    """Return the section."""
    charts = [_chart(comparison, key, f"Validation {name}", split="valid") for key, name in METRICS.items()]
    charts += [_chart(comparison, key, name, split=None) for key, name in LOSSES.items()]
    return Section(
        "learning",
        "Learning curves",
        "Validation with the few steps of the reverse chains that training uses; losses of single steps.",
        charts=[chart for chart in charts if chart.traces],
        key=True,
    )


def _chart(comparison: Comparison, key: str, title: str, split: str | None) -> Chart:
    traces = []
    for number, run in enumerate(comparison.runs):
        records = [record for record in run.records if record.get("split") == split]
        if trace := curve(records, key, number, run.name, markers=split is not None):
            traces.append(trace)
    layout = {"xaxis": STEPS, "yaxis": {} if split else {"type": "log"}}
    return Chart(title, f"{title} by step, a line for each run", traces, layout)
