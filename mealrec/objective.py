"""The next-video loss: full softmax, or sampled softmax with log-Q correction where the catalogue is large.

Videos are 1..I throughout, the rows of the ID table; row 0 is the padding and never competes.

Legend: N targets, D model width, I videos, K negatives or rows of the table.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from mealrec.config import ObjectiveConfig
from mealrec.ops import Counters, RandomStream, softmax_terms_, words
from mealrec.product import product

# Logits held at once, in elements: what stays in a CPU core's cache, and what fills a GPU.
CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}


def softmax_loss(
    u_ND: torch.Tensor,
    E_KD: torch.Tensor,
    bias_K: torch.Tensor | None,
    score_N: torch.Tensor,
    own_N: torch.Tensor,
    first: int = 0,
    kernel: str = "auto",
) -> torch.Tensor:
    """Sum of `log(exp(s) + sum_k exp(u E_k + b_k)) - s`, `s` the target's score, a float32 scalar.

    The logits [K, N] are never held whole. The k that is the target itself is left out of the sum.

    Args:
        u_ND: preferences [N, D].
        E_KD: rows of the ID table [K, D].
        bias_K: float32 [K], with a gradient; None: 0.
        score_N: float32 [N].
        own_N: the k that is the target itself, -1 where none is, int64 [N].
        first: the first k that takes part. Not a slice by the caller: its gradient would be one more copy of
            the table.
        kernel: implementation of `ops.softmax_terms_`.
    """
    learned = bias_K is not None and bias_K.requires_grad
    loss: torch.Tensor = _softmax_loss(u_ND, E_KD, bias_K, score_N, own_N, first, kernel, learned)[0]
    return loss


# An operator of its own, so that torch.compile does not look into the loop, whose length depends on the data.
@torch.library.custom_op("mealrec::softmax_loss", mutates_args=())
def _softmax_loss(
    u_ND: torch.Tensor,
    E_KD: torch.Tensor,
    bias_K: torch.Tensor | None,
    score_N: torch.Tensor,
    own_N: torch.Tensor,
    first: int,
    kernel: str,
    learned_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss and, from the same pass, its gradients of u, E, learned biases and the target's score."""
    loss = torch.zeros((), dtype=torch.float32, device=u_ND.device)
    grad_u, grad_E, grad_bias, grad_score = (
        torch.empty_like(u_ND),
        torch.zeros_like(E_KD, dtype=torch.float32),
        score_N.new_zeros(len(E_KD) if learned_bias else 0),
        torch.empty_like(score_N),
    )
    competing, grad_competing = E_KD[first:], grad_E[first:]
    bias_K = None if bias_K is None else bias_K[first:]
    rows = max(64, CHUNK_ELEMENTS.get(u_ND.device.type, 1 << 26) // len(competing))
    for start in range(0, len(u_ND), rows):
        part = slice(start, start + rows)
        u, score = u_ND[part], score_N[part]
        # A column for each target: this way around, products with a long table take a quarter less.
        logits = product(competing, u.T)
        highest, rest = softmax_terms_(logits, score, own_N[part] - first, bias_K, kernel=kernel)
        z = rest + (score - highest).exp()
        loss += (highest + z.log() - score).sum()
        grad_score[part] = -rest / z
        # The probabilities are the terms over z; dividing the narrow matrices is cheaper.
        weight = logits.to(u.dtype)
        grad_u[part] = (weight.T @ competing).div_(z[:, None])
        if learned_bias:
            grad_bias[first:].addmv_(logits, z.reciprocal())
        scaled = u / z[:, None].to(u.dtype)
        if weight.dtype == torch.float32:
            grad_competing.addmm_(weight, scaled)
        else:
            grad_competing += weight @ scaled
    return loss, grad_u, grad_E.to(E_KD.dtype), grad_bias, grad_score


@_softmax_loss.register_fake
def _(
    u_ND: torch.Tensor,
    E_KD: torch.Tensor,
    bias_K: torch.Tensor | None,
    score_N: torch.Tensor,
    *rest: Any,
) -> tuple[torch.Tensor, ...]:
    *_, learned_bias = rest
    grad_bias = score_N.new_empty(len(E_KD) if learned_bias else 0)
    loss = score_N.new_empty(())
    return loss, torch.empty_like(u_ND), torch.empty_like(E_KD), grad_bias, torch.empty_like(score_N)


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # of those there are none: zeros as large as the table would be made


def _scale_gradients(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
    # In place, once: the graph refuses a second backward pass.
    grad_u, grad_E, grad_bias, grad_score = (saved.mul_(grad) for saved in ctx.saved_tensors)
    return grad_u, grad_E, grad_bias if len(grad_bias) else None, grad_score, *[None] * 4


_softmax_loss.register_autograd(_scale_gradients, setup_context=_keep_gradients)


def target_score(u_ND: torch.Tensor, e_ND: torch.Tensor, bias_N: torch.Tensor | None) -> torch.Tensor:
    """Score of each preference with its target's row and bias, float32 [N]."""
    score_N = (u_ND * e_ND).sum(1, dtype=torch.float32)
    return score_N if bias_N is None else score_N + bias_N


def full_softmax(
    u_ND: torch.Tensor,
    target_ND: torch.Tensor,
    target_N: torch.Tensor,
    E_KD: torch.Tensor,
    bias_K: torch.Tensor | None = None,
    kernel: str = "auto",
) -> torch.Tensor:
    """Sum of `-log softmax(u E^T + b)[target]` over all videos.

    target: the videos int64 [N], 0 where none counts, and their rows of the ID table E [I+1, D]; bias:
    float32 [I+1].
    """
    # Row 0 is the padding, and takes no part.
    bias_N = None if bias_K is None else bias_K[target_N]
    score_N = counting(target_score(u_ND, target_ND, bias_N), target_N)
    return softmax_loss(u_ND, E_KD, bias_K, score_N, target_N.clamp_min(1), 1, kernel)


def counting(score_N: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    """The scores, but so high where there is no target that loss and gradients are exactly 0 there."""
    return score_N.masked_fill(target_N == 0, 1e30)


class NegativeSampler(torch.nn.Module):
    """Draws videos in proportion to `train_count ** power`, once per global step, the same on every rank.

    The distribution is held as integer thresholds on `[0, 2^32)`, so that a draw is the same everywhere and
    its probability is known exactly.
    """

    thresholds: torch.Tensor

    def __init__(self, train_counts: torch.Tensor, config: ObjectiveConfig):
        super().__init__()
        self.count = config.negatives
        weight = np.maximum(train_counts[1:].numpy().astype(np.float64), 1e-12) ** config.negative_power
        # Every video keeps at least one of the 2^32 values: a target's probability is never zero.
        rest = 2**32 - len(weight)
        upper = np.floor(np.cumsum(weight) / weight.sum() * rest).astype(np.int64) + np.arange(
            1, len(weight) + 1
        )
        upper[-1] = 2**32
        self.register_buffer("thresholds", torch.from_numpy(upper), persistent=False)

    def draw(self, seed: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Draw videos, int64 [K], ascending."""
        zero = torch.zeros(1, dtype=torch.int64, device=self.thresholds.device)
        word_K = words(Counters(seed, step, zero, zero), self.count, RandomStream.NEGATIVES)[0]
        return torch.searchsorted(self.thresholds, word_K.sort().values, right=True) + 1

    def log_probability(self, video: torch.Tensor) -> torch.Tensor:
        """Log Q of videos, float32 of the same shape."""
        below = torch.where(video > 1, self.thresholds[(video - 2).clamp_min(0)], 0)
        return ((self.thresholds[video - 1] - below).double() * 2.0**-32).log().float()


def sampled_softmax(
    u_ND: torch.Tensor,
    target_ND: torch.Tensor,
    target_N: torch.Tensor,
    negative_KD: torch.Tensor,
    negative_K: torch.Tensor,
    sampler: NegativeSampler,
    bias_I: torch.Tensor | None = None,
    kernel: str = "auto",
) -> torch.Tensor:
    """Sum of the cross entropy over the target and shared negatives, accidental hits left out.

    Each score is reduced by the log of its expected number of draws [Yi et al. 2019: log-Q correction].
    Targets and negatives: videos int64 [N], 0 where none counts, and [K] ascending, and their rows of the
    ID table; bias: of all videos, float32 [I+1].
    """
    expected = math.log(len(negative_K))
    bias_N = None if bias_I is None else bias_I[target_N]
    score_N = target_score(u_ND, target_ND, bias_N) - (sampler.log_probability(target_N) + expected)
    # A video that was drawn several times counts so often in its first place, and no more in the others:
    # each target then competes with itself in at most one place.
    first_K = torch.searchsorted(negative_K, negative_K)
    times_K = torch.searchsorted(negative_K, negative_K, right=True) - first_K
    again_K = first_K != torch.arange(len(negative_K), device=negative_K.device)
    bias_K = times_K.float().log() - (sampler.log_probability(negative_K) + expected)
    bias_K = bias_K.masked_fill(again_K, float("-inf"))
    if bias_I is not None:
        bias_K = bias_K + bias_I[negative_K]
    place_N = torch.searchsorted(negative_K, target_N).clamp_max(len(negative_K) - 1)
    own_N = torch.where(negative_K[place_N] == target_N, place_N, -1)
    score_N = counting(score_N, target_N)
    return softmax_loss(u_ND, negative_KD, bias_K, score_N, own_N, kernel=kernel)
