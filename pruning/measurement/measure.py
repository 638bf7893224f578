"""The errors and losses of a network on images, on the plain fp32 path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.data.tensors import Data, Split
from pruning.measurement.intervals import (
    Z95,
    binomial_interval,
    bounded_mean_interval,
    difference_interval,
)
from pruning.measurement.iou import compute_image_errors, count_overlaps
from pruning.measurement.objective import (
    choose_answers,
    compute_losses,
    find_non_finite,
    limit_losses,
)
from pruning.measurement.skewed_means import skewed_mean_interval
from pruning.schemas.report import Estimate, Evaluated

EVAL_BATCH = 128


@dataclass(frozen=True)
class Answers:
    """The answers of a classifier to the test images."""

    classes: Tensor
    """int32 (test images,): the class with the largest logit."""
    confidences: Tensor
    """float32 (test images,): the softmax of that class; 0 where a logit is not finite."""


@dataclass(frozen=True)
class Measured:
    """The measurements of one network: how wrong it is on each test and validation image, and its
    loss on each test image.
    """

    wrong: Tensor
    """bool (test images,): True is wrong; for segmentation float64, 1 - mean IoU of the image."""
    losses: Tensor
    """float32 (test images,): the cross-entropy, with a mask the mean over the image's pixels."""
    val_wrong: Tensor
    """The same as `wrong` for the validation images."""
    overlaps: Tensor | None = None
    """For segmentation, int64 (test images, 2, classes): pixels in intersections and unions."""
    non_finite: tuple[int, int] = (0, 0)
    """The numbers of test and of validation images whose outputs hold NaN or infinity."""
    answers: Answers | None = None
    """The answers to the test images; None for segmentation."""

    def document(self) -> Evaluated:
        """The numbers with their intervals."""
        return Evaluated(
            error=estimate_error(self.wrong),
            val_error=estimate_error(self.val_wrong),
            loss=skewed_mean_interval(self.losses, unit="nats"),
            non_finite_outputs=self.non_finite[0],
        )

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The tensors, for a stage file."""
        parts = {
            "wrong": self.wrong,
            "losses": self.losses,
            "val_wrong": self.val_wrong,
            "overlaps": self.overlaps,
            "non_finite": torch.tensor(self.non_finite) if any(self.non_finite) else None,
        }
        if self.answers is not None:
            parts |= {"answers": self.answers.classes, "confidences": self.answers.confidences}
        return {f"{prefix}.{part}": value for part, value in parts.items() if value is not None}

    @staticmethod
    def restore(tensors: Mapping[str, Tensor], prefix: str) -> Measured:
        """The measurements from the tensors of a stage file, which `tensors` wrote.

        Raises `KeyError` where the file lacks something.
        """
        overlaps = tensors.get(f"{prefix}.overlaps")
        answers = None
        if overlaps is None:
            answers = Answers(tensors[f"{prefix}.answers"], tensors[f"{prefix}.confidences"])
        non_finite = tensors.get(f"{prefix}.non_finite", torch.zeros(2, dtype=torch.int64))
        test, val = non_finite.tolist()
        return Measured(
            wrong=tensors[f"{prefix}.wrong"],
            losses=tensors[f"{prefix}.losses"],
            val_wrong=tensors[f"{prefix}.val_wrong"],
            overlaps=overlaps,
            answers=answers,
            non_finite=(test, val),
        )


def estimate_error(wrong: Tensor) -> Estimate:
    """The error over images with its interval: the exact one where each image is right or wrong,
    Student's where each has an error of its own.

    >>> estimate_error(torch.tensor([True, False])).value
    0.5
    >>> estimate_error(torch.tensor([0.5, 0.25])).value
    0.375
    """
    if wrong.dtype == torch.bool:
        return binomial_interval(int(wrong.sum()), len(wrong))
    values = wrong.double()
    return bounded_mean_interval(
        float(values.sum()), float((values**2).sum()), n=len(values), unit="fraction"
    )


def estimate_increase(first: Tensor, second: Tensor, z: float = Z95) -> Estimate:
    """Error of the first network minus that of the second on the same images.

    Both are bool (images,), True is wrong, or the errors of the images.
    """
    if first.dtype == torch.bool:
        only_first = int((first & ~second).sum())
        only_second = int((second & ~first).sum())
        return difference_interval(only_first, only_second, len(first), z)
    gaps = first.double() - second.double()
    return bounded_mean_interval(
        float(gaps.sum()),
        float((gaps**2).sum()),
        n=len(gaps),
        least=-1.0,
        most=1.0,
        z=z,
        unit="points",
    )


def measure_network(
    model: nn.Module, data: Data, advance: Callable[[int], None] = lambda images: None
) -> Measured:
    """Errors and losses in eval mode, in fp32, with batches of `EVAL_BATCH` and contiguous layout,
    so that a user can recompute them.

    With masks a batch has as many images as `Data.at_once` allows. Outputs that are not finite (a
    collapsed network can overflow) are wrong answers and are counted; their loss counts as the
    largest finite float32.
    """
    model.eval()
    test = _measure_split(model, data, data.test, advance)
    val = _measure_split(model, data, data.val, advance)
    return Measured(
        wrong=test.wrong,
        losses=test.losses,
        val_wrong=val.wrong,
        overlaps=test.overlaps,
        answers=test.answers,
        non_finite=(test.non_finite, val.non_finite),
    )


def measure_errors(model: nn.Module, data: Data, split: Split) -> Tensor:
    """The errors of the images of a split, as in `Measured.wrong`, of a network in eval mode."""
    return _measure_split(model, data, split, lambda images: None).wrong


@dataclass(frozen=True)
class _MeasuredSplit:
    """The errors and losses of the images of a split; for segmentation their overlaps, else the
    answers.
    """

    wrong: Tensor
    losses: Tensor
    overlaps: Tensor | None = None
    answers: Answers | None = None
    non_finite: int = 0


def _measure_split(
    model: nn.Module, data: Data, split: Split, advance: Callable[[int], None]
) -> _MeasuredSplit:
    """Measure a network on the images of a split."""
    results, losses, classes, confidences = [], [], [], []
    non_finite = 0
    with torch.no_grad():
        for inputs, labels in data.batches(split, EVAL_BATCH):
            logits = model(inputs).to(torch.float32)
            answers = choose_answers(logits)
            if data.segmentation:
                result = count_overlaps(answers, labels, logits.shape[1])
            else:
                result = answers != labels
                classes.append(answers.to(torch.int32).cpu())
                confidences.append(_compute_confidences(logits).cpu())
            results.append(result.cpu())
            losses.append(compute_losses(logits, labels).cpu())
            non_finite += int(find_non_finite(logits, labels).sum())
            advance(len(labels))
    limited = limit_losses(torch.cat(losses))
    whole = torch.cat(results)
    if data.segmentation:
        return _MeasuredSplit(
            compute_image_errors(whole), limited, overlaps=whole, non_finite=non_finite
        )
    answered = Answers(torch.cat(classes), torch.cat(confidences))
    return _MeasuredSplit(whole, limited, answers=answered, non_finite=non_finite)


def _compute_confidences(logits: Tensor) -> Tensor:
    """The largest softmax of each image, (N,); 0 where a logit is not finite."""
    return logits.softmax(1).amax(1).masked_fill(~logits.isfinite().all(1), 0.0)
