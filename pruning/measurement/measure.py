"""What a network loses and what it costs: errors on the plain fp32 path, FLOPs, file sizes,
measured latency.
"""

from __future__ import annotations

import math
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
    mean_interval,
)
from pruning.measurement.iou import compute_image_errors, count_overlaps
from pruning.measurement.objective import compute_losses as losses_of
from pruning.schemas.report import Estimate, Evaluated

EVAL_BATCH = 128


@dataclass(frozen=True)
class Measured:
    """One network on the test and validation splits: how wrong it is on each image, and its loss on
    each test image.
    """

    wrong: Tensor
    """bool (test images,): True is wrong; for segmentation float64, 1 - mean IoU of the image"""
    losses: Tensor
    """float32 (test images,): cross-entropy, of an image with a mask the mean over its pixels"""
    val_wrong: Tensor
    """As `wrong`, of the validation images."""
    overlaps: Tensor | None = None
    """For segmentation, int64 (test images, 2, classes): pixels in intersections and unions"""

    def document(self) -> Evaluated:
        """The numbers with their intervals."""
        losses = self.losses.to(torch.float64)
        return Evaluated(
            error=estimate_error(self.wrong),
            val_error=estimate_error(self.val_wrong),
            loss=mean_interval(float(losses.sum()), float((losses**2).sum()), len(losses)),
        )

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The tensors, for a stage file."""
        parts = {
            "wrong": self.wrong,
            "losses": self.losses,
            "val_wrong": self.val_wrong,
            "overlaps": self.overlaps,
        }
        return {f"{prefix}.{part}": value for part, value in parts.items() if value is not None}

    @staticmethod
    def restore(tensors: Mapping[str, Tensor], prefix: str) -> Measured:
        """What `tensors` gave."""
        wrong, losses, val_wrong = (
            tensors[f"{prefix}.{part}"] for part in ("wrong", "losses", "val_wrong")
        )
        return Measured(wrong, losses, val_wrong, tensors.get(f"{prefix}.overlaps"))


def estimate_error(wrong: Tensor) -> Estimate:
    """The error over images: the exact interval where each is right or wrong, Student's where each
    has its own error.

    >>> (
    ...     estimate_error(torch.tensor([True, False])).value,
    ...     estimate_error(torch.tensor([0.5, 0.25])).value,
    ... )
    (0.5, 0.375)
    """
    if wrong.dtype == torch.bool:
        return binomial_interval(int(wrong.sum()), len(wrong))
    values = wrong.double()
    return bounded_mean_interval(float(values.sum()), float((values**2).sum()), n=len(values))


def estimate_increase(first: Tensor, second: Tensor, z: float = Z95) -> Estimate:
    """Error of the first network minus that of the second, paired; both bool (images,), True is
    wrong, or their errors.
    """
    if first.dtype == torch.bool:
        return difference_interval(
            int((first & ~second).sum()), int((second & ~first).sum()), len(first), z
        )
    gaps = first.double() - second.double()
    return bounded_mean_interval(
        float(gaps.sum()), float((gaps**2).sum()), n=len(gaps), least=-1.0, most=1.0, z=z
    )


def measure_network(
    model: nn.Module, data: Data, advance: Callable[[int], None] = lambda images: None
) -> Measured:
    """Errors and losses in eval mode, fp32, batches of `EVAL_BATCH`, contiguous layout: a user can
    recompute them.

    With masks a batch has as many images as `Data.at_once` allows. A loss that is no number (a
    collapsed network can overflow) counts as the largest finite float32.
    """
    model.eval()
    (wrong, losses, regions), (val_wrong, _, _) = (
        _run(model, data, split, advance) for split in (data.test, data.val)
    )
    return Measured(wrong, losses, val_wrong, regions)


def _run(
    model: nn.Module, data: Data, split: Split, advance: Callable[[int], None]
) -> tuple[Tensor, Tensor, Tensor | None]:
    answers, losses = [], []
    with torch.no_grad():
        for inputs, labels in data.batches(split, EVAL_BATCH):
            logits = model(inputs).to(torch.float32)
            found = logits.argmax(1)
            answers.append(
                (
                    count_overlaps(found, labels, logits.shape[1])
                    if data.segmentation
                    else found != labels
                ).cpu()
            )
            losses.append(losses_of(logits, labels).cpu())
            advance(len(labels))
    each = torch.nan_to_num(torch.cat(losses), nan=math.inf).clamp_max(
        torch.finfo(torch.float32).max
    )
    every = torch.cat(answers)
    return (compute_image_errors(every), each, every) if data.segmentation else (every, each, None)
