"""The memory that the images of a job take, and what stays on the disk where it is not enough.

Free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruning import wording
from pruning.data.preprocessing import ChosenPreprocessing, Shape
from pruning.errors import DataError
from pruning.schemas.preprocessing import Resizing


@dataclass(frozen=True)
class Placement:
    """Where the images of a dataset are while a job runs."""

    in_memory: bool
    """Whether all are in memory, so that training takes them from a tensor or decodes photos that
    are there; else each image is read from the disk when it is needed.
    """
    decodes_evaluated: bool
    """Whether `val` and `test` are in memory in the size that the network takes."""


@dataclass
class MemoryBudget:
    """The bytes of memory that are left for images; None for no limit."""

    most: int | None
    taken: int = 0

    def place_dataset(
        self,
        dataset: Mapping[str, Any],
        images: Mapping[str, int],
        preprocessing: ChosenPreprocessing,
    ) -> Placement:
        """Place the images of a job, of which `images` are those by split.

        What does not fit stays on the disk: first the images to train on, then all. Raises
        `DataError` for images with masks that do not fit.
        """
        stored = count_stored(dataset)
        evaluated = (images["val"] + images["test"]) * math.prod(preprocessing.shape)
        decoded = 0 if preprocessing.resizing is None else evaluated
        if self._take(stored + decoded):
            return Placement(in_memory=True, decodes_evaluated=True)
        if dataset["task"] == "segmentation":
            raise self._refuse_masks(stored)
        if self._take(evaluated):
            return Placement(in_memory=False, decodes_evaluated=True)
        return Placement(in_memory=False, decodes_evaluated=False)

    def place_shifted(
        self, dataset: Mapping[str, Any], shape: Shape, resizing: Resizing | None
    ) -> Placement:
        """Place the images of a shifted set, which are all evaluated, in this shape."""
        needed = count_stored(dataset)
        if resizing is not None and tuple(dataset["shape"]) != shape:
            counts = dataset["counts"]
            needed += (counts.get("val", 0) + counts["test"]) * math.prod(shape)
        if self._take(needed):
            return Placement(in_memory=True, decodes_evaluated=True)
        if dataset["task"] == "segmentation":
            raise self._refuse_masks(needed)
        return Placement(in_memory=False, decodes_evaluated=False)

    def _take(self, needed: int) -> bool:
        """Take these bytes if they are left."""
        if self.most is not None and self.taken + needed > self.most:
            return False
        self.taken += needed
        return True

    def _refuse_masks(self, needed: int) -> DataError:
        assert self.most is not None
        return DataError(
            f"the images take {wording.file_size(needed)} in memory; a job gets at most "
            f"{wording.file_size(self.most)} (SECATEUR_JOB_DATA_BYTES), and images with masks are "
            "not read from the disk one by one: take a smaller dataset",
            pointer="/dataset",
        )

    def describe(self, name: str, placement: Placement) -> tuple[str, ...]:
        """A sentence for the user on what stays on the disk; none where all is in memory."""
        if placement.in_memory:
            return ()
        assert self.most is not None
        which = "its images to train on" if placement.decodes_evaluated else "its images"
        return (
            f"{name} does not fit into the memory for images "
            f"({wording.file_size(self.most)}, SECATEUR_JOB_DATA_BYTES): {which} are read from the "
            "disk and decoded whenever they are needed",
        )


def count_stored(dataset: Mapping[str, Any]) -> int:
    """The bytes of the files of photos, or of the pixels of images of one size."""
    sizes = dataset.get("sizes")
    if sizes is not None:
        return int(sum(sizes["bytes"].values()))
    return int(sum(dataset["counts"].values()) * math.prod(dataset["shape"]))
