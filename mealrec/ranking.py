"""Scores over all videos, chunked so that memory is bounded, in float32; the padding row is never ranked.

Legend: B users, D model width, I videos. Video ids are 1..I; row i-1 of E belongs to video i.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Scores held at once, in elements: 64 MiB in float32.
CHUNK_ELEMENTS = 1 << 24


def _chunks(
    u_BD: torch.Tensor,
    E_ID: torch.Tensor,
    seen: tuple[torch.Tensor, torch.Tensor] | None,
    keep_B: torch.Tensor | None,
    chunk: int,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Scores [B, chunk] from video index `start` on.

    They are -inf for each user's `seen = (video, user row)`, except for the video to keep.
    """
    size = chunk or max(1, CHUNK_ELEMENTS // max(len(u_BD), 1))
    u_BD = u_BD.float()
    if seen is not None and keep_B is not None:
        other = seen[0] != keep_B[seen[1]]
        seen = seen[0][other], seen[1][other]
    for start in range(0, len(E_ID), size):
        score = u_BD @ E_ID[start : start + size].float().T
        if seen is not None:
            inside = (seen[0] > start) & (seen[0] <= start + score.shape[1])
            score[seen[1][inside], seen[0][inside] - 1 - start] = float("-inf")
        yield start, score


def target_rank(
    u_BD: torch.Tensor,
    E_ID: torch.Tensor,
    target_B: torch.Tensor,
    seen: tuple[torch.Tensor, torch.Tensor] | None = None,
    chunk: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many videos score above the target and how many others equal it, int64 [B] each.

    target: int64 [B] in 1..I (0 in filler rows, whose result means nothing); seen: (video [S], user row [S]),
    left out of the ranking, the target itself never; chunk: videos scored at once, 0 = by memory.
    """
    column_B = target_B.clamp_min(1) - 1
    score_B = u_BD.new_full((len(u_BD),), float("nan"), dtype=torch.float32)
    parts = []
    # The target's score comes from the same product as the others', so that equal embeddings give equal
    # scores.
    for start, score in _chunks(u_BD, E_ID, seen, target_B, chunk):
        inside = (column_B >= start) & (column_B < start + score.shape[1])
        own = score.gather(1, (column_B - start).clamp(0, score.shape[1] - 1)[:, None])[:, 0]
        score_B = torch.where(inside, own, score_B)
        parts = [(start, score)] if score.shape[1] == len(E_ID) else []
    greater_B, equal_B = torch.zeros_like(target_B), -torch.ones_like(target_B)
    for _, score in parts or _chunks(u_BD, E_ID, seen, target_B, chunk):
        greater_B += (score > score_B[:, None]).sum(1)
        equal_B += (score == score_B[:, None]).sum(1)
    return greater_B, equal_B


def top(
    u_BD: torch.Tensor,
    E_ID: torch.Tensor,
    k: int,
    seen: tuple[torch.Tensor, torch.Tensor] | None = None,
    chunk: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` best videos of each user: scores float32 [B, k] and ids int64 [B, k] in 1..I, best first."""
    best_score = torch.empty(len(u_BD), 0, device=u_BD.device)
    best_video = torch.empty(len(u_BD), 0, dtype=torch.int64, device=u_BD.device)
    for start, score in _chunks(u_BD, E_ID, seen, None, chunk):
        chunk_score, column = score.topk(min(k, score.shape[1]), dim=1)
        candidate_score = torch.cat([best_score, chunk_score], dim=1)
        candidate_video = torch.cat([best_video, column + start + 1], dim=1)
        best_score, order = candidate_score.topk(min(k, candidate_score.shape[1]), dim=1)
        best_video = candidate_video.gather(1, order)
    return best_score, best_video
