"""The optimiser of a training, the learning rate of each of its steps, and the step of an L1
penalty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning.schemas.training import LrSchedule, Optimizer

POLY = 0.9
"""The power of the schedule `poly`."""


def make_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """The optimiser of a training over all parameters that take gradients."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if spec.name == "adamw":
        return torch.optim.AdamW(
            parameters, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        nesterov=spec.nesterov,
    )


def learning_rate_factor(schedule: LrSchedule, epoch: float, epochs: int) -> float:
    """The factor on the learning rate at `epoch` (fractional) of `epochs`.

    >>> [learning_rate_factor(LrSchedule(name="cosine"), epoch, 2) for epoch in (0, 1)]
    [1.0, 0.5]
    """
    warmup = min(1.0, epoch / schedule.warmup_epochs) if schedule.warmup_epochs else 1.0
    progress = epoch / epochs
    if schedule.name == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.name == "linear":
        return warmup * (1 - progress)
    if schedule.name == "poly":
        return float(warmup * (1 - progress) ** POLY)
    if schedule.name == "step":
        passed = sum(epoch >= milestone for milestone in schedule.milestones)
        return warmup * schedule.gamma**passed
    return warmup


def shrink_(weights: Sequence[Tensor], threshold: float) -> None:
    """The proximal step of threshold times the L1 norm, in place: w <- sign(w) max(|w| - threshold,
    0), zeros positive.

    >>> weight = torch.tensor([2.0, 0.5, -0.5, -2.0])
    >>> shrink_([weight], 0.5)
    >>> weight
    tensor([ 1.5000,  0.0000,  0.0000, -1.5000])
    """
    with torch.no_grad():
        for weight in weights:
            weight.sub_(weight.clamp(-threshold, threshold))
