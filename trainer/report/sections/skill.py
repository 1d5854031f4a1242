"""How much better the denoisers are than doing nothing and than a linear map, over training."""

from __future__ import annotations

from mealrec.skill import LEVELS
from trainer.report.blocks import Chart, Section
from trainer.report.charts import STEPS, curve
from trainer.report.comparison import Comparison

MODULES = {"tcd": "TCD", "npd": "NPD"}
OTHERS = {"identity": "doing nothing", "linear": "a linear map"}
DASHES = dict(zip(LEVELS, ("dot", "dash", "solid"), strict=True))


def section(comparison: Comparison) -> Section:
    """Return the section."""
    charts = [_chart(comparison, module, other) for other in OTHERS for module in MODULES]
    return Section(
        "skill",
        "Skill of the denoisers",
        "1: a perfect denoiser; 0: as good as what it is compared with; below 0: worse."
        " Lines: solid at high noise, dashed at middle, dotted at low.",
        charts=[chart for chart in charts if chart.traces],
        key=True,
    )


def _chart(comparison: Comparison, module: str, other: str) -> Chart:
    traces = []
    for number, run in enumerate(comparison.runs):
        guards = [
            {"step": record["step"], **record["guards"]}
            for record in run.records
            if record.get("split") == "valid" and isinstance(record.get("guards"), dict)
        ]
        for level in LEVELS:
            name = f"{run.name}, {level} noise"
            if trace := curve(guards, f"{module}_skill_{level}_{other}", number, name, dash=DASHES[level]):
                traces.append(trace)
    title = f"{MODULES[module]} over {OTHERS[other]}"
    layout = {"xaxis": STEPS, "yaxis": {}}
    return Chart(title, f"Skill of {title} by step, lines for each run and noise level", traces, layout)
