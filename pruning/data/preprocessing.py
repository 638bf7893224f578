"""The preprocessing of a job: what job, model and dataset say of it, and what fits their images.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.errors import DataError, ParameterError
from pruning.schemas.evaluate import SingleSpec
from pruning.schemas.job import DatasetRef
from pruning.schemas.preprocessing import (
    Constants,
    GivenPreprocessing,
    PlannedPreprocessing,
    Resizing,
    Source,
    choose_normalisation,
    choose_resizing,
    find_own_resizing,
)

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ChosenPreprocessing:
    """The preprocessing of a job, and the shape of its images after it."""

    resizing: Resizing | None
    """None where images stay in the one size that they have."""
    size_source: Source | None
    constants: Constants | None
    """`mean` and `std`; None where they are those of the training images."""
    source: Source
    shape: Shape
    note: str | None = None
    """A sentence for the user on the sizes of the images."""

    def document(self) -> PlannedPreprocessing:
        """The preprocessing as a validated job shows it."""
        sizes = {} if self.resizing is None else self.resizing.model_dump()
        constants = self.constants
        return PlannedPreprocessing(
            mean=None if constants is None else tuple(constants["mean"]),
            std=None if constants is None else tuple(constants["std"]),
            source=self.source,
            size_source=self.size_source,
            shape=self.shape,
            **sizes,
        )


def choose_preprocessing(
    dataset_ref: DatasetRef,
    model: Mapping[str, Any],
    dataset: Mapping[str, Any],
    model_given: GivenPreprocessing | None = None,
) -> ChosenPreprocessing:
    """The preprocessing of a job.

    `model` and `dataset` are what the store knows: `architecture`, `kwargs`, `normalize`, `source`,
    `preprocessing` of the one, `shape`, `task`, `normalize`, `preprocessing`, `sizes` of the other.
    `model_given` is what the job gives with the model, which goes before what it gives with the
    dataset. Raises `DataError` where photos differ in size and nothing says what size they come to,
    and for a size that is given to images with masks.
    """
    documents = {
        "/model/preprocessing": model_given,
        "/dataset/preprocessing": dataset_ref.preprocessing,
    }
    given = {place: document for place, document in documents.items() if document is not None}
    resizings = {
        place: document.resizing
        for place, document in given.items()
        if document.resizing is not None
    }
    constants = {
        place: document.constants
        for place, document in given.items()
        if document.constants is not None
    }
    channels, height, width = dataset["shape"]
    chosen_constants, source = choose_normalisation(
        model, dataset.get("normalize"), next(iter(constants.values()), None)
    )
    _check_channels(constants, channels)
    if dataset["task"] == "segmentation":
        if resizings:
            raise ParameterError(
                "preprocessing: images with masks are not resized or cropped; give mean and std "
                "alone",
                pointer=next(iter(resizings)),
            )
        resizing, size_source = None, None
    else:
        resizing, size_source = choose_resizing(
            (height, width), model, dataset, next(iter(resizings.values()), None)
        )
    if resizing is None and height is None:
        raise _refuse_sizes(model, dataset)
    output = (height, width) if resizing is None else resizing.output
    assert output is not None
    return ChosenPreprocessing(
        resizing=resizing,
        size_source=size_source,
        constants=chosen_constants,
        source=source,
        shape=(channels, *output),
        note=_describe_size(model, (channels, height, width), resizing, dataset["task"]),
    )


def choose_job_preprocessing(
    spec: SingleSpec, model: Mapping[str, Any], dataset: Mapping[str, Any]
) -> ChosenPreprocessing:
    """The preprocessing of a pruning job; see `choose_preprocessing`."""
    return choose_preprocessing(spec.dataset, model, dataset, spec.model.preprocessing)


def preprocessed_shape(shape: Sequence[int | None], resizing: Resizing | None) -> list[int | None]:
    """The channels, height and width of images after a resizing.

    >>> preprocessed_shape([3, None, None], Resizing(resize=73, crop=64))
    [3, 64, 64]
    """
    if resizing is None or resizing.output is None:
        return list(shape)
    return [shape[0], *resizing.output]


def _check_channels(constants: Mapping[str, Constants], channels: int) -> None:
    """Raise `ParameterError` where the constants that a job gives are not one for each channel.

    `constants` has them by the pointer to their document.
    """
    for place, values in constants.items():
        if len(values["mean"]) != channels:
            raise ParameterError(
                f"preprocessing: mean has {len(values['mean'])} values, the images have "
                f"{channels} channels",
                pointer=f"{place}/mean",
            )


def _refuse_sizes(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> DataError:
    """The refusal of photos that differ in size for a network that does not say what it takes."""
    sizes = dataset.get("sizes")
    between = ""
    if sizes is not None:
        smallest, largest = (" x ".join(map(str, sizes[name])) for name in ("smallest", "largest"))
        between = f", from {smallest} to {largest} pixels (height x width)"
    return DataError(
        f"the photos differ in size{between}, and {model['architecture']!r} says nothing of the "
        'size that it takes: give dataset.preprocessing, as {"resize": 256, "crop": 224}, or '
        "upload the model with it",
        pointer="/dataset",
    )


def _describe_size(
    model: Mapping[str, Any],
    shape: tuple[int, int | None, int | None],
    resizing: Resizing | None,
    task: str,
) -> str | None:
    """A note where images of one size are used as they are, unlike those of published weights."""
    own = find_own_resizing(model)
    if own is None or own.output is None or resizing is not None or task != "classification":
        return None
    _, height, width = shape
    if (height, width) == own.output:
        return None
    return (
        f"the images, all {height} x {width} pixels, are used as they are; the published weights "
        f"of this network were trained at {own.output[0]} x {own.output[1]}: "
        "dataset.preprocessing resizes and crops"
    )
