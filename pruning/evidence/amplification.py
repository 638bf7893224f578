"""The growth of a layer's relative error in its sums of terms of both signs: CoreNet's Delta.

Source: Baykal, Liebenwein, Gilitschenski, Feldman and Rus, Data-dependent coresets for compressing
neural networks with applications to generalization bounds, ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.evidence.sensitivities import BYTES, SMALLEST
from pruning.networks.layers import Use, as_matrices, count_groups, extract_patches, iterate_uses


@dataclass(frozen=True)
class Amplification:
    """The factor by which one layer amplifies relative errors."""

    mean: float
    """The largest of its outputs' mean Delta over images and positions; at least 1."""
    dropped: int
    """The number of points (an output, an image, a position) that do not count, because what the
    output receives there is as good as 0.
    """


def measure_amplifications(
    model: nn.Module, names: Collection[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Amplification]:
    """Measure max_i of the mean of Delta_i(x, p) = sum_k |w_ik a_k| / |sum_k w_ik a_k| by weight.

    The bias is one of the terms. In eval mode, in float64. Points with |sum| <= 2^-23 do not count:
    Delta has no limit there. The mean over positions is taken with that over images, as the paper
    has fully connected layers alone. Raises `EvidenceError` where a layer sees no batch of images,
    or inputs that are not finite.

    >>> layer = nn.Linear(4, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, 1.0, -1.0, 0.5]]))
    >>> images = torch.tensor([[1.0, 1.0, 1.0, 2.0], [0.0, 3.0, 1.0, 0.0]])
    >>> measured = measure_amplifications(layer, ["weight"], [(images, torch.zeros(2))])
    >>> round(measured["weight"].mean, 4)
    1.8333
    """
    sums = {
        name: torch.zeros(2, len(model.get_parameter(name)), dtype=torch.float64) for name in names
    }
    points = dict.fromkeys(names, 0)
    with torch.no_grad():
        for name, use in iterate_uses(model, names, batches):
            use_sums, use_points = _sum_amplification(use, model.get_parameter(name))
            sums[name] += use_sums.cpu()
            points[name] += use_points
    amplifications = {}
    for name, (total, count) in sums.items():
        mean = float((total / count.clamp_min(1)).max())
        amplifications[name] = Amplification(max(1.0, mean), points[name] - int(count.sum()))
    return amplifications


def _sum_amplification(use: Use, weight: Tensor) -> tuple[Tensor, int]:
    """Sum Delta over the points of one use and count them.

    Returns the sum of Delta and the number of points that count, for every output (2, out), and the
    number of all points.
    """
    layer = use.layer
    rows = as_matrices(layer, weight.double())
    if layer.bias is None:
        bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    else:
        bias = layer.bias.double()
    shift = bias.reshape(count_groups(layer), -1, 1)
    first_patches = extract_patches(layer, use.inputs[:1])
    elements = max(first_patches.numel(), len(weight) * first_patches.shape[-1])
    images = max(1, BYTES // (8 * elements))
    sums = torch.zeros(2, len(weight), dtype=torch.float64, device=weight.device)
    points = 0
    for part in torch.split(use.inputs, images):
        patches = extract_patches(layer, part).double()  # (N, G, K, L)
        total = (rows @ patches + shift).abs()
        size = rows.abs() @ patches.abs() + shift.abs()
        counts = total > SMALLEST
        delta = torch.where(counts, size / total.clamp_min(SMALLEST), 0.0)
        sums[0] += delta.sum((0, 3)).flatten()
        sums[1] += counts.double().sum((0, 3)).flatten()
        points += total.numel()
    return sums, points
