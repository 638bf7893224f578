"""The networks of Hugging Face's transformers, by their config.json; an extra of the service."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures import architectures
from pruning.architectures._extras import import_extra
from pruning.architectures.torchvision import NumbersOnCpu
from pruning.errors import ParameterError, UnsafeFormatError
from pruning.types import Task

TASKS: Mapping[str, Task] = {
    "ForImageClassification": "classification",
    "ForSemanticSegmentation": "segmentation",
}
"""The tasks of networks by the ends of the names of their classes."""
REMOTE_CODE = ("auto_map", "trust_remote_code", "custom_pipelines")
"""The entries of a config.json by which code of the folder would be run."""
FETCHES = ("backbone", "use_pretrained_backbone", "backbone_kwargs")
"""The entries that name another network, whose files would be fetched."""
ANY_SIZE = frozenset(
    [
        "bit",
        "convnext",
        "convnextv2",
        "cvt",
        "efficientformer",
        "efficientnet",
        "focalnet",
        "hgnet_v2",
        "mobilenet_v1",
        "mobilenet_v2",
        "mobilevit",
        "mobilevitv2",
        "poolformer",
        "pvt_v2",
        "regnet",
        "resnet",
        "segformer",
        "swiftformer",
        "swin",
        "swinv2",
        "upernet",
        "van",
    ]
)
"""The types of networks that take images of any size, although some name one in `image_size`."""
SMALLEST = 32
"""The side of the smallest image of these."""


class _Logits:
    """Makes the logits of images the output of a network of transformers."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, classes)."""
        logits: Tensor = super().forward(pixel_values=x).logits  # type: ignore[misc]
        return logits


class _PixelLogits:
    """Makes the logits of every pixel the output, resized as transformers' post-processing does."""

    traced_at: ClassVar[int] = 64
    """The side in pixels of an image that is large enough to trace its channels by."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, classes, H, W): linear between the logits of smaller maps."""
        logits: Tensor = super().forward(pixel_values=x).logits  # type: ignore[misc]
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


OUTPUTS: Mapping[Task, type] = {"classification": _Logits, "segmentation": _PixelLogits}


@architectures.register("huggingface")
@dataclass(frozen=True)
class HuggingFace:
    """A classifier or segmenter of Hugging Face's transformers by its `config`, the content of its
    config.json, untrained (extra `transformers`).

    The config names the network in `architectures`: `...ForImageClassification` or
    `...ForSemanticSegmentation`. Code of the folder is never run, and nothing is downloaded. Raises
    `MissingPackageError`, `ParameterError`, `UnsafeFormatError`.

    >>> config = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    >>> HuggingFace(config, classes=5).input_shape
    (3, 224, 224)
    """

    config: dict[str, Any]
    classes: Annotated[int, Field(ge=2, le=100_000)] = 2

    def __post_init__(self) -> None:
        check_config(self.config)

    @property
    def network_name(self) -> str:
        """The name of the network's class in transformers."""
        return str(self.config["architectures"][0])

    @property
    def task(self) -> Task:
        """The prediction: a class for each image, or for every pixel."""
        return find_task(self.network_name)

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """The channels, and one size or any."""
        config = self.read_config()
        for part in ("vision_config", "backbone_config"):
            config = getattr(config, part, None) or config
        side = getattr(config, "image_size", None)
        channels = int(getattr(config, "num_channels", 3))
        if side is None or self.config["model_type"] in ANY_SIZE:
            return channels, None, None
        height, width = side if isinstance(side, list | tuple) else (side, side)
        return channels, int(height), int(width)

    @property
    def smallest(self) -> int:
        """The rows and columns of the smallest image."""
        return self.input_shape[1] or SMALLEST

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return self.classes

    def build(self) -> nn.Module:
        """The network with transformers' initialisation, whose output is its logits.

        Its attention is computed in steps, so that second derivatives of it exist.
        """
        network = self.build_own()
        base: Any = type(network)
        network.__class__ = _open_class(base, self.task)
        if hasattr(network, "auxiliary_head"):  # takes part in a loss that is not computed here
            network.auxiliary_head.trains_alone = True  # type: ignore[union-attr]
        return network

    def build_own(self) -> nn.Module:
        """The network as transformers has it."""
        try:
            with NumbersOnCpu():
                network: nn.Module = self.find_class()._from_config(
                    self.read_config(), attn_implementation="eager"
                )
        except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
            raise ParameterError(
                f"config: {self.network_name} cannot be built: {error}", pointer="config"
            ) from error
        return network

    def find_class(self) -> Any:
        """The network's class in transformers, one that loads with `AutoModelFor...`."""
        import_extra("transformers")
        from transformers.models.auto import modeling_auto

        mapping = {
            "classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
            "segmentation": modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
        }[self.task]
        known = mapping.get(type(self.read_config()), ())
        for candidate in known if isinstance(known, tuple) else (known,):
            if candidate.__name__ == self.network_name:
                return candidate
        raise ParameterError(
            f"config: transformers has no {self.network_name} for the type "
            f"{self.config['model_type']!r}",
            pointer="config",
        )

    def read_config(self) -> Any:
        """The configuration as transformers has it, with the number of classes."""
        config = _parse_config(json.dumps(self.config, sort_keys=True))
        config.num_labels = self.classes
        return config


def find_task(network_name: str) -> Task:
    """The task of a network by the name of its class. Raises `ParameterError` for another one."""
    for end, task in TASKS.items():
        if network_name.endswith(end):
            return task
    raise ParameterError(
        f"config: {network_name} is none of the networks that are pruned here: "
        f"{', '.join(f'...{end}' for end in TASKS)}",
        pointer="config",
    )


def check_config(config: Mapping[str, Any]) -> None:
    """Raise `UnsafeFormatError` for a configuration that runs code of its folder, and
    `ParameterError` for one that needs other files, or is of no classifier or segmenter.
    """
    for key, value in _iterate_entries(config):
        if key in REMOTE_CODE:
            raise UnsafeFormatError(
                f"config: {key!r} makes transformers run code that comes with the folder, which "
                "is refused; take a network that transformers itself has",
                pointer="config",
            )
        if key in FETCHES and value:
            raise ParameterError(
                f"config: {key!r} names a network that would be fetched; give its own "
                "configuration in backbone_config",
                pointer="config",
            )
        if key == "quantization_config":
            raise ParameterError(
                "config: quantised weights are not pruned here; send those from before "
                "quantisation",
                pointer="config",
            )
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(config.get("model_type"), str):
        raise ParameterError(
            "config: 'architectures' and 'model_type' must say which network it is",
            pointer="config",
        )
    find_task(str(names[0]))
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise ParameterError(
            f"config: problem_type {config['problem_type']!r}: one class for each image is "
            "supported",
            pointer="config",
        )


def _iterate_entries(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield every pair of a key and its value in `config`, at any depth of objects and lists."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield str(key), value
            yield from _iterate_entries(value)
    elif isinstance(config, list):
        for value in config:
            yield from _iterate_entries(value)


def _parse_config(text: str) -> Any:
    """The configuration of transformers from the content of a config.json."""
    transformers = import_extra("transformers")
    document = {
        key: value
        for key, value in json.loads(text).items()
        if not key.startswith("_") and key not in DROPPED
    }
    try:
        return transformers.AutoConfig.for_model(**document)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ParameterError(
            f"config: transformers does not take it: {error}", pointer="config"
        ) from error


DROPPED = ("attn_implementation", "dtype", "torch_dtype", "id2label", "label2id", "num_labels")
"""The entries that are chosen here: how attention is computed, float32, and the classes."""


@cache
def _open_class(base: Any, task: Task) -> type:
    """The class of a network of transformers whose output is its logits."""
    members = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (OUTPUTS[task], base), members)
