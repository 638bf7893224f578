"""Training images for what a job computes besides training: calibration of criteria, BatchNorm, the
loss on training data.

Every draw is seeded by its purpose, without augmentation, and says which images it took.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from pruning.data.subsets import ClassMix, draw_subset
from pruning.data.tensors import Data, Split
from pruning.evidence.criterion import AsksForCalibration, Criterion, EstimatesWork
from pruning.evidence.evidence import Batches
from pruning.measurement.objective import compute_losses, limit_losses
from pruning.networks.modes import evaluate_mode
from pruning.seeding import generator
from pruning.types import Calibration

BATCH = 100
LOSS_IMAGES = 2000


def choose_calibration(criterion: Criterion, classes: int) -> Calibration:
    """Return the calibration images that a criterion asks for, or the default."""
    if isinstance(criterion, AsksForCalibration):
        return criterion.calibration(classes)
    return Calibration()


def count_units(criterion: Criterion, classes: int, data_size: int) -> int:
    """Count the work of one scoring, in forward passes of one image.

    `data_size` is the number of training images there are. Criteria that do not estimate their work
    count 0.
    """
    work = criterion.units(classes) if isinstance(criterion, EstimatesWork) else 0
    if not isinstance(criterion, AsksForCalibration):
        return work
    images = max(1, criterion.calibration(classes).images)
    # The work is in proportion to the images; -(-a // b) rounds the quotient up.
    return -(-work * min(images, data_size) // images)


def draw_batches(data: Data, calibration: Calibration, seed: int, *names: str | int) -> Batches:
    """Draw training images, seeded, in batches of 100 and in random order.

    Random order, because datasets are often sorted by class. All images where the calibration asks
    for more; images with masks come in smaller batches (`Data.at_once`).
    """
    rng = generator(seed, "calibration", *names)
    count = min(calibration.images, len(data.fit))
    chosen, _ = draw_subset(data.fit.labels.cpu(), count, _choose_mix(calibration), rng)
    shuffled = chosen[torch.randperm(len(chosen), generator=rng)]
    return list(data.batches(_take(data.fit, shuffled), BATCH))


def _choose_mix(calibration: Calibration) -> ClassMix:
    return "balanced" if calibration.balanced else "plain"


def draw_from_batches(batches: Batches, calibration: Calibration, rng: Generator) -> Batches:
    """Draw as many images of the batches as a criterion asks for, in batches of 100 and in random
    order; the batches as they are where they hold no more.

    >>> labels = torch.arange(300) // 100
    >>> batches = [(labels[:, None].float(), labels)]
    >>> ((inputs, drawn),) = draw_from_batches(batches, Calibration(30, balanced=True), Generator())
    >>> inputs.shape, drawn.bincount().tolist()
    (torch.Size([30, 1]), [10, 10, 10])
    """
    labels = torch.cat([batch_labels for _, batch_labels in batches])
    if len(labels) <= calibration.images:
        return batches
    chosen, _ = draw_subset(labels.cpu(), calibration.images, _choose_mix(calibration), rng)
    # Only what is chosen is put together: the batches may be large.
    starts = torch.tensor([0, *(len(batch_labels) for _, batch_labels in batches)]).cumsum(0)
    parts = []
    for (inputs, _), start, stop in zip(batches, starts[:-1], starts[1:], strict=True):
        inside = chosen[(chosen >= start) & (chosen < stop)] - start
        parts.append(inputs[inside.to(inputs.device)])
    order = torch.randperm(len(chosen), generator=rng).to(labels.device)
    inputs = torch.cat(parts)[order]
    labels = labels[chosen.to(labels.device)][order]
    return list(zip(torch.split(inputs, BATCH), torch.split(labels, BATCH), strict=True))


def take_first(batches: Batches, images: int) -> Batches:
    """Return the first `images` images of the batches.

    >>> [len(labels) for _, labels in take_first([(torch.zeros(4, 1), torch.zeros(4))] * 2, 6)]
    [4, 2]
    """
    first = []
    for inputs, labels in batches:
        if images <= 0:
            break
        first.append((inputs[:images], labels[:images]))
        images -= len(labels)
    return first


def measure_training_losses(model: nn.Module, data: Data, seed: int) -> Tensor:
    """Measure the loss on each of (at most) 2,000 training images; float32 (n,).

    The images are the same ones throughout a job.
    """
    losses = []
    with evaluate_mode(model), torch.no_grad():
        for inputs, labels in data.batches(_draw_loss_sample(data, seed), BATCH):
            losses.append(compute_losses(model(inputs).float(), labels))
    return limit_losses(torch.cat(losses)).cpu()


def count_loss_images(data_size: int) -> int:
    """Count the images that `measure_training_losses` takes of `data_size` training images."""
    return min(LOSS_IMAGES, data_size)


def _draw_loss_sample(data: Data, seed: int) -> Split:
    count = count_loss_images(len(data.fit))
    rng = generator(seed, "loss sample")
    chosen, _ = draw_subset(data.fit.labels.cpu(), count, "plain", rng)
    return _take(data.fit, chosen)


def _take(split: Split, index: Tensor) -> Split:
    return split[index.to(split.labels.device)]
