"""The preprocessing of images before a network sees them, and who chose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pruning.schemas.base import Document

Source = Literal["given", "model", "imagenet", "dataset"]
Constants = Mapping[str, Sequence[float]]
"""`mean` and `std`, a value for each channel."""
IMAGENET: Constants = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""The constants that the published weights of torchvision's networks were trained with."""
TORCHVISION = ("torchvision", "torchvision_segmentation")
"""The architectures whose networks are taken to be trained with ImageNet's constants."""


class Preprocessing(Document):
    """Images are scaled to [0, 1], then (x - mean) / std by channel.

    The service neither resizes nor crops: all images of a dataset have one size when they are
    uploaded, and keep it. Only images with masks may differ in size; these are padded at the right
    and the bottom to the largest height and width with the mean colour of the training images,
    which is about 0 after normalisation, and padding counts nowhere.
    """

    resize: int | None = None
    """The shorter side after resizing, in pixels; always `null`, as nothing is resized."""
    crop: int | None = None
    """The side of the square that is cut from the middle, in pixels; always `null`, as nothing is
    cropped.
    """
    interpolation: str | None = None
    """The interpolation of the resizing; always `null`."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: Source
    """`given`: by the user, with the model or the dataset; `model`: read from the uploaded file;
    `imagenet`: nobody gave it, and the network is one of torchvision's; `dataset`: nobody gave it,
    and it is that of the training images.
    """


def describe_guess(source: Source) -> str | None:
    """A warning where nobody gave the normalisation of a network that was trained elsewhere.

    >>> describe_guess("given") is None, "ImageNet" in describe_guess("imagenet")
    (True, True)
    """
    guesses: dict[Source, str] = {
        "imagenet": "the constants of ImageNet are taken, as for torchvision's published weights",
        "dataset": "the mean and standard deviation of the training images are taken",
    }
    if source not in guesses:
        return None
    return (
        f"nobody gave the normalisation of this network, so it is guessed: {guesses[source]}. If "
        "it was trained with other constants, every error is measured wrongly, often by tens of "
        "percentage points: upload the model with 'normalize'"
    )


def choose_normalisation(
    model: Mapping[str, Any], dataset: Constants | None
) -> tuple[Constants | None, Source]:
    """The constants and their source; None where they are those of the training images.

    `model` has `architecture`, and `normalize` and `source` where the user or the uploaded file
    gave them; `dataset` are the constants that came with the dataset.

    >>> choose_normalisation({"architecture": "mlp", "normalize": None}, None)
    (None, 'dataset')
    """
    if model.get("normalize") is not None:
        return model["normalize"], model.get("source") or "given"
    if dataset is not None:
        return dataset, "given"
    if model["architecture"] in TORCHVISION:
        return IMAGENET, "imagenet"
    return None, "dataset"


def describe_model_preprocessing(model: Mapping[str, Any]) -> Preprocessing | None:
    """The preprocessing of a network alone; None where the dataset of a job decides."""
    normalize, source = choose_normalisation(model, None)
    if normalize is None:
        return None
    return Preprocessing(mean=tuple(normalize["mean"]), std=tuple(normalize["std"]), source=source)
