"""How much a layer's relative error grows in its sums of terms of both signs: CoreNet's Delta.

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
    """Of one layer."""

    mean: float
    """max over its outputs of the mean Delta over images and positions; at least 1."""
    dropped: int
    """Points (an output, an image, a position) that do not count, as what the output receives is as
    good as 0.
    """


def measure_amplifications(
    model: nn.Module, names: Collection[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Amplification]:
    """By weight name, max_i of the mean of Delta_i(x, p) = sum_k |w_ik a_k| / |sum_k w_ik a_k|, the
    bias a term of it.

    In eval mode, in float64. Points with |sum| <= 2^-23 do not count: Delta has no limit there. The
    mean over positions is taken with that over images, as the paper has fully connected layers
    alone. Raises `EvidenceError` where a layer sees no batch of images, or inputs that are no
    finite numbers.

    >>> layer = nn.Linear(4, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, 1.0, -1.0, 0.5]]))
    >>> images = torch.tensor([[1.0, 1.0, 1.0, 2.0], [0.0, 3.0, 1.0, 0.0]])
    >>> round(
    ...     measure_amplifications(layer, ["weight"], [(images, torch.zeros(2))])["weight"].mean, 4
    ... )
    1.8333
    """
    sums = {
        name: torch.zeros(2, len(model.get_parameter(name)), dtype=torch.float64) for name in names
    }
    points = dict.fromkeys(names, 0)
    with torch.no_grad():
        for name, use in iterate_uses(model, names, batches):
            found, seen = _summed(use, model.get_parameter(name))
            sums[name] += found.cpu()
            points[name] += seen
    return {
        name: Amplification(
            max(1.0, float((total / count.clamp_min(1)).max())), points[name] - int(count.sum())
        )
        for name, (total, count) in sums.items()
    }


def _summed(use: Use, weight: Tensor) -> tuple[Tensor, int]:
    """The sum of Delta and the number of points that count, of every output (2, out), and the
    number of all points.
    """
    layer, rows = use.layer, as_matrices(use.layer, weight.double())
    bias = (
        torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        if layer.bias is None
        else layer.bias.double()
    )
    shift = bias.reshape(count_groups(layer), -1, 1)
    one = extract_patches(layer, use.inputs[:1])
    images = max(1, BYTES // (8 * max(one.numel(), len(weight) * one.shape[-1])))
    found, points = torch.zeros(2, len(weight), dtype=torch.float64, device=weight.device), 0
    for part in torch.split(use.inputs, images):
        seen = extract_patches(layer, part).double()  # (N, G, K, L)
        total, size = (rows @ seen + shift).abs(), rows.abs() @ seen.abs() + shift.abs()
        some = total > SMALLEST
        delta = torch.where(some, size / total.clamp_min(SMALLEST), 0.0)
        found += torch.stack([one.sum((0, 3)).flatten() for one in (delta, some.double())])
        points += total.numel()
    return found, points
