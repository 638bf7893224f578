"""The check of a file of weights: its content, and the architecture that takes it."""

from __future__ import annotations

import json
from typing import Any

from pruning.schemas.base import Document


class StateDictEntry(Document):
    """A state dict in a file."""

    place: str
    """Where it lies in the file, as `model` or `state_dict`; empty where it is the file itself."""
    tensors: int
    values: int


class Suggestion(Document):
    """An architecture with its arguments, as the service takes them."""

    architecture: str
    kwargs: dict[str, Any]
    exact: bool
    """Whether all names and shapes are those of the network."""
    differences: str


class WeightsReport(Document):
    """The check of a file of weights."""

    usable: bool
    """Whether the service would take it with the architecture given, or without any."""
    problem: str | None = None
    """Why it cannot be used; `null` where it can."""
    state_dicts: tuple[StateDictEntry, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences on what was taken, renamed and left out."""
    suggestions: tuple[Suggestion, ...] = ()
    """The architectures that fit, or else the nearest."""

    def lines(self) -> list[str]:
        """The report as lines of text."""
        lines = [
            f"{entry.place or 'state dict'}: {entry.tensors} tensors, {entry.values:,} values"
            for entry in self.state_dicts
        ]
        lines += [f"note: {note}" for note in self.notes]
        for suggestion in self.suggestions:
            fit = "fits" if suggestion.exact else f"differs: {suggestion.differences}"
            lines.append(f"{suggestion.architecture} {json.dumps(suggestion.kwargs)}: {fit}")
        lines.append("usable" if self.problem is None else f"not usable: {self.problem}")
        return lines
