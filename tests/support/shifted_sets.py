"""Shifted sets of images."""

from __future__ import annotations

from pruning.data.tensors import Data, ShiftedSplits, Split
from tests.support import cases


def dark(data: Data, images: int = 9) -> ShiftedSplits:
    """Splits of other images than the data's, and darker ones."""
    other = cases.make_data(val=images, test=images, seed=1)
    return ShiftedSplits(
        val=Split(other.val.images // 3, other.val.labels),
        test=Split(other.test.images // 3, other.test.labels),
    )
