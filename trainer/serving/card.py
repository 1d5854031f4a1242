"""The model card of an export: what the model is and knows, how well it ranks, how it is used."""

from __future__ import annotations

import yaml

from trainer.serving.recommender import Recommender
from trainer.serving.saved import About

SHOWN = ("hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr")

_TEXT = """---
{front}---

# {name}

A [MealRec](https://arxiv.org/abs/2603.01926) model: it reads what a user has watched, oldest first, and ranks {videos:,} videos.

| | |
|---|---|
| backbone | {backbone}, {layers} layers of width {dim} |
| content diffusion (TCD) | {tcd} |
| preference denoising (NPD) | {npd} |
| history | the newest {length} videos |
| data set | {data}, fingerprint `{fingerprint}` |
| training steps | {step:,} |
| licence of the weights | {licence} |

## Results

{results}

## Use

```python
from trainer.serving import Recommender

recommender = Recommender.load("this folder")
recommender.recommend([[{first!r}]], k=10)  # original ids, oldest first
```

`sha256sum --check SHA256SUMS` compares the files with what was written; loading does so, too, and runs no code from them.

## Limits

It knows the {videos:,} videos of `items.npy` and no others. What it recommends follows what the users of its data have clicked, with their
biases. The licence above is of the weights: whether the data may be used so is not known here.
"""  # noqa: E501


def write_card(name: str, about: About, recommender: Recommender, licence: str) -> str:
    """Return the card as Markdown with the front matter that model hubs read.

    name: of the export; licence: an SPDX identifier in small letters, or `unknown`.
    """
    config = recommender.source.config
    tcd = f"yes, over {config.frames} frames a video" if config.has_tcd else "no"
    metrics = {metric: about.metrics[metric] for metric in SHOWN if metric in about.metrics}
    return _TEXT.format(
        front=yaml.safe_dump(_front(name, about, metrics, licence), sort_keys=False),
        name=name,
        videos=config.videos,
        backbone=config.backbone.name,
        layers=config.backbone.layers,
        dim=config.dim,
        tcd=tcd if config.has_tcd or not config.has_video else "no; the mean of the frames is read",
        npd="yes" if config.npd.enabled else "no",
        length=config.max_length,
        data=about.data["name"],
        fingerprint=about.data["fingerprint"],
        step=about.step,
        licence=licence,
        results=_results(metrics),
        first=recommender.source.item_ids[0].item(),
    )


def _front(name: str, about: About, metrics: dict[str, float], licence: str) -> dict[str, object]:
    front: dict[str, object] = {
        "license": licence,
        "library_name": "mealrec",
        "tags": ["recommendation", "sequential-recommendation", "micro-video"],
    }
    if metrics:
        result = {
            "task": {"type": "other", "name": "Sequential recommendation"},
            "dataset": {"type": "other", "name": about.data["name"]},
            "metrics": [{"type": metric, "value": round(value, 4)} for metric, value in metrics.items()],
        }
        front["model-index"] = [{"name": name, "results": [result]}]
    return front


def _results(metrics: dict[str, float]) -> str:
    if not metrics:
        return "The run was not evaluated before it was exported."
    head = f"| {' | '.join(metrics)} |\n|{'---|' * len(metrics)}\n"
    row = f"| {' | '.join(f'{value:.4f}' for value in metrics.values())} |"
    return f"Test split, ranking over all videos but those that the user has seen:\n\n{head}{row}"
