"""`python -m trainer submit WHERE [OPTIONS] -- ARGS`: writes what the scheduler needs, and submits it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from trainer import options
from trainer.errors import DONE, UserError
from trainer.launch.submit import kubernetes, ray, slurm
from trainer.launch.submit.job import Job

WHERE = {"slurm": slurm, "ray": ray, "kubernetes": kubernetes}

_EPILOG = """ARGS are those of ./launch.sh; a wrong one is refused before the job is queued.

  python -m trainer submit slurm --nodes 4 --gpus-per-node 8 --time 12:00:00 -- --data /shared/set
  python -m trainer submit slurm --nodes 2 --dry-run -- --preset microlens

--dry-run prints what would be submitted, and needs no scheduler, cluster or data. Watch and cancel jobs with
the scheduler's own commands: squeue and scancel, `ray job logs` and `ray job stop`, kubectl."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"submit: {message}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser: a sub-command for each scheduler."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="launch.sh submit", description=__doc__, epilog=_EPILOG, formatter_class=raw)
    choices = parser.add_subparsers(dest="where", metavar="{slurm,ray,kubernetes}", required=True)
    for name, module in WHERE.items():
        sub = choices.add_parser(
            name,
            help=(module.__doc__ or "").split("\n")[0],
            description=module.__doc__,
            epilog=_EPILOG,
            formatter_class=raw,
        )
        sub.add_argument("--nodes", type=int, default=1, metavar="N", help="hosts (default: 1)")
        sub.add_argument(
            "--gpus-per-node", type=int, default=0, metavar="G", help="GPUs, and ranks, a host (default: 0)"
        )
        sub.add_argument(
            "--ranks-per-node",
            type=int,
            default=1,
            metavar="R",
            help="CPU ranks a host, without GPUs (default: 1)",
        )
        sub.add_argument(
            "--dry-run", action="store_true", help="print what would be submitted, and submit nothing"
        )
        module.add_options(sub)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `submit`. Returns the exit code.

    Raises:
        UserError: a wrong option of the job or of the run, or a scheduler that refuses the job.
    """
    argv = list(argv)
    split = argv.index("--") if "--" in argv else len(argv)
    asked = build_parser().parse_args(argv[:split])
    arguments = argv[split + 1 :]
    for name, least in (("nodes", 1), ("ranks_per_node", 1), ("gpus_per_node", 0)):
        if (value := getattr(asked, name)) < least:
            raise UserError(f"submit: --{name.replace('_', '-')} must be at least {least}, not {value}")
    for name, given in vars(asked).items():
        for text in given if isinstance(given, list) else [given]:
            if isinstance(text, str) and not text.isprintable():
                raise UserError(f"submit: --{name.replace('_', '-')}: found {text!r}, expected one line")
    for option in ("--hostfile", "--num_gpus", "--dry_run"):
        if any(argument.split("=")[0] == option for argument in arguments):
            raise UserError(f"submit: leave {option} out of ARGS: the job decides where the ranks run")
    config = options.parse(arguments)
    ranks = asked.gpus_per_node or asked.ranks_per_node
    job = Job(asked.nodes, ranks, asked.gpus_per_node > 0, tuple(arguments), config.run.dir, config.data.path)
    module = WHERE[asked.where]
    text = module.render(job, asked)
    if asked.dry_run:
        print(text, end="")
        return DONE
    module.submit(text, job, asked)
    return DONE
