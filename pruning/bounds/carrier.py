"""Errors of layers carried through the graph of a network to its logits.

The rules are derived here: with weights w' in the place of w, |w' a' - w a| <= |w'| |a' - a| +
|(w' - w) a|, and an operation that is linear with nonnegative coefficients, or Lipschitz, carries
an error elementwise. Of a product |a' b' - a b| <= |a| e_b + e_a |b| + e_a e_b.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruning.errors import StructureError
from pruning.graphs.tracing import (
    IN_PLACE,
    LIPSCHITZ,
    NONNEGATIVE,
    PARTS,
    PRODUCTS,
    SILENT,
    SIZES,
    SOFTPLUS_THRESHOLD,
    SUMS,
    WIDTHS,
    trace,
)
from pruning.networks.layers import Layer, count_groups

CARRIED = SUMS | SILENT | NONNEGATIVE | SIZES | PRODUCTS | PARTS
"""The operations with a rule, beside activations and modules with weights."""


@dataclass(frozen=True)
class ValueWithError:
    """A tensor of the dense network, and the largest error of the other network's, elementwise."""

    value: Tensor
    error: Tensor


class Carrier(fx.Interpreter):
    """Runs the dense network and carries the errors of its layers: |logits' - logits| elementwise.

    `weights` are those of the other network, by name; `errors` are the errors that each other
    weight makes on the dense network's own activations, shaped as the layer's output. A layer that
    `errors` does not name has none.

    >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    >>> weights = {"0.weight": torch.tensor([[1.0]]), "2.weight": torch.tensor([[-2.0]])}
    >>> errors = {"0.weight": torch.tensor([[0.5]]), "2.weight": torch.tensor([[0.1]])}
    >>> Carrier(net).carry(torch.ones(1, 1), weights, errors)
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
        """The error of every logit, (N, classes), where both networks have the same inputs."""
        self.weights, self.errors = weights, errors
        if inputs is not self._inputs:
            # the dense network's own values are the same for all errors at the same inputs
            self._inputs, self._values = inputs, {}
        with torch.no_grad():
            answer = self.run(ValueWithError(inputs, torch.zeros_like(inputs)))
        if not isinstance(answer, ValueWithError):
            raise StructureError("the network's answer does not depend on its input")
        return answer.error

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer, a BatchNorm that was not folded, or an operation of `_carry_through`."""
        module = self.fetch_attr(target)
        if not _has_error(args) and not _has_error(kwargs):
            return super().call_module(target, args, kwargs)
        first = args[0] if args else None
        if isinstance(first, ValueWithError):
            if isinstance(module, Layer):
                return self._carry_through_layer(target, module, first)
            if isinstance(module, _BatchNorm) and module.running_var is not None:
                return _carry_through_batchnorm(module, first)
            if isinstance(module, nn.LayerNorm):
                return _carry_through_layernorm(module, first)
            if isinstance(module, _ConvNd) and len(args) == 1 and not kwargs:
                return _carry_through_convolution(module, first)
        kind = type(module)
        return _carry_through(kind, module, args, kwargs, name=kind.__name__)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of tensors, such as `torch.relu`."""
        name = getattr(target, "__name__", str(target))
        return _carry_through(target, target, args, kwargs, name=name)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A method of tensors, such as `relu`."""

        def call(tensor: Any, *others: Any, **named: Any) -> Any:
            return getattr(tensor, target)(*others, **named)

        return _carry_through(target, call, args, kwargs, name=target)

    def _carry_through_layer(
        self, target: str, layer: Layer, inputs: ValueWithError
    ) -> ValueWithError:
        """|w'| times the error of the inputs, and the error that the other weight makes."""
        name = self.names[id(layer.weight)]
        error = _multiply_error(layer, inputs.error, self.weights.get(name))
        own_error = self.errors.get(name)
        value = self._values.get(target)
        if value is None or self.calls[target] > 1:
            value = self._values[target] = layer(inputs.value)
        # a copy, as an activation function after it may work in place
        return ValueWithError(value.clone(), error if own_error is None else error + own_error)


def _carry_through_batchnorm(module: _BatchNorm, inputs: ValueWithError) -> ValueWithError:
    """The error of each channel times the size of its scale."""
    assert module.running_var is not None
    scale = (module.running_var + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight.abs()
    by_channel = scale.reshape(1, -1, *[1] * (inputs.value.dim() - 2))
    return ValueWithError(module(inputs.value), inputs.error * by_channel)


def _carry_through_layernorm(module: nn.LayerNorm, inputs: ValueWithError) -> ValueWithError:
    """The least of three bounds on |n' - n| times the size of the scale, n = c / s normalised.

    c = x - mean(x) changes by at most d = e + mean(e), s = sqrt(mean(c^2) + eps) by at most r, the
    root mean square of e, and no |n_i| is above sqrt(K - 1), K the number of inputs. So |n' - n| is
    at most (d + |n'| r) / s <= (d + sqrt(K - 1) r) / s, (d + |n| r) / s' with s' >= max(s - r,
    sqrt(eps)), and |n| + sqrt(K - 1).
    """
    dims = tuple(range(-len(module.normalized_shape), 0))
    value, error = inputs.value, inputs.error
    most = math.sqrt(max(0, math.prod(module.normalized_shape) - 1))
    centred = value - value.mean(dims, keepdim=True)
    s = (centred.square().mean(dims, keepdim=True) + module.eps).sqrt()
    size = (centred / s).abs()
    d = error + error.mean(dims, keepdim=True)
    r = error.square().mean(dims, keepdim=True).sqrt()
    smallest_s = (s - r).clamp_min(math.sqrt(module.eps))
    change = torch.minimum((d + most * r) / s, (d + size * r) / smallest_s)
    change = torch.minimum(change, size + most)
    if module.weight is not None:
        change = change * module.weight.abs()
    return ValueWithError(module(value), change)


def _carry_through_convolution(module: _ConvNd, inputs: ValueWithError) -> ValueWithError:
    """|w| times the error, for a convolution whose weights are not pruned: of another dimension, or
    transposed.
    """
    size = module.weight.abs()
    if isinstance(module, _ConvTransposeNd):
        dimensions = len(module.kernel_size)
        transposed = getattr(F, f"conv_transpose{dimensions}d")
        error = transposed(
            inputs.error,
            size,
            None,
            module.stride,
            module.padding,
            module.output_padding,
            module.groups,
            module.dilation,
        )
    else:
        error = module._conv_forward(inputs.error, size, None)
    return ValueWithError(module(inputs.value), error)


def _carry_through(
    kind: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str
) -> Any:
    """An operation without weights on values and errors; `StructureError` without a rule for it.

    `kind` is the module's class, the function, or the name of the method; `call` runs it.
    """
    if not _has_error(args) and not _has_error(kwargs):
        return call(*args, **kwargs)
    unknown = StructureError(
        f"errors of layers cannot be carried through {name}: no rule is known for it"
    )
    if kind not in CARRIED and kind not in LIPSCHITZ:
        raise unknown
    value = call(*_select_part(args, "value"), **_select_part(kwargs, "value"))
    if kind in SIZES and not _has_tensor(value):
        return value
    first = args[0] if args else None
    if kind in PARTS and isinstance(first, ValueWithError):
        errors = call(*_select_part(args, "error"), **_select_part(kwargs, "error"))
        return tuple(ValueWithError(*part) for part in zip(value, errors, strict=True))
    if not isinstance(value, Tensor):
        raise unknown
    if kind in PRODUCTS and not kwargs and len(args) == 2:
        return ValueWithError(value, _multiply_errors(*args))
    if kind in SUMS and not kwargs and len(args) == 2:
        errors = [term.error for term in args if isinstance(term, ValueWithError)]
        return ValueWithError(value, sum(errors[1:], errors[0]).expand_as(value).contiguous())
    if kind in SILENT and isinstance(first, ValueWithError):
        return ValueWithError(value, first.error)
    if kind in LIPSCHITZ and isinstance(first, ValueWithError):
        error = _find_slope(kind, call, args, kwargs) * first.error
        return ValueWithError(value, error.clamp_max(WIDTHS.get(kind, math.inf)))
    if kind in NONNEGATIVE:
        return ValueWithError(value, _apply_to_errors(kind, call, args, kwargs))
    raise unknown


def _multiply_errors(first: Any, second: Any) -> Tensor:
    """|a| e_b + e_a |b| + e_a e_b, of two values with errors, or of one and a tensor or number."""
    if not isinstance(first, ValueWithError):
        first, second = second, first
    if not isinstance(second, ValueWithError):
        scaled: Tensor = first.error * abs(second)
        return scaled
    a, b = first, second
    error: Tensor = a.value.abs() * b.error + a.error * b.value.abs() + a.error * b.error
    return error


def _apply_to_errors(
    kind: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """The errors through an operation with nonnegative coefficients: the operation itself."""
    if kind is F.pad:
        # what is padded with a number has no error, so the number is left out
        named = _select_part(kwargs, "error") | {"value": None}
        padded: Tensor = F.pad(*_select_part(args[:3], "error"), **named)
        return padded
    if kind is torch.cat:
        args, kwargs = _add_zero_errors(args), _add_zero_errors(kwargs)
    errors: Tensor = call(*_select_part(args, "error"), **_select_part(kwargs, "error"))
    return errors


def _find_slope(
    kind: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> float:
    """The largest absolute slope (the Lipschitz constant) of an activation with its parameters.

    `kind` is its key in `LIPSCHITZ`, `call` the module or function itself. Raises `StructureError`
    for a softplus whose linear part begins so early that it is not continuous there.
    """
    if kind in (nn.LeakyReLU, F.leaky_relu):
        default = getattr(call, "negative_slope", 0.01)
        negative_slope = args[1] if len(args) > 1 else kwargs.get("negative_slope", default)
        return max(1.0, abs(float(negative_slope)))
    if kind in (nn.Softplus, F.softplus):
        default = getattr(call, "threshold", SOFTPLUS_THRESHOLD)
        threshold = args[2] if len(args) > 2 else kwargs.get("threshold", default)
        if threshold < SOFTPLUS_THRESHOLD:
            raise StructureError(
                "errors of layers cannot be carried through a softplus that is linear from "
                f"{threshold} on, where it is not continuous; its threshold must be at least "
                f"{SOFTPLUS_THRESHOLD}"
            )
    return LIPSCHITZ[kind]


def _refuse_overwritten(module: fx.GraphModule) -> None:
    """Raise `StructureError` where a sum in place overwrites a tensor that is used again: its error
    would not be that of the sum.
    """
    order = {node: place for place, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        target = node.args[0] if node.target in IN_PLACE and node.args else None
        if isinstance(target, fx.Node) and any(order[user] > order[node] for user in target.users):
            raise StructureError(
                f"errors of layers cannot be carried through {node.name}: what it adds to is "
                "used again"
            )


def _multiply_error(layer: Layer, error: Tensor, weight: Tensor | None) -> Tensor:
    """|w'| times an error of the inputs; w' is the layer's own weight where there is no other."""
    size = (layer.weight if weight is None else weight).abs().to(error.dtype)
    if isinstance(layer, nn.Linear):
        return F.linear(error, size)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(error, layer._reversed_padding_repeated_twice, mode=mode)
    return F.conv2d(
        padded,
        size,
        bias=None,
        stride=layer.stride,
        padding=0,
        dilation=layer.dilation,
        groups=count_groups(layer),
    )


def _has_tensor(value: Any) -> bool:
    """Whether there is a tensor in nested tuples and lists."""
    if isinstance(value, tuple | list):
        return any(_has_tensor(item) for item in value)
    return isinstance(value, Tensor)


def _has_error(value: Any) -> bool:
    """Whether there is a value with an error in nested arguments."""
    if isinstance(value, dict):
        return any(_has_error(item) for item in value.values())
    if isinstance(value, tuple | list):
        return any(_has_error(item) for item in value)
    return isinstance(value, ValueWithError)


def _add_zero_errors(value: Any) -> Any:
    """Nested arguments, each plain tensor as a value with an error of 0."""
    if isinstance(value, dict):
        return {key: _add_zero_errors(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_add_zero_errors(item) for item in value)
    if isinstance(value, Tensor):
        return ValueWithError(value, torch.zeros_like(value))
    return value


def _select_part(value: Any, part: str) -> Any:
    """The values, or the errors, in nested arguments."""
    if isinstance(value, dict):
        return {key: _select_part(item, part) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_select_part(item, part) for item in value)
    return getattr(value, part) if isinstance(value, ValueWithError) else value
