"""The intersection over union of predicted and true regions: of images, of classes and of a whole
test set.

IoU = |prediction and truth| / |prediction or truth| over the pixels of one class; pixels whose
truth is 255 count nowhere.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from pruning.data.arrays import IGNORED
from pruning.measurement.bootstrap import count_draws, enclose_value
from pruning.schemas.report import Estimate

RESAMPLES = 1000


def count_overlaps(answers: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Pixels in the intersection and in the union of each class, int64 (N, 2, classes).

    `answers` and `masks` are (N, H, W); masks may hold 255, answers -1 for a pixel without an
    answer, which is in no prediction and so in no intersection.

    >>> answers, masks = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 255]]])
    >>> count_overlaps(answers, masks, 3).tolist()
    [[[1, 1, 0], [2, 2, 0]]]
    """
    n = len(masks)
    truth = masks.long()
    image = torch.arange(n, device=masks.device)[:, None, None].expand_as(masks)
    known = truth != IGNORED
    # One number for each (image, true class, predicted class): counting the numbers of all pixels
    # gives the confusion matrices of all images at once. Their first column is for no answer.
    columns = classes + 1
    pairs = ((image * classes + truth) * columns + answers + 1)[known]
    counts = torch.bincount(pairs, minlength=n * classes * columns)
    confusion = counts.reshape(n, classes, columns)
    predicted = confusion[:, :, 1:]
    intersection = predicted.diagonal(dim1=1, dim2=2)
    union = predicted.sum(1) + confusion.sum(2) - intersection
    return torch.stack([intersection, union], 1)


def compute_image_errors(overlaps: Tensor) -> Tensor:
    """1 - mean IoU of each image over the classes in its truth or its prediction, float64 (N,).

    `overlaps` is as `count_overlaps` returns it. The error lies in [0, 1]; it is 0 where every
    pixel is ignored.

    >>> overlaps = torch.tensor([[[1, 1, 0], [2, 2, 0]], [[0, 0, 0], [0, 0, 0]]])
    >>> compute_image_errors(overlaps).tolist()
    [0.5, 0.0]
    """
    intersections, unions = overlaps[:, 0], overlaps[:, 1]
    present = unions > 0
    ious = intersections.double() / unions.clamp_min(1)
    error = 1 - (ious * present).sum(1) / present.sum(1).clamp_min(1)
    return torch.where(present.any(1), error, 0.0).clamp(0, 1)


def compute_class_ious(overlaps: Tensor) -> Tensor:
    """IoU of each class over all images together, (..., classes), NaN for a class that is nowhere.

    `overlaps` holds intersections and unions summed over the images, (..., 2, classes).

    >>> compute_class_ious(torch.tensor([[1.0, 0.0], [2.0, 0.0]])).tolist()
    [0.5, nan]
    """
    intersections, unions = overlaps[..., 0, :], overlaps[..., 1, :]
    return torch.where(unions > 0, intersections.double() / unions, torch.nan)


def compute_whole_ious(
    overlaps: Tensor, generator: Generator
) -> tuple[Estimate, tuple[Estimate | None, ...]]:
    """Mean IoU over the classes of a test set, and that of each class, from `count_overlaps` (N, 2,
    classes).

    Intersections and unions are summed over the images; the 95 % percentile intervals are over
    bootstrap samples of the images. None for a class that neither truth nor prediction has.
    """
    n = len(overlaps)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator)
    sums = count_draws(drawn) @ overlaps.double().flatten(1)
    draws = compute_class_ious(sums.reshape(RESAMPLES, *overlaps.shape[1:]))
    values = compute_class_ious(overlaps.sum(0).double())
    by_class = tuple(
        None if bool(value.isnan()) else _estimate_iou(value, draws[:, index], n)
        for index, value in enumerate(values)
    )
    return _estimate_iou(values.nanmean(), draws.nanmean(1), n), by_class


def _estimate_iou(value: Tensor, draws: Tensor, n: int) -> Estimate:
    """A value with the interval of its draws, without those that drew no image with the class."""
    return enclose_value(float(value), draws[~draws.isnan()], n, "fraction")


def compute_constant_errors(masks: Tensor, classes: int) -> Tensor:
    """The mean error of calling every pixel of class c, float64 (classes,), which a network must
    stay below.

    >>> compute_constant_errors(torch.tensor([[[0, 0, 0, 1]]]), 3).tolist()
    [0.625, 0.875, 1.0]
    """
    counts = torch.stack(
        [torch.bincount(mask[mask != IGNORED].long(), minlength=classes) for mask in masks]
    ).double()
    present = counts > 0
    # The IoU of the class called is its share of the pixels, that of the others is 0; the mean is
    # over the classes in the truth and the one called.
    averaged = present.sum(1, keepdim=True) + (~present).double()
    errors = 1 - counts / counts.sum(1, keepdim=True).clamp_min(1) / averaged
    return torch.where(present.any(1, keepdim=True), errors, 0.0).mean(0)
