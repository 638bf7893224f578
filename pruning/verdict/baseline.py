"""Whether the dense network of a job is one: what tells the images' classes apart no better than
chance is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from pruning.data.tensors import Data, Split
from pruning.errors import BaselineMismatchError
from pruning.measurement.intervals import is_guessing
from pruning.measurement.iou import compute_constant_errors
from pruning.schemas.report import Evaluated


def guessing_error(split: Split, classes: int) -> float:
    """The error of guessing: 1 - 1/classes; with masks, the least that calling every pixel of one
    class gives.
    """
    if split.labels.dim() == 1:
        return 1 - 1 / classes
    return float(compute_constant_errors(split.labels.cpu(), classes).min())


def check_baseline(
    found: Evaluated, data: Data, *, trained: bool, warn: Callable[[str], None]
) -> None:
    """Refuse a dense network that guesses classes of images; for segmentation, warn of one no
    better than one class.
    """
    if not data.segmentation:
        refuse_guessing(found, len(data.classes), trained=trained)
        return
    errors = compute_constant_errors(data.test.labels.cpu(), len(data.classes))
    if found.error.value >= float(errors.min()):
        warn(
            f"the dense network's error on the test images, {found.error.value:.1%}, is no lower "
            "than that of calling "
            f"every pixel {data.classes[int(errors.argmin())]!r} ({float(errors.min()):.1%}): "
            f"{_advice(trained)}"
        )


def refuse_guessing(found: Evaluated, classes: int, *, trained: bool) -> None:
    """Raise `BaselineMismatchError` for a dense network that guesses; `trained`: the job trained it
    itself.

    >>> from pruning.measurement.intervals import binomial_interval, mean_interval
    >>> error, loss = binomial_interval(3, 100), mean_interval(1, 1, 100)
    >>> refuse_guessing(Evaluated(error=error, loss=loss, val_error=error), 10, trained=True)
    """
    error = found.error
    if is_guessing(error, 1 - 1 / classes):
        raise BaselineMismatchError(
            f"the dense network is wrong on {error.value:.1%} of the test images, no better than "
            "chance "
            f"({1 - 1 / classes:.1%}): {_advice(trained)}"
        )


def _advice(trained: bool) -> str:
    return (
        "train it longer, with another learning rate, or take a larger network"
        if trained
        else "model, classes and normalisation do not belong to this dataset"
    )
