"""Starts DeepSpeed's launcher with this machine's ranks, and ends every process of it, whatever happens."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from trainer import cpu, processes, run_directory
from trainer.errors import UserError
from trainer.launch import machine
from trainer.launch.session import end_session
from trainer.launch.stopped import StoppedWatch
from trainer.source import ROOT

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """The operator got a signal to stop; `name` is the signal's."""

    def __init__(self, signum: int) -> None:
        self.name = signal.Signals(signum).name
        super().__init__(self.name)


def run(
    arguments: Sequence[str], *, ranks: int, on_gpu: bool, run_dir: Path, notes: Path, timeout: float
) -> int:
    """Run `deepspeed launch.sh ARGUMENTS` with `ranks` ranks on this machine to its end.

    The launcher has a session of its own: Ctrl-C reaches the operator alone, and the session shows which
    processes are ours even after their parents died. Ranks leave their notes in `notes`.

    Returns:
        The launcher's exit code, negative for a signal.

    Raises:
        Stopped: on SIGINT, SIGTERM or SIGHUP, after all processes have ended.
        Hung: a process was stopped for `timeout` seconds (0: no limit), likewise.
    """
    port = machine.free_port()
    command = [*runner(port), *_devices(ranks, on_gpu), *script(), *arguments]
    env = environment(on_gpu, run_dir)
    env[run_directory.NOTES_VARIABLE] = str(notes)
    env.setdefault("OMP_NUM_THREADS", str(max(1, machine.cores() // ranks)))
    try:
        return run_to_end(command, env, end_session, timeout)
    finally:
        processes.remove_shared_memory(port)


def runner(port: int) -> list[str]:
    """Return the start of DeepSpeed's command line."""
    return [sys.executable, "-m", "deepspeed.launcher.runner", "--quiet", "--master_port", str(port)]


def run_to_end(
    command: list[str], env: dict[str, str], end: Callable[[subprocess.Popen[bytes]], None], timeout: float
) -> int:
    """Run a launcher in a session of its own, and `end` it whatever happens. Returns its exit code."""
    with _signals_raise():
        launcher = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
        watch = StoppedWatch(launcher.pid, timeout)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return launcher.wait(processes.POLL_SECONDS)
                watch.look()
        finally:
            end(launcher)


def script() -> list[str]:
    """Return launch.sh of a checkout, or the module that it starts where the package is installed."""
    launch_sh = ROOT / "launch.sh"
    return [str(launch_sh)] if launch_sh.is_file() else ["--module", "trainer"]


def _devices(ranks: int, on_gpu: bool) -> list[str]:
    """With --num_gpus the runner would forget CUDA_VISIBLE_DEVICES, and with it which GPUs are ours."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if on_gpu else ""
    if not visible:
        return ["--num_gpus", str(ranks)]
    ids = visible.split(",")[:ranks]
    if not all(device.strip().isdigit() for device in ids):
        raise UserError(f"CUDA_VISIBLE_DEVICES={visible}: DeepSpeed's launcher takes device numbers only")
    return ["--include", "localhost:" + ",".join(device.strip() for device in ids)]


def environment(on_gpu: bool, run_dir: Path) -> dict[str, str]:
    """Return the environment of the launcher, and so of its ranks."""
    env = {**cpu.PASSIVE, **os.environ}
    env[run_directory.RUN_VARIABLE] = str(run_dir.resolve())
    env.pop(run_directory.NOTES_VARIABLE, None)
    env[processes.OPERATOR_VARIABLE] = processes.identity(os.getpid())
    # Ranks find the source beside launch.sh, and tools such as ninja beside the interpreter.
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    if not on_gpu:
        env["DS_ACCELERATOR"] = "cpu"
        env.pop("CUDA_VISIBLE_DEVICES", None)
    # Two environments that share a folder would rebuild each other's operations at every switch.
    cache = Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mealrec" / "extensions"
    env.setdefault("TORCH_EXTENSIONS_DIR", str(cache / hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]))
    return env


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Within, a signal to stop raises Stopped; a second one hurries what the first began. nohup is obeyed."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    signums = [s for s in _SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, stop) for signum in signums}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
