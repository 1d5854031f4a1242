"""RecTools' SASRec, through its own `fit` and `recommend`, in its own environment.

Full softmax over all positions of a user's newest `length` items. A row in training is a target, in
evaluation a user whose 20 best unseen items are found.
"""

from __future__ import annotations

import sys
import warnings

from bench.contestants.rounds import Rounds

BATCH = 128  # its default
USERS = 10_000  # of one call of `recommend`


def main() -> None:
    """Train or evaluate as the arguments say."""
    task, events, length, dim = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    rounds = Rounds()
    warnings.filterwarnings("ignore")
    import pandas as pd
    import torch
    from pytorch_lightning import Trainer
    from pytorch_lightning.callbacks import LambdaCallback
    from rectools import __version__
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    torch.set_num_threads(1)
    table = pd.read_csv(events, sep="\t")
    table.columns = ["user_id", "item_id", "datetime", "part"]
    table["datetime"] = pd.to_datetime(table["datetime"], unit="s")
    table["weight"] = 1
    training = Dataset.construct(table[table.part == 0].drop(columns="part"))
    # Every item is known to the model: those outside the training part are few, and ours ranks them too.
    known = Dataset.construct(table[table.part < 2].drop(columns="part"))
    about = {"package": "RecTools", "version": __version__}

    def model(callback: LambdaCallback, steps: int) -> SASRecModel:
        return SASRecModel(
            n_blocks=2,
            n_heads=2,
            n_factors=dim,
            session_max_len=length,
            batch_size=BATCH,
            loss="softmax",
            get_trainer_func=lambda: Trainer(
                max_epochs=10_000,
                max_steps=steps,
                accelerator="cpu",
                callbacks=[callback],
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                logger=False,
            ),
        )

    if task == "train":
        counted = LambdaCallback(
            on_train_start=lambda *_: rounds.ready(
                **about, objective=f"full softmax, batches of {BATCH} users padded to {length}"
            ),
            on_train_batch_end=lambda trainer, module, outputs, batch, index: rounds.done(
                int((batch["y"] != 0).sum())
            ),
        )
        model(counted, -1).fit(training)
        return
    trained = model(LambdaCallback(), 1)
    trained.fit(known)
    users = table.user_id.unique()[:USERS]
    rounds.ready(**about, objective="20 best of all unseen items for each user")
    while True:
        trained.recommend(users=users, dataset=known, k=20, filter_viewed=True)
        rounds.done(len(users))


if __name__ == "__main__":
    main()
