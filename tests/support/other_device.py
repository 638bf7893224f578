"""A device that is not there: tensors on it are marked, and an operation that mixes them with
others fails as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

OTHER = torch.device("cuda", 0)
"""The name of the device."""
MOVING = ("to", "copy_", "__set__", "type_as", "_has_compatible_shallow_copy_type")
"""The operations that take tensors of several devices."""
SHAPING = ("expand_as", "view_as", "reshape_as")
"""The operations that read the shape alone of the second tensor."""
PLACES = (Tensor.device, Tensor.is_cpu, Tensor.is_cuda)
"""The attributes that tell where a tensor is."""
READING = ("numpy", "__array__")
"""The operations that only tensors on the CPU have."""


class OtherDevice(TorchFunctionMode):
    """Runs everything on the CPU, and keeps account of which memory is on the other device.

    >>> with OtherDevice() as device:
    ...     x = device.move(torch.ones(2))
    ...     (x + 1).device.type, x.cpu().device.type
    ('cuda', 'cpu')
    >>> with device:
    ...     x + torch.ones(2)
    Traceback (most recent call last):
    ...
    RuntimeError: add mixes tensors of two devices
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[int, torch.UntypedStorage] = {}
        """What is on the device, by its address; held, as addresses are used again."""

    def move(self, tensor: Tensor) -> Tensor:
        """Return a copy on the other device."""
        moved = tensor.clone()
        self._mark(moved, True)
        return moved

    def move_module_(self, module: nn.Module) -> nn.Module:
        """Move the parameters and buffers of a module to the other device, in place."""
        for tensor in [*module.parameters(), *module.buffers()]:
            self._mark(tensor, True)
        return module

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the other device."""
        return tensor.untyped_storage().data_ptr() in self.memory

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if name == "__get__" and args and getattr(func, "__self__", None) in PLACES:
            return self._tell_place(func.__self__, args[0])  # type: ignore[attr-defined]
        tensors = [tensor for tensor in _list_tensors((args, kwargs)) if tensor.numel()]
        if name in SHAPING:
            tensors = tensors[:1]
        here = any(self.holds(tensor) for tensor in tensors)
        self._refuse_mixing(name, tensors, args, here=here)
        wanted = torch.device("cpu") if name == "cpu" else _find_device(args, kwargs)
        if name in ("to", "cpu"):
            return self._convert(args, kwargs, wanted)
        if kwargs.pop("device", None) is not None and wanted == OTHER:
            here = True
            if kwargs.get("generator") is not None:
                raise RuntimeError(f"{name}: the generator is on the CPU")
        result = func(*args, **kwargs)
        if name not in ("copy_", "__set__"):
            for tensor in _list_tensors(result):
                self._mark(tensor, here)
        return result

    def _tell_place(self, attribute: Any, tensor: Tensor) -> Any:
        """The value of an attribute that tells where a tensor is."""
        held = self.holds(tensor)
        if attribute is Tensor.device:
            return OTHER if held else torch.device("cpu")
        return held == (attribute is Tensor.is_cuda)

    def _refuse_mixing(
        self, name: str, tensors: list[Tensor], args: tuple[Any, ...], *, here: bool
    ) -> None:
        if here and name in READING:
            raise TypeError(f"{name} of a tensor on another device")
        if not here or name in MOVING:
            return
        if name == "__getitem__" and self.holds(args[0]):
            return  # the CPU's indices may index another device's tensor
        if any(tensor.dim() and not self.holds(tensor) for tensor in tensors):
            raise RuntimeError(f"{name} mixes tensors of two devices")

    def _convert(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: torch.device | None
    ) -> Tensor:
        """Convert the type and the device; a tensor that is where it shall be is not copied."""
        tensor = args[0]
        like = next((arg for arg in args[1:] if isinstance(arg, Tensor)), None)
        here = self.holds(tensor)
        there = here
        if like is not None:
            there = self.holds(like)
        elif wanted is not None:
            there = wanted.type == "cuda"
        kwargs.pop("device", None)
        types = [arg for arg in args[1:] if isinstance(arg, torch.dtype)]
        dtype = kwargs.get("dtype") or (types[0] if types else None)
        dtype = like.dtype if like is not None else dtype or tensor.dtype
        if here == there and dtype == tensor.dtype:
            return tensor
        converted: Tensor = tensor.to(dtype, copy=True)
        self._mark(converted, there)
        return converted

    def _mark(self, tensor: Tensor, here: bool) -> None:
        storage = tensor.untyped_storage()
        if here and storage.data_ptr():
            self.memory[storage.data_ptr()] = storage
        else:
            self.memory.pop(storage.data_ptr(), None)


def _find_device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    """The device that a call asks for."""
    wanted = kwargs.get("device")
    if wanted is None:
        wanted = next((arg for arg in args if isinstance(arg, torch.device)), None)
        if wanted is None and len(args) > 1 and isinstance(args[1], str):
            wanted = args[1]
    return None if wanted is None else torch.device(wanted)


def _list_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _list_tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _list_tensors(item)
