"""Ranks that start from other runs, and write what their optimisers then hold.

    RANK=0 WORLD_SIZE=2 ... python moments_after_start.py '{"data": ..., "cases": [[RUN, STAGE, OUT], ...]}'

For each case rank 0 writes every parameter's weight, moments and step to OUT, read by DeepSpeed's functions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from safetensors.torch import save_file

from tests.trainer import runs
from trainer import distributed, ds_config, options
from trainer.inputs import Inputs
from trainer.rank import engine
from trainer.rank.main import engine_settings
from trainer.rank.warm_start import WarmStart


def main() -> None:
    world = distributed.init()
    asked = json.loads(sys.argv[1])
    for run, stage, out in asked["cases"]:
        arguments = runs.arguments(Path(out).parent, asked["data"], train__zero_stage=stage)
        config = options.parse([*arguments, "--data.max_length", "25"])
        inputs = Inputs(config.data, config.model, world, config.seed)
        batching = ds_config.settle_batching(config, world.size, on_gpu=False)
        model = inputs.build_model()
        start = WarmStart(run, inputs.index.item_ids(), inputs.table, is_main=world.is_main)
        start.put_weights(model)
        built = engine.build(model, config.train, engine_settings(config, batching, world, Path(out).parent))
        start.put_moments(built)
        if stage in (1, 2):
            built.optimizer._lazy_init_hp_params_optimizer_state()  # done by the first step otherwise
        base = built.optimizer.optimizer if stage else built.optimizer
        found = {"step": torch.stack([state["step"] for state in base.state.values()])}
        for name, parameter in built.module.named_parameters():
            if stage:
                found[name] = safe_get_full_fp32_param(parameter)
                for key in ("exp_avg", "exp_avg_sq"):
                    found[f"{name}/{key}"] = safe_get_full_optimizer_state(parameter, key)
            else:
                found[name] = parameter.detach()
                found |= {f"{name}/{key}": base.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")}
        if world.is_main:
            save_file({name: tensor.contiguous().clone() for name, tensor in found.items()}, out)
    distributed.shutdown()


if __name__ == "__main__":
    main()
