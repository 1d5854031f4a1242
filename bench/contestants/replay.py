"""RePlay's SASRec in its Lightning module and Lightning's own loop, in its own environment.

Full softmax over all positions of a user's newest `length` items. A row is a target. The sequences are padded
once beforehand and served from memory, so RePlay is spared its own reading of Parquet files.
"""

from __future__ import annotations

import sys
import warnings

from bench.contestants.rounds import Rounds

BATCH = 128  # users; it has no default


def main() -> None:
    """Train until the race is over."""
    events, length, dim = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    rounds = Rounds()
    warnings.filterwarnings("ignore")
    from importlib import metadata

    import lightning
    import pandas as pd
    import torch
    from lightning.pytorch.callbacks import LambdaCallback
    from replay.data import FeatureHint, FeatureSource, FeatureType
    from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
    from replay.nn.lightning import LightningModule
    from replay.nn.sequential import SasRec

    torch.set_num_threads(1)
    table = pd.read_csv(events, sep="\t", names=["user", "item", "time", "part"], header=0)
    items = int(table.item.max())
    item = TensorFeatureInfo(
        "item",
        is_seq=True,
        feature_type=FeatureType.CATEGORICAL,
        embedding_dim=dim,
        cardinality=items,
        padding_value=items,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item")],
    )
    histories = [
        torch.tensor(history.to_numpy()[-length - 1 :] - 1)
        for _, history in table[table.part == 0].sort_values(["user", "time"]).groupby("user").item
    ]
    padded = torch.full((len(histories), length + 1), items)
    for row, history in zip(padded, histories, strict=True):
        row[length + 1 - len(history) :] = history

    def batch(rows: list[torch.Tensor]) -> dict[str, object]:
        item = torch.stack(rows)
        return {
            "feature_tensors": {"item": item[:, :-1]},
            "padding_mask": item[:, :-1] != items,
            "positive_labels": item[:, 1:, None],
            "negative_labels": None,
            "target_padding_mask": ((item[:, :-1] != items) & (item[:, 1:] != items))[..., None],
        }

    model = SasRec.from_params(
        TensorSchema([item]),
        embedding_dim=dim,
        num_heads=2,
        num_blocks=2,
        max_sequence_length=length,
        hidden_dim=4 * dim,
    )
    counted = LambdaCallback(
        on_train_start=lambda *_: rounds.ready(
            package="RePlay",
            version=metadata.version("replay-rec"),
            objective=f"full softmax, batches of {BATCH} users padded to {length}",
        ),
        on_train_batch_end=lambda trainer, module, outputs, batch, index: rounds.done(
            int(batch["target_padding_mask"].sum())
        ),
    )
    trainer = lightning.Trainer(
        max_epochs=10_000,
        accelerator="cpu",
        callbacks=[counted],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    loader = torch.utils.data.DataLoader(list(padded), BATCH, shuffle=True, collate_fn=batch)
    trainer.fit(LightningModule(model), loader)


if __name__ == "__main__":
    main()
