"""The preprocessing that timm and transformers write beside the weights of a network, as ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by their numbers, which `resample` of transformers is."""
LARGE_EDGE = 384
"""From this edge on, ConvNeXt's processor resizes both sides and does not crop."""


def translate_published(document: Any) -> Any:
    """A `pretrained_cfg` of timm or a `preprocessor_config.json` of transformers as a
    `GivenPreprocessing`; other documents as they are.

    Raises `ValueError` for what they say that has no counterpart.

    >>> translate_published({"input_size": [3, 224, 224], "crop_pct": 0.9})["resize"]
    248
    """
    if not isinstance(document, Mapping):
        return document
    if "image_mean" in document or "do_resize" in document:
        return read_transformers_config(document)
    if "input_size" in document:
        return read_timm_config(document)
    return document


def read_timm_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation of timm's `pretrained_cfg`: the shorter side becomes floor(size / crop_pct).

    Source: timm.data.transforms_factory, `transforms_imagenet_eval`.
    """
    _, height, width = config["input_size"]
    if height != width:
        raise ValueError(f"input_size {height} x {width}: only squares are cut out")
    scaled = math.floor(height / config.get("crop_pct", 0.875))
    mode = config.get("crop_mode", "center")
    if mode not in ("center", "squash"):
        raise ValueError(f"crop_mode {mode!r}: 'center' and 'squash' are supported")
    given = {
        "resize": scaled if mode == "center" else (scaled, scaled),
        "crop": height,
        "interpolation": config.get("interpolation", "bicubic"),
    }
    return given | {name: config[name] for name in ("mean", "std") if name in config}


def read_transformers_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resizing, crop and constants of an image processor of transformers.

    Source: transformers, `ViTImageProcessor`, `CLIPImageProcessor`, `ConvNextImageProcessor`.
    """
    factor = config.get("rescale_factor", 1 / 255)
    if not config.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-6:
        raise ValueError("do_rescale, rescale_factor: pixels are scaled by 1/255 here")
    given: dict[str, Any] = {}
    if config.get("do_resize", True):
        given |= _read_size(config)
        given["interpolation"] = RESAMPLE[config.get("resample", 2)]
    if config.get("do_center_crop", False):
        given["crop"] = _read_square(config["crop_size"])
    if not config.get("do_normalize", True):
        channels = len(config.get("image_mean", (0, 0, 0)))
        return given | {"mean": [0.0] * channels, "std": [1.0] * channels}
    return given | {"mean": config["image_mean"], "std": config["image_std"]}


def _read_size(config: Mapping[str, Any]) -> dict[str, Any]:
    """The size that images are resized to, and the crop that belongs to it."""
    size = config["size"]
    if isinstance(size, int):
        size = (
            {"shortest_edge": size}
            if config.get("do_center_crop", False) or "crop_pct" in config
            else {"height": size, "width": size}
        )
    if "height" in size:
        return {"resize": (size["height"], size["width"])}
    edge = size.get("shortest_edge")
    if edge is None:
        raise ValueError(f"size {dict(size)}: height and width, or shortest_edge, are supported")
    if "crop_pct" not in config:
        return {"resize": edge}
    if edge >= LARGE_EDGE:
        return {"resize": (edge, edge)}
    return {"resize": int(edge / config["crop_pct"]), "crop": edge}


def _read_square(size: int | Mapping[str, int]) -> int:
    """The side of the square that is cut out."""
    if isinstance(size, int):
        return size
    if size["height"] != size["width"]:
        raise ValueError(f"crop_size {dict(size)}: only squares are cut out")
    return size["height"]
