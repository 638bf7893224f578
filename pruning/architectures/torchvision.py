"""The classification networks of torchvision, by their names there, without weights."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.overrides import TorchFunctionMode

from pruning.architectures import architectures
from pruning.architectures._attention import open_attention_
from pruning.architectures._shapes import Shapes
from pruning.architectures._torchvision_networks import PATCHES, SMALLEST, list_like
from pruning.errors import ParameterError, UnknownNameError

NAMES = sorted(SMALLEST)
TRANSFORMING = ("googlenet", "inception_v3")
"""The networks that can turn ImageNet's normalisation of their inputs into one of their own."""
PUBLISHED: Mapping[str, dict[str, Any]] = {
    "1378be20": {"name": "googlenet", "transform_input": True},
    "0cc3c7bd": {"name": "inception_v3", "transform_input": True},
}
"""The networks of published files that need a parameter which is not in them, by the first
digits of their sha256, which torchvision has in the names of the files.
"""
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
"""Beginnings of the names of heads that are left out: they help in training alone."""
DEFAULT_SIDE = 224
"""The side in pixels of the images of networks for one size, where none is given."""


@architectures.register("torchvision")
@dataclass(frozen=True)
class Torchvision:
    """A classifier of torchvision by its `name` there, untrained, for colour images.

    Parameter names are torchvision's, so its checkpoints load as they are; auxiliary classifiers
    are left out. With `transform_input`, GoogLeNet and Inception normalise images that were
    normalised by ImageNet's constants again, by a half; their published weights expect it. Vision transformers and MaxViT take square images of `image_size`, 224 by default;
    the others take any. Raises `UnknownNameError`, `ParameterError`.

    >>> Torchvision("resnet18", classes=1000).smallest, Torchvision("vgg16").smallest
    (1, 32)
    >>> Torchvision("vit_b_16", image_size=32).input_shape
    (3, 32, 32)
    >>> Torchvision("resnet19")
    Traceback (most recent call last):
    ...
    pruning.errors.UnknownNameError: unknown torchvision network 'resnet19'; did you mean 'resnet18'?
    """  # noqa: E501

    name: Annotated[str, Field(json_schema_extra={"enum": list(NAMES)})] = "resnet18"
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10
    image_size: Annotated[
        int | None,
        Field(ge=1, le=8192, description="of vision transformers and MaxViT: the side of images"),
    ] = None
    transform_input: Annotated[
        bool, Field(description="of googlenet and inception_v3: true for their published weights")
    ] = False

    def __post_init__(self) -> None:
        check_name(self.name, NAMES)
        if self.transform_input and self.name not in TRANSFORMING:
            raise ParameterError(
                f"{self.name} transforms no inputs; leave transform_input false",
                pointer="transform_input",
            )
        patch = PATCHES.get(self.name)
        if patch is None and self.image_size is not None:
            raise ParameterError(
                f"{self.name} takes images of any size; leave image_size out", pointer="image_size"
            )
        if patch is not None and self.side is not None and self.side % patch:
            raise ParameterError(
                f"{self.name} takes images whose side is a multiple of {patch}, not {self.side}",
                pointer="image_size",
            )

    @property
    def side(self) -> int | None:
        """The rows and columns of an image; None where any size is possible."""
        return (self.image_size or DEFAULT_SIDE) if self.name in PATCHES else None

    @property
    def smallest(self) -> int:
        """The rows and columns of the smallest image."""
        return self.side or SMALLEST[self.name]

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """Three channels, and one size or any from `smallest` on."""
        return 3, self.side, self.side

    @property
    def not_in_weights(self) -> Mapping[str, str]:
        """The parameters that leave no trace in the weights, and what is done without them."""
        if self.name not in TRANSFORMING:
            return {}
        return {
            "transform_input": "false is taken; weights that were trained from torchvision's "
            "published ones expect true, and are measured wrongly without it"
        }

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return self.classes

    @staticmethod
    def suggest(shapes: Shapes) -> list[dict[str, Any]]:
        """The parameters of the networks that a state dict of these shapes may be of."""
        names = [name for name in shapes if not name.startswith(AUXILIARY)]
        tensors = sum(not name.endswith("num_batches_tracked") for name in names)
        return [{"name": name} for name in list_like(tensors)]

    @staticmethod
    def infer(kwargs: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
        """The image size of a vision transformer, whose positions are as many as its patches."""
        positions = shapes.get("encoder.pos_embedding")
        if positions is None or len(positions) != 3:
            return {}
        return {"image_size": math.isqrt(positions[1] - 1) * shapes["conv_proj.weight"][-1]}

    @staticmethod
    def suit_images(kwargs: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
        """The parameters of a network that is made for images (C, H, W)."""
        return {"image_size": shape[1]} if kwargs.get("name") in PATCHES else {}

    def build(self) -> nn.Module:
        """The network with torchvision's initialisation."""
        extra: dict[str, Any] = list_arguments(
            self.name, self.image_size, transform_input=self.transform_input
        )
        if "aux_logits" in extra:
            extra["init_weights"] = True
        return open_attention_(create_torchvision(self.name, num_classes=self.classes, **extra))


def list_arguments(
    name: str, image_size: int | None, *, transform_input: bool = False
) -> dict[str, Any]:
    """The arguments of a network of torchvision beside the number of classes.

    >>> list_arguments("vit_b_16", 32), list_arguments("resnet18", None)
    ({'image_size': 32}, {})
    """
    if name in TRANSFORMING:
        transforms = {"transform_input": True} if transform_input else {}
        return {"aux_logits": False, "init_weights": False, **transforms}
    if name not in PATCHES:
        return {}
    side = image_size or DEFAULT_SIDE
    return {"input_size": (side, side)} if name.startswith("maxvit") else {"image_size": side}


class NumbersOnCpu(TorchFunctionMode):
    """Lets a network compute its widths while it is built on the meta device, as RegNets do."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in (torch.arange, torch.linspace, torch.tensor):
            return func(*args, **{**(kwargs or {}), "device": "cpu"})
        return func(*args, **(kwargs or {}))


def create_torchvision(name: str, **kwargs: Any) -> nn.Module:
    """A network of torchvision with drawn weights; torchvision is imported here and not before."""
    import torchvision.models

    if name.startswith("regnet"):
        with NumbersOnCpu():
            return torchvision.models.get_model(name, weights=None, **kwargs)  # type: ignore[no-any-return]
    return torchvision.models.get_model(name, weights=None, **kwargs)  # type: ignore[no-any-return]


def check_name(name: str, names: Sequence[str]) -> None:
    """Raise `UnknownNameError` for a name that is not among the names, with the nearest."""
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
    raise UnknownNameError(f"unknown torchvision network {name!r}; {hint}", pointer="name")
