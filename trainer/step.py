"""One training step: the micro-batches of a global batch through forward, backward and the optimiser.

The objective of a global batch is the sum of each loss over real targets, frames and positions, divided by
its count over the whole global batch [ours]. Counts need no forward pass, so they are summed over ranks
first; each micro-batch then contributes `sum * ranks * accumulation / global count`, because DeepSpeed
averages over ranks and accumulation. So the number of ranks and of micro-batches changes nothing but
rounding, and the loss that is logged is the global one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from trainer import dist, nonfinite
from trainer.ds_config import zero_stage
from trainer.engine import gradient_norm, set_learning_rate

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class StepReport:
    """What one step did, over the whole global batch. `losses` holds the parts: rec, tcd, npd."""

    loss: float
    losses: dict[str, float]
    samples: int
    cells: int
    real_cells: int
    lr: float
    grad_norm: float
    seconds: float
    preempted: bool = False  # a rank was told to make room


class TrainStep:
    """Callable: one global batch in, one optimiser step done, a StepReport out."""

    def __init__(
        self,
        engine: Any,
        world: dist.World,
        *,
        seed: int,
        rate: Callable[[int], float] | None,
        join: Callable[[Batch], Batch] | None = None,
        name_user: Callable[[int], Any] = str,
        told: Callable[[], bool] = bool,
    ) -> None:
        """
        Args:
            rate: step index -> learning rate; None where the user's JSON has a schedule or optimiser of its
                own.
            join: adds the features of a batch that is already on the device; None where the stream has done
                it.
            name_user: sample_id -> the user's original id, for the message of a non-finite loss.
            told: whether this rank was told to make room.
        """
        self.engine, self.world, self.rate, self.join = engine, world, rate, join
        self.name_user, self.told = name_user, told
        self.model = engine.module
        self._seed = torch.tensor(seed, dtype=torch.int64, device=world.device)
        # Only there does DeepSpeed keep no norm of its own: with ZeRO or bf16 its optimiser wrapper does.
        self._own_norm = (
            not zero_stage(engine.config) and not engine.bfloat16_enabled() and not engine.fp16_enabled()
        )

    def __call__(self, micro_batches: list[Batch], epoch: int, step: int) -> StepReport:
        """Raises NonFiniteError before the optimiser's step, with the weights as they were."""
        started = time.perf_counter()
        if self.rate is not None:
            set_learning_rate(self.engine, self.rate(step))
        batches = [self._prepare(batch, step) for batch in micro_batches]
        counts, sizes = self._global_counts(batches)

        scale = self.world.size * len(batches)
        sums = sizes.new_zeros(len(counts))
        for index, batch in enumerate(batches):
            if index:
                self.engine.step()  # between micro-batches it only counts them
            losses = self.engine(batch)
            sums += torch.stack([losses[name].detach().double() for name in counts])
            self.engine.backward(self.model.objective(losses, counts) * scale)

        dist.all_reduce_sum(sums)
        total = self.model.objective(dict(zip(counts, sums, strict=True)), counts)
        norm = gradient_norm(self.model.parameters()) if self._own_norm else sums.new_zeros(())
        means = sums / torch.stack([*counts.values()]).clamp_min(1)
        # The one transfer from the device in a step.
        loss, own_norm, samples, cells, real_cells, told, *parts = torch.cat(
            [torch.stack([total.double(), norm.double()]), sizes, means]
        ).tolist()
        nonfinite.check(loss, own_norm, self, batches, epoch, step)
        self.engine.step()
        # With fp16 a step that overflows is skipped by design, and the loss is scaled down.
        if not self.engine.was_step_applied() and not self.engine.fp16_enabled():
            nonfinite.refuse_gradient(epoch, step)
        return StepReport(
            loss,
            dict(zip(counts, parts, strict=True)),
            int(samples),
            int(cells),
            int(real_cells),
            self.engine.get_lr()[0],
            own_norm if self._own_norm else float(self.engine.get_global_grad_norm() or 0.0),
            time.perf_counter() - started,
            preempted=bool(told),
        )

    def _prepare(self, batch: Batch, step: int) -> Batch:
        """The batch on the device, with its features, `seed` and `global_step`."""
        device = self.world.device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        if self.join is not None:
            batch = self.join(batch)
        batch["seed"] = self._seed
        batch["global_step"] = torch.tensor(step, dtype=torch.int64, device=device)
        return batch

    def _global_counts(self, batches: list[Batch]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Over the global batch: float64 counts by loss, and [samples, cells, real cells, ranks told to make
        room].
        """
        local: torch.Tensor | None = None
        for batch in batches:
            counts = self.model.counts(batch)
            item = batch["item"]
            row = torch.stack(
                [
                    *(count.double() for count in counts.values()),
                    batch["weight"].sum(dtype=torch.float64),
                    torch.tensor(item.numel(), dtype=torch.float64, device=item.device),
                    torch.count_nonzero(item).double(),
                ]
            )
            local = row if local is None else local + row
        local = torch.cat([local, local.new_tensor([self.told()])])
        dist.all_reduce_sum(local)
        return dict(zip(counts, local[:-4], strict=True)), local[-4:]
