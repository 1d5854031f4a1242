"""batch = micro x accumulation x ranks."""

from __future__ import annotations

import pytest

from trainer.batching import (
    LARGEST_AUTOMATIC_MICRO_BATCH,
    LEAST_ON_A_CPU,
    LEAST_ON_A_GPU,
    Batching,
    resolve,
)
from trainer.errors import UserError


def test_the_equation_holds_for_everything_that_resolves() -> None:
    resolved = 0
    for batch in range(1, 200):
        for world_size in (1, 2, 3, 5, 8, 64):
            for micro in (0, 1, 3, 8):
                for accumulation in (0, 1, 2, 5):
                    solvable = any(
                        m * a * world_size == batch
                        for m in ([micro] if micro else range(1, batch + 1))
                        for a in ([accumulation] if accumulation else range(1, batch + 1))
                    )
                    if not solvable:
                        with pytest.raises(UserError):
                            resolve(batch, micro, world_size, accumulation)
                        continue
                    actual = resolve(batch, micro, world_size, accumulation)
                    assert actual.micro_batch_size * actual.accumulation * actual.world_size == batch
                    assert micro in (0, actual.micro_batch_size) and accumulation in (0, actual.accumulation)
                    resolved += 1
    assert resolved > 1000


def test_automatic_micro_batch_is_the_largest_that_fits() -> None:
    assert resolve(512, 0, 2) == Batching(512, LEAST_ON_A_CPU, 2, 2)
    assert resolve(512, 0, 1, on_gpu=True) == Batching(512, LEAST_ON_A_GPU, 2, 1)
    assert resolve(128, 0, 2) == Batching(128, 64, 1, 2)
    assert resolve(128, 0, 2, on_gpu=True) == Batching(128, 64, 1, 2)
    assert resolve(512, 0, 8) == Batching(512, 64, 1, 8)
    assert resolve(16384, 0, 2) == Batching(16384, LARGEST_AUTOMATIC_MICRO_BATCH, 8, 2)
    assert resolve(3 * 2050, 0, 3) == Batching(3 * 2050, 410, 5, 3)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            (512, 0, 3),
            "512 is not a micro-batch x a whole accumulation x 3 ranks: the nearest that is: 510 or 513",
        ),
        (
            (512, 100, 2),
            "512 is not micro-batch 100 x a whole accumulation x 2 ranks: the nearest that is: 400 or 600",
        ),
        ((2, 0, 4), "the nearest that is: 4"),
        ((512, 64, 2, 2), "512 is not micro-batch 64 x accumulation 2 x 2 ranks: that makes 256"),
        ((0, 0, 1), "--train.batch_size must be at least 1, not 0"),
        ((8, -1, 1), "--train.micro_batch_size must be at least 1, or 0 for automatic, not -1"),
        ((8, 0, 0), "at least one rank"),
    ],
)
def test_errors_name_what_would_do(arguments: tuple[int, ...], line: str) -> None:
    with pytest.raises(UserError, match=line):
        resolve(*arguments)
