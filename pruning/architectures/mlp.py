"""Fully connected networks."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from pruning.architectures import architectures
from pruning.architectures._convolutional import draw_kaiming_normal_, zero_biases_
from pruning.architectures._shapes import Shapes
from pruning.errors import ParameterError

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
}


def require_whole(name: str, value: float) -> int:
    """The value as an integer; `ParameterError` where it is not whole."""
    if value != int(value):
        raise ParameterError(f"{name} {value:g}: a whole number of units", pointer=name)
    return int(value)


def build_dense_net(
    inputs: int, hidden: tuple[int, ...], classes: int, activation: str
) -> nn.Sequential:
    """The network `flatten`, `fc1`, `act1`, `fc2`, ... without an activation at its end."""
    widths = (inputs, *hidden, classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths), start=1):
        layers[f"fc{index}"] = nn.Linear(fan_in, fan_out)
        if index < len(widths) - 1:
            layers[f"act{index}"] = ACTIVATIONS[activation]()
    return nn.Sequential(layers)


@dataclass(frozen=True)
class FlatArchitecture:
    """An architecture for flattened images of one size."""

    channels: Annotated[int, Field(ge=1, le=1024)] = 1
    height: Annotated[int, Field(ge=1, le=65_536)] = 28
    width: Annotated[int, Field(ge=1, le=65_536)] = 28
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """The channels, height and width of the images."""
        return self.channels, self.height, self.width

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return self.classes

    @property
    def inputs(self) -> int:
        """The number of values of an image."""
        return self.channels * self.height * self.width


@architectures.register("mlp")
@dataclass(frozen=True, kw_only=True)
class Mlp(FlatArchitecture):
    """Multilayer perceptron on flattened images, layers `fc1`, `fc2`, ...

    >>> Mlp(hidden=(5,), channels=1, height=2, width=2, classes=3).build()
    Sequential(
      (flatten): Flatten(start_dim=1, end_dim=-1)
      (fc1): Linear(in_features=4, out_features=5, bias=True)
      (act1): ReLU()
      (fc2): Linear(in_features=5, out_features=3, bias=True)
    )
    """

    not_in_weights: ClassVar[Mapping[str, str]] = {"activation": "the default is taken"}
    """The parameters that change what the network computes, and leave no trace in its weights, and
    what is done where they are not given.
    """
    hidden: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] = (300, 100)
    activation: Literal["relu", "tanh", "sigmoid", "softplus", "gelu"] = "relu"
    initialisation: Annotated[
        Literal["pytorch", "kaiming"],
        Field(
            description="pytorch: as PyTorch draws linear layers; kaiming: normal with variance "
            "2 / inputs, and biases of zero"
        ),
    ] = "pytorch"

    @staticmethod
    def member(depth: int, width: float) -> dict[str, Any]:
        """The parameters of a member of a family: `depth` hidden layers of `width` units.

        >>> Mlp.member(2, 16)
        {'hidden': [16, 16]}
        """
        return {"hidden": [require_whole("width", width)] * depth}

    @staticmethod
    def suggest(shapes: Shapes) -> list[dict[str, Any]]:
        """The parameters of the networks that a state dict of these shapes may be of.

        Images are taken to be square, and grey or in colour; the activation is not in a state dict.
        """
        layers = [
            name for name in (f"fc{number}.weight" for number in range(1, 100)) if name in shapes
        ]
        if not layers or any(len(shapes[name]) != 2 for name in layers):
            return []
        hidden = [shapes[name][0] for name in layers[:-1]]
        inputs = shapes[layers[0]][1]
        return [
            {"hidden": hidden, "channels": channels, "height": side, "width": side}
            for channels in (1, 3)
            for side in [math.isqrt(inputs // channels)]
            if channels * side * side == inputs
        ]

    def build(self) -> nn.Module:
        """The network, initialised as `initialisation` says."""
        net = build_dense_net(self.inputs, self.hidden, self.classes, self.activation)
        if self.initialisation == "kaiming":
            draw_kaiming_normal_(net)
            zero_biases_(net)
        return net
