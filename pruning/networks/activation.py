"""The activation function of a network, found by running it."""

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
"""The names of the functions of torch that compute an activation, by activation."""
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
"""The names of activations that no bound of ours covers."""


class _ActivationListener(TorchFunctionMode):
    """A mode that notes the activations whose functions are called."""

    def __init__(self) -> None:
        super().__init__()
        self.activations: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        for activation, functions in FUNCTIONS.items():
            if name in functions:
                self.activations.add(activation)
        if name in OTHERS:
            self.activations.add(name.rstrip("_"))
        return func(*args, **(kwargs or {}))


def find_activation(model: nn.Module, image: Tensor, known: Iterable[str]) -> str:
    """The only activation of a network, `identity` where it has none.

    It is found by a pass of one image (1, C, H, W) in eval mode. A softmax does not count. Raises
    `ParameterError` where there are several, or one that is not `known`.

    >>> find_activation(
    ...     nn.Sequential(nn.Linear(1, 1), nn.Tanh()), torch.zeros(1, 1), ["relu", "tanh"]
    ... )
    'tanh'
    >>> find_activation(nn.Sequential(nn.ReLU(), nn.ELU()), torch.zeros(1, 1), ["relu"])
    Traceback (most recent call last):
    ...
    pruning.errors.ParameterError: the network's activations are elu, relu; choose the one to go by: relu
    """  # noqa: E501
    with evaluate_mode(model), torch.no_grad(), _ActivationListener() as listener:
        model(image)
    activations = sorted(listener.activations)
    if len(activations) > 1 or not listener.activations <= set(known):
        raise ParameterError(
            f"the network's activations are {', '.join(activations)}; choose the one to go by: "
            f"{', '.join(known)}",
            pointer="/criterion/params/activation",
        )
    return activations[0] if activations else "identity"
