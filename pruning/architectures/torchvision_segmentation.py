"""The semantic segmentation networks of torchvision, by their names there, without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures import architectures
from pruning.architectures._shapes import Shapes
from pruning.architectures.torchvision import check_name, create_torchvision
from pruning.errors import ParameterError
from pruning.types import Task

NAMES = (
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)
"""The names of the networks, listed here so that the catalogue needs no torchvision."""
WITHOUT_AUX = ("lraspp_mobilenet_v3_large",)
"""The networks that have no auxiliary head in torchvision."""


class Segmenter(nn.Module):
    """Backbone and head of a torchvision network, and its auxiliary head, under their names there.

    In training mode its output is the logits and those of the auxiliary head, else the logits
    alone.
    """

    traced_at: ClassVar[int] = 64
    """The side in pixels of an image that is large enough to trace its channels by."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone = network.get_submodule("backbone")
        self.classifier = network.get_submodule("classifier")
        auxiliary = getattr(network, "aux_classifier", None)
        if auxiliary is not None:
            auxiliary.trains_alone = True
            self.aux_classifier = auxiliary
        self.low_and_high = not hasattr(network, "aux_classifier")

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(N, C, H, W) to logits (N, classes, H, W).

        In training mode those of the auxiliary head follow, if there is one.
        """
        features = self.backbone(x)
        logits = self._classify(features, x)
        if self.training and hasattr(self, "aux_classifier"):
            return logits, _resize_to(self.aux_classifier(features["aux"]), x)
        return logits

    def every_output(self, x: Tensor) -> Tensor:
        """The sum of the logits and those of the auxiliary head, in eval mode too.

        It depends on every part of the network, so that all are traced.
        """
        features = self.backbone(x)
        logits = self._classify(features, x)
        if not hasattr(self, "aux_classifier"):
            return logits
        return logits + _resize_to(self.aux_classifier(features["aux"]), x)

    def _classify(self, features: dict[str, Tensor], x: Tensor) -> Tensor:
        """The logits of the features of images, in the size of the images."""
        inputs = features if self.low_and_high else features["out"]
        return _resize_to(self.classifier(inputs), x)


def _resize_to(logits: Tensor, image: Tensor) -> Tensor:
    """Logits in the size of an image, linear between their pixels."""
    return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)


@architectures.register("torchvision_segmentation")
@dataclass(frozen=True)
class TorchvisionSegmentation:
    """A semantic segmentation network of torchvision by its `name`, untrained, for colour images.

    Parameter names are torchvision's, so its checkpoints load as they are. With `aux`, an auxiliary
    head on the third stage of the backbone helps in training (its loss counts half); it does not
    classify, is not pruned and counts for no prune ratio. Raises `UnknownNameError`,
    `ParameterError` where the network has no such head.

    >>> TorchvisionSegmentation("deeplabv3_resnet50", aux=True).outputs
    21
    >>> TorchvisionSegmentation("lraspp_mobilenet_v3_large", aux=True)
    Traceback (most recent call last):
    ...
    pruning.errors.ParameterError: lraspp_mobilenet_v3_large has no auxiliary head; leave aux false
    """

    task: ClassVar[Task] = "segmentation"
    backbone_prefix: ClassVar[str] = "backbone."
    """The beginning of the names of the backbone's tensors."""
    name: Annotated[str, Field(json_schema_extra={"enum": list(NAMES)})] = "deeplabv3_resnet50"
    aux: bool = False
    classes: Annotated[int, Field(ge=2, le=255)] = 21

    def __post_init__(self) -> None:
        check_name(self.name, NAMES)
        if self.aux and self.name in WITHOUT_AUX:
            raise ParameterError(
                f"{self.name} has no auxiliary head; leave aux false", pointer="aux"
            )

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """Three channels, any size."""
        return 3, None, None

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return self.classes

    @staticmethod
    def suggest(shapes: Shapes) -> list[dict[str, Any]]:
        """The parameters of the networks that a state dict of these shapes may be of."""
        if not any(name.startswith("backbone.") for name in shapes):
            return []
        has_aux = any(name.startswith("aux_classifier.") for name in shapes)
        if any(name.startswith("classifier.cbr.") for name in shapes):
            return [{"name": name} for name in WITHOUT_AUX]
        head = "deeplabv3" if "classifier.0.convs.0.0.weight" in shapes else "fcn"
        body = "resnet" if "backbone.conv1.weight" in shapes else "mobilenet"
        return [
            {"name": name, "aux": has_aux}
            for name in NAMES
            if name.startswith(f"{head}_{body}") and name not in WITHOUT_AUX
        ]

    def build(self) -> nn.Module:
        """The network with torchvision's initialisation."""
        extra = {} if self.name in WITHOUT_AUX else {"aux_loss": self.aux}
        return Segmenter(
            create_torchvision(self.name, weights_backbone=None, num_classes=self.classes, **extra)
        )
