"""Scores of channels: of filters, or of input channels."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor

from pruning.errors import ParameterError
from pruning.types import Selection


class NoShapes(dict[str, tuple[int, ...]]):
    """Shapes that refuse to be read: channels have none for an allocation to divide by."""

    def __missing__(self, name: str) -> NoReturn:
        raise ParameterError(
            "this allocation divides weights by their shapes and cannot divide channels; use "
            "global or uniform",
            pointer="/allocation",
        )


def scores_inputs(selection: Selection) -> bool:
    """Return whether the criterion scores input channels.

    A score as large as a weight with a single output could be either: another layer's score decides
    it.
    """
    return any(
        distinguishes(score, selection.weights[name], by_input=True)
        and not distinguishes(score, selection.weights[name], by_input=False)
        for name, score in selection.scores.items()
    )


def distinguishes(score: Tensor, weight: Tensor, by_input: bool) -> bool:
    """Return whether the score distinguishes a layer's input channels, or else its outputs."""
    if by_input:
        return score.shape[:2] == (1, weight.shape[1]) and score.numel() == weight.shape[1]
    return score.shape[0] == weight.shape[0]
