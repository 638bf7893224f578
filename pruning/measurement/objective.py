"""The quantities that are minimised and measured: the loss and the error of images.

Labels (N,) are the classes of images; masks (N, H, W) are the classes of pixels, with logits (N,
classes, H, W), and 255 is ignored.
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
"""The weight of the loss of an auxiliary head."""
LARGEST_LOSS = torch.finfo(torch.float32).max
NO_ANSWER = -1
"""The answer of a network whose outputs for an image or a pixel are not all finite."""
Loss = Callable[[Tensor, Tensor], Tensor]


def pixel_loss(outputs: Tensor, masks: Tensor) -> Tensor:
    """The mean cross-entropy over all pixels of the batch that are not ignored; 0 without any.

    >>> pixel_loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]], dtype=torch.uint8))
    tensor(0.6931)
    """
    return _compute_pixel_losses(outputs, masks).sum() / weigh_batch(masks).clamp_min(1)


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
    answer = F.log_softmax(outputs, dim=1)
    target = F.log_softmax(wanted, dim=1)
    if labels.dim() == 1:
        return F.kl_div(answer, target, reduction="batchmean", log_target=True)
    by_pixel = F.kl_div(answer, target, reduction="none", log_target=True).sum(1)
    return torch.where(labels != IGNORED, by_pixel, 0.0).sum() / weigh_batch(labels).clamp_min(1)


def choose_loss(labels: Tensor) -> Loss:
    """The mean loss for such labels.

    For classes of images it is `F.cross_entropy` itself, by which criteria recognise the loss.
    """
    return F.cross_entropy if labels.dim() == 1 else pixel_loss


def choose_answers(outputs: Tensor, dim: int = 1) -> Tensor:
    """The class with the largest logit, int64, for each image or pixel; `NO_ANSWER`, which is never
    right, where a logit is NaN or infinite.

    The logits of the classes are along `dim`.

    >>> choose_answers(torch.tensor([[0.0, 1.0], [torch.nan, 1.0], [0.0, -torch.inf]])).tolist()
    [1, -1, -1]
    """
    return outputs.argmax(dim).masked_fill(~outputs.isfinite().all(dim), NO_ANSWER)


def compare_answers(answers: Tensor, others: Tensor) -> Tensor:
    """Whether two networks give the same answer; a network without an answer agrees with none.

    >>> compare_answers(torch.tensor([1, -1, 0]), torch.tensor([1, -1, 2])).tolist()
    [True, False, False]
    """
    return (answers == others) & (answers != NO_ANSWER)


def find_non_finite(outputs: Tensor, labels: Tensor) -> Tensor:
    """Whether the outputs for each image hold NaN or infinity, bool (N,); with masks, the outputs
    for its pixels that are not ignored.
    """
    broken = ~outputs.isfinite().all(1)
    return broken if labels.dim() == 1 else (broken & (labels != IGNORED)).flatten(1).any(1)


def compute_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """The loss of each image, (N,); infinite where its outputs hold NaN or infinity.

    For an image with a mask it is the mean over its pixels that are not ignored, 0 without any.
    """
    losses = _compute_image_losses(outputs, labels)
    return losses.masked_fill(find_non_finite(outputs, labels), torch.inf)


def _compute_image_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    if labels.dim() == 1:
        return F.cross_entropy(outputs, labels, reduction="none")
    counted = (labels != IGNORED).sum((1, 2)).clamp_min(1)
    return _compute_pixel_losses(outputs, labels).sum((1, 2)) / counted


def limit_losses(losses: Tensor) -> Tensor:
    """The losses with the largest finite float32 for those that are larger or not a number, as the
    losses of a collapsed network are.

    >>> limit_losses(torch.tensor([1.0, torch.nan, torch.inf]))
    tensor([1.0000e+00, 3.4028e+38, 3.4028e+38])
    """
    return torch.nan_to_num(losses, nan=torch.inf).clamp_max(LARGEST_LOSS)


def compute_errors(outputs: Tensor, labels: Tensor) -> Tensor:
    """The error of each image: bool (N,), True is wrong; with masks 1 - mean IoU, float64 (N,).

    Outputs that are not finite are wrong answers (`choose_answers`).
    """
    answers = choose_answers(outputs)
    if labels.dim() == 1:
        return answers != labels
    return compute_image_errors(count_overlaps(answers, labels, outputs.shape[1]))


def weigh_batch(labels: Tensor) -> Tensor:
    """The weight of a batch in a mean of mean losses: the number of its images, or of its pixels
    that are not ignored.
    """
    if labels.dim() == 1:
        return torch.tensor(len(labels))
    return (labels != IGNORED).sum()


def refuse_masks(labels: Tensor, quantity: str) -> None:
    """Raise `EvidenceError` where labels are masks and the `quantity` (a plural noun) is defined
    only for one answer for each image.
    """
    if labels.dim() > 1:
        raise EvidenceError(
            f"{quantity} are known only for one class for each image, not for masks: for "
            "segmentation take a criterion that `GET /v1/methods` marks with `segmentation`"
        )


def _compute_pixel_losses(outputs: Tensor, masks: Tensor) -> Tensor:
    """The cross-entropy of each pixel, (N, H, W), 0 where it is ignored."""
    # Pixels as rows: that cross-entropy has a deterministic kernel on every device.
    rows = outputs.permute(0, 2, 3, 1).reshape(-1, outputs.shape[1])
    losses = F.cross_entropy(rows, masks.long().flatten(), ignore_index=IGNORED, reduction="none")
    return losses.reshape(masks.shape)
