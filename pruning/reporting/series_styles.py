"""How series are told apart: colour, marker and line, in the drawing and in its legend."""

from __future__ import annotations

from dataclasses import dataclass

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
LINES = ("solid", "dashed", "dashdot", "dotted")
TONES = len(MARKERS)
SERIES = TONES * len(LINES)
"""As many series can be told apart by colour, marker and line together, the first eight by colour
alone.
"""
INK, GRID, GIVEN, CONTROL = "#01010a", "#01010b", "#01010c", "#01010d"
COLOURS = tuple(f"#0102{i:02x}" for i in range(TONES))
VARIABLES = {INK: "--plot-ink", GRID: "--plot-grid", GIVEN: "--given", CONTROL: "--control"} | {
    colour: f"--series-{i}" for i, colour in enumerate(COLOURS)
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
    """How one series is drawn."""

    colour: str
    marker: str
    line: str
    hollow: bool

    def entry(self, label: str, drawn: str | None = None) -> Entry:
        """Its line of the legend; of `points` without the line, of a `line` or a `band` without the
        marker.

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
"""Of a line to hold all else against."""


def choose_style(index: int) -> Look:
    """The look of the series of this number: eight colours, each again with another marker and
    line.

    >>> (
    ...     choose_style(1).marker,
    ...     choose_style(9).marker,
    ...     choose_style(9).line,
    ...     choose_style(9).colour == choose_style(1).colour,
    ... )
    ('s', 'v', 'dashed', True)
    """
    again = index // TONES % len(LINES)
    return Look(
        COLOURS[index % TONES], MARKERS[(index + 3 * again) % TONES], LINES[again], again % 2 == 1
    )
