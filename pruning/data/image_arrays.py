"""Images as arrays: their grey levels and their axes, of whatever people send. Free of torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from pruning.data.images import Pixels
from pruning.errors import DataError

CHUNK = 256
"""The number of images that are looked at or converted at once."""
TOLERANCE = 1e-2
"""The largest distance of a value from a whole grey level, in grey levels."""


def read_grey_levels(array: np.ndarray[Any, Any], name: str) -> tuple[Pixels, tuple[str, ...]]:
    """Images as grey levels uint8 (0..255), and a note where they came otherwise.

    Accepted are whole numbers from 0 to 255 of any type, and values from 0 to 1 that are grey
    levels divided by 255. Raises `DataError` for values that were normalised, or that no longer
    tell which of these they are.
    """
    if array.dtype == np.uint8:
        return array, ()
    wanted = f"{name}: images must be uint8 (0..255), found {array.dtype}"
    if array.dtype.kind not in "iuf" or not array.size or not array.ndim:
        raise DataError(wanted)
    lowest, highest = float(array.min()), float(array.max())
    if not (lowest >= 0 and highest <= 255):
        remedy = (
            "scale them to 0..255"
            if lowest >= 0
            else "if these are normalised, send the grey levels from before, and mean and std as "
            "`normalize`"
        )
        raise DataError(f"{wanted} from {lowest:.3g} to {highest:.3g}; {remedy}")
    is_whole = array.dtype.kind != "f" or _is_near_whole(array, 1)
    if is_whole and (highest > 1 or array.dtype.kind != "f"):
        return _convert(array, 1), ()
    if is_whole:
        raise DataError(f"{wanted}; values of 0 and 1 alone do not tell their scale")
    if highest <= 1 and _is_near_whole(array, 255):
        note = f"{name}: the values from 0 to 1 were read as grey levels divided by 255"
        return _convert(array, 255), (note,)
    raise DataError(
        f"{wanted} from {lowest:.3g} to {highest:.3g} that are no grey levels; round them "
        + ("after multiplying by 255" if highest <= 1 else "to whole numbers")
    )


def put_channels_first(array: np.ndarray[Any, Any], name: str) -> Pixels:
    """Images (N, C, H, W) from any of the accepted shapes."""
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    raise DataError(
        f"{name}: shape {array.shape}; expected (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 "
        "or 3 channels"
    )


def _is_near_whole(array: np.ndarray[Any, Any], scale: int) -> bool:
    """Whether all values times the scale are whole numbers, as nearly as rounding leaves them."""
    for start in range(0, len(array), CHUNK):
        values = array[start : start + CHUNK].astype(np.float64) * scale
        if np.abs(values - np.rint(values)).max(initial=0) > TOLERANCE:
            return False
    return True


def _convert(array: np.ndarray[Any, Any], scale: int) -> Pixels:
    """The values times the scale, rounded to uint8."""
    levels = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), CHUNK):
        stop = start + CHUNK
        levels[start:stop] = np.rint(array[start:stop].astype(np.float64) * scale)
    return levels
