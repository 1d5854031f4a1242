"""A small random batch and model, with and without features."""

import torch

from mealrec import MealRec, MealRecConfig

VIDEOS, FRAMES, WIDTH = 30, 4, 6


def make_config(**fields):
    """A small configuration; dotted fields with `__`."""
    config = MealRecConfig(videos=VIDEOS, frames=FRAMES, width=WIDTH, max_length=8, dim=16)
    for name, value in fields.items():
        *path, leaf = name.split("__")
        owner = config
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, leaf, value)
    return config


def make_model(seed=1, **fields):
    """A small model in training mode."""
    features, frames = frame_table()
    content = features.sum(1) / frames.clamp_min(1)[:, None]
    return MealRec(make_config(**fields), seed, torch.arange(VIDEOS + 1), content).train()


def frame_table():
    """Raw features [I+1, M, V] and frame counts; video 3 has none, video 4 one frame."""
    features = torch.randn(VIDEOS + 1, FRAMES, WIDTH, generator=torch.Generator().manual_seed(9))
    frames = torch.full((VIDEOS + 1,), FRAMES)
    frames[0], frames[3], frames[4] = 0, 0, 1
    return features * (torch.arange(FRAMES) < frames[:, None])[..., None], frames


def with_features(batch):
    """The batch with the frames of its distinct videos."""
    features, frames = frame_table()
    distinct, row = torch.unique(
        torch.cat([torch.zeros(1).long(), batch["item"].flatten()]), return_inverse=True
    )
    return batch | {
        "features": features[distinct],
        "frames": frames[distinct],
        "feature_row": row[1:].view(batch["item"].shape),
    }


def make_batch(lengths=(8, 5, 1, 7, 3, 6), seed=2, global_step=4):
    """Random histories of those lengths with a target at every position."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    item, target = torch.randint(1, VIDEOS + 1, (2, len(lengths), width), generator=generator) * real
    sample_id = torch.arange(len(lengths)) * 3 + 1
    counters = {
        "seed": torch.tensor(5),
        "global_step": torch.tensor(global_step),
        "offset": torch.zeros(len(lengths)).long(),
    }
    return with_features({"sample_id": sample_id, "item": item, "target": target, **counters})
