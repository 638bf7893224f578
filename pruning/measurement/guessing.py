"""Guessing: the error of the best constant answer, and whether a network does better.

On 90 images of one class and 10 of another the constant answer has an error of 10 %, which says
nothing for a network that has it too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pruning.measurement.intervals import Z95, bounded_mean_interval, difference_interval
from pruning.measurement.iou import compute_constant_errors

NEAR = 0.75
"""An error below this fraction of that of guessing is not taken for guessing on few images."""


def find_constant_answer(labels: Tensor, classes: int) -> tuple[int, float]:
    """The class that is right most often if it is always answered, and its error on these labels.

    For masks the answer is for every pixel, and the error is that of `compute_image_errors`.

    >>> find_constant_answer(torch.tensor([0, 1, 1, 1]), 3)
    (1, 0.25)
    """
    if labels.dim() > 1:
        errors = compute_constant_errors(labels.cpu(), classes)
    else:
        counts = torch.bincount(labels.cpu(), minlength=classes)
        errors = 1 - counts.double() / max(1, len(labels))
    answer = int(errors.argmin())
    return answer, float(errors[answer])


def guessing_error(labels: Tensor, classes: int) -> float:
    """The error of guessing: that of the best constant answer on these labels.

    Where all images have one class, which tells nothing about guessing, it is 1 - 1/classes.

    >>> guessing_error(torch.tensor([0, 1, 1, 1]), 3), guessing_error(torch.tensor([2, 2]), 4)
    (0.25, 0.75)
    """
    return find_constant_answer(labels, classes)[1] or 1 - 1 / classes


def is_guessing(wrong: Tensor, labels: Tensor, classes: int) -> bool:
    """Whether nothing shows that a network does better than guessing on the images of the labels.

    `wrong` is bool (N,) for classes of images. The network does better where its error is proven to
    be below that of the best constant answer (paired, 95 %), or is below three quarters of it; or
    where the mean over the classes of its share of right answers is proven to be above 1 / (number
    of classes among the labels), which is what answers that do not depend on the image reach at
    most, whatever the mix of the classes. With masks `wrong` holds the errors of the images, float
    (N,), and the network guesses where its error is near that of the best constant answer and the
    interval reaches it.

    >>> labels = torch.tensor([0] * 90 + [1] * 10)
    >>> is_guessing(labels != 0, labels, 2), is_guessing(labels != labels, labels, 2)
    (True, False)
    """
    wrong, labels = wrong.cpu(), labels.cpu()
    answer, constant_error = find_constant_answer(labels, classes)
    chance = guessing_error(labels, classes)
    error = float(wrong.double().mean())
    if error < NEAR * chance:
        return False
    if labels.dim() > 1:
        values = wrong.double()
        total, squares = float(values.sum()), float((values**2).sum())
        high = bounded_mean_interval(total, squares, n=len(values)).high
        return high is not None and high >= chance
    if constant_error:
        constant_wrong = labels != answer
        gap = difference_interval(
            int((wrong & ~constant_wrong).sum()), int((constant_wrong & ~wrong).sum()), len(wrong)
        )
        if gap.high is not None and gap.high < 0:
            return False
    return not _is_better_by_class(wrong, labels, classes)


def _is_better_by_class(wrong: Tensor, labels: Tensor, classes: int) -> bool:
    """Whether the mean share of right answers over the classes is proven to be above guessing.

    The variance is that of binomial shares, each with one right and one wrong answer added, so that
    few images of a class are not taken for certain.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    right = torch.bincount(labels[~wrong], minlength=classes).double()
    present = counts > 0
    counts, right = counts[present], right[present]
    smoothed = (right + 1) / (counts + 2)
    deviation = math.sqrt(float((smoothed * (1 - smoothed) / counts).sum())) / len(counts)
    return float((right / counts).mean()) - Z95 * deviation > 1 / len(counts)
