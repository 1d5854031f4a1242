"""The end of a run: its best weights on both splits, and what they stand between."""

from __future__ import annotations

from typing import Any

from trainer import dist, weights
from trainer.config import RunConfig
from trainer.evaluate import evaluate, evaluate_popularity, oracle
from trainer.inputs import Inputs


def evaluate_best(config: RunConfig, inputs: Inputs) -> dict[str, Any]:
    """Metrics of "valid" and "test" with the full chain (or `eval.test_sampler_steps`), of "popularity" and
    the "oracle" on test.

    None where a split has no users, or nobody knows the truth. The weights are the fp32 ones of the best
    checkpoint in a plain model, exactly as `python -m trainer evaluate` takes them; rank 0 reads them for
    all.
    """
    world, settings = inputs.world, config.eval
    state = weights.load(config.run.dir).state if world.is_main else {}
    model = inputs.build_model(config.seed)
    weights.load_into(model, dist.broadcast_tensors(state, world.device))
    model.to(world.device)
    found: dict[str, Any] = {"valid": None, "test": None, "popularity": None, "oracle": None}
    for split in ("valid", "test"):
        stream = inputs.eval_stream(split, settings)
        if stream.users:
            found[split] = evaluate(model, stream, inputs, config, settings.test_sampler_steps)
    if found["test"]:
        found["popularity"] = evaluate_popularity(
            inputs.train_counts(),
            inputs.eval_stream("test", settings),
            inputs.index.videos,
            mask_history=settings.mask_history,
            device=world.device,
        )
        found["oracle"] = oracle(inputs.index, "test")
    return found
