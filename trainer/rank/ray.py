"""A run whose ranks are the workers of a Ray Train job: what `submit ray` starts on a cluster.

python -m trainer.rank.ray --nodes N --ranks-per-node R [--gpu] -- ARGUMENTS
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from trainer import options, run_directory
from trainer.command_line import decode
from trainer.cpu import PASSIVE
from trainer.errors import DONE, FAILED, line_of


def train_rank(settings: dict[str, list[str]]) -> None:
    """Train in a Ray worker as `arguments` say. A worker group that Ray has restarted continues the run."""
    from trainer.rank.main import run

    arguments = settings["arguments"]
    run_dir = options.parse(arguments).run.dir
    started = run_dir is not None and (Path(run_dir) / run_directory.CONFIG).is_file()
    run([*arguments, "--resume"] if started and "--resume" not in arguments else arguments)


def scaling(nodes: int, ranks: int, on_gpu: bool) -> dict[str, Any]:
    """Return the layout of the ranks for Ray's ScalingConfig: as many as asked on each host."""
    return {
        "num_workers": nodes * ranks,
        "use_gpu": on_gpu,
        "resources_per_worker": {"GPU": 1} if on_gpu else {"CPU": 1},
        "placement_strategy": "STRICT_SPREAD" if ranks == 1 and nodes > 1 else "PACK",
    }


def main(argv: list[str]) -> int:
    """Drive the job. Returns the exit code."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    parser = argparse.ArgumentParser(prog="python -m trainer.rank.ray")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--ranks-per-node", type=int, required=True)
    parser.add_argument("--gpu", action="store_true")
    split = argv.index("--")
    asked, arguments = parser.parse_args(argv[:split]), decode(argv[split + 1 :])
    run = Path(str(options.parse(arguments).run.dir))
    variables = dict(PASSIVE)
    variables |= {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"} if asked.gpu else {"DS_ACCELERATOR": "cpu"}
    ray.init(runtime_env={"env_vars": variables})
    try:
        TorchTrainer(
            train_rank,
            train_loop_config={"arguments": arguments},
            torch_config=TorchConfig(backend="nccl" if asked.gpu else "gloo"),
            scaling_config=ScalingConfig(**scaling(asked.nodes, asked.ranks_per_node, asked.gpu)),
            run_config=RunConfig(
                name=run.name,
                storage_path=str(run.parent / ".ray"),
                failure_config=FailureConfig(max_failures=1),
            ),
        ).fit()
    except Exception as error:
        print(f"error: {line_of(error)}", file=sys.stderr)
    return DONE if run_directory.is_finished(run) else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
