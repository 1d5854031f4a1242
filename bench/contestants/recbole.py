"""RecBole's SASRec, through its own `Trainer`, in its own environment.

Full softmax, a row for each prefix with its newest `length` items. A row in training is a target, in
evaluation a user whose target is ranked among all items (the history is not masked).
"""

from __future__ import annotations

import os
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.contestants.rounds import Rounds

BATCH = 1024


class Counted:
    """A data loader of theirs, each batch counted when its work is done."""

    def __init__(self, loader: Any, rounds: Rounds):
        self.loader, self.rounds = loader, rounds

    def __iter__(self) -> Iterator[Any]:
        return self.rounds.over(self.loader, len)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)


def configure(events: Path, length: int, dim: int) -> Any:
    """Make RecBole's configuration of a SASRec on these events, on one thread."""
    os.chdir(events.parent)  # it leaves a log where it runs
    warnings.filterwarnings("ignore")
    import numpy as np
    import torch

    # 1.2.1 is older than these libraries: names that NumPy has dropped, and Ray, which it imports for sweeps.
    for old, new in (("float", float), ("int", int), ("bool", bool), ("object", object)):
        if old not in np.__dict__:
            setattr(np, old, new)
    ray = types.ModuleType("ray")
    ray.tune = types.ModuleType("ray.tune")  # type: ignore[attr-defined]
    sys.modules |= {"ray": ray, "ray.tune": ray.tune}  # type: ignore[attr-defined]
    from recbole.config import Config

    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]  # it reads options from there
    return Config(
        model="SASRec",
        dataset=events.stem,
        config_dict={
            "data_path": str(events.parent.parent),
            "checkpoint_dir": str(events.parent),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "order": "TO",
                "group_by": "user",
                "mode": "full",
            },
            "loss_type": "CE",
            "train_neg_sample_args": None,
            "MAX_ITEM_LIST_LENGTH": length,
            "hidden_size": dim,
            "inner_size": 4 * dim,
            "n_layers": 2,
            "n_heads": 2,
            "train_batch_size": BATCH,
            "eval_batch_size": 1024,
            "epochs": 10_000,
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
        },
    )


def main() -> None:
    """Train or evaluate as the arguments say."""
    task, events, length, dim = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    rounds = Rounds()
    config = configure(events, length, dim)
    import recbole
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    init_seed(0, True)
    dataset = create_dataset(config)
    training, _, test = data_preparation(config, dataset)
    trainer = Trainer(config, SASRec(config, training.dataset))
    objective = (
        f"full softmax, batches of {BATCH} prefixes padded to {length}"
        if task == "train"
        else "rank of the target among all items, history not masked"
    )
    rounds.ready(package="RecBole", version=recbole.__version__, objective=objective)
    if task == "train":
        trainer.fit(Counted(training, rounds), saved=False, show_progress=False)
    rank_batch = (
        trainer._full_sort_batch_eval
    )  # it takes no loader but its own, so the batches are counted here

    def counted(batch: Any) -> Any:
        result = rank_batch(batch)
        rounds.done(len(batch[0]))
        return result

    trainer._full_sort_batch_eval = counted
    while True:
        trainer.evaluate(test, load_best_model=False, show_progress=False)


if __name__ == "__main__":
    main()
