"""A few lines of PyTorch that load a checkpoint and measure its error as the report does."""

from __future__ import annotations

from pruning.architectures.torchvision import list_arguments
from pruning.data.images import name_mode
from pruning.data.tensors import Data
from pruning.measurement.measure import EVAL_BATCH
from pruning.pipeline.exports import Origin
from pruning.schemas.preprocessing import Resizing

START = """\
import torch
from safetensors.torch import load_file

path = {path!r}  # the checkpoint in the format `dense`
"""
TORCHVISION = """\
from torchvision.models import get_model

model = get_model({name!r}, weights=None, num_classes={classes}{extra})
state = model.state_dict()  # with the versions of its modules, which safetensors do not hold
state.update(load_file(path))
model.load_state_dict(state)
"""
OWN = """\
from pathlib import Path

from pruning.library import load_model

model = load_model({architecture!r}, Path(path), **{kwargs!r})
"""
COMPACT = """\
from pathlib import Path

from pruning.library import load_compact

model = load_compact(Path({arch!r}), Path(path))
"""
PREDICT = """\
model.eval()
mean = torch.tensor({mean!r}).view(1, -1, 1, 1)
std = torch.tensor({std!r}).view(1, -1, 1, 1)


@torch.no_grad()
def predict(images):  # uint8 (N, {channels}, {height}, {width})
    outputs = model((images.float() - mean * 255) / (std * 255))
    answers = outputs.argmax(1)  # classes by number: {classes}
    answers[~outputs.isfinite().all(1)] = -1  # outputs that are NaN or infinite are wrong answers
    return answers
"""
ERROR = """\


def error(images, labels):  # labels int64 (N,)
    batches = zip(images.split({batch}), labels.split({batch}))
    wrong = torch.cat([predict(batch) != truth for batch, truth in batches])
    return wrong.double().mean().item()
"""
PHOTO = """\


def load_photo(file):  # the path of an image, or a file; uint8 ({channels}, {height}, {width})
    with Image.open(file) as photo:
        photo = exif_transpose(photo).convert({mode!r})
    photo = resize(photo, {size!r}, InterpolationMode.{interpolation})
    return pil_to_tensor({photo})


def photo_error(paths, labels):  # the paths of the test images, labels int64 (N,)
    return error(torch.stack([load_photo(path) for path in paths]), labels)
"""
PHOTO_IMPORTS = """\
from PIL import Image
from PIL.ImageOps import exif_transpose
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize
"""
SHOWN = 10
"""The most classes that are listed."""


def write_load_snippet(id: str, origin: Origin, data: Data, *, compacted: bool) -> str:
    """Write the lines for the checkpoint `id`, with `predict(images)` and, for classes of images,
    `error(images, labels)`, which gives the reported error on the test images.

    Where images are resized, `load_photo(path)` does it, with Pillow and torchvision.
    """
    if compacted:
        load = COMPACT.format(arch=f"{id}.arch.json")
    elif origin.architecture == "torchvision":
        name = origin.kwargs["name"]
        arguments = list_arguments(
            name,
            origin.kwargs.get("image_size"),
            transform_input=origin.kwargs.get("transform_input", False),
        )
        load = TORCHVISION.format(
            name=name,
            classes=origin.kwargs["classes"],
            extra="".join(f", {key}={value}" for key, value in arguments.items()),
        )
    else:
        load = OWN.format(architecture=origin.architecture, kwargs=origin.kwargs)
    ellipsis = " ..." if len(data.classes) > SHOWN else ""
    predict = PREDICT.format(
        mean=list(data.mean),
        std=list(data.std),
        channels=data.shape[0],
        height=data.shape[1],
        width=data.shape[2],
        classes=f"{list(data.classes[:SHOWN])}{ellipsis}",
    )
    error = "" if data.segmentation else ERROR.format(batch=EVAL_BATCH)
    start = START.format(path=f"{id}.dense.safetensors")
    if data.resizing is None:
        return start + load + predict + error
    photo = _write_photo_lines(data.resizing, *data.shape)
    return PHOTO_IMPORTS + start + load + predict + error + photo


def _write_photo_lines(resizing: Resizing, channels: int, height: int, width: int) -> str:
    """Write the lines that bring a photo to the size that the network takes."""
    size = resizing.resize if isinstance(resizing.resize, tuple) else (resizing.resize,)
    return PHOTO.format(
        channels=channels,
        height=height,
        width=width,
        mode=name_mode(channels),
        size=list(size),
        interpolation=(resizing.interpolation or "bilinear").upper(),
        photo="photo" if resizing.crop is None else f"center_crop(photo, [{resizing.crop}])",
    )
