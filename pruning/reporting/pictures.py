"""Pictures for a report: grids of images and heatmaps, as PNG with their words drawn in."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pruning.schemas.report import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 5
DPI = 110
CELL_WIDTH = 1.7
"""The width of an image's place in a grid, in inches."""
IMAGE_SIZE = 1.6
"""The longer side of an image in a grid, in inches."""
LINE_HEIGHT = 0.15
"""The height of a line of an image's name, in inches."""
GAP = 0.12
"""The space above and below an image and its name together, in inches."""
COLOURS = "cividis"
"""The colour map of heatmaps, which reads alike with and without colour vision deficiency."""


def draw_grid(
    images: Sequence[tuple[str, NDArray[np.uint8]]], caption: str, columns: int = COLUMNS
) -> Picture:
    """Return images (H, W) or (H, W, 3), each below its name of one or more lines, row by row;
    pixels stay sharp.
    """
    rows = math.ceil(len(images) / columns)
    title_height = GAP + LINE_HEIGHT * max(name.count("\n") + 1 for name, _ in images)
    cell_height = title_height + IMAGE_SIZE
    width, height = CELL_WIDTH * columns, cell_height * rows
    figure = _create_figure(width, height, layout=None)
    # One pair of axes in inches with every image at its place; axes for each take a second.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for place, (name, image) in enumerate(images):
        row, column = divmod(place, columns)
        left, top = CELL_WIDTH * column, height - cell_height * row
        scale = IMAGE_SIZE / max(image.shape[:2])
        middle = left + CELL_WIDTH / 2
        half_width = scale * image.shape[1] / 2
        image_top = top - title_height
        axes.imshow(
            image,
            cmap="gray" if image.ndim == 2 else None,
            vmin=0,
            vmax=255,
            interpolation="nearest",
            extent=(
                middle - half_width,
                middle + half_width,
                image_top - scale * image.shape[0],
                image_top,
            ),
        )
        axes.text(middle, image_top + GAP / 2, name, fontsize=8, ha="center", va="bottom")
    axes.set(xlim=(0, width), ylim=(0, height))
    return _encode_picture(figure, caption)


def arrange_pixels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (C, H, W) as `draw_grid` takes it: (H, W, 3), or the first channel where
    there are not three.

    >>> (
    ...     arrange_pixels(np.zeros((1, 2, 5), np.uint8)).shape,
    ...     arrange_pixels(np.zeros((3, 1, 5), np.uint8)).shape,
    ... )
    ((2, 5), (1, 5, 3))
    """
    return np.ascontiguousarray(image.transpose(1, 2, 0)) if len(image) == 3 else image[0]


def draw_heatmap(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str],
    caption: str,
) -> Picture:
    """Return a matrix of fractions, each cell with its value in percent, and a dash for None;
    `labels` name the rows and the columns.
    """
    figure = _create_figure(2.6 + 0.62 * len(columns), 2.0 + 0.45 * len(rows))
    axes = figure.add_subplot()
    colours = np.array(values, dtype=np.float64)  # None becomes nan, which has no colour
    heatmap = axes.imshow(colours, cmap=COLOURS, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), labels=columns, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), labels=rows, fontsize=8)
    axes.set_ylabel(labels[0], fontsize=8)
    axes.set_xlabel(labels[1], fontsize=8)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(
                j,
                i,
                "–" if value is None else f"{100 * value:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value is not None and value < 0.5 else "black",
            )
    figure.colorbar(heatmap, ax=axes, label="percent", format=lambda value, _: f"{100 * value:.0f}")
    return _encode_picture(figure, caption)


def _create_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return an empty figure of this size in inches; the drawing library is imported only here, so
    that nothing else loads it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _encode_picture(figure: Figure, caption: str) -> Picture:
    buffer = io.BytesIO()
    # `savefig` would draw twice
    figure.canvas.print_png(buffer, metadata={"Software": None})  # type: ignore[attr-defined]
    return Picture(caption=caption, png=base64.b64encode(buffer.getvalue()).decode())
