"""How well predicted regions meet the true ones: intersection over union of images, of classes and
of a whole test set.

IoU = |prediction and truth| / |prediction or truth| over the pixels of one class; pixels whose
truth is 255 count nowhere.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from pruning.data.arrays import IGNORED
from pruning.schemas.report import Estimate

RESAMPLES = 1000


def count_overlaps(answers: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Pixels in the intersection and in the union of each class, int64 (N, 2, classes); both (N, H,
    W), masks with 255.

    >>> answers, masks = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 255]]])
    >>> count_overlaps(answers, masks, 3).tolist()
    [[[1, 1, 0], [2, 2, 0]]]
    """
    n = len(masks)
    truth, image = (
        masks.long(),
        torch.arange(n, device=masks.device)[:, None, None].expand_as(masks),
    )
    known = truth != IGNORED
    pairs = ((image * classes + truth) * classes + answers)[known]
    table = torch.bincount(pairs, minlength=n * classes**2).reshape(n, classes, classes)
    both = table.diagonal(dim1=1, dim2=2)
    return torch.stack([both, table.sum(1) + table.sum(2) - both], 1)


def compute_image_errors(found: Tensor) -> Tensor:
    """1 - mean IoU of each image over the classes in its truth or its prediction, float64 (N,),
    from `count_overlaps`.

    Lies in [0, 1]; 0 where every pixel is ignored.

    >>> compute_image_errors(
    ...     torch.tensor([[[1, 1, 0], [2, 2, 0]], [[0, 0, 0], [0, 0, 0]]])
    ... ).tolist()
    [0.5, 0.0]
    """
    there = found[:, 1] > 0
    shares = found[:, 0].double() / found[:, 1].clamp_min(1)
    error = 1 - (shares * there).sum(1) / there.sum(1).clamp_min(1)
    return torch.where(there.any(1), error, 0.0).clamp(0, 1)


def compute_class_ious(found: Tensor) -> Tensor:
    """IoU of each class over all images together, (..., classes), NaN where it is nowhere; from
    sums (..., 2, classes).

    >>> compute_class_ious(torch.tensor([[1.0, 0.0], [2.0, 0.0]])).tolist()
    [0.5, nan]
    """
    return torch.where(
        found[..., 1, :] > 0, found[..., 0, :].double() / found[..., 1, :], torch.nan
    )


def compute_whole_ious(
    found: Tensor, generator: Generator
) -> tuple[Estimate, tuple[Estimate | None, ...]]:
    """Mean IoU over the classes of a test set, and that of each class, from `count_overlaps` (N, 2,
    classes).

    From summed intersections and unions; 95 % percentile intervals over bootstrap samples of the
    images. None for a class that neither truth nor prediction has.
    """
    n = len(found)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator)
    counts = torch.zeros(RESAMPLES, n, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    draws = compute_class_ious(
        (counts @ found.double().flatten(1)).reshape(RESAMPLES, *found.shape[1:])
    )
    values = compute_class_ious(found.sum(0).double())
    each = tuple(
        None if bool(value.isnan()) else _interval(value, draws[:, index], n)
        for index, value in enumerate(values)
    )
    return _interval(values.nanmean(), draws.nanmean(1), n), each


def _interval(value: Tensor, draws: Tensor, n: int) -> Estimate:
    low, high = torch.quantile(
        draws[~draws.isnan()], torch.tensor([0.025, 0.975], dtype=torch.float64)
    ).tolist()
    return Estimate(
        value=float(value), low=min(low, float(value)), high=max(high, float(value)), n=n
    )


def compute_constant_errors(masks: Tensor, classes: int) -> Tensor:
    """The mean error of calling every pixel of class c, float64 (classes,): what a network must be
    better than.

    >>> compute_constant_errors(torch.tensor([[[0, 0, 0, 1]]]), 3).tolist()
    [0.625, 0.875, 1.0]
    """
    counts = torch.stack(
        [torch.bincount(mask[mask != IGNORED].long(), minlength=classes) for mask in masks]
    ).double()
    there = counts > 0
    named = there.sum(1, keepdim=True) + (~there).double()
    errors = 1 - counts / counts.sum(1, keepdim=True).clamp_min(1) / named
    return torch.where(there.any(1, keepdim=True), errors, 0.0).mean(0)
