"""BatchNorm after pruning: its running statistics belong to the network before, and are estimated
again where that helps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.data.tensors import Data, Split
from pruning.measurement.objective import compute_losses, limit_losses
from pruning.networks.modes import evaluate_mode
from pruning.seeding import generator

BATCH = 128
BATCHES = 20
"""The most batches from which statistics are estimated."""
JUDGES = 1000
"""The most images that are set aside from estimating, to judge the new statistics by."""
JUDGED = 256
"""The most of these images whose loss decides whether the new statistics are kept."""


def reestimate_(model: nn.Module, data: Data, seed: int, number: int) -> dict[str, float] | None:
    """Re-estimate the running mean and variance of every BatchNorm in place, and keep them where
    the loss falls.

    mean = (1/B) sum_b m_b, var = (1/B) sum_b v_b, m_b and v_b the mean and the unbiased variance of
    batch b: at most 20 batches of up to 128 training images, equal in size up to one image, without
    augmentation (with masks smaller ones, of at least two images). The mean loss of up to 256
    other training images decides (of two images, one does both). Weights, modes and `momentum` do
    not change. Layers in eval mode or with frozen weights take part, as pruning moved the
    activations that their statistics describe too; layers that a pass does not reach, and those
    without running statistics, do not. Kept statistics stand for B batches
    (`num_batches_tracked`). Returns `before` and `after`, the mean losses, and `kept`, 1 or 0; None
    for a network without running statistics, and for a single image.
    """
    layers = [module for module in model.modules() if _has_statistics(module)]
    if not layers or len(data.fit) < 2:
        return None
    order = torch.randperm(len(data.fit), generator=generator(seed, "batchnorm", number))
    order = order.to(data.fit.labels.device)
    judges = max(1, min(JUDGES, len(order) // 3))
    batch = max(2, data.at_once(BATCH))
    sample = order[: min(batch * BATCHES, max(2, len(order) - judges))]
    batches = math.ceil(len(sample) / batch)
    if data.segmentation:
        # Their batches are small: rounding down leaves at least two images in each.
        batches = max(1, len(sample) // batch)
    judged = data.fit[order[-judges:][:JUDGED]]
    saved = [{name: value.clone() for name, value in layer.named_buffers()} for layer in layers]
    before = _measure_loss(model, data, judged)
    _estimate_(model, layers, data, sample.tensor_split(batches))
    after = _measure_loss(model, data, judged)
    kept = after < before
    for layer, buffers in zip(layers, saved, strict=True):
        reached = bool(layer.get_buffer("num_batches_tracked"))
        if not kept or not reached:
            for name, value in buffers.items():
                layer.get_buffer(name).copy_(value)
    return {"before": before, "after": after, "kept": float(kept)}


def count_reestimation_images(images: int) -> int:
    """Count the images that `reestimate_` gives to a classifier, of so many training images: those
    that statistics are estimated from, and those that judge, twice.

    >>> count_reestimation_images(2000), count_reestimation_images(50_000)
    (1846, 3072)
    """
    if images < 2:
        return 0
    judges = max(1, min(JUDGES, images // 3))
    return min(BATCH * BATCHES, max(2, images - judges)) + 2 * min(judges, JUDGED)


def has_running_statistics(model: nn.Module) -> bool:
    """Return whether a network has a BatchNorm whose statistics can be estimated again."""
    return any(_has_statistics(module) for module in model.modules())


def _has_statistics(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether a module is a BatchNorm with running statistics."""
    return (
        isinstance(module, _BatchNorm)
        and module.track_running_stats
        and module.running_mean is not None
        and module.num_batches_tracked is not None
    )


def _estimate_(
    model: nn.Module, layers: Sequence[_BatchNorm], data: Data, batches: Sequence[Tensor]
) -> None:
    """Average the statistics of the layers over the batches, which are indices of training images.

    Only BatchNorm is in training mode.
    """
    momenta = [layer.momentum for layer in layers]
    with evaluate_mode(model), torch.no_grad():
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # the cumulative average
                layer.train()
            for index in batches:
                model(data.normalize(data.fit.pixels(index)))
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
                layer.eval()


def _measure_loss(model: nn.Module, data: Data, split: Split) -> float:
    """The mean loss of the images of a split."""
    total = torch.zeros((), dtype=torch.float64)
    with evaluate_mode(model), torch.no_grad():
        for inputs, labels in data.batches(split, BATCH):
            losses = compute_losses(model(inputs).float(), labels)
            total += limit_losses(losses).double().sum().cpu()
    return float(total) / len(split)
