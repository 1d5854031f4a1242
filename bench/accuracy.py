"""Ranking accuracy over seeds: the full model, its parts switched off, popularity, the oracle.

    python -m bench.accuracy world                      # the default data set
    MEALREC_REAL_DATA=DIR python -m bench.accuracy microlens-titles --jobs 2 -- --train.max_epochs 10

The oracle, which knows how the data were made, exists for the synthetic world only. Every run is an ordinary
one of `python -m trainer` in its own directory under --out. Finished runs are kept, so the command continues
where it was stopped. Writes bench/results/accuracy-SUITE.csv, one row per run, and prints means, standard
deviations over seeds and differences paired by seed. Models are chosen by validation NDCG@10 alone; the test
split is only reported.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Row = dict[str, Any]  # of the CSV file, by column; "" is an empty cell

METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")
TCD_OFF, NPD_OFF = ("--model.tcd.enabled", "false"), ("--model.npd.enabled", "false")
MODULES = {"backbone": TCD_OFF + NPD_OFF, "without TCD": TCD_OFF, "without NPD": NPD_OFF, "full": ()}
PLAIN = {"backbone": TCD_OFF + NPD_OFF, "full": ()}


@dataclass
class Suite:
    """A data set, and what is compared on it."""

    source: tuple[
        str, ...
    ]  # arguments of `python -m shards` that make the data; {real} is $MEALREC_REAL_DATA
    preset: str
    options: tuple[str, ...] = ()
    variants: dict[str, tuple[str, ...]] = field(default_factory=lambda: MODULES)


MICROLENS = ("import", "microlens", "{real}/microlens50k/MicroLens-50k_pairs.tsv")
SUITES = {
    "world": Suite(("synth",), "default"),
    "microlens-ids": Suite(MICROLENS, "microlens", variants=PLAIN),
    "microlens-titles": Suite(
        (*MICROLENS, "--features", "{real}/microlens50k/title_tokens.npz"), "microlens", variants=PLAIN
    ),
    "kuairand-likes": Suite(
        (
            "import",
            "kuairand",
            "{real}/kuairand27k_kcore15/processed_standard_kcore_15.tsv.gz",
            "--signal",
            "label",
        ),
        "kuairand",
        variants=PLAIN,
    ),
    "ml100k": Suite(
        ("import", "recbole", "{real}/ml100k_recbole/ml-100k.inter.gz"),
        "ml100k",
        ("--no-mask-history",),
        # The better of .3 and .5 on validation: .3 without NPD, the preset's .5 with it.
        variants={**PLAIN, "backbone": (*PLAIN["backbone"], "--model.backbone.dropout", "0.3")},
    ),
}


def main() -> None:
    """Run a suite, write its CSV and print its table."""
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument(
        "--seeds", type=int, default=3, help="runs per variant, with seeds 0, 1, ... (default: 3)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each with one rank (default: 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/accuracy"),
        help="data and run directories (default: runs/accuracy)",
    )
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    settings, options = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    suite = SUITES[settings.suite]
    data = prepare(suite, settings.out / "data" / settings.suite)
    threads = max(1, (os.cpu_count() or 1) // settings.jobs)
    # Seeds outermost: an interrupted suite has whole rows of the comparison.
    runs = [(variant, seed) for seed in range(settings.seeds) for variant in suite.variants]

    def measure_one(run: tuple[str, int]) -> Row:
        folder = settings.out / settings.suite / f"{run[0].replace(' ', '-')}-seed{run[1]}"
        return measure(suite, *run, data, folder, options, threads)

    with ThreadPoolExecutor(settings.jobs) as pool:
        rows = list(pool.map(measure_one, runs))
    path = Path("bench/results") / f"accuracy-{settings.suite}.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(table(rows, list(suite.variants)), f"\nwritten: {path}")


def prepare(suite: Suite, folder: Path) -> Path:
    """Make the suite's data set, once."""
    if not (folder / "index.json").exists():
        real = os.environ.get("MEALREC_REAL_DATA", "")
        if not real and any("{real}" in argument for argument in suite.source):
            sys.exit("error: this suite needs the real data: set MEALREC_REAL_DATA to their folder")
        source = [argument.replace("{real}", real) for argument in suite.source]
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "shards", *source, "--out", str(folder)], check=True)
    return folder


def measure(
    suite: Suite, variant: str, seed: int, data: Path, folder: Path, options: list[str], threads: int
) -> Row:
    """Return one run as a row, after training it if it is not finished."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    arguments = ["--preset", suite.preset, "--data", str(data), "--run", str(folder)]
    arguments += ["--seed", str(seed), "--num_gpus", "1"]
    arguments += [*suite.options, *suite.variants[variant], *options]
    if not (folder / "results.json").exists():
        resume = ["--resume"] if folder.exists() else []
        with open(folder.with_suffix(".log"), "a") as log:
            subprocess.run(
                [sys.executable, "-m", "trainer", *arguments, *resume],
                check=True,
                stdout=log,
                stderr=log,
                env=environment,
            )
    results = json.loads((folder / "results.json").read_text())
    one_step = subprocess.run(
        [sys.executable, "-m", "trainer", "evaluate", str(folder), "--sampler_steps", "1"],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    row: Row = {"variant": variant, "seed": seed}
    row |= {name: results[name] for name in ("epochs", "seconds")}
    parts = {
        "valid": results["valid"],
        "test": results["test"],
        "one step test": json.loads(one_step.stdout),
        "popularity": results["popularity"],
        "oracle": results["oracle"],
    }
    for part, metrics in parts.items():
        row |= {f"{part} {name}": (metrics or {}).get(name, "") for name in METRICS}
    print(
        f"{variant}, seed {seed}: test NDCG@10 {results['test']['ndcg@10']:.4f}", file=sys.stderr, flush=True
    )
    return row


def table(rows: list[Row], variants: list[str]) -> str:
    """Return means ± standard deviations over seeds on test, in Markdown.

    Beside them are the differences of each variant to the backbone, paired by seed.
    """
    heads = ["", *(f"test {name}" for name in METRICS), "NDCG@10 less the backbone's", "one step NDCG@10"]
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for part in ("popularity", "oracle"):
        values = [rows[0][f"{part} {name}"] for name in METRICS]
        if any(value != "" for value in values):
            lines.append(_line([part, *("-" if v == "" else f"{v:.4f}" for v in values), "-", "-"]))
    base = {row["seed"]: row["test ndcg@10"] for row in rows if row["variant"] == "backbone"}
    for variant in variants:
        own = [row for row in rows if row["variant"] == variant]
        scores = [summary([row[f"test {name}"] for row in own]) for name in METRICS]
        differences = [row["test ndcg@10"] - base[row["seed"]] for row in own]
        difference = "-" if variant == "backbone" else summary(differences, sign="+")
        one_step = summary([row["one step test ndcg@10"] for row in own])
        lines.append(_line([variant, *scores, difference, one_step]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    """Return a line of a Markdown table."""
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def summary(values: list[float], sign: str = "") -> str:
    """Spell mean ± standard deviation."""
    return f"{mean(values):{sign}.4f} ± {stdev(values) if len(values) > 1 else 0:.4f}"


if __name__ == "__main__":
    main()
