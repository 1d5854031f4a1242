"""One training step: the micro-batches of a global batch through forward, backward and the optimiser.

The objective of a global batch is the sum of each loss over real targets, frames and positions, divided by
its count over the whole global batch [ours]. Counts need no forward pass, so they are summed over ranks
first; each micro-batch then contributes `sum * ranks * accumulation / global count`, because DeepSpeed
averages over ranks and accumulation. So the number of ranks and of micro-batches changes nothing but
rounding, and the loss that is logged is the global one.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

import mealrec
import shards
from trainer import distributed
from trainer.ds_config import zero_stage
from trainer.rank import nonfinite
from trainer.rank.engine import gradient_norm, set_learning_rates, skip_step

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


@dataclass(frozen=True)
class StepReport:
    """What one step did, over the whole global batch.

    Attributes:
        loss: the objective.
        losses: its parts by name: rec, tcd, npd.
        samples, cells, real_cells: rows, positions with padding, positions without.
        lr: the learning rate.
        grad_norm: the 2-norm of the gradient before clipping; on the device where DeepSpeed keeps it there,
            as the host would wait for it.
        seconds: wall time of the step.
        preempted: a rank got SIGUSR1.
        skipped: the loss or the gradient was not finite, and the weights are as they were.
    """

    loss: float
    losses: dict[str, float]
    samples: int
    cells: int
    real_cells: int
    lr: float
    grad_norm: float | torch.Tensor
    seconds: float
    preempted: bool = False
    skipped: bool = False


class GlobalSizes(NamedTuple):
    """Of a global batch, float64 scalars: rows, positions with and without padding, 0 unless preempted."""

    samples: torch.Tensor
    cells: torch.Tensor
    real_cells: torch.Tensor
    preempted: torch.Tensor


class TrainStep:
    """Callable: one global batch in, one optimiser step done, a StepReport out."""

    def __init__(
        self,
        engine: DeepSpeedEngine,
        world: distributed.World,
        *,
        on_device: Callable[[shards.Batch, int], mealrec.Batch],
        learning_rates: Callable[[int], Sequence[float]] | None,
        name_user: Callable[[int], object] = str,
        preempted: Callable[[], bool] = bool,
        may_skip: Callable[[], bool] = bool,
    ) -> None:
        """Wrap an engine.

        Args:
            on_device: a loaded batch and the global step -> the model's batch on the device.
            learning_rates: step index -> the rate of each parameter group; None where the user's JSON has a
                schedule or optimiser of its own.
            name_user: sample_id -> the user's original id, for the message of a non-finite loss.
            preempted: whether this rank got SIGUSR1.
            may_skip: whether a batch may be left out whose loss or gradient is not finite; the same on all
                ranks.
        """
        self.engine, self.world, self.on_device = engine, world, on_device
        self.learning_rates, self.name_user, self.preempted = learning_rates, name_user, preempted
        self.may_skip = may_skip
        self.model: mealrec.MealRec = engine.module
        # Only there does DeepSpeed keep no norm of its own: with ZeRO or bf16 its optimiser wrapper does.
        self._own_norm = (
            not zero_stage(engine.config) and not engine.bfloat16_enabled() and not engine.fp16_enabled()
        )

    def __call__(self, micro_batches: list[shards.Batch], epoch: int, step: int) -> StepReport:
        """Train on one global batch.

        Raises:
            NonFiniteError: before the optimiser's step, with the weights as they were; not if the batch may
                be left out.
        """
        started = time.perf_counter()
        if self.learning_rates is not None:
            set_learning_rates(self.engine, self.learning_rates(step))
        batches = [self.on_device(batch, step) for batch in micro_batches]
        counts, sizes = self._global_counts(batches)

        scale = self.world.size * len(batches)
        sums = sizes.samples.new_zeros(len(counts))
        for index, batch in enumerate(batches):
            if index:
                self.engine.step()  # between micro-batches it only counts them
            losses = self.engine(batch)
            sums += torch.stack([losses[name].detach().double() for name in counts])
            self.engine.backward(self.model.objective(losses, counts) * scale)

        distributed.all_reduce_sum(sums)
        total = self.model.objective(dict(zip(counts, sums, strict=True)), counts)
        norm = gradient_norm(self.model.parameters()) if self._own_norm else sums.new_zeros(())
        means = sums / torch.stack([*counts.values()]).clamp_min(1)
        # The one transfer from the device in a step.
        scalars = torch.cat([torch.stack([total.double(), norm.double(), *sizes]), means]).tolist()
        loss, own_norm, samples, cells, real_cells, preempted = scalars[:6]
        skipped = self._finish(loss, own_norm, batches, f"epoch {epoch + 1}, step {step + 1}")
        return StepReport(
            loss=loss,
            losses=dict(zip(counts, scalars[6:], strict=True)),
            samples=int(samples),
            cells=int(cells),
            real_cells=int(real_cells),
            lr=self.engine.get_lr()[0],
            grad_norm=own_norm if self._own_norm else self._engine_norm(),
            seconds=time.perf_counter() - started,
            preempted=bool(preempted),
            skipped=skipped,
        )

    def _finish(self, loss: float, own_norm: float, batches: list[mealrec.Batch], place: str) -> bool:
        """Let the optimiser use the gradient, or leave the batch out. Returns whether it was left out.

        Raises:
            NonFiniteError: the loss or the gradient is not finite, and the batch may not be left out.
        """
        stepped = False
        try:
            if not math.isfinite(loss):
                with torch.compiler.set_stance("force_eager"):  # single rows have sizes of their own
                    nonfinite.refuse_loss(
                        loss,
                        place,
                        batches,
                        losses_of=self.engine,
                        parameters=self.model.parameters(),
                        name_user=self.name_user,
                    )
            if not math.isfinite(own_norm):
                nonfinite.refuse_gradient(place)
            self.engine.step()
            stepped = True
            # With fp16 a step that overflows is skipped by design, and the loss is scaled down.
            if not self.engine.was_step_applied() and not self.engine.fp16_enabled():
                nonfinite.refuse_gradient(place)
        except nonfinite.NonFiniteError as error:
            if not self.may_skip():
                raise
            if self.world.is_main:
                print(f"left out a batch: {error}", file=sys.stderr, flush=True)
            if not stepped:
                skip_step(self.engine)
            return True
        return False

    def _engine_norm(self) -> float | torch.Tensor:
        norm: float | torch.Tensor | None = self.engine.get_global_grad_norm()
        return 0.0 if norm is None else norm

    def _global_counts(self, batches: list[mealrec.Batch]) -> tuple[dict[str, torch.Tensor], GlobalSizes]:
        """Over the global batch: float64 counts by loss, and sizes; one all-reduce."""
        names, rows = [], []
        for batch in batches:
            counts, item = self.model.counts(batch), batch["item"]
            # Filled on the device: a copy of a number would make the host wait.
            filled = functools.partial(item.new_full, (), dtype=torch.float64)
            names = [*counts]
            sizes = GlobalSizes(
                samples=batch["weight"].sum(dtype=torch.float64),
                cells=filled(item.numel()),
                real_cells=torch.count_nonzero(item).double(),
                preempted=filled(float(self.preempted())),
            )
            rows.append(torch.stack([*(count.double() for count in counts.values()), *sizes]))
        total = torch.stack(rows).sum(0)
        distributed.all_reduce_sum(total)
        return dict(zip(names, total, strict=False)), GlobalSizes(*total[-4:])
