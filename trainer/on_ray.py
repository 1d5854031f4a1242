"""A run whose ranks are the workers of a Ray Train job. `python -m trainer submit ray` has a cluster call

python -m trainer.on_ray --nodes N --ranks-per-node R [--gpu] WORDS
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from trainer import options, rundir
from trainer.encoding import decode
from trainer.errors import DONE, FAILED, line_of


def rank(words: list[str]) -> None:
    """In each worker. A worker group that Ray has started again continues the run."""
    from trainer import worker

    started = (Path(options.parse(words).run.dir) / rundir.CONFIG).is_file()
    worker.run([*words, "--resume"] if started and "--resume" not in words else words)


def scaling(nodes: int, ranks: int, on_gpu: bool) -> dict[str, Any]:
    """How the ranks are laid out: as many as asked on each host."""
    return {
        "num_workers": nodes * ranks,
        "use_gpu": on_gpu,
        "resources_per_worker": {"GPU": 1} if on_gpu else {"CPU": 1},
        "placement_strategy": "STRICT_SPREAD" if ranks == 1 and nodes > 1 else "PACK",
    }


def main(argv: list[str]) -> int:
    """The driver. Returns the exit code."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    parser = argparse.ArgumentParser(prog="python -m trainer.on_ray")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--ranks-per-node", type=int, required=True)
    parser.add_argument("--gpu", action="store_true")
    asked, words = parser.parse_known_args(argv)
    words = decode(words)
    run = Path(options.parse(words).run.dir)
    variables = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"} if asked.gpu else {"DS_ACCELERATOR": "cpu"}
    ray.init(runtime_env={"env_vars": variables})
    try:
        TorchTrainer(
            rank,
            train_loop_config=words,
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
    return DONE if rundir.is_finished(run) else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
