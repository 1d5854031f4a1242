"""Scores over all videos, chunked so that memory is bounded, in float32; the padding row is never ranked.

Legend: B users, D model width, I videos. Video ids are 1..I; row i-1 of E belongs to video i, and so does
bias i-1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mealrec.ops import count_above

# Scores held at once, in elements: 64 MiB in float32, in which whole numbers up to here are exact.
CHUNK_ELEMENTS = 1 << 24
# Fewer users than this are an inefficient product, so they do not get the scores of all videos at once.
LEAST_USERS = 32


def _chunks(
    u_BD: torch.Tensor,
    E_ID: torch.Tensor,
    bias_I: torch.Tensor | None,
    seen: tuple[torch.Tensor, torch.Tensor] | None,
    keep_B: torch.Tensor | None,
    chunk: int,
    first_row: int = 0,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Scores [chunk, B] from video index `start` on, valid until the next are asked for.

    They are -inf for each user's `seen = (video, user row)`, except for the video to keep; the users' rows
    start at `first_row`. With a column for each user the product takes a third less than with a row.
    """
    rows, videos = len(u_BD), len(E_ID)
    size = min(chunk or max(1, CHUNK_ELEMENTS // max(rows, 1)), CHUNK_ELEMENTS, videos)
    u_BD = u_BD.float()
    buffer = u_BD.new_empty(rows * size)
    for start in range(0, videos, size):
        E_KD = E_ID[start : start + size].float()
        width = len(E_KD)
        score_KB = buffer[: rows * width].view(width, rows)
        if bias_I is None:
            torch.mm(E_KD, u_BD.T, out=score_KB)
        else:
            torch.addmm(bias_I[start : start + size, None].float(), E_KD, u_BD.T, out=score_KB)
        if seen is not None:
            video_S, row_S = seen
            place_S, row_S = video_S - 1 - start, row_S - first_row
            inside_S = (place_S >= 0) & (place_S < width) & (row_S >= 0) & (row_S < rows)
            place_S, row_S = place_S.clamp(0, width - 1), row_S.clamp(0, rows - 1)
            if keep_B is not None:
                inside_S &= video_S != keep_B[row_S]
            # All are added, those outside as 0: to select the others, a GPU's host would wait.
            penalty_S = torch.where(inside_S, float("-inf"), 0.0)
            score_KB.view(-1).index_add_(0, place_S * rows + row_S, penalty_S)
        yield start, score_KB


def target_rank(
    u_BD: torch.Tensor,
    E_ID: torch.Tensor,
    target_B: torch.Tensor,
    seen: tuple[torch.Tensor, torch.Tensor] | None = None,
    chunk: int = 0,
    bias_I: torch.Tensor | None = None,
    kernel: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many videos score above the target and how many others equal it, int64 [B] each.

    target: int64 [B] in 1..I (0 in filler rows, whose result means nothing); seen: (video [S], user row [S]),
    left out of the ranking, the target itself never; chunk: videos scored at once, 0 = by memory; bias: float
    [I], added to the videos' scores; kernel: implementation of `ops.count_above`.
    """
    # Parts of the users, as chunks of the videos are scored twice: the first time for the target's score.
    # But a table in another dtype is converted chunk by chunk, to bound memory.
    users = CHUNK_ELEMENTS // len(E_ID)
    if chunk or not LEAST_USERS <= users < len(u_BD) or E_ID.dtype != torch.float32:
        return _target_rank(u_BD, E_ID, target_B, seen, chunk, bias_I, kernel)
    parts = []
    for start in range(0, len(u_BD), users):
        part = slice(start, start + users)
        parts.append(_target_rank(u_BD[part], E_ID, target_B[part], seen, 0, bias_I, kernel, start))
    greater, equal = zip(*parts, strict=True)
    return torch.cat(greater), torch.cat(equal)


def _target_rank(
    u_BD: torch.Tensor,
    E_ID: torch.Tensor,
    target_B: torch.Tensor,
    seen: tuple[torch.Tensor, torch.Tensor] | None,
    chunk: int,
    bias_I: torch.Tensor | None,
    kernel: str,
    first_row: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`target_rank` of the users from `first_row` on."""
    place_B = target_B.clamp_min(1) - 1
    score_B = u_BD.new_full((len(u_BD),), float("nan"), dtype=torch.float32)
    parts = []
    # The target's score comes from the same product as the others', so that equal embeddings give equal
    # scores.
    for start, score in _chunks(u_BD, E_ID, bias_I, seen, target_B, chunk, first_row):
        inside = (place_B >= start) & (place_B < start + len(score))
        own = score.gather(0, (place_B - start).clamp(0, len(score) - 1)[None])[0]
        score_B = torch.where(inside, own, score_B)
        parts = [(start, score)] if len(score) == len(E_ID) else []
    greater_B, equal_B = torch.zeros_like(target_B), -torch.ones_like(target_B)
    for _, score in parts or _chunks(u_BD, E_ID, bias_I, seen, target_B, chunk, first_row):
        greater, equal = count_above(score, score_B, kernel=kernel)
        greater_B += greater
        equal_B += equal
    return greater_B, equal_B


def top(
    u_BD: torch.Tensor,
    E_ID: torch.Tensor,
    k: int,
    seen: tuple[torch.Tensor, torch.Tensor] | None = None,
    chunk: int = 0,
    bias_I: torch.Tensor | None = None,
    hidden_I: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` best videos of each user: scores float32 [B, k] and ids int64 [B, k] in 1..I, best first.

    hidden: bool [I], videos that no user gets. Where fewer than k are left, scores of -inf follow.
    """
    best_score = torch.empty(len(u_BD), 0, device=u_BD.device)
    best_video = torch.empty(len(u_BD), 0, dtype=torch.int64, device=u_BD.device)
    for start, score in _chunks(u_BD, E_ID, bias_I, seen, None, chunk):
        if hidden_I is not None:
            score.masked_fill_(hidden_I[start : start + len(score), None], float("-inf"))
        chunk_score, place = score.T.contiguous().topk(min(k, len(score)), dim=1)
        candidate_score = torch.cat([best_score, chunk_score], dim=1)
        candidate_video = torch.cat([best_video, place + start + 1], dim=1)
        best_score, order = candidate_score.topk(min(k, candidate_score.shape[1]), dim=1)
        best_video = candidate_video.gather(1, order)
    return best_score, best_video
