"""The part of each weight in what its output receives, at worst over the images: sensitivities of
edges.

At one position p of one image x, the weights of one sign that enter output i receive z_i = sum_k
|w_ik| a_k, and weight ij has the part g_ij(x, p) = |w_ij| a_j / z_i of it, in [0, 1]. The inputs a
must not be negative: an image whose inputs are is taken as two, its positive and its negative part.
Biases are no inputs and have no part.

Source: Baykal et al., SiPPing neural networks: sensitivity-informed provable pruning of neural
networks, 2019; Liebenwein et al., Provable filter pruning for efficient neural networks, ICLR 2020;
smallest sum and split of the inputs as in the code released with them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from pruning.networks.layers import Use, as_matrices, extract_patches, iterate_uses, record_uses
from pruning.networks.modes import evaluate_mode
from pruning.types import Scores

Positions = Literal["mean", "max"]
SMALLEST = 2.0**-23
"""A sum z that is not above this is taken as nothing: no weight has a part in it."""
BYTES = 16 * 2**20
"""What the largest intermediate result may take, whatever the number of images."""
CACHE = 2**20
"""Bytes of a block of products that stays in the processor's cache."""


def compute_sensitivities(
    model: nn.Module,
    names: Collection[str],
    batches: Iterable[tuple[Tensor, Tensor]],
    positions: Positions,
) -> Scores:
    """s_ij = max over images of the mean, or the maximum, over positions p of g_ij(x, p); shaped as
    the weights.

    In eval mode, in the precision of the network; of a shared weight the maximum over its uses. A
    weight that is zero, and one whose layer is never called, has none. Raises `EvidenceError` where
    a layer sees no batch of images, or inputs that are no finite numbers.

    >>> layer = nn.Linear(4, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, 1.0, -1.0, 0.5]]))
    >>> images = torch.tensor([[1.0, 1.0, 1.0, 2.0], [0.0, 3.0, 1.0, 0.0]])
    >>> compute_sensitivities(layer, ["weight"], [(images, torch.zeros(2))], "mean")
    {'weight': tensor([[0.5000, 1.0000, 1.0000, 0.2500]])}
    """
    found = {name: torch.zeros_like(model.get_parameter(name)) for name in names}
    with torch.no_grad():
        for name, use in iterate_uses(model, names, batches):
            torch.maximum(
                found[name], _edges(use, model.get_parameter(name), positions), out=found[name]
            )
    return found


def _edges(use: Use, weight: Tensor, positions: Positions) -> Tensor:
    """s_ij of one call of a layer over all its images, shaped as the weight."""
    layer, size = use.layer, as_matrices(use.layer, weight)
    signs = torch.cat(
        [size.clamp_min(0.0), (-size).clamp_min(0.0)], 1
    )  # (G, 2 out / G, K): one row for each side
    one = extract_patches(layer, use.inputs[:1])
    worst = torch.zeros_like(signs)
    reduce = _mean if positions == "mean" else _maximum
    images = max(
        1,
        BYTES
        // (
            one.element_size()
            * max(one.numel(), signs.numel(), signs[..., 0].numel() * one.shape[-1])
        ),
    )
    for part in torch.split(split_signs(use.inputs), images):
        seen = extract_patches(layer, part)  # (N, G, K, L)
        sums = signs @ seen
        torch.maximum(
            worst, reduce(torch.where(sums > SMALLEST, sums.reciprocal(), 0.0), seen), out=worst
        )
    return (signs * worst).reshape(len(signs), 2, *size.shape[1:]).amax(1).reshape(weight.shape)


def count_output_positions(
    model: nn.Module, names: Collection[str], image: Tensor
) -> dict[str, int]:
    """By name, how many positions a layer's output has for one image (1, C, H, W), all its uses
    together; 0 without a use.

    >>> count_output_positions(nn.Conv2d(1, 1, 3), ["weight"], torch.zeros(1, 1, 5, 5))
    {'weight': 9}
    """
    with evaluate_mode(model), torch.no_grad(), record_uses(model, names) as uses:
        model(image)
    return {
        name: sum(extract_patches(use.layer, use.inputs).shape[-1] for use in calls)
        for name, calls in uses.items()
    }


def sample_size(
    model: nn.Module, names: Collection[str], image: Tensor, delta: float, c: float
) -> int:
    """|S| = ceil(c ln(8 eta_max eta / delta)), eta the output elements of all layers and eta_max of the largest.

    `image` is (1, C, H, W). With c = 3 and delta = 1e-16 as in the released code:

    >>> layers = nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10)
    >>> net = nn.Sequential(nn.Flatten(), *layers)
    >>> sample_size(net, [f"{i}.weight" for i in (1, 2, 3)], torch.zeros(1, 1, 28, 28), 1e-16, 3.0)
    152
    """
    counts = [
        count * len(model.get_parameter(name))
        for name, count in count_output_positions(model, names, image).items()
    ]
    return max(1, math.ceil(c * math.log(8 * max(1, *counts) * max(1, sum(counts)) / delta)))


def split_signs(inputs: Tensor) -> Tensor:
    """The inputs as they are, or where some are negative their positive parts and their negative
    parts.

    >>> split_signs(torch.tensor([[1.0, -2.0]]))
    tensor([[1., 0.],
            [0., 2.]])
    """
    return (
        torch.cat([inputs.clamp_min(0.0), (-inputs).clamp_min(0.0)])
        if bool((inputs < 0).any())
        else inputs
    )


def _mean(inverse: Tensor, seen: Tensor) -> Tensor:
    """max over n of (1 / L) sum over l of inverse (N, G, O, L) times seen (N, G, K, L): (G, O,
    K).
    """
    return (inverse @ seen.mT).amax(0) / seen.shape[-1]


def _maximum(inverse: Tensor, seen: Tensor) -> Tensor:
    """max over n and l of inverse (N, G, O, L) times seen (N, G, K, L): (G, O, K)."""
    rows = inverse.permute(1, 2, 0, 3).flatten(2)  # (G, O, N L)
    columns = seen.permute(1, 2, 0, 3).flatten(2)
    found = torch.empty(*rows.shape[:2], columns.shape[1], dtype=rows.dtype, device=rows.device)
    block = max(1, CACHE // (columns.element_size() * max(1, columns[0].numel())))
    many = max(1, block // rows.shape[1])  # of a depthwise convolution, many groups at once
    for group in range(0, len(rows), many):
        groups = slice(group, group + many)
        for start in range(0, rows.shape[1], block):
            part = slice(start, start + block)
            found[groups, part] = (rows[groups, part, None] * columns[groups, None]).amax(-1)
    return found
