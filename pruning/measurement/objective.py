"""What is minimised and what is measured: the loss and the error of images, of one class each or of
one for every pixel.

Labels (N,) are classes of images; masks (N, H, W) are those of pixels, with logits (N, classes, H,
W), and 255 is ignored.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pruning.data.arrays import IGNORED
from pruning.errors import EvidenceError
from pruning.measurement.iou import compute_image_errors, count_overlaps

AUXILIARY = 0.5
"""What the loss of an auxiliary head counts."""
Loss = Callable[[Tensor, Tensor], Tensor]


def pixel_loss(outputs: Tensor, masks: Tensor) -> Tensor:
    """The mean cross-entropy over all pixels of the batch that are not ignored; 0 where there is
    none.

    >>> pixel_loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]], dtype=torch.uint8))
    tensor(0.6931)
    """
    return _pixels(outputs, masks).sum() / weigh_batch(masks).clamp_min(1)


def mean_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy over images, or over pixels where the labels are masks."""
    return F.cross_entropy(outputs, labels) if labels.dim() == 1 else pixel_loss(outputs, labels)


def training_loss(outputs: Tensor | tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    """`mean_loss`, and half of that of the auxiliary head where the network has one."""
    if isinstance(outputs, tuple):
        return mean_loss(outputs[0], labels) + AUXILIARY * mean_loss(outputs[1], labels)
    return mean_loss(outputs, labels)


def distillation_loss(outputs: Tensor, wanted: Tensor, labels: Tensor) -> Tensor:
    """KL(softmax(wanted) || softmax(outputs)) of logits, the mean over images or over pixels that
    are not ignored.
    """
    found, target = F.log_softmax(outputs, dim=1), F.log_softmax(wanted, dim=1)
    if labels.dim() == 1:
        return F.kl_div(found, target, reduction="batchmean", log_target=True)
    each = F.kl_div(found, target, reduction="none", log_target=True).sum(1)
    return torch.where(labels != IGNORED, each, 0.0).sum() / weigh_batch(labels).clamp_min(1)


def choose_loss(labels: Tensor) -> Loss:
    """The mean loss for such labels: `F.cross_entropy` itself for classes of images, by which
    criteria know it.
    """
    return F.cross_entropy if labels.dim() == 1 else pixel_loss


def compute_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """The loss of each image, (N,): of one with a mask the mean over its pixels that are not
    ignored, 0 without any.
    """
    if labels.dim() == 1:
        return F.cross_entropy(outputs, labels, reduction="none")
    return _pixels(outputs, labels).sum((1, 2)) / (labels != IGNORED).sum((1, 2)).clamp_min(1)


def compute_errors(outputs: Tensor, labels: Tensor) -> Tensor:
    """Which images are wrong, bool (N,); of ones with masks 1 - mean IoU, float64 (N,)."""
    if labels.dim() == 1:
        return outputs.argmax(1) != labels
    return compute_image_errors(count_overlaps(outputs.argmax(1), labels, outputs.shape[1]))


def weigh_batch(labels: Tensor) -> Tensor:
    """What a batch weighs in a mean of mean losses: its images, or its pixels that are not
    ignored.
    """
    return torch.tensor(len(labels)) if labels.dim() == 1 else (labels != IGNORED).sum()


def refuse_masks(labels: Tensor, what: str) -> None:
    """Raise `EvidenceError` where labels are masks and what is asked for needs one answer of an
    image.
    """
    if labels.dim() > 1:
        raise EvidenceError(
            f"{what} are known for one class an image only, not for masks: for segmentation take a "
            "criterion of weights (magnitude, lamp, filter_norm), of activations (sipp, pfp, "
            "wanda) or of "
            "the gradient of the mean loss (snip, taylor, lm)"
        )


def _pixels(outputs: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy by pixel, (N, H, W), 0 where it is ignored; as rows, which has a deterministic
    kernel everywhere.
    """
    rows = outputs.permute(0, 2, 3, 1).reshape(-1, outputs.shape[1])
    return F.cross_entropy(
        rows, masks.long().flatten(), ignore_index=IGNORED, reduction="none"
    ).reshape(masks.shape)
