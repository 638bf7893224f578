"""Shifted sets of images."""

from __future__ import annotations

from pruning.data.tensors import Data, ShiftedSplits, Split
from tests.support import cases


def dark(data: Data, images: int = 9) -> ShiftedSplits:
    """Other images than the data's, and darker."""
    other = cases.make_data(val=images, test=images, seed=1)
    return ShiftedSplits(
        *(Split(split.images // 3, split.labels) for split in (other.val, other.test))
    )
