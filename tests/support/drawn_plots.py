"""Plots that are drawn once, however many pages show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pruning.reporting import accuracy_plot, plots
from pruning.reporting.axes import Plot
from pruning.schemas.report import Report

DRAWN: dict[str, Plot] = {}
"""The plots by all that they depend on."""


@contextmanager
def draw_anew() -> Iterator[None]:
    """Draw every plot anew within the context."""
    drawn = dict(DRAWN)
    DRAWN.clear()
    yield
    DRAWN.update(drawn)


def describe_argument(value: Any) -> str:
    """Describe an argument completely; of a report what a plot of its accuracies shows."""
    if isinstance(value, Report):
        return repr((value.baseline, value.control, value.data))
    return repr(value)


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw equal plots once: a page takes a second, nearly all of it in matplotlib."""

    def remember(draw: Callable[..., Plot]) -> Callable[..., Plot]:
        def draw_once(*arguments: Any) -> Plot:
            key = " ".join(map(describe_argument, arguments))
            if key not in DRAWN:
                DRAWN[key] = draw(*arguments)
            return DRAWN[key]

        return draw_once

    for module, name in ((plots, "_plot_curves"), (accuracy_plot, "_plot_accuracies")):
        monkeypatch.setattr(module, name, remember(getattr(module, name)))
