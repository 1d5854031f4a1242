"""RecTools' SASRec and BERT4Rec to convergence, in their own environment.

Full softmax, a user's newest `length` items, the epochs of its own `fit_partial` and the lists of its own
`recommend`, which leaves out what a user has seen. Items without a training event have no place in its lists.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from bench.baselines.fitting import BEYOND, Progress, fit

USERS = 10_000  # of one call of `recommend`


def make_trainer() -> Any:
    """Make the Lightning trainer; RecTools finds it by its name when it loads a model."""
    from pytorch_lightning import Trainer

    return Trainer(
        max_epochs=-1,  # `fit_partial` sets it; a model of more epochs than stand here cannot be loaded
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )


class Model:
    """Its model, and for each split the known events and the targets."""

    def __init__(self, name: str, events: Path, length: int, dim: int):
        import pandas as pd
        from rectools import models
        from rectools.dataset import Dataset

        table = pd.read_csv(events, sep="\t")
        table.columns = ["user_id", "item_id", "datetime", "part"]
        table["datetime"] = pd.to_datetime(table["datetime"], unit="s")
        table["weight"] = 1

        def known(parts: int) -> Any:
            return Dataset.construct(table[table.part < parts].drop(columns="part"))

        self.known = {"valid": known(1), "test": known(2)}
        self.targets = {
            split: table[table.part == part].groupby("user_id").item_id.last()
            for part, split in enumerate(self.known, 1)
        }
        self.kind = getattr(models, f"{name}Model")
        self.model = self.kind(
            n_blocks=2,
            n_heads=2,
            n_factors=dim,
            session_max_len=length,
            loss="softmax",
            get_trainer_func=make_trainer,
        )

    def train(self) -> None:
        """Train for an epoch."""
        self.model.fit_partial(self.known["valid"], min_epochs=1, max_epochs=1)

    def places(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Users of a split and the places of their targets."""
        users, places = [], []
        target_of = self.targets[split]
        for start in range(0, len(target_of), USERS):
            target = target_of.iloc[start : start + USERS]
            found = self.model.recommend(
                users=target.index.to_numpy(), dataset=self.known[split], k=20, filter_viewed=True
            )
            hit = found[found.item_id == found.user_id.map(target)]
            place = hit.set_index("user_id")["rank"].reindex(target.index) - 1
            users.append(target.index.to_numpy())
            places.append(place.fillna(BEYOND).to_numpy().astype(np.int64))
        return np.concatenate(users), np.concatenate(places)

    def save(self, path: Path) -> None:
        """Write the model with its optimiser."""
        self.model.save(path)

    def load(self, path: Path) -> None:
        """Go on from there."""
        self.model = self.kind.load(path)


def main() -> None:
    """Train as the arguments say."""
    name, folder, events, length, dim, seed, patience, max_epochs = sys.argv[1:]
    warnings.filterwarnings("ignore")
    import torch
    from pytorch_lightning import seed_everything
    from rectools import __version__

    torch.set_num_threads(1)
    seed_everything(int(seed))
    model = Model(name, Path(events), int(length), int(dim))
    fit(Path(folder), model, Progress("RecTools", __version__, name), int(patience), int(max_epochs))


if __name__ == "__main__":
    main()
