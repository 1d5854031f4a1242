"""Hundreds of faults in training, one after the other, and proof that nothing of the training is lost.

    python -m bench.faults [--events 200] [--seed 0] [--digests]

Runs of two ranks are killed, stopped, signalled, filled up and damaged, and continued, until so many faults
have come; then two hosts are, where network namespaces can be had. Each run must end with every sample of
every epoch used exactly once, by its log of sample ids, and with the losses of a run that nothing has
disturbed: bit for bit on the same number of ranks, to rounding where ranks and ZeRO stages change. Writes
bench/results/faults.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import psutil

from bench import fault_hosts
from bench.fault_kinds import BETWEEN_STARTS, FOUND_BY_DIGESTS, LAUNCHED, PROCESSES, SAVE_EVERY, Damage, Kind
from bench.fault_session import ForkedSession, LaunchedSession, Ranks, Session, saved
from bench.report import RESULTS, Report
from shards import synthesise
from tests.trainer import runs
from trainer import run_directory
from trainer.errors import MISTAKE

HOST_TIMEOUT = 20  # seconds, enough on busy cores; the default is 60
EPOCHS, STEPS = 3, 25  # of a run; steps of an epoch
EVENTS_OF_A_RUN = 40
ROUNDING = 1e-3  # relative, after some hundred steps
SETTINGS = {
    "train.batch_size": 16,
    "train.max_epochs": EPOCHS,
    "train.zero_stage": 1,
    "train.log_every": 1,
    "train.log_samples": "true",
    "train.save_every_steps": SAVE_EVERY,
    "train.patience": 0,
    "train.tensorboard": "false",
    "data.max_length": 100,  # no history is longer: a user is one sample
    "model.dim": 16,
    "eval.every_steps": 1000,
    "run.host_timeout": HOST_TIMEOUT,
}


@dataclass
class Outcomes:
    """What came of the faults of one kind."""

    ended: list[float] = field(default_factory=list)  # seconds from the fault to the end of the last rank
    lost: list[int] = field(default_factory=list)  # steps that were done again
    orphans: int = 0
    codes: Counter[str] = field(default_factory=Counter)

    @property
    def events(self) -> int:
        """How many there were."""
        return sum(self.codes.values())

    def row(self) -> dict[str, object]:
        """Cells of the table; "-" where the run went on."""
        return {
            "events": self.events,
            "exit codes": ", ".join(self.codes),
            "seconds": statistics.median(self.ended) if self.ended else "-",
            "at most": max(self.ended) if self.ended else "-",
            "steps lost": max(self.lost) if self.lost else "-",
            "orphans": self.orphans,
        }


class Campaign:
    """Faults upon one run after the other, and what came of them."""

    def __init__(self, folder: Path, seed: int, forker: Ranks) -> None:
        self.folder, self.rng, self.forker = folder, Random(seed), forker
        self.data = folder / "data"
        self.outcomes: dict[str, Outcomes] = defaultdict(Outcomes)
        self.runs, self.deviation, self.epochs_checked, self.failed = 0, 0.0, 0, list[str]()

    @property
    def events(self) -> int:
        return sum(outcome.events for outcome in self.outcomes.values())

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Note what should not have come of a fault, and go on with the next run."""
        try:
            yield
        except AssertionError as error:
            self.failed.append(f"FAILED: {error}")
            print(self.failed[-1], file=sys.stderr)

    def arguments(self, run: Path, **changes: object) -> list[str]:
        """The command line that starts a run, or continues it."""
        if (run / run_directory.CONFIG).exists():
            values = {"resume": None, **changes}
        else:
            values = {"data": self.data, **SETTINGS, **changes}
        options = [[f"--{name}", *([] if value is None else [str(value)])] for name, value in values.items()]
        return ["--run", str(run), *sum(options, [])]

    def run(self, events: int, damages: list[Damage]) -> None:
        """Bring so many faults upon runs, and compare each with one that has none."""
        undisturbed = self.undisturbed()
        while self.events < events - len(LAUNCHED):
            self.runs += 1
            most = min(EVENTS_OF_A_RUN, events - len(LAUNCHED) - self.events)
            same = self.runs % 3 > 0
            with self.failures():
                run = self.disturbed(f"run-{self.runs}", most, damages, same=same)
                self.compare(run, undisturbed, same=same)
            checked = f"{self.epochs_checked} epochs checked, deviation {self.deviation:.1e}"
            print(f"{self.events} events, {checked}", file=sys.stderr, flush=True)
        self.runs += 1
        launched = self.folder / "launched"
        for kind in LAUNCHED:
            with self.failures():
                self.launch(launched, kind)
        with self.failures():
            self.compare(launched, undisturbed, same=True)

    def undisturbed(self) -> Path:
        """A run without faults."""
        run = self.folder / "undisturbed"
        session = ForkedSession(self.forker, run, 2, self.arguments(run, num_gpus=2))
        codes = session.await_end()
        assert codes == [0, 0], session.said()
        return run

    def disturbed(self, name: str, most: int, damages: list[Damage], *, same: bool) -> Path:
        """A run with at most so many faults; `same`: on two ranks with one ZeRO stage throughout."""
        run, world, stage, last = self.folder / name, 2, 1, self.events + most
        while not run_directory.is_finished(run):
            repair = nothing
            changes = {"num_gpus": world, "train.zero_stage": stage, "data.workers": 1}
            if run.exists() and self.events < last and self.rng.random() < 0.5:
                repair = self.damage(run, self.rng.choice(damages), world, self.arguments(run, **changes))
            if not same and run.exists() and self.events < last:
                world, stage = self.change(world, stage)
                changes |= {"num_gpus": world, "train.zero_stage": stage}
            session = ForkedSession(self.forker, run, world, self.arguments(run, **changes))
            self.strike(session, world, last, repair)
        return run

    def change(self, world: int, stage: int) -> tuple[int, int]:
        """The other number of ranks of 1 and 2, or the other ZeRO stage of those."""
        if self.rng.random() < 0.5:
            self.outcomes["number of ranks changed"].codes["-"] += 1
            return 3 - world, stage
        self.outcomes["ZeRO stage changed"].codes["-"] += 1
        return world, 3 - stage

    def damage(self, run: Path, damage: Damage, world: int, arguments: list[str]) -> Callable[[], None]:
        """Damage a run or its data between two starts. Returns what is to be done once the next has begun."""
        repair, outcome = damage.strike(run, self.data, self.rng), self.outcomes[damage.name]
        if not damage.refused:
            outcome.codes["-"] += 1
            return repair
        started = time.monotonic()
        session = ForkedSession(self.forker, run, world, arguments)
        codes = session.await_end()
        outcome.ended.append(time.monotonic() - started)
        repair()
        said = session.said()
        errors = {line for line in said.splitlines() if line.startswith("error: ")}  # ranks may say the same
        assert MISTAKE in codes and len(errors) == 1 and "Traceback" not in said, (codes, said)
        outcome.codes[show(codes)] += 1
        outcome.orphans += session.orphans()
        return nothing

    def strike(self, session: Session, world: int, last: int, repair: Callable[[], None]) -> None:
        """Let faults strike until one has ended the session, or it has finished."""
        step = session.first
        while session.await_step(step + self.rng.randint(1, 4)):
            repair()
            if self.events >= last:
                break
            step, repair = session.step(), nothing
            possible = [kind for kind in PROCESSES if kind.ranks <= world]
            kind = self.rng.choices(possible, [kind.share for kind in possible])[0]
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):  # it has just finished
                if self.one(session, kind):
                    return
        codes = session.await_end()
        assert not any(codes), session.said()

    def one(self, session: Session, kind: Kind) -> bool:
        """One fault and what comes of it. Returns whether it has ended the session."""
        kind.strike(session, self.rng)
        struck, step, outcome = time.monotonic(), session.step(), self.outcomes[kind.name]
        if not kind.ends:
            outcome.codes["-"] += 1
            return False
        codes = session.await_end()
        if not any(codes):  # it had done its last step
            return True
        outcome.ended.append(time.monotonic() - struck)
        outcome.codes[show(codes)] += 1
        outcome.orphans += session.orphans()
        lost = max(step, session.step()) - saved(session.run)
        outcome.lost.append(lost)
        said = session.said()
        assert kind.says in said, (kind.name, said[-3000:])
        assert lost <= kind.lost, (kind.name, lost)
        assert not (kind.quiet and "Traceback" in said), (kind.name, said[-3000:])
        return True

    def launch(self, run: Path, kind: Kind) -> None:
        """Start or continue a run by its operator, and bring one fault upon it."""
        changes = {"num_gpus": 2, "train.max_epochs": 40, "max-restarts": 0 if kind.ends else 1}
        session = LaunchedSession(run, self.arguments(run, **changes))
        try:
            assert session.await_step(session.first + 2), session.said()
            session.find()
            self.one(session, kind)
            assert kind.ends or session.await_restart(kind.says), session.said()
        finally:
            session.operator.terminate()
            session.await_end()

    def compare(self, run: Path, undisturbed: Path, *, same: bool) -> None:
        """Check that a run has used every sample of every epoch once, and has the losses of the other."""
        ours, theirs = samples(run), samples(undisturbed)
        steps = min(len(ours), len(theirs))
        assert [step for step, _, _ in ours] == list(range(1, len(ours) + 1)), "every step, once"
        epochs = [epoch for _, epoch, _ in theirs[:steps]]
        for epoch in range(1, EPOCHS + 1):
            if epochs.count(epoch) < STEPS:
                continue
            used, expected = (
                Counter(sample for _, at, ids in log if at == epoch for sample in ids)
                for log in (ours, theirs)
            )
            assert used == expected and set(used.values()) == {1}, f"epoch {epoch}: every sample, once"
            self.epochs_checked += 1
        losses, expected_losses = (np.array(runs.losses(path)[:steps]) for path in (run, undisturbed))
        if same:
            assert (losses == expected_losses).all(), "the losses of the undisturbed run"
        deviation = float(np.abs(losses[:, 1] / expected_losses[:, 1] - 1).max())
        self.deviation = max(self.deviation, deviation)
        assert deviation < ROUNDING, deviation


def nothing() -> None:
    """Do nothing."""


def samples(run: Path) -> list[tuple[int, int, list[int]]]:
    """Step, epoch and sample ids of every step."""
    lines = (run / run_directory.SAMPLES).read_text().splitlines()
    return [(record["step"], record["epoch"], record["samples"]) for record in map(json.loads, lines)]


def show(codes: list[int]) -> str:
    """Exit codes, each once, those of signals as their negative numbers."""
    return " ".join(map(str, sorted(set(codes), reverse=True)))


def main() -> None:
    """Bring the faults, print what came of them and write the CSV."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=200, help="at least so many (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--digests", action="store_true", help="damage what only digests find, too")
    settings = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MEALREC_CACHE"] = str(folder / "cache")
        with contextlib.closing(Ranks()) as forker:
            campaign = Campaign(folder, settings.seed, forker)
            synthesise(campaign.data, users=400, videos=120, frames=3, width=8, seed=1)
            damages = BETWEEN_STARTS + (FOUND_BY_DIGESTS if settings.digests else [])
            try:
                campaign.run(settings.events, damages)
            except KeyboardInterrupt:  # what came until now is worth its table
                campaign.failed.append(f"interrupted: {campaign.events} events of {settings.events}")
        report = Report(RESULTS / "faults.csv", "one machine, wall seconds")
        for fault, outcome in campaign.outcomes.items():
            report.add(fault=fault, **outcome.row())
        missing = "see below" if campaign.failed else fault_hosts.add_rows(report, folder)
    report.close(
        f"{campaign.events} events in {campaign.runs} runs on one host, {time.monotonic() - started:.0f} s",
        f"{campaign.epochs_checked} epochs: every sample exactly once",
        f"largest relative difference of a loss from the undisturbed run: {campaign.deviation:.1e}",
        *([f"not run: faults of two hosts ({missing})"] if missing else []),
        *campaign.failed,
    )
    sys.exit(1 if campaign.failed else 0)


if __name__ == "__main__":
    main()
