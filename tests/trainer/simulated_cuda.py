"""A simulated GPU: tensors that say `cuda:0` and hold CPU data, and a record of what makes the host wait.

Within `simulation` every operator is looked at. One that mixes devices is an error, as on a GPU. One that
needs a value of the device on the host, or copies to it from memory that is not page-locked, is recorded with
its place in the project. What PyTorch's own CUDA code does is not seen, and DeepSpeed's engine does not
run here.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mealrec.ops import choice, schedule

CUDA = torch.device("cuda", 0)
META = torch.device("meta")
ROOT = Path(__file__).parents[2]
ROOMS = tuple(f"{ROOT / room}/" for room in ("mealrec", "shards", "trainer"))

# Their result's size, or the result itself, is read on the host.
WAITING = {
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class OnDevice(torch.Tensor):
    """A tensor of the simulated GPU; `held` has its values.

    To PyTorch's C++ it lies on the device `meta`, as builds without CUDA refuse to switch to a GPU.
    """

    held: torch.Tensor
    device = CUDA
    is_cuda = True
    is_cpu = is_meta = False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=META,
        )

    def __init__(self, held: torch.Tensor):
        self.held = held

    def __repr__(self) -> str:
        return f"OnDevice({self.held})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{operator} on a tensor of the simulated GPU, outside its simulation")


class Simulation(TorchDispatchMode):
    """Runs the operators of the simulated GPU.

    `waits` has what made the host wait, and where; `calls` the operators with the sizes of their tensors and
    their other arguments, which is all that a captured graph would repeat.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.calls: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        name = operator.name().partition(".")[0]
        to_device = bool(ours)
        if kwargs.get("device") is not None:
            to_device = torch.device(kwargs["device"]).type in ("cuda", "meta")
            kwargs["device"] = torch.device("cpu")
        if name in ("aten::_to_copy", "aten::copy_"):
            target, source = (args[0], args[1]) if name == "aten::copy_" else (None, args[0])
            to_device = isinstance(target, OnDevice) if target is not None else to_device
            self._copy(operator, source, to_device)
        elif ours:
            host = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]
            assert not host, f"{operator} mixes devices at {place()}"
            boolean = name in INDEXING and any(
                index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
            )
            if boolean or name in WAITING:
                self.waits.append(f"{operator} at {place()}")
        self.calls.append(f"{operator} {tree_map(_size, (args, kwargs))}")
        plain_args, plain_kwargs = tree_map(_held, (args, kwargs))
        result = operator(*plain_args, **plain_kwargs)
        if not to_device:
            return result
        if torch.Tag.inplace_view in operator.tags:  # as `transpose_`: the argument's own shape changes
            with no_dispatch():
                operator(*args, **kwargs)
        arguments = {id(tensor.held): tensor for tensor in ours}  # an operator in place returns its own

        def wrapped(value: Any) -> Any:
            if id(value) in arguments:
                return arguments[id(value)]
            return OnDevice(value) if isinstance(value, torch.Tensor) else value

        return tree_map(wrapped, result)

    def _copy(self, operator: Any, source: torch.Tensor, to_device: bool) -> None:
        from_device = isinstance(source, OnDevice)
        if from_device and not to_device:
            self.waits.append(f"copy to the host, {operator}, at {place()}")
        elif to_device and not from_device and not getattr(source, "page_locked", False):
            self.waits.append(f"copy from pageable memory, {operator}, at {place()}")


@contextlib.contextmanager
def simulation() -> Iterator[Simulation]:
    """A simulated GPU for this thread; others, as those that prefetch, have the host alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        patch.setattr(torch.backends.cudnn, "enabled", False)
        patch.setattr(torch.Tensor, "pin_memory", _page_locked)
        patch.setattr(choice, "_loads", lambda device: choice._failure("cpu") is None)
        schedule._table.cache_clear()
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # so that `torch.tensor(..., device=)` shows its copy
        try:
            with Simulation() as simulated:
                yield simulated
        finally:
            torch._C._set_only_lift_cpu_tensors(before)
            schedule._table.cache_clear()  # it has tensors of this device


def move(model: torch.nn.Module) -> None:
    """Put a model's parameters and buffers on the simulated GPU."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(OnDevice(parameter.detach()))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = OnDevice(buffer)


def place() -> str:
    """The innermost lines of the project that are running."""
    lines, frame = [], inspect.currentframe()
    while frame is not None and len(lines) < 2:
        if frame.f_code.co_filename.startswith(ROOMS):
            lines.append(f"{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_lineno}")
        frame = frame.f_back
    return " from ".join(lines) or "no line of the project"


def _size(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else value


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _page_locked(tensor: torch.Tensor) -> torch.Tensor:
    copy = tensor.clone()
    copy.page_locked = True
    return copy
