"""A small question to every fused kernel once it is loaded, to which the reference knows the answer.

A compiler's or a driver's fault would otherwise show as a model that learns badly.
"""

from __future__ import annotations

import torch

from mealrec.ops import fused, reference
from mealrec.ops.build import Unavailable
from mealrec.ops.counters import Counters
from mealrec.ops.implementation import Implementation
from mealrec.ops.sampler import Sampler
from mealrec.ops.schedule import Schedule

TOLERANCE = 2e-3
"""Of results near 1: a CUDA normal is within 1.5e-3."""


def check_known_answer(device: str) -> None:
    """Compare the loaded kernels of `device`, "cpu" or "cuda", with the reference.

    Raises:
        Unavailable: an operation differs, or cannot be run.
    """
    expected = _answers(reference, "cpu")
    try:
        answers = _answers(fused, device)
    except RuntimeError as error:
        raise Unavailable(f"they cannot be run: {str(error).splitlines()[0]}") from error
    for name, answer in answers.items():
        difference = float((answer.double() - expected[name].double()).abs().max())
        if not difference <= (0 if name == "words" else TOLERANCE):  # NaN, too
            raise Unavailable(f"they are wrong here: {name} differs from the reference by {difference:.1e}")


@torch.no_grad()
def _answers(of: Implementation, device: str) -> dict[str, torch.Tensor]:
    rows, columns, schedule = 5, 33, Schedule()
    index = torch.arange(rows, device=device)
    counters = Counters(
        torch.tensor(7, device=device), torch.tensor(3, device=device), index * 3, index + 2**31
    )
    x, y = torch.arange(2 * rows * columns, device=device).sin().view(2, rows, columns)
    mask = index != 1
    answers = {
        "words": of.words(counters, columns, 1),
        "normal": of.normal(counters, columns, 2),
        "q_sample": of.q_sample(x, index, schedule, counters, 3, mask, None),
        "reverse_step": of.reverse_step(
            x, y, index + 1, index, schedule, counters, 4, Sampler("ddpm"), None, mask
        ),
        "diffusion_loss": of.diffusion_loss(x, y, mask, index % 3),
        "dropout": of.dropout(x, 0.5, counters, 5, y),
    }
    terms = x.clone()
    highest, rest = of.softmax_terms_(terms, y[0], torch.arange(columns, device=device) % 7 - 2, y[:, 0])
    answers["softmax_terms_"] = torch.cat([terms, highest[None], rest[None]])
    answers["count_above"] = torch.cat(of.count_above(x.round(decimals=1), y[0].round(decimals=1)))
    return {name: answer.cpu() for name, answer in answers.items()}
