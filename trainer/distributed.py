"""The ranks of a run: which one this process is, its device, and the few collectives that the trainer uses.

Everything works without a process group too (one rank), so evaluation in a single process is the same code.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as torch_dist

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Which rank this process is, of how many, and where it computes."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes files."""
        return self.rank == 0

    @property
    def on_gpu(self) -> bool:
        """Whether this rank computes on an accelerator."""
        return self.device.type != "cpu"


def init() -> World:
    """Join the process group that the launcher's environment describes (RANK, WORLD_SIZE, MASTER_* ...)."""
    from deepspeed.accelerator import get_accelerator

    local_rank = _environment("LOCAL_RANK", 0)
    # Torch's launchers and Ray set LOCAL_WORLD_SIZE, DeepSpeed's sets LOCAL_SIZE.
    local_size = _environment("LOCAL_WORLD_SIZE", _environment("LOCAL_SIZE", _environment("WORLD_SIZE", 1)))
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu":
        device = torch.device("cpu")
        _share_cores(local_size)
    else:
        accelerator.set_device(local_rank)
        device = torch.device(accelerator.device_name(), local_rank)
    settle_attention()
    for name, value in (
        ("RANK", 0),
        ("WORLD_SIZE", 1),
        ("LOCAL_RANK", 0),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", 29500),
    ):
        os.environ.setdefault(name, str(value))
    # DeepSpeed 0.19.8 calls collectives by names that torch 2.13 renames, once a step.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    _forbid_compiled_collectives()
    if not torch_dist.is_initialized():
        import deepspeed

        deepspeed.init_distributed(accelerator.communication_backend_name(), verbose=False)
    return World(torch_dist.get_rank(), torch_dist.get_world_size(), local_rank, device)


def settle_attention() -> None:
    """Keep attention from cuDNN, which PyTorch prefers for bf16 on Hopper.

    It plans once for each shape, and the batches of an evaluation, or of training without fixed sizes, have a
    new one nearly every time.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def master_address() -> str:
    """Return the address of rank 0's host, as the launcher set it."""
    return os.environ["MASTER_ADDR"]


def shutdown() -> None:
    """Leave the process group, through DeepSpeed: its own groups must not outlive this one."""
    if torch_dist.is_initialized():
        import deepspeed.comm

        deepspeed.comm.destroy_process_group()


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, in place. Counts and metric sums come as float64: exact for integers below 2^53."""
    if torch_dist.is_initialized() and torch_dist.get_world_size() > 1:
        torch_dist.all_reduce(values)
    return values


def barrier() -> None:
    """Wait for all ranks."""
    if torch_dist.is_initialized() and torch_dist.get_world_size() > 1:
        torch_dist.barrier()


def broadcast_object(value: T, source: int = 0) -> T:
    """Return rank `source`'s value on every rank (pickled: for small things)."""
    if not torch_dist.is_initialized() or torch_dist.get_world_size() == 1:
        return value
    box = [value]
    torch_dist.broadcast_object_list(box, src=source)
    return box[0]


def gather_objects(value: T) -> list[T]:
    """Return every rank's value in rank order, on every rank (pickled: for small things)."""
    if not torch_dist.is_initialized() or torch_dist.get_world_size() == 1:
        return [value]
    box: list[Any] = [None] * torch_dist.get_world_size()
    torch_dist.all_gather_object(box, value)
    return box


def gather_to_main(values: torch.Tensor) -> list[torch.Tensor]:
    """Return every rank's tensor in rank order on rank 0, nothing on the others; all have one shape."""
    if not torch_dist.is_initialized() or torch_dist.get_world_size() == 1:
        return [values]
    is_main = torch_dist.get_rank() == 0
    box = [torch.empty_like(values) for _ in range(torch_dist.get_world_size())] if is_main else []
    torch_dist.gather(values, box if is_main else None, dst=0)
    return box


def broadcast_tensors(tensors: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Return rank 0's dict of tensors on every rank's CPU; the other ranks pass an empty dict."""
    if not torch_dist.is_initialized() or torch_dist.get_world_size() == 1:
        return tensors
    layout = broadcast_object([(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()])
    received = {}
    for name, shape, dtype in layout:
        tensor = tensors[name].to(device) if tensors else torch.empty(shape, dtype=dtype, device=device)
        torch_dist.broadcast(tensor, src=0)
        received[name] = tensor.cpu()
    return received


def _environment(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


def _share_cores(local_size: int) -> None:
    """Divide a host's cores among its ranks, unless the user has set the number of threads."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // max(1, local_size)))


def _forbid_compiled_collectives() -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives at start, a minute or two on the CPU.

    The switch is a private attribute: where a later version has no such attribute, starting is slow, not
    wrong.
    """
    import deepspeed.ops

    try:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    except (AttributeError, TypeError):
        warnings.warn(
            "DeepSpeed may compile its shared-memory collectives now, which takes a minute", stacklevel=2
        )
