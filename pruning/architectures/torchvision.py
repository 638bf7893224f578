"""The classification networks of torchvision, by their names there, without weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from pruning.architectures import architectures
from pruning.errors import UnknownNameError

SMALLEST: Mapping[str, int] = {
    "alexnet": 63,
    "convnext_base": 32,
    "convnext_large": 32,
    "convnext_small": 32,
    "convnext_tiny": 32,
    "densenet121": 29,
    "densenet161": 29,
    "densenet169": 29,
    "densenet201": 29,
    **{f"efficientnet_b{i}": 1 for i in range(8)},
    "efficientnet_v2_l": 1,
    "efficientnet_v2_m": 1,
    "efficientnet_v2_s": 1,
    "googlenet": 15,
    "inception_v3": 75,
    "mnasnet0_5": 1,
    "mnasnet0_75": 1,
    "mnasnet1_0": 1,
    "mnasnet1_3": 1,
    "mobilenet_v2": 1,
    "mobilenet_v3_large": 1,
    "mobilenet_v3_small": 1,
    "resnet18": 1,
    "resnet34": 1,
    "resnet50": 1,
    "resnet101": 1,
    "resnet152": 1,
    "resnext50_32x4d": 1,
    "resnext101_32x8d": 1,
    "resnext101_64x4d": 1,
    "shufflenet_v2_x0_5": 1,
    "shufflenet_v2_x1_0": 1,
    "shufflenet_v2_x1_5": 1,
    "shufflenet_v2_x2_0": 1,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
    **{f"vgg{depth}{suffix}": 32 for depth in (11, 13, 16, 19) for suffix in ("", "_bn")},
    "wide_resnet50_2": 1,
    "wide_resnet101_2": 1,
}
"""The rows and columns of the smallest image of each network, by name.

They are listed here so that the catalogue needs no torchvision.
"""
ATTENTION = (
    "its attention computes with weights that are not those of a layer's call: they cannot "
    "be pruned as layers are"
)
LEFT_OUT: Mapping[str, str] = {
    "maxvit": ATTENTION,
    "swin": ATTENTION,
    "vit": ATTENTION,
    "regnet": "its shape is not known before its weights are drawn: nothing could be checked",
}
"""The reasons why networks are not taken, by the beginning of their names in torchvision."""
NAMES = sorted(SMALLEST)


@architectures.register("torchvision")
@dataclass(frozen=True)
class Torchvision:
    """A convolutional classifier of torchvision by its `name` there, untrained, for colour images.

    Parameter names are torchvision's, so its checkpoints load as they are; auxiliary classifiers
    are left out. The transformers and RegNets are not taken. Raises `UnknownNameError`.

    >>> Torchvision("resnet18", classes=1000).smallest, Torchvision("vgg16").smallest
    (1, 32)
    >>> Torchvision("resnet19")
    Traceback (most recent call last):
    ...
    pruning.errors.UnknownNameError: unknown torchvision network 'resnet19'; did you mean 'resnet18'?
    """  # noqa: E501

    name: Annotated[str, Field(json_schema_extra={"enum": list(NAMES)})] = "resnet18"
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10

    def __post_init__(self) -> None:
        check_name(self.name, NAMES, LEFT_OUT)

    @property
    def smallest(self) -> int:
        """The rows and columns of the smallest image."""
        return SMALLEST[self.name]

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """Three channels, any size from `smallest` on."""
        return 3, None, None

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return self.classes

    def build(self) -> nn.Module:
        """The network with torchvision's initialisation."""
        extra = {}
        if self.name in ("googlenet", "inception_v3"):
            extra = {"aux_logits": False, "init_weights": True}
        return create_torchvision(self.name, num_classes=self.classes, **extra)


def create_torchvision(name: str, **kwargs: Any) -> nn.Module:
    """A network of torchvision with drawn weights; torchvision is imported here and not before."""
    import torchvision.models

    return torchvision.models.get_model(name, weights=None, **kwargs)  # type: ignore[no-any-return]


def check_name(name: str, names: Sequence[str], left_out: Mapping[str, str]) -> None:
    """Raise `UnknownNameError` for a name that is not among the names.

    The message gives the reason for a network that is left out, else the nearest name.
    """
    if name in names:
        return
    for start, reason in left_out.items():
        if name.startswith(start):
            raise UnknownNameError(
                f"the torchvision network {name!r} is not supported: {reason}", pointer="name"
            )
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
    raise UnknownNameError(f"unknown torchvision network {name!r}; {hint}", pointer="name")
