"""`python -m trainer`, `./launch.sh` and each rank that a launcher starts come here.

[train] OPTIONS           train and evaluate: the operator, or a rank where a launcher has set LOCAL_RANK
evaluate RUN [OPTIONS]    evaluate a run's best checkpoint
recommend RUN [OPTIONS]   the top videos of users
submit WHERE -- OPTIONS   train on a cluster: slurm, ray or kubernetes
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from trainer import options, rundir
from trainer.encoding import decode
from trainer.errors import DONE, MISTAKE, EchoedError, UserError, is_mistake, line_of, report

COMMANDS = {
    "evaluate": "trainer.evaluate",
    "recommend": "trainer.recommend",
    "submit": "trainer.submit.command",
}


def run(words: Sequence[str]) -> int:
    """Run one command. Returns the exit code: 0 done, 2 the user's mistake, in one line on stderr."""
    words = decode(words)
    is_rank = "LOCAL_RANK" in os.environ
    command = words[0] if words and words[0] in ("train", *COMMANDS) else None
    rest = words[1:] if command else words
    module = COMMANDS.get(command or "", "trainer.worker" if is_rank else "trainer.operator")
    try:
        if module == "trainer.worker":
            _answer_options(rest)
            importlib.import_module("trainer.hosts.hostfile").refuse_missing()
        return importlib.import_module(module).main(rest) or DONE
    except Exception as error:
        if not is_mistake(error):
            raise
        return _report_rank(error) if is_rank else report(error)


def _answer_options(words: Sequence[str]) -> None:
    """Answer --help and wrong options before a rank loads its libraries. All meet them, the first speaks."""
    try:
        options.parse(words)
    except UserError as error:
        raise error if os.environ.get("RANK", "0") == "0" else EchoedError() from None


def _report_rank(error: Exception) -> int:
    """Note the mistake for the operator, which says it once; where there is none, say it here."""
    run_dir = os.environ.get(rundir.RUN_VARIABLE)
    if isinstance(error, EchoedError) or (run_dir and rundir.note_mistake(run_dir, line_of(error))):
        return MISTAKE
    return report(error)


def main() -> None:
    """The process's entry."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
