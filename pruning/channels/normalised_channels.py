"""Where the BatchNorms of a network stand: after a layer, into which they can be folded, or between
the sums of layers and what reads them, as in networks with pre-activation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from pruning.errors import StructureError
from pruning.networks.activation import FUNCTIONS, OTHERS
from pruning.networks.layers import Layer, forward_hooks
from pruning.networks.modes import evaluate_mode

ACTIVATIONS = {name for names in FUNCTIONS.values() for name in names} | set(OTHERS)
"""The names of the functions that compute activations."""


@dataclass(frozen=True)
class Affine:
    """The affine map by a BatchNorm in eval mode: a channel times its scale, plus its shift."""

    batchnorm: str
    scale: Tensor
    """gamma / sqrt(var + eps), float64 on the CPU."""
    shift: Tensor
    """beta - mean scale, float64 on the CPU."""


@dataclass(frozen=True)
class BatchNorms:
    """The BatchNorms of a network."""

    after: Mapping[str, Affine]
    """The BatchNorms that alone read a layer's output, by the name of that layer."""
    before: Mapping[str, Affine]
    """The other ones, by the name of each layer that reads what they normalise."""

    @staticmethod
    def of(model: nn.Module, image: Tensor) -> BatchNorms:
        """The BatchNorms of a network that takes images like `image`, (1, C, H, W).

        Raises `StructureError` for one that normalises what is no sum of layers, keeps no
        statistics, or whose output is added or multiplied though it cannot be folded into a layer.

        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU())
        >>> batchnorms = BatchNorms.of(net, torch.zeros(1, 1, 1, 1))
        >>> list(batchnorms.after), list(batchnorms.before)
        (['0'], [])
        """
        listener = _Listener(model)
        modules = [module for module in model.modules() if isinstance(module, Layer | _BatchNorm)]
        with (
            forward_hooks(modules, listener.note),
            torch.no_grad(),
            evaluate_mode(model),
            listener,
        ):
            model(image)
        return listener.summarise()


@dataclass
class _Value:
    """A tensor on its way from the layers that write it to those that read it."""

    tensor: Tensor
    """Held, as an id is used again once its tensor is gone."""
    layer: str | None = None
    """The layer whose output it is."""
    batchnorm: str | None = None
    """The BatchNorm that has normalised it since layers wrote it."""
    activated: bool = False
    """Whether it has gone through an activation since."""
    uses: int = 0
    """The number of operations that read it."""


class _Listener(TorchFunctionMode):
    """Follows the outputs of layers to the layers and BatchNorms that read them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.values: dict[int, _Value] = {}
        self.normalised: dict[str, _Value] = {}
        """The inputs of each BatchNorm, by its name."""
        self.reads: dict[str, set[str | None]] = {}
        """The BatchNorms between layers and each layer that reads them, by its name."""
        self.merged: set[str] = set()
        """The BatchNorms whose outputs are added to others, or multiplied by them."""
        self.model = model

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read = {
            id(value): value
            for tensor in _list_tensors((args, kwargs or {}))
            if (value := self.values.get(id(tensor))) is not None
        }
        outputs = list(_list_tensors(result))
        if not read or not outputs:
            return result
        activates = getattr(func, "__name__", "") in ACTIVATIONS
        for value in read.values():
            value.uses += 1
        for output in outputs:
            self.values[id(output)] = self._follow(output, list(read.values()), activates)
        return result

    def _follow(self, output: Tensor, read: list[_Value], activates: bool) -> _Value:
        """The record of the output of an operation on these values."""
        batchnorm = read[0].batchnorm
        if len(read) > 1:
            self.merged |= {value.batchnorm for value in read if value.batchnorm is not None}
            batchnorm = None
        activated = activates or any(value.activated for value in read)
        return _Value(output, batchnorm=batchnorm, activated=activated)

    def note(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Note a call of a layer or a BatchNorm, after it."""
        name, value = self.names[module], self.values.get(id(inputs[0]))
        if isinstance(module, Layer):
            self.reads.setdefault(name, set()).add(value.batchnorm if value else None)
            self.values[id(output)] = _Value(output, layer=name)
            return
        if value is None or value.activated or value.batchnorm is not None:
            raise StructureError(
                f"{name} does not follow a layer directly: it cannot be folded into one, and what "
                "it normalises is no sum of layers"
            )
        self.normalised[name] = value
        self.values[id(output)] = _Value(output, batchnorm=name)

    def summarise(self) -> BatchNorms:
        """The BatchNorms after layers, and those before them."""
        affine = {name: _read_affine(self.model, name) for name in self.normalised}
        folded = {
            name: value.layer
            for name, value in self.normalised.items()
            if value.layer is not None and value.uses == 1
        }
        for name in sorted(self.merged - set(folded)):
            raise StructureError(
                f"{name} cannot be folded into a layer, and its output is not read by layers alone"
            )
        before = {}
        for layer, names in self.reads.items():
            remaining = {None if name in folded else name for name in names}
            if len(remaining) > 1:
                raise StructureError(f"{layer} reads channels that are normalised in several ways")
            (batchnorm,) = remaining
            if batchnorm is not None:
                before[layer] = affine[batchnorm]
        return BatchNorms({layer: affine[name] for name, layer in folded.items()}, before)


def _list_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _list_tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _list_tensors(item)


def _read_affine(model: nn.Module, name: str) -> Affine:
    module = model.get_submodule(name)
    assert isinstance(module, _BatchNorm)
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None:
        raise StructureError(
            f"{name} has no running statistics: it cannot be folded into the layer before"
        )
    gamma = torch.ones_like(mean) if module.weight is None else module.weight
    beta = torch.zeros_like(mean) if module.bias is None else module.bias
    scale = gamma.detach().double() / (variance.double() + module.eps).sqrt()
    shift = beta.detach().double() - mean.double() * scale
    return Affine(name, scale.cpu(), shift.cpu())
