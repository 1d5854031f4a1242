"""The results of a run: its best weights on both splits, beside a floor and a ceiling."""

from __future__ import annotations

from dataclasses import dataclass

from shards import Index
from trainer import activity, distributed, files, run_directory
from trainer.config import RunConfig
from trainer.evaluation import weights
from trainer.evaluation.evaluate import Metrics, evaluate, evaluate_popularity
from trainer.evaluation.ranks import Collector, Facts
from trainer.inputs import Inputs


@dataclass
class FinalResults:
    """Metrics of the best weights on both splits, and of popularity and the oracle on test.

    None where a split has no users, or the data set is not a synthetic one.
    """

    valid: Metrics | None = None
    test: Metrics | None = None
    popularity: Metrics | None = None
    oracle: Metrics | None = None


def evaluate_best(config: RunConfig, inputs: Inputs) -> FinalResults:
    """Evaluate the best weights of a run and keep the rank of each user's target; every rank calls this.

    The chains have `eval.test_sampler_steps` steps. The weights are the fp32 ones of the best checkpoint in a
    plain model, exactly as `python -m trainer evaluate` uses them; rank 0 reads them for all.
    """
    world, settings = inputs.world, config.eval
    activity.expect_slow_work()
    best = weights.load(str(config.run.dir)) if world.is_main else None
    step = distributed.broadcast_object(best.facts.progress["step"] if best else 0)
    model = inputs.build_model()
    weights.load_into(model, distributed.broadcast_tensors(best.state if best else {}, world.device))
    model.to(world.device)

    def score(split: str) -> Metrics | None:
        stream = inputs.eval_stream(split, settings)
        if not stream.users:
            return None
        steps = settings.test_sampler_steps
        collector = Collector(inputs.index, world.device, is_main=world.is_main)
        metrics = evaluate(model, stream, inputs, settings, steps, collector)
        path = run_directory.ranks(str(config.run.dir), split)
        noise = inputs.model.feature_noise
        facts = Facts(inputs.index.fingerprint, split, step, settings.mask_history, steps, noise=noise)
        collector.write(path, facts)
        return metrics

    results = FinalResults(valid=score("valid"), test=score("test"))
    if results.test:
        results.popularity = evaluate_popularity(
            inputs.train_counts(),
            inputs.eval_stream("test", settings),
            inputs.index.videos,
            mask_history=settings.mask_history,
            device=world.device,
        )
        results.oracle = oracle(inputs.index, "test")
    return results


def oracle(index: Index, split: str) -> Metrics | None:
    """Return the metrics of an oracle that knows how a synthetic data set was made; None for other data."""
    if index.oracle_file is None:
        return None
    metrics: dict[str, Metrics] = files.read_json(index.local(index.oracle_file))
    return metrics.get(split)
