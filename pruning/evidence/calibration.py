"""Training images for what a job computes besides training: calibration of criteria, BatchNorm, the
loss on training data.

Every draw is seeded by its purpose, without augmentation, and says which images it took.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruning.data.tensors import Data, Split, draw_subset
from pruning.evidence.criterion import AsksForCalibration, Criterion, EstimatesWork
from pruning.evidence.evidence import Batches
from pruning.measurement.objective import compute_losses as losses_of
from pruning.networks.modes import evaluate_mode
from pruning.seeding import generator
from pruning.types import Calibration

BATCH = 100
LOSS_IMAGES = 2000


def choose_calibration(criterion: Criterion, classes: int) -> Calibration:
    """The calibration images a criterion asks for."""
    return (
        criterion.calibration(classes)
        if isinstance(criterion, AsksForCalibration)
        else Calibration()
    )


def count_units(criterion: Criterion, classes: int, data_size: int) -> int:
    """Work of one scoring, in forward passes of one image, with so many training images; 0 for
    criteria that do not say.
    """
    work = criterion.units(classes) if isinstance(criterion, EstimatesWork) else 0
    if not isinstance(criterion, AsksForCalibration):
        return work
    asked = max(1, criterion.calibration(classes).images)
    return -(-work * min(asked, data_size) // asked)


def draw_batches(data: Data, calibration: Calibration, seed: int, *names: str | int) -> Batches:
    """A seeded draw of training images in batches of 100, in random order (datasets are often
    sorted by class).

    All of them where the calibration asks for more; images with masks come in smaller batches
    (`Data.at_once`).
    """
    rng = generator(seed, "calibration", *names)
    chosen, _ = draw_subset(
        data.fit.labels.cpu(), min(calibration.images, len(data.fit)), calibration.balanced, rng
    )
    return list(
        data.batches(_take(data.fit, chosen[torch.randperm(len(chosen), generator=rng)]), BATCH)
    )


def take_first(given: Batches, images: int) -> Batches:
    """The first so many images of the batches.

    >>> [len(labels) for _, labels in take_first([(torch.zeros(4, 1), torch.zeros(4))] * 2, 6)]
    [4, 2]
    """
    found = []
    for inputs, labels in given:
        if images <= 0:
            break
        found.append((inputs[:images], labels[:images]))
        images -= len(labels)
    return found


def measure_training_losses(model: nn.Module, data: Data, seed: int) -> Tensor:
    """The loss of the model on each of (at most) 2,000 training images, the same ones throughout a
    job; float32 (n,).
    """
    losses = []
    with evaluate_mode(model), torch.no_grad():
        for inputs, labels in data.batches(_loss_sample(data, seed), BATCH):
            losses.append(losses_of(model(inputs).float(), labels))
    return (
        torch.nan_to_num(torch.cat(losses), nan=torch.inf)
        .clamp_max(torch.finfo(torch.float32).max)
        .cpu()
    )


def count_loss_images(data_size: int) -> int:
    """How many training images `measure_training_losses` takes of so many."""
    return min(LOSS_IMAGES, data_size)


def _loss_sample(data: Data, seed: int) -> Split:
    chosen, _ = draw_subset(
        data.fit.labels.cpu(),
        count_loss_images(len(data.fit)),
        False,
        generator(seed, "loss sample"),
    )
    return _take(data.fit, chosen)


def _take(split: Split, index: Tensor) -> Split:
    return split[index.to(split.labels.device)]
