"""Whether the dense network of a job is one: what tells the images' classes apart no better than chance is refused."""

from __future__ import annotations

from pruning.errors import BaselineMismatchError
from pruning.intervals import guesses
from pruning.schemas.report import Evaluated


def refuse_guessing(found: Evaluated, classes: int, *, trained: bool) -> None:
    """Raise `BaselineMismatchError` for a dense network that guesses; `trained`: the job trained it itself.

    >>> from pruning.intervals import binomial, mean
    >>> error, loss = binomial(3, 100), mean(1, 1, 100)
    >>> refuse_guessing(Evaluated(error=error, loss=loss, val_error=error), 10, trained=True)
    """
    error = found.error
    if guesses(error, classes):
        raise BaselineMismatchError(
            f"the dense network is wrong on {error.value:.1%} of the test images, no better than chance "
            f"({1 - 1 / classes:.1%}): " + (
                "train it longer, with another learning rate, or take a larger network" if trained else
                "model, classes and normalisation do not belong to this dataset"))
