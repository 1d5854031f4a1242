"""Content in the embeddings of videos: `[n_i > 0] E_i + gamma_i W v_i` [ours].

E_i is learned for the video i and needs interactions; v_i is the mean of its frames. `gamma_i = half / (half
+ n_i)` decreases with its n_i training interactions: content helps rare videos and overfits frequent ones.
A video that nobody has watched is known by its content alone: E_i would only ever be pushed away.

Legend: I videos, K some of them, V raw feature width, D model width.
"""

from __future__ import annotations

import torch

from mealrec.config import MealRecConfig
from mealrec.noise import Noise
from mealrec.ops import Counters, RandomStream, dropout


def shares(config: MealRecConfig, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares of E_i and of W v_i in a video's embedding, float32 [I+1] each, from its training count."""
    content = config.content_half / (config.content_half + counts.float())
    if not config.use_ids:
        content = torch.ones_like(content)
    return (counts > 0).float(), content


def dropped(v_KV: torch.Tensor, video_K: torch.Tensor, p: float, noise: Noise) -> torch.Tensor:
    """Contents of videos with dropout, the same for a video wherever it occurs in a step, [K, V]."""
    counters = Counters(noise.seed, noise.step, video_K, torch.zeros_like(video_K))
    return dropout(v_KV, p, counters, RandomStream.CONTENT_DROPOUT, kernel=noise.kernel)
