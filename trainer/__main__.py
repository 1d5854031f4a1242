"""The entry of `python -m trainer`, of `./launch.sh` and of each rank that a launcher starts.

[train] OPTIONS           train and evaluate: the operator, or a rank where a launcher has set LOCAL_RANK
evaluate RUN [OPTIONS]    evaluate a run's best checkpoint
recommend RUN [OPTIONS]   the top videos of users, or of any histories
export RUN [OPTIONS]      a run as files that need no run, no data set and no pickles
report RUN ... --out FILE one page about one or several runs
submit WHERE -- OPTIONS   train on a cluster: slurm, ray or kubernetes
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from trainer import cpu, options, run_directory
from trainer.command_line import decode
from trainer.errors import (
    DONE,
    FAILED,
    MISTAKE,
    EchoedError,
    RunEnded,
    UserError,
    is_mistake,
    line_of,
    report,
)

COMMANDS = {
    "evaluate": "trainer.evaluation.command",
    "export": "trainer.serving.export",
    "recommend": "trainer.serving.recommend",
    "report": "trainer.report.command",
    "submit": "trainer.launch.submit.command",
}
OPERATOR, RANK = "trainer.launch.operator", "trainer.rank.main"


def run(argv: Sequence[str]) -> int:
    """Run one command. Returns the exit code: 0 done, 2 the user's mistake, in one line on stderr."""
    cpu.settle()
    arguments = decode(argv)
    is_rank = "LOCAL_RANK" in os.environ
    command = arguments[0] if arguments and arguments[0] in ("train", *COMMANDS) else None
    rest = arguments[1:] if command else arguments
    module = COMMANDS.get(command or "", RANK if is_rank else OPERATOR)
    try:
        if module == RANK:
            _answer_options(rest)
            importlib.import_module("trainer.rank.hostfile").refuse_missing()
        return importlib.import_module(module).main(rest) or DONE
    except RunEnded as error:
        return _end_rank(error, FAILED, silent=error.on_all_ranks and os.environ.get("RANK") != "0")
    except Exception as error:
        if is_rank and _consequence():
            return FAILED
        if not is_mistake(error):
            raise
        return _end_rank(error, MISTAKE, silent=isinstance(error, EchoedError)) if is_rank else report(error)


def _answer_options(arguments: Sequence[str]) -> None:
    """Answer --help and wrong options before a rank loads its libraries; only rank 0 prints."""
    try:
        options.parse(arguments)
    except UserError as error:
        raise error if os.environ.get("RANK", "0") == "0" else EchoedError() from None


def _end_rank(error: Exception, code: int, *, silent: bool) -> int:
    """Leave the error's line to the operator, which prints it once; where there is none, print it here."""
    run_dir = os.environ.get(run_directory.RUN_VARIABLE)
    ending = run_directory.Ending(line_of(error), code)
    if not silent and not (run_dir and run_directory.note_ending(run_dir, ending)):
        report(error)
    return code


def _consequence() -> bool:
    """Whether another rank has ended the run already, and this one has only lost its connection to it."""
    run_dir = os.environ.get(run_directory.RUN_VARIABLE)
    return bool(run_dir and run_directory.ending_is_noted(run_dir))


def main() -> None:
    """Run the command line of this process, and exit."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
