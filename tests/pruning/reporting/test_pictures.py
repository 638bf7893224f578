"""Grids of images with their names: nothing is cut off or covered."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pruning.reporting.pictures import draw_grid


@pytest.mark.parametrize("lines", [1, 2])
def test_names_of_a_grid_have_room_above_their_images(lines: int) -> None:
    """Two rows of black images: white above and below every line of every name."""
    name = "\n".join(["some name"] * lines)
    tiles = [(name, np.zeros((8, 8), np.uint8))] * 4
    picture = draw_grid(tiles, "four images", columns=2)
    with Image.open(io.BytesIO(base64.b64decode(picture.png))) as drawn:
        pixels = np.asarray(drawn.convert("L"))
    dark = np.any(pixels < 250, axis=1)
    starts = np.flatnonzero(dark[1:] & ~dark[:-1])
    assert not dark[0], "the first name is cut off"
    assert len(starts) == 2 * (lines + 1), "the names and images of both rows stand apart"
