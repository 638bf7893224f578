"""The preprocessing of images before a network sees them, and who chose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pruning.schemas.base import Document
from pruning.schemas.torchvision_transforms import OTHER_CONSTANTS, TRANSFORMS

Source = Literal["given", "model", "imagenet", "timm", "dataset"]
Constants = Mapping[str, Sequence[float]]
"""`mean` and `std`, a value for each channel."""
IMAGENET: Constants = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""The constants that the published weights of torchvision's networks were trained with."""
TORCHVISION = ("torchvision", "torchvision_segmentation")
"""The architectures whose networks are taken to be trained with ImageNet's constants."""
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
Side = Annotated[int, Field(ge=1, le=4096)]
Resize = Side | tuple[Side, Side]
Values = Annotated[tuple[float, ...], Field(min_length=1, max_length=64)]
Size = tuple[int | None, int | None]
"""The height and the width of all images of a dataset; None where they differ."""


class Resizing(Document):
    """Each image is resized, then a square is cut from its middle, as in torchvision.

    The resizing filters as Pillow does (`antialias`), and gives whole grey levels.
    """

    resize: Resize | None = None
    """The length of the shorter side, or height and width, in pixels."""
    crop: Side | None = None
    """The side of the square, in pixels."""
    interpolation: Interpolation | None = None

    @property
    def output(self) -> tuple[int, int] | None:
        """The height and the width of every image; None where images stay as they are."""
        if self.crop is not None:
            return self.crop, self.crop
        return self.resize if isinstance(self.resize, tuple) else None


class GivenPreprocessing(Document):
    """The preprocessing as a user gives it; what is left out is chosen as without it.

    `resize`, `crop` and `interpolation` belong together, and so do `mean` and `std`.

    >>> given = GivenPreprocessing(crop=64)
    >>> given.resizing
    Resizing(resize=64, crop=64, interpolation='bilinear')
    """

    resize: Resize | None = None
    """The length of the shorter side after resizing, in pixels, or height and width. Default: as
    long as `crop`.
    """
    crop: Side | None = None
    """The side of the square that is cut from the middle, in pixels."""
    interpolation: Interpolation | None = None
    """Default: `bilinear`."""
    mean: Values | None = None
    """Images are scaled to [0, 1], then (x - mean) / std by channel."""
    std: Values | None = None

    @model_validator(mode="after")
    def _sizes_belong_together(self) -> GivenPreprocessing:
        if self.crop is None and isinstance(self.resize, int):
            raise ValueError(
                "resize: a shorter side alone leaves images of differing sizes; give crop, too, or "
                "both height and width"
            )
        if self.crop is None and self.resize is None and self.interpolation is not None:
            raise ValueError("interpolation has no effect without resize or crop")
        if self.crop is not None and self.resize is not None:
            shortest = self.resize if isinstance(self.resize, int) else min(self.resize)
            if shortest < self.crop:
                raise ValueError(
                    f"crop: a square of {self.crop} pixels does not fit into images whose shorter "
                    f"side is {shortest} after resizing"
                )
        return self

    @model_validator(mode="after")
    def _constants_belong_together(self) -> GivenPreprocessing:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: give both or none")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                raise ValueError(f"mean has {len(self.mean)} values, std has {len(self.std)}")
            if min(self.std) <= 0:
                raise ValueError("std must be positive")
        return self

    @property
    def resizing(self) -> Resizing | None:
        """The resizing with its defaults; None where it was not given."""
        if self.crop is None and self.resize is None:
            return None
        return Resizing(
            resize=self.crop if self.resize is None else self.resize,
            crop=self.crop,
            interpolation=self.interpolation or "bilinear",
        )

    @property
    def constants(self) -> Constants | None:
        """The mean and the standard deviation; None where they were not given."""
        if self.mean is None or self.std is None:
            return None
        return {"mean": self.mean, "std": self.std}


class Preprocessing(Resizing):
    """Images are resized and cropped, scaled to [0, 1], then (x - mean) / std by channel.

    Without `resize` and `crop`, images are used in the one size in which they come. Images with
    masks are not resized: where they differ in size, they are padded at the right and the bottom to
    the largest height and width with the mean colour of the training images, which is about 0 after
    normalisation, and padding counts nowhere. Training on photos crops at random instead (see
    `augment`).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: Source
    """The source of `mean` and `std`. `given`: by the user, with the model, the dataset or the job;
    `model`: read from the uploaded file; `imagenet`: nobody gave it, and the network is one of
    torchvision's, so it is that of its published weights; `timm`: the same of a network of timm;
    `dataset`: nobody gave it, and it is that of the training images.
    """
    size_source: Source | None = None
    """The source of `resize`, `crop` and `interpolation`; `null` where images stay as they are."""


class PlannedPreprocessing(Resizing):
    """The preprocessing that a job would have, and the images after it."""

    mean: tuple[float, ...] | None
    """`null` where it is that of the training images, which the job measures."""
    std: tuple[float, ...] | None
    source: Source
    size_source: Source | None = None
    shape: tuple[int, int, int]
    """Channels, height and width of the images that the network sees."""


def describe_guess(source: Source) -> str | None:
    """A warning where nobody gave the normalisation of a network that was trained elsewhere.

    >>> describe_guess("given") is None, "ImageNet" in describe_guess("imagenet")
    (True, True)
    """
    guesses: dict[Source, str] = {
        "imagenet": "the constants of ImageNet are taken, as for torchvision's published weights",
        "timm": "the constants of the published weights of this name are taken, as timm has them",
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
    model: Mapping[str, Any], dataset: Constants | None, given: Constants | None = None
) -> tuple[Constants | None, Source]:
    """The constants and their source; None where they are those of the training images.

    `model` has `architecture` and `kwargs`, and `normalize` and `source` where the user or the
    uploaded file gave them; `dataset` are the constants that came with the dataset, `given` those
    that came with the job, which go first.

    >>> choose_normalisation({"architecture": "mlp", "normalize": None}, None)
    (None, 'dataset')
    """
    if given is not None:
        return given, "given"
    if model.get("normalize") is not None:
        return model["normalize"], model.get("source") or "given"
    if dataset is not None:
        return dataset, "given"
    if model["architecture"] in TORCHVISION:
        return OTHER_CONSTANTS.get(_read_name(model), IMAGENET), "imagenet"
    return None, "dataset"


def find_own_resizing(model: Mapping[str, Any]) -> Resizing | None:
    """The resizing of the published weights of a network of torchvision or timm; None for others.

    >>> find_own_resizing({"architecture": "torchvision", "kwargs": {"name": "inception_v3"}})
    Resizing(resize=342, crop=299, interpolation='bilinear')
    """
    known = model.get("preprocessing")
    if known is not None and known["source"] == "timm":
        return Resizing.model_validate(known["sizes"])
    if model["architecture"] != "torchvision":
        return None
    transform = TRANSFORMS.get(_read_name(model))
    if transform is None:
        return None
    resize, crop, interpolation = transform
    return Resizing(resize=resize, crop=crop, interpolation=interpolation)


def _read_name(model: Mapping[str, Any]) -> str:
    """The name of a network of torchvision, which a job may leave to its default."""
    kwargs = model.get("kwargs")
    return "" if kwargs is None else str(kwargs.get("name", "resnet18"))


def choose_resizing(
    size: Size,
    model: Mapping[str, Any],
    dataset: Mapping[str, Any] | None = None,
    given: Resizing | None = None,
) -> tuple[Resizing | None, Source | None]:
    """The resizing of images of this size and its source; None where they stay as they are.

    The first of these that says something: the job (`given`), the upload of the model, that of the
    dataset, the published weights of the architecture. What comes with a model does not change
    images of one size that are as large as its crop, and what comes with published weights does not
    enlarge images of one size. `model` and `dataset` may have `preprocessing`, what `keep_resizing`
    gave.
    """
    if given is not None:
        return given, "given"
    of_model = model.get("preprocessing")
    for described in (of_model, (dataset or {}).get("preprocessing")):
        if described is None or described["source"] == "timm":
            continue
        resizing = Resizing.model_validate(described["sizes"])
        if resizing.output is not None:
            is_done = described is of_model and resizing.output == size
            return (None, None) if is_done else (resizing, described["source"])
        if size[0] is not None:
            return None, None
    own = find_own_resizing(model)
    if own is None or own.output is None or own.output == size:
        return None, None
    source: Source = "imagenet" if model["architecture"] == "torchvision" else "timm"
    sides = [side for side in size if side is not None]
    if sides and min(sides) < own.output[0]:
        return None, None
    return own, source


def keep_resizing(resizing: Resizing | None, source: Source) -> dict[str, Any] | None:
    """A resizing and its source as the store keeps them; None where nothing was said.

    An empty `Resizing` says that images stay as they are.
    """
    if resizing is None:
        return None
    sizes = resizing.model_dump(mode="json", include=set(Resizing.model_fields))
    return {"sizes": sizes, "source": source}


def describe_model_preprocessing(model: Mapping[str, Any]) -> Preprocessing | None:
    """The preprocessing of a network alone; None where the dataset of a job decides.

    Its sizes are those for photos that differ in size.
    """
    normalize, source = choose_normalisation(model, None)
    if normalize is None:
        return None
    resizing, size_source = choose_resizing((None, None), model)
    return build_preprocessing(normalize, source, resizing, size_source)


def build_preprocessing(
    constants: Constants,
    source: Source,
    resizing: Resizing | None = None,
    size_source: Source | None = None,
) -> Preprocessing:
    """The document of constants and a resizing, each with its source."""
    sizes = {} if resizing is None else resizing.model_dump()
    return Preprocessing(
        mean=tuple(constants["mean"]),
        std=tuple(constants["std"]),
        source=source,
        size_source=size_source,
        **sizes,
    )
