"""Networks as graphs: BatchNorm folded into the layer before it, and errors of layers carried to
the logits.

What is carried is derived here: with weights w' in the place of w, |w' a' - w a| <= |w'| |a' - a| +
|(w' - w) a|, and an operation that is linear with nonnegative coefficients, or Lipschitz, carries
an error elementwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.errors import StructureError
from pruning.graphs.tracing import (
    IN_PLACE,
    LINEAR_FROM,
    LIPSCHITZ,
    NONNEGATIVE,
    SILENT,
    SIZES,
    SUMS,
    trace,
)
from pruning.networks.layers import Layer, count_groups


@dataclass(frozen=True)
class ValueWithError:
    """A tensor of the dense network, and how far that of the other may be from it, elementwise."""

    value: Tensor
    error: Tensor


class Carrier(fx.Interpreter):
    """Runs the dense network and carries the errors of its layers: |logits' - logits| elementwise.

    `weights` are those of the other network, by name; `errors` those that replacing each weight
    makes on the dense network's own activations, shaped as the layer's output; a layer that
    `errors` does not name has none.

    >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    >>> weights = {"0.weight": torch.tensor([[1.0]]), "2.weight": torch.tensor([[-2.0]])}
    >>> Carrier(net).carry(
    ...     torch.ones(1, 1),
    ...     weights,
    ...     {"0.weight": torch.tensor([[0.5]]), "2.weight": torch.tensor([[0.1]])},
    ... )
    tensor([[1.1000]])
    """

    def __init__(self, model: nn.Module) -> None:
        graph = trace(model)
        _refuse_overwritten(graph)
        super().__init__(graph)
        self.calls = Counter(str(node.target) for node in graph.graph.nodes)
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.weights: Mapping[str, Tensor] = {}
        self.errors: Mapping[str, Tensor] = {}
        self._inputs: Tensor | None = None
        self._values: dict[str, Tensor] = {}

    def carry(
        self, inputs: Tensor, weights: Mapping[str, Tensor], errors: Mapping[str, Tensor]
    ) -> Tensor:
        """The error of every logit, (N, classes), for inputs that both networks see alike."""
        self.weights, self.errors = weights, errors
        if inputs is not self._inputs:  # the dense network's own values are the same for all errors
            self._inputs, self._values = inputs, {}
        with torch.no_grad():
            found = self.run(ValueWithError(inputs, torch.zeros_like(inputs)))
        if not isinstance(found, ValueWithError):
            raise StructureError("the network's answer does not depend on what it sees")
        return found.error

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer, a BatchNorm that was not folded, or what `_passed` knows."""
        module = self.fetch_attr(target)
        given = args[0] if args else None
        if not _any(args) and not _any(kwargs):
            return super().call_module(target, args, kwargs)
        if isinstance(module, Layer) and isinstance(given, ValueWithError):
            name = self.names[id(module.weight)]
            error, own = _apply(module, given.error, self.weights.get(name)), self.errors.get(name)
            value = self._values.get(target)
            if value is None or self.calls[target] > 1:
                value = self._values[target] = module(given.value)
            return ValueWithError(value.clone(), error if own is None else error + own)
        if (
            isinstance(module, _BatchNorm)
            and isinstance(given, ValueWithError)
            and module.running_var is not None
        ):
            scale = (module.running_var + module.eps).rsqrt()
            scale = scale if module.weight is None else scale * module.weight.abs()
            return ValueWithError(
                module(given.value),
                given.error * scale.reshape(1, -1, *[1] * (given.value.dim() - 2)),
            )
        return _passed(type(module), module, args, kwargs, type(module).__name__)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As `_passed` has it."""
        return _passed(target, target, args, kwargs, getattr(target, "__name__", str(target)))

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As `_passed` has it."""

        def call(first: Any, *others: Any, **named: Any) -> Any:
            return getattr(first, target)(*others, **named)

        return _passed(target, call, args, kwargs, target)


def _passed(
    kind: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str
) -> Any:
    """An operation without weights of its own on values and errors; `StructureError` for one that
    is not known.
    """
    if not _any(args) and not _any(kwargs):
        return call(*args, **kwargs)
    unknown = StructureError(
        f"errors of layers cannot be carried through {name}: no rule is known for it"
    )
    first = args[0] if args else None
    if not (kind in SUMS | SILENT | NONNEGATIVE or kind in LIPSCHITZ or kind in SIZES):
        raise unknown
    value = call(*_part(args, "value"), **_part(kwargs, "value"))
    if kind in SIZES and not _tensors(value):
        return value
    if not isinstance(value, Tensor):
        raise unknown
    if kind in SUMS and not kwargs and len(args) == 2:
        errors = [one.error for one in args if isinstance(one, ValueWithError)]
        return ValueWithError(value, sum(errors[1:], errors[0]).expand_as(value).contiguous())
    if kind in SILENT and isinstance(first, ValueWithError):
        return ValueWithError(value, first.error)
    if kind in LIPSCHITZ and isinstance(first, ValueWithError):
        return ValueWithError(value, _slope(kind, call, args, kwargs) * first.error)
    if kind in NONNEGATIVE:
        if kind is F.pad:  # what is padded with a number has no error
            return ValueWithError(
                value, F.pad(*_part(args[:3], "error"), **_part(kwargs, "error") | {"value": None})
            )
        if kind is torch.cat:
            args, kwargs = _bounded(args), _bounded(kwargs)
        return ValueWithError(value, call(*_part(args, "error"), **_part(kwargs, "error")))
    raise unknown


def _slope(
    kind: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> float:
    """The largest slope of an activation with its parameters; `StructureError` for a softplus that
    jumps.
    """
    if kind in (nn.LeakyReLU, F.leaky_relu):
        own = (
            args[1]
            if len(args) > 1
            else kwargs.get("negative_slope", getattr(call, "negative_slope", 0.01))
        )
        return max(1.0, abs(float(own)))
    if kind in (nn.Softplus, F.softplus):
        threshold = (
            args[2]
            if len(args) > 2
            else kwargs.get("threshold", getattr(call, "threshold", LINEAR_FROM))
        )
        if threshold < LINEAR_FROM:
            raise StructureError(
                "errors of layers cannot be carried through a softplus that is linear from "
                f"{threshold} on"
            )
    return LIPSCHITZ[kind]


def _refuse_overwritten(module: fx.GraphModule) -> None:
    """Raise `StructureError` where a sum in place overwrites what is used again: its error would
    not be that of the sum.
    """
    order = {node: place for place, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        into = node.args[0] if node.target in IN_PLACE and node.args else None
        if isinstance(into, fx.Node) and any(order[user] > order[node] for user in into.users):
            raise StructureError(
                f"errors of layers cannot be carried through {node.name}: what it adds to is "
                "used again"
            )


def _apply(layer: Layer, error: Tensor, weight: Tensor | None) -> Tensor:
    """|w'| times an error of the inputs."""
    size = (layer.weight if weight is None else weight).abs().to(error.dtype)
    if isinstance(layer, nn.Linear):
        return F.linear(error, size)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(error, layer._reversed_padding_repeated_twice, mode=mode)
    return F.conv2d(padded, size, None, layer.stride, 0, layer.dilation, count_groups(layer))


def _tensors(value: Any) -> bool:
    return (
        any(map(_tensors, value)) if isinstance(value, tuple | list) else isinstance(value, Tensor)
    )


def _bounded(value: Any) -> Any:
    """Nested arguments, each plain tensor as one without an error."""
    if isinstance(value, dict):
        return {key: _bounded(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_bounded(one) for one in value)
    return ValueWithError(value, torch.zeros_like(value)) if isinstance(value, Tensor) else value


def _any(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_any(one) for one in value.values())
    return (
        any(_any(one) for one in value)
        if isinstance(value, tuple | list)
        else isinstance(value, ValueWithError)
    )


def _part(value: Any, which: str) -> Any:
    """The values, or the errors, in nested arguments."""
    if isinstance(value, dict):
        return {key: _part(one, which) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_part(one, which) for one in value)
    return getattr(value, which) if isinstance(value, ValueWithError) else value
