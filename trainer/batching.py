"""The arithmetic of a global batch: batch_size = micro_batch_size x accumulation x ranks."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.errors import UserError

LARGEST_AUTOMATIC_MICRO_BATCH = 1024
AUTOMATIC_PARTS = 8  # the tiles of a batch (`shards.plan`): a part then holds one length, or nearly
# Below these a device spends its time on the calls of operations; a little padding costs it less.
LEAST_ON_A_CPU, LEAST_ON_A_GPU = 128, 256


@dataclass(frozen=True)
class Batching:
    """How a global batch is divided: `world_size` ranks compute `accumulation` micro-batches each."""

    batch_size: int
    micro_batch_size: int
    accumulation: int
    world_size: int

    def __str__(self) -> str:
        return (
            f"batch {self.batch_size} = micro-batch {self.micro_batch_size}"
            f" x accumulation {self.accumulation} x ranks {self.world_size}"
        )


def resolve(
    batch_size: int, micro_batch_size: int, world_size: int, accumulation: int = 0, *, on_gpu: bool = False
) -> Batching:
    """Fill in what is left open (0) and check that batch_size = micro_batch_size x accumulation x ranks.

    With both open, the micro-batch is the largest divisor of a rank's share up to an eighth of the batch
    (at least `LEAST_ON_A_CPU` or `LEAST_ON_A_GPU`) and `LARGEST_AUTOMATIC_MICRO_BATCH`: a global batch holds
    all lengths, longest first, so in parts it needs little padding. No result depends on it but by rounding.

    Raises:
        UserError: where no whole numbers satisfy the equation; the message names batch sizes that would.
    """
    if world_size < 1:
        raise UserError(f"a run needs at least one rank, not {world_size}")
    if batch_size < 1:
        raise UserError(f"--train.batch_size must be at least 1, not {batch_size}")
    for name, value in (
        ("--train.micro_batch_size", micro_batch_size),
        ("gradient accumulation", accumulation),
    ):
        if value < 0:
            raise UserError(f"{name} must be at least 1, or 0 for automatic, not {value}")

    unit = world_size * max(micro_batch_size, 1) * max(accumulation, 1)
    if batch_size % unit:
        below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
        near = f"{below} or {above}" if below else f"{above}"
        micro = f"micro-batch {micro_batch_size}" if micro_batch_size else "a micro-batch"
        steps = f"accumulation {accumulation}" if accumulation else "a whole accumulation"
        raise UserError(
            f"--train.batch_size {batch_size} is not {micro} x {steps} x {world_size} ranks:"
            f" the nearest that is: {near}"
        )
    share = batch_size // world_size
    if micro_batch_size and accumulation:
        if micro_batch_size * accumulation != share:
            raise UserError(
                f"--train.batch_size {batch_size} is not micro-batch {micro_batch_size}"
                f" x accumulation {accumulation} x {world_size} ranks:"
                f" that makes {micro_batch_size * accumulation * world_size}"
            )
        return Batching(batch_size, micro_batch_size, accumulation, world_size)
    if accumulation:
        micro_batch_size = share // accumulation
    elif not micro_batch_size:
        part = max(-(-batch_size // AUTOMATIC_PARTS), LEAST_ON_A_GPU if on_gpu else LEAST_ON_A_CPU)
        largest = min(share, LARGEST_AUTOMATIC_MICRO_BATCH, part)
        micro_batch_size = next(m for m in range(largest, 0, -1) if share % m == 0)
    return Batching(batch_size, micro_batch_size, share // micro_batch_size, world_size)
