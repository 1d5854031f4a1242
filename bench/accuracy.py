"""Ranking accuracy over seeds: the full model, its parts switched off, popularity and (in the synthetic
world) the oracle.

    python -m bench.accuracy world                      # the default data set
    MEALREC_REAL_DATA=DIR python -m bench.accuracy microlens-titles --jobs 2 -- --train.max_epochs 10

Every run is an ordinary one of `python -m trainer` in its own directory under --out. Finished runs are kept,
so the command continues where it was stopped. Writes bench/results/accuracy-SUITE.csv, a row a run, and
prints means, spreads over seeds and differences paired by seed. Models are chosen by validation NDCG@10
alone; the test split is only reported.
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

METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")
TCD_OFF, NPD_OFF = ("--model.tcd.enabled", "false"), ("--model.npd.enabled", "false")
MODULES = {"backbone": TCD_OFF + NPD_OFF, "without TCD": TCD_OFF, "without NPD": NPD_OFF, "full": ()}
PLAIN = {"backbone": TCD_OFF + NPD_OFF, "full": ()}


@dataclass
class Suite:
    """source: `python -m shards` arguments that make the data, `{real}` standing for $MEALREC_REAL_DATA."""

    source: tuple[str, ...]
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
        # Of .3 and .5 the one that is better on validation: .3 without NPD, the preset's .5 with it.
        variants={**PLAIN, "backbone": (*PLAIN["backbone"], "--model.backbone.dropout", "0.3")},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument(
        "--seeds", type=int, default=3, help="runs a variant, with seeds 0, 1, ... (default: 3)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each with one rank (default: 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/accuracy"),
        help="data and run directories (default: runs/accuracy)",
    )
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    options = words[split + 1 :]  # for every run
    arguments = parser.parse_args(words[:split])
    suite = SUITES[arguments.suite]
    data = prepare(suite, arguments.out / "data" / arguments.suite)
    # Seeds outermost: an interrupted suite has whole rows of the comparison.
    runs = [(variant, seed) for seed in range(arguments.seeds) for variant in suite.variants]

    def one(run: tuple[str, int]) -> dict[str, object]:
        folder = arguments.out / arguments.suite / f"{run[0].replace(' ', '-')}-seed{run[1]}"
        return measure(
            suite, *run, data, folder, options, threads=max(1, (os.cpu_count() or 1) // arguments.jobs)
        )

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(one, runs))
    path = Path("bench/results") / f"accuracy-{arguments.suite}.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(table(rows, list(suite.variants)), f"\nwritten: {path}")


def prepare(suite: Suite, folder: Path) -> Path:
    """The suite's data set, made once."""
    if not (folder / "index.json").exists():
        words = suite.source
        if any("{real}" in word for word in words):
            real = os.environ.get("MEALREC_REAL_DATA")
            if not real:
                sys.exit("error: this suite needs the real data: set MEALREC_REAL_DATA to their folder")
            words = tuple(word.replace("{real}", real) for word in words)
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "shards", *words, "--out", str(folder)], check=True)
    return folder


def measure(
    suite: Suite, variant: str, seed: int, data: Path, folder: Path, options: list[str], threads: int
) -> dict[str, object]:
    """One run, finished now or earlier, as a row."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [
        "--preset",
        suite.preset,
        "--data",
        str(data),
        "--run",
        str(folder),
        "--seed",
        str(seed),
        "--num_gpus",
        "1",
    ]
    command += [*suite.options, *suite.variants[variant], *options]
    if not (folder / "results.json").exists():
        resume = ["--resume"] if folder.exists() else []
        with open(folder.with_suffix(".log"), "a") as log:
            subprocess.run(
                [sys.executable, "-m", "trainer", *command, *resume],
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
    row: dict[str, object] = {
        "variant": variant,
        "seed": seed,
        "epochs": results["epochs"],
        "seconds": results["seconds"],
    }
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


def table(rows: list[dict[str, object]], variants: list[str]) -> str:
    """Means ± standard deviations over seeds on test, and differences of each variant to the backbone, paired
    by seed.
    """
    lines = [
        "| | "
        + " | ".join(f"test {name}" for name in METRICS)
        + " | NDCG@10 less the backbone's | one step NDCG@10 |"
    ]
    lines.append("|---" * (len(METRICS) + 3) + "|")
    for part in ("popularity", "oracle"):
        values = [rows[0][f"{part} {name}"] for name in METRICS]
        if any(value != "" for value in values):
            lines.append(
                f"| {part} | " + " | ".join(f"{v:.4f}" if v != "" else "-" for v in values) + " | - | - |"
            )
    base = {row["seed"]: row["test ndcg@10"] for row in rows if row["variant"] == "backbone"}
    for variant in variants:
        own = [row for row in rows if row["variant"] == variant]
        cells = [spread([row[f"test {name}"] for row in own]) for name in METRICS]
        cells.append(
            spread([row["test ndcg@10"] - base[row["seed"]] for row in own], sign="+")
            if variant != "backbone"
            else "-"
        )
        lines.append(
            f"| {variant} | "
            + " | ".join([*cells, spread([row["one step test ndcg@10"] for row in own])])
            + " |"
        )
    return "\n".join(lines)


def spread(values: list[float], sign: str = "") -> str:
    """Mean ± standard deviation."""
    return f"{mean(values):{sign}.4f} ± {stdev(values) if len(values) > 1 else 0:.4f}"


if __name__ == "__main__":
    main()
