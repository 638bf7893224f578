"""A check of the dense network of a job: one that classifies images no better than chance is
refused.
"""

from __future__ import annotations

from collections.abc import Callable

from pruning.data.tensors import Data, Split
from pruning.errors import BaselineMismatchError
from pruning.measurement.intervals import is_guessing
from pruning.measurement.iou import compute_constant_errors
from pruning.schemas.report import Evaluated


def guessing_error(split: Split, classes: int) -> float:
    """Return the error of guessing: 1 - 1/classes for labels of images; for masks the least error
    of calling every pixel one and the same class.
    """
    if split.labels.dim() == 1:
        return 1 - 1 / classes
    return float(compute_constant_errors(split.labels.cpu(), classes).min())


def check_baseline(
    evaluated: Evaluated, data: Data, *, trained: bool, warn: Callable[[str], None]
) -> None:
    """Refuse a dense network that guesses classes of images; for segmentation, warn of a network
    that is no better than calling every pixel one and the same class.

    `trained` says whether the job trained the network itself.
    """
    if not data.segmentation:
        refuse_guessing(evaluated, len(data.classes), trained=trained)
        return
    errors = compute_constant_errors(data.test.labels.cpu(), len(data.classes))
    if evaluated.error.value >= float(errors.min()):
        warn(
            f"the dense network's error on the test images, {evaluated.error.value:.1%}, is no "
            f"lower than that of calling every pixel {data.classes[int(errors.argmin())]!r} "
            f"({float(errors.min()):.1%}): {_advise(trained)}"
        )


def refuse_guessing(evaluated: Evaluated, classes: int, *, trained: bool) -> None:
    """Raise `BaselineMismatchError` for a dense network that guesses; `trained` says whether the
    job trained it itself.

    >>> from pruning.measurement.intervals import binomial_interval, mean_interval
    >>> error, loss = binomial_interval(3, 100), mean_interval(1, 1, 100)
    >>> refuse_guessing(Evaluated(error=error, loss=loss, val_error=error), 10, trained=True)
    """
    error = evaluated.error
    if is_guessing(error, 1 - 1 / classes):
        raise BaselineMismatchError(
            f"the dense network is wrong on {error.value:.1%} of the test images, no better than "
            f"chance ({1 - 1 / classes:.1%}): {_advise(trained)}"
        )


def _advise(trained: bool) -> str:
    return (
        "train it longer, with another learning rate, or take a larger network"
        if trained
        else "model, classes and normalisation do not belong to this dataset"
    )
