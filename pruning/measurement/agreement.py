"""Two networks on the same test images: how far logits are apart, and which answers differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.data.tensors import Data
from pruning.measurement.measure import EVAL_BATCH
from pruning.measurement.objective import choose_answers, compute_errors


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A network beside another that should answer as it does, on the test images."""

    errors: Tensor
    """The errors (images,) of the other one."""
    largest_difference: float
    """The largest absolute difference of two logits that are finite."""
    largest_logit: float
    """The largest absolute logit of the first one among these."""
    differing_images: int
    """Images with another answer; for segmentation, with another answer for a pixel."""


def measure_agreement(model: nn.Module, other: nn.Module, data: Data) -> Agreement:
    """Compare both on the test images, in batches of `EVAL_BATCH`; they are left in eval mode."""
    model.eval()
    other.eval()
    errors = []
    largest = torch.zeros(2, dtype=torch.float64)
    differing = 0
    with torch.no_grad():
        for inputs, labels in data.batches(data.test, EVAL_BATCH):
            logits, others = model(inputs).float(), other(inputs)
            errors.append(compute_errors(others, labels).cpu())
            largest = torch.maximum(largest, _find_largest(logits, others))
            is_other = choose_answers(logits) != choose_answers(others)
            differing += int(is_other.reshape(len(is_other), -1).any(1).sum())
    return Agreement(
        errors=torch.cat(errors),
        largest_difference=float(largest[0]),
        largest_logit=float(largest[1]),
        differing_images=differing,
    )


def _find_largest(logits: Tensor, others: Tensor) -> Tensor:
    """The largest difference and the largest logit, where both networks give finite ones."""
    finite = logits.isfinite() & others.isfinite()
    if not finite.any():
        return torch.zeros(2, dtype=torch.float64)
    first, second = logits[finite].double(), others[finite].double()
    return torch.stack([(first - second).abs().max(), first.abs().max()]).cpu()
