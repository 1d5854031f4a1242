"""Weights & Biases, MLflow: the run's options, numbers and results are sent to a tracker of experiments."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer import activity, files, run_directory
from trainer.errors import line_of
from trainer.rank.callbacks.base import Callback, Record
from trainer.rank.callbacks.monitor import plotted
from trainer.rank.callbacks.track_mlflow import MLflow
from trainer.rank.callbacks.track_wandb import Wandb
from trainer.rank.callbacks.tracker import TrackedRun, Tracker, leaves
from trainer.rank.loop import Loop

TRACKERS: dict[str, type[Tracker]] = {"wandb": Wandb, "mlflow": MLflow}
TRACKED = "tracked.json"
"""In the run directory: the run's id by the tracker's name."""
END_SECONDS, FAILED_SECONDS = 60.0, 10.0
"""How long a run that is finished, or that fails, waits for what is still to be sent."""
PAUSE = 30.0
"""Seconds between two attempts while a tracker does not answer."""


@dataclass(frozen=True)
class End:
    """Nothing comes after it."""

    results: dict[str, Any] | None


class Tracking(Callback):
    """Sends every logged record, every validation and the results (rank 0), in a thread of its own.

    So training does not wait for a server. What cannot be sent is kept and tried again; a tracker that fails
    never ends the run.
    """

    def __init__(self, name: str, tracker: Tracker, run_dir: Path, group: str) -> None:
        self.name, self.tracker, self.run_dir, self.group = name, tracker, run_dir, group
        self._arrived: queue.SimpleQueue[tuple[str, Record] | End] = queue.SimpleQueue()
        self._unsent: deque[tuple[str, Record] | End] = deque()
        self._last: dict[str, int] | None = None  # steps that the tracker had at the start; None: not begun
        self._thread: threading.Thread | None = None
        self._again = 0.0  # when to try again
        self._warned = False

    def on_start(self, loop: Loop) -> None:
        self._thread = threading.Thread(target=self._send_all, name="tracking", daemon=True)
        self._thread.start()

    def on_log(self, loop: Loop, record: Record) -> None:
        self._arrived.put(("train", record))

    def on_evaluation(self, loop: Loop, record: Record) -> None:
        if record["split"] == "valid":  # the test is among the results
            self._arrived.put(("valid", record))

    def on_results(self, loop: Loop, results: dict[str, Any]) -> None:
        activity.expect_slow_work()
        self._finish(End(results), END_SECONDS)

    def on_error(self, loop: Loop, error: BaseException) -> None:
        self._finish(End(None), FAILED_SECONDS)

    def _finish(self, end: End, seconds: float) -> None:
        if self._thread is None:  # another callback failed at its start
            return
        self._arrived.put(end)
        self._thread.join(seconds)
        if self._thread.is_alive() or self._unsent:
            self._say(f"has not got all of this run; {run_directory.METRICS} has")

    def _send_all(self) -> None:
        """Send what arrives, until the end has."""
        while True:
            item = self._arrived.get()
            self._unsent.append(item)
            if isinstance(item, End) or time.monotonic() >= self._again:
                self._send_unsent()
            if isinstance(item, End):
                return

    def _send_unsent(self) -> None:
        try:
            if self._last is None:
                self._last = self._begin()
            while self._unsent:
                self._send(self._unsent[0], self._last)
                self._unsent.popleft()
        except Exception as error:
            self._again = time.monotonic() + PAUSE
            if not self._warned:
                self._warned = True
                self._say(f"{line_of(error)}; training goes on, and what is missing is sent when it answers")

    def _begin(self) -> dict[str, int]:
        ids_file = self.run_dir / TRACKED
        ids = files.read_json(ids_file) if ids_file.is_file() else {}
        options = yaml.safe_load((self.run_dir / run_directory.CONFIG).read_text(encoding="utf-8"))
        facts = files.read_json(self.run_dir / run_directory.ENVIRONMENT)
        run = TrackedRun(self.run_dir, self.group, ids.get(self.name), options, facts)
        known, last = self.tracker.begin(run)
        files.write_json(ids_file, {**ids, self.name: known})
        return last

    def _send(self, item: tuple[str, Record] | End, last: dict[str, int]) -> None:
        if isinstance(item, End):
            return self.tracker.end(None if item.results is None else leaves(item.results))
        group, record = item
        step = record["step"]
        if step > last[group]:  # not what a resume repeats
            numbers = {name: value for name, value in plotted(record).items() if value is not None}
            named = {f"{group}/{name}": float(value) for name, value in {"step": step, **numbers}.items()}
            self.tracker.log(step, named)

    def _say(self, text: str) -> None:
        print(f"warning: {self.name}: {text}", file=sys.stderr, flush=True)


def make(name: str, run_dir: Path, group: str) -> Tracking:
    """Return the callback of a tracker, "wandb" or "mlflow"."""
    return Tracking(name, TRACKERS[name](), run_dir, group)
