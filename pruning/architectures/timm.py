"""The networks of timm, by their names there, without weights; timm is an extra of the service."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from pruning.architectures import architectures
from pruning.architectures._attention import DENSE_TABLE
from pruning.architectures._extras import import_extra
from pruning.architectures._shapes import Shapes
from pruning.architectures._timm_signatures import list_networks
from pruning.architectures.torchvision import NumbersOnCpu
from pruning.errors import ParameterError, UnknownNameError

SMALLEST = 32
"""The side of the smallest image of networks for any size, where timm does not say it."""
OWN_FIELDS = ("num_classes", "in_chans", "img_size")
"""The arguments of timm that are parameters of their own here."""
RESERVED = ("pretrained", "checkpoint", "cache_dir", "features_only", "out_indices", "feature_cfg")
"""The beginnings of the names of arguments that fetch files, or that leave no classifier."""
POSITION_BIASES = ("cpb_mlp", "rel_pos_mlp")
"""The last parts of the names of networks that compute position biases from coordinates."""
Option = bool | int | float | str | list[bool | int | float | str] | None


@architectures.register("timm")
@dataclass(frozen=True)
class Timm:
    """A classifier of timm by its `name` there, untrained (extra `timm`).

    Parameter names are timm's, so its checkpoints load as they are. A name may have the tag of
    published weights (`vit_tiny_patch16_224.augreg_in21k`), which chooses its preprocessing.
    `options` are further arguments of the network (`depth`, `embed_dim`, `drop_path_rate`).
    Networks for images of one size take those of `image_size`, by default that of their published
    weights. Nothing is ever downloaded. Raises `MissingPackageError`, `UnknownNameError`,
    `ParameterError`.

    >>> Timm("test_efficientnet", classes=5).outputs
    5
    """

    name: str
    classes: Annotated[int, Field(ge=2, le=100_000)] = 10
    channels: Annotated[int, Field(ge=1, le=1024)] = 3
    image_size: Annotated[
        int | None,
        Field(ge=1, le=8192, description="the side of images, of networks for one size"),
    ] = None
    options: Annotated[dict[str, Option], Field(json_schema_extra={"default": {}})] = field(
        default_factory=dict
    )

    suggested_last: ClassVar[bool] = True
    """Whether it is only suggested for weights that fit no other architecture."""

    def __post_init__(self) -> None:
        is_fixed = bool(self._published.get("fixed_input_size"))
        if self.image_size is not None and not is_fixed:
            raise ParameterError(
                f"{self.name} takes images of any size; leave image_size out", pointer="image_size"
            )
        for name in self.options:
            if name in OWN_FIELDS:
                raise ParameterError(
                    f"options: {name!r} has a parameter of its own: classes, channels, image_size",
                    pointer="options",
                )
            if name.startswith(RESERVED):
                raise ParameterError(
                    f"options: {name!r} is not accepted: weights are uploaded and never fetched, "
                    "and the network must be a classifier",
                    pointer="options",
                )

    @property
    def _published(self) -> dict[str, Any]:
        """The description of the published weights of the name (`pretrained_cfg`)."""
        return read_published(self.name)

    @property
    def side(self) -> int | None:
        """The rows and columns of an image; None where any size is possible."""
        if not self._published.get("fixed_input_size"):
            return None
        return self.image_size or int(self._published["input_size"][-1])

    @property
    def smallest(self) -> int:
        """The rows and columns of the smallest image."""
        if self.side is not None:
            return self.side
        least = self._published.get("min_input_size")
        return SMALLEST if least is None else int(least[-1])

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """The channels, and one size or any from `smallest` on."""
        return self.channels, self.side, self.side

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return self.classes

    @property
    def published_preprocessing(self) -> dict[str, Any]:
        """The `pretrained_cfg` of the name, for images of the size that this network takes."""
        published = dict(self._published)
        if self.side is not None:
            published["input_size"] = (self.channels, self.side, self.side)
        if self.channels != len(published["mean"]):
            del published["mean"], published["std"]
        return published

    @staticmethod
    def suggest(shapes: Shapes) -> list[dict[str, Any]]:
        """The parameters of the networks that a state dict of these shapes may be of."""
        return [{"name": name} for name in list_networks(shapes)]

    @staticmethod
    def infer(kwargs: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
        """The image size of a vision transformer, whose positions are as many as its patches."""
        published = read_published(str(kwargs["name"]))
        positions = shapes.get("pos_embed", ())
        patches = shapes.get("patch_embed.proj.weight", ())
        if not published.get("fixed_input_size") or len(positions) != 3 or len(patches) != 4:
            return {}
        side = math.isqrt(positions[1]) * patches[-1]  # class tokens and registers are few
        return {} if side == published["input_size"][-1] else {"image_size": side}

    @staticmethod
    def suit_images(kwargs: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
        """The parameters of a network that is made for images (C, H, W)."""
        published = read_published(str(kwargs.get("name")))
        return {"image_size": shape[1]} if published.get("fixed_input_size") else {}

    def build(self) -> nn.Module:
        """The network with timm's initialisation.

        Its attention is computed in steps, so that second derivatives of it exist.
        """
        timm = import_extra("timm")
        extra = dict(self.options)
        if self.image_size is not None:
            extra["img_size"] = self.image_size
        try:
            with NumbersOnCpu():
                network: nn.Module = timm.create_model(
                    self.name,
                    pretrained=False,
                    num_classes=self.classes,
                    in_chans=self.channels,
                    **extra,
                )
        except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
            if not extra:
                raise
            raise ParameterError(
                f"{self.name} cannot be built with {extra}: {error}", pointer="options"
            ) from error
        if not any(self.classes in weight.shape for weight in network.parameters()):
            raise ParameterError(f"{self.name} is no classifier", pointer="name")
        for name, module in network.named_modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
            if any(part in POSITION_BIASES for part in name.split(".")):
                module.left_dense = DENSE_TABLE
        return network


def read_published(name: str) -> dict[str, Any]:
    """The `pretrained_cfg` of a network of timm, by its name with or without a tag.

    Raises `UnknownNameError` with the nearest name.
    """
    timm = import_extra("timm")
    plain, _, tag = name.partition(".")
    known = timm.list_models(plain, include_tags=bool(tag))
    if plain.isidentifier() and name in known:
        return dict(timm.get_pretrained_cfg(name).to_dict())
    names = [*known, *timm.list_models()]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UnknownNameError(f"unknown timm network {name!r}{hint}", pointer="name")
