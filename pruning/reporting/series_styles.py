"""Colours, markers and lines that distinguish series, in the drawing and in its legend."""

from __future__ import annotations

from dataclasses import dataclass

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
LINES = ("solid", "dashed", "dashdot", "dotted")
TONES = len(MARKERS)
SERIES = TONES * len(LINES)
"""The number of series that colour, marker and line distinguish together; colour alone does so for
the first eight.
"""
INK = "#01010a"
GRID = "#01010b"
GIVEN = "#01010c"
CONTROL = "#01010d"
COLOURS = tuple(f"#0102{i:02x}" for i in range(TONES))
# Colours are drawn as placeholders, which the SVG replaces by variables of the page's style sheet.
VARIABLES = {
    INK: "--plot-ink",
    GRID: "--plot-grid",
    GIVEN: "--given",
    CONTROL: "--control",
    **{colour: f"--series-{i}" for i, colour in enumerate(COLOURS)},
}


@dataclass(frozen=True)
class Entry:
    """One line of a legend; `kind` and `line` name the marker and the line that the page draws."""

    label: str
    colour: str
    kind: str
    line: str = "solid"
    hollow: bool = False


@dataclass(frozen=True)
class Look:
    """The colour, marker and line of one series."""

    colour: str
    marker: str
    line: str
    hollow: bool

    def entry(self, label: str, drawn: str | None = None) -> Entry:
        """Return its line of the legend: without the line for `points`, without the marker for a
        `line` or a `band`.

        >>> (
        ...     choose_style(0).entry("law", "band").kind,
        ...     choose_style(0).entry("measured", "points").line,
        ... )
        ('', 'none')
        """
        marker = "" if drawn in ("line", "band") else self.marker
        return Entry(
            label,
            VARIABLES[self.colour],
            marker,
            "none" if drawn == "points" else self.line,
            self.hollow,
        )


LONE = Look(INK, "", "dashed", False)
"""The look of a line that all else is compared with."""


def choose_style(index: int) -> Look:
    """Return the look of the series of this number: eight colours, then the same eight with other
    markers and lines.

    >>> (
    ...     choose_style(1).marker,
    ...     choose_style(9).marker,
    ...     choose_style(9).line,
    ...     choose_style(9).colour == choose_style(1).colour,
    ... )
    ('s', 'v', 'dashed', True)
    """
    lap = index // TONES % len(LINES)
    return Look(
        colour=COLOURS[index % TONES],
        marker=MARKERS[(index + 3 * lap) % TONES],
        line=LINES[lap],
        hollow=lap % 2 == 1,
    )
