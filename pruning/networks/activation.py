"""Which activation function a network has, found by running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.errors import ParameterError
from pruning.networks.modes import evaluate_mode

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "relu": ("relu", "relu_"),
    "sigmoid": ("sigmoid", "sigmoid_"),
    "tanh": ("tanh", "tanh_"),
    "softplus": ("softplus",),
    "leaky_relu": ("leaky_relu", "leaky_relu_"),
    "gelu": ("gelu",),
    "silu": ("silu",),
    "sin": ("sin", "sin_"),
}
"""By activation, the functions of torch that compute it, by name."""
OTHERS = (
    "celu",
    "celu_",
    "elu",
    "elu_",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardtanh_",
    "logsigmoid",
    "mish",
    "prelu",
    "relu6",
    "rrelu",
    "rrelu_",
    "selu",
    "selu_",
    "softshrink",
    "softsign",
    "tanhshrink",
    "threshold",
    "threshold_",
    "glu",
)
"""Activations that no bound here knows."""


class _Listener(TorchFunctionMode):
    """Notes the names of the activation functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        self.heard += [kind for kind, functions in FUNCTIONS.items() if name in functions]
        self.heard += [name.rstrip("_")] if name in OTHERS else []
        return func(*args, **(kwargs or {}))


def find_activation(model: nn.Module, image: Tensor, known: Iterable[str]) -> str:
    """The one activation of a network, `identity` for none, by a pass of one image (1, C, H, W) in
    eval mode.

    A softmax is none. Raises `ParameterError` where there are several, or one that is not among the
    known ones.

    >>> find_activation(
    ...     nn.Sequential(nn.Linear(1, 1), nn.Tanh()), torch.zeros(1, 1), ["relu", "tanh"]
    ... )
    'tanh'
    >>> find_activation(nn.Sequential(nn.ReLU(), nn.ELU()), torch.zeros(1, 1), ["relu", "tanh"])
    Traceback (most recent call last):
    ...
    pruning.errors.ParameterError: the network's activations are elu, relu; choose the one to go by: relu, tanh
    """
    with evaluate_mode(model), torch.no_grad(), _Listener() as listener:
        model(image)
    found = sorted(set(listener.heard))
    if len(found) > 1 or not set(found) <= set(known):
        raise ParameterError(
            f"the network's activations are {', '.join(found)}; choose the one to go by: "
            f"{', '.join(known)}",
            pointer="/criterion/params/activation",
        )
    return found[0] if found else "identity"
