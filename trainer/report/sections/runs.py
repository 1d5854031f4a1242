"""Which runs these are, and which of their options differ."""

from __future__ import annotations

from trainer import options
from trainer.config import RunConfig
from trainer.report.blocks import MISSING, Cell, Section, Table
from trainer.report.comparison import Comparison
from trainer.report.run_facts import RunFacts

# Of one start, not of what was trained.
LEFT_OUT = ("data.path", "run.", "init_from", "hostfile", "resume", "dry_run", "max_restarts")


def section(comparison: Comparison) -> Section:
    """Return the section."""
    runs = comparison.runs
    rows = [
        [Cell(name), *(Cell(_text(fact(run))) for run in runs)]
        for name, fact in (
            ("state", _state),
            ("started", lambda run: run.environment.started[:16].replace("T", " ")),
            ("data set", lambda run: run.fingerprint.removeprefix("sha256:")[:12]),
            ("seed", lambda run: run.config.seed),
            ("best step", lambda run: run.results.best_step if run.results else None),
            ("modules", _modules),
        )
    ]
    columns = dict(enumerate(range(len(runs)), start=1))
    tables = [Table("What they are", ["", *comparison.names], rows, columns)]
    if changed := _differences([run.config for run in runs]):
        tables.append(Table("Options that differ", ["option", *comparison.names], changed, columns))
    notes = [
        f"{run.name}: {run.damaged} damaged lines of metrics.jsonl are left out."
        for run in runs
        if run.damaged
    ]
    return Section("runs", "Runs", notes=notes, tables=tables)


def _state(run: RunFacts) -> str:
    if run.results is None:
        # The last line may be an evaluation of earlier weights, the best ones.
        return f"not finished: step {max(record['step'] for record in run.records)}"
    ended = f", stopped after {run.results.stopped}" if run.results.stopped else ""
    return f"finished: {run.results.epochs} epochs, {run.results.steps} steps{ended}"


def _modules(run: RunFacts) -> str:
    model = run.config.model
    names = [name for name, part in (("TCD", model.tcd), ("NPD", model.npd)) if part.enabled]
    return " + ".join([model.backbone.name, *names])


def _differences(configs: list[RunConfig]) -> list[list[Cell]]:
    rows = []
    for leaf in options.leaves(RunConfig):
        values = [options.get(config, leaf.name) for config in configs]
        if not leaf.name.startswith(LEFT_OUT) and any(value != values[0] for value in values):
            rows.append([Cell(leaf.name), *(Cell(_text(value)) for value in values)])
    return rows


def _text(value: object) -> str:
    return MISSING if value in (None, "") else str(value)
