"""RecBole's SASRec to convergence, in its own environment.

Full softmax, a row for each prefix with its newest `length` items, the epochs of its own `Trainer`. Its
scores of all items are ranked here: its own evaluation leaves the history in.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from bench.baselines.fitting import BEYOND, Progress, fit
from bench.contestants.recbole import configure


class Model:
    """Its model and trainer, and the sequence of each user in its own numbers."""

    def __init__(self, events: Path, length: int, dim: int, seed: int):
        config = configure(events, length, dim)
        from recbole.data import create_dataset, data_preparation
        from recbole.model.sequential_recommender import SASRec
        from recbole.trainer import Trainer
        from recbole.utils import init_seed

        init_seed(seed, True)
        self.dataset = create_dataset(config)
        self.training, *loaders = data_preparation(config, self.dataset)
        self.loaders = dict(zip(("valid", "test"), loaders, strict=True))
        self.model = SASRec(config, self.training.dataset)
        self.trainer, self.epoch = Trainer(config, self.model), 0
        user, item = np.loadtxt(events, np.int64, delimiter="\t", skiprows=1, usecols=(0, 1), unpack=True)
        of_user = self.dataset.token2id("user_id", user.astype(str))
        of_item = self.dataset.token2id("item_id", item.astype(str))
        self.sequences: dict[int, list[int]] = {}
        for row, video in zip(of_user.tolist(), of_item.tolist(), strict=True):
            self.sequences.setdefault(row, []).append(video)

    def train(self) -> None:
        """Train for an epoch."""
        self.model.train()
        self.trainer._train_epoch(self.training, self.epoch, show_progress=False)
        self.epoch += 1

    def places(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Users of a split, by our numbers, and the places of their targets."""
        import torch

        self.model.eval()
        users, places = [], []
        with torch.no_grad():
            for interaction, _, _, target in self.loaders[split]:
                score = self.model.full_sort_predict(interaction).view(len(interaction), -1)
                own = score.gather(1, target[:, None])
                score[:, 0] = -torch.inf
                user = interaction["user_id"].tolist()
                for row, history in enumerate(map(self.sequences.__getitem__, user)):
                    score[row, history[: -1 if split == "test" else -2]] = -torch.inf
                place = (score > own).sum(1)
                places.append(torch.where(place < 20, place, BEYOND).numpy())
                users.append(self.dataset.id2token("user_id", user).astype(np.int64))
        return np.concatenate(users), np.concatenate(places)

    def save(self, path: Path) -> None:
        """Write model, optimiser and random state."""
        import torch

        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.trainer.optimizer.state_dict(),
                "epoch": self.epoch,
                "random": torch.get_rng_state(),
            },
            path,
        )

    def load(self, path: Path) -> None:
        """Go on from there."""
        import torch

        state = torch.load(path)
        self.model.load_state_dict(state["model"])
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]
        torch.set_rng_state(state["random"])


def main() -> None:
    """Train as the arguments say."""
    folder, events, length, dim, seed, patience, max_epochs = sys.argv[2:]  # the first is the model
    model = Model(Path(events), int(length), int(dim), int(seed))
    from recbole import __version__

    fit(Path(folder), model, Progress("RecBole", __version__, "SASRec"), int(patience), int(max_epochs))


if __name__ == "__main__":
    main()
