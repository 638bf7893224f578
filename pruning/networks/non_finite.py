"""The first place in a network where numbers stop being finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pruning.networks.layers import forward_hooks
from pruning.networks.modes import evaluate_mode


def describe_non_finite(model: nn.Module, inputs: Tensor) -> str | None:
    """The first layer, in the order of the calls, whose input or output is NaN or infinite, and
    which of its tensors is at fault, as a sentence; None where all are finite.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).eval()
    >>> _ = net[1].running_var.fill_(-1)
    >>> describe_non_finite(net, torch.ones(2, 1))
    "the first is the output of the layer '1' (BatchNorm1d); its running_var holds -1"
    """
    names = {
        module: name
        for name, module in model.named_modules()
        if not any(True for _ in module.children())
    }
    places: list[str] = []

    def check(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if places:
            return
        layer = f"the layer {names[module]!r} ({type(module).__name__})"
        if any(_has_non_finite(value) for value in args):
            places.append(f"the first is what reaches {layer}, between two layers")
        elif _has_non_finite(output):
            places.append(f"the first is the output of {layer}; {_explain(module, args)}")

    with forward_hooks(names, check), evaluate_mode(model), torch.no_grad():
        model(inputs)
    return places[0] if places else None


def _has_non_finite(value: Any) -> bool:
    return isinstance(value, Tensor) and not bool(torch.isfinite(value).all())


def _explain(module: nn.Module, args: tuple[Any, ...]) -> str:
    """The tensor of a layer that is at fault, or else the size of its input."""
    for name, tensor in module.state_dict().items():
        if _has_non_finite(tensor):
            return f"its {name} is not finite"
        if name == "running_var" and bool((tensor < 0).any()):
            return f"its running_var holds {float(tensor.min()):g}"
    largest = max(
        (float(value.abs().max()) for value in args if isinstance(value, Tensor)), default=0
    )
    tensors = [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]
    weight = max((float(tensor.abs().max()) for tensor in tensors), default=0)
    return f"its tensors are finite, up to {weight:g}, and its input reaches {largest:g}"
