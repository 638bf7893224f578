"""A check of the dense network of a job: one that classifies images no better than by one constant
answer is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pruning import wording
from pruning.data.tensors import Data
from pruning.errors import BaselineMismatchError, NonFiniteError
from pruning.measurement.guessing import NEAR, find_constant_answer, is_guessing
from pruning.measurement.measure import EVAL_BATCH, Measured
from pruning.networks.non_finite import describe_non_finite
from pruning.schemas.estimates import Estimate


def check_baseline(
    measured: Measured, data: Data, *, trained: bool, warn: Callable[[str], None]
) -> None:
    """Refuse a dense network that guesses the classes of images (`is_guessing`) and is about as
    often wrong as by drawing lots, with `BaselineMismatchError`; warn of one whose error is no
    lower than that of one constant answer for all images, or for segmentation for all pixels.

    `trained` says whether the job trained the network itself.
    """
    labels, classes = data.test.labels, data.classes
    answer, constant_error = find_constant_answer(labels, len(classes))
    error = float(measured.wrong.double().mean())
    wrong = wording.percent(error)
    constant = f"{classes[answer]!r} ({wording.percent(constant_error)})"
    if data.segmentation:
        if error >= constant_error:
            warn(
                f"the dense network's error on the test images, {wrong}, is no lower than that "
                f"of calling every pixel {constant}: {_advise(trained)}"
            )
        return
    if is_guessing(measured.wrong, labels, len(classes)):
        message = (
            f"the dense network is wrong on {wrong} of the test images, no better than chance: "
            f"always answering {constant} is as good"
        )
        if error >= NEAR * (1 - 1 / len(classes)):
            raise BaselineMismatchError(f"{message}: {_advise(trained)}")
        warn(
            f"{message}, and no checkpoint that does no better is recommended: {_advise(trained)}, "
            "or judge it by errors of classes"
        )
    elif constant_error and error >= constant_error:
        warn(
            f"the dense network's error on the test images, {wrong}, is no lower than that of "
            f"always answering {constant}, though it knows the classes apart from that: with "
            "classes of such unequal sizes the error says little, look at the errors by class"
        )


def compare_splits(val: Estimate, test: Estimate, *, warn: Callable[[str], None]) -> None:
    """Warn where the 95 % intervals of the dense network's errors on validation and test images
    have nothing in common: checkpoints are chosen on the former, and judged on the latter.
    """
    if test.low is None or test.high is None or val.low is None or val.high is None:
        return
    if test.low > val.high or test.high < val.low:
        warn(
            f"the dense network errs on {wording.percent_with_interval(val)} of the validation "
            f"images and on {wording.percent_with_interval(test)} of the test images, further "
            "apart than chance explains: what is chosen on the one need not hold on the other"
        )


def refuse_non_finite(measured: Measured, data: Data, load: Callable[[], nn.Module]) -> None:
    """Raise `NonFiniteError` where outputs of the dense network are NaN or infinite; the message
    names the first layer and tensor that are not finite.
    """
    test, val = measured.non_finite
    if not test and not val:
        return
    split, name, count = (data.test, "test", test) if test else (data.val, "validation", val)
    network = load()
    batches = (inputs for inputs, _ in data.batches(split, EVAL_BATCH))
    places = (describe_non_finite(network, inputs) for inputs in batches)
    place = next((place for place in places if place is not None), "")
    raise NonFiniteError(
        f"the dense network's outputs are NaN or infinite for {count} of {len(split)} {name} "
        f"images, which cannot be measured: {place or 'the place cannot be determined'}"
    )


def _advise(trained: bool) -> str:
    return (
        "train it longer, with another learning rate, or take a larger network"
        if trained
        else "model, classes and normalisation do not belong to this dataset"
    )
