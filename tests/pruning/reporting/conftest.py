"""Fixtures of the tests of reports."""

from tests.support.drawn_plots import drawn_once

__all__ = ["drawn_once"]
