"""Sensitivities of edges: the largest part, over images, of a weight in what its output receives.

At one position p of one image x, the weights of one sign that enter output i receive z_i = sum_k
|w_ik| a_k, and weight ij has the part g_ij(x, p) = |w_ij| a_j / z_i of it, in [0, 1]. The inputs a
must not be negative: an image with negative inputs is taken as two, its positive and its negative
part. Biases are not inputs and have no part.

Source: Baykal et al., SiPPing neural networks: sensitivity-informed provable pruning of neural
networks, 2019; Liebenwein et al., Provable filter pruning for efficient neural networks, ICLR 2020;
smallest sum and split of the inputs as in the code released with them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.evidence.evidence import Evidence
from pruning.networks.layers import (
    Layer,
    Use,
    as_matrices,
    extract_patches,
    iterate_uses,
    record_uses,
)
from pruning.networks.modes import evaluate_mode
from pruning.types import Scores

Positions = Literal["mean", "max"]
SMALLEST = 2.0**-23
"""A sum z that is not above this is taken as nothing: no weight has a part in it."""
BYTES = 16 * 2**20
"""The most bytes of the largest intermediate result, whatever the number of images."""
CACHE = 2**20
"""The bytes of a block of products that stays in the processor's cache."""


def compute_sensitivities(
    model: nn.Module,
    names: Collection[str],
    batches: Iterable[tuple[Tensor, Tensor]],
    positions: Positions,
) -> Scores:
    """Compute s_ij = max over images of the mean, or the maximum, over positions p of g_ij(x, p).

    Shaped as the weights, in eval mode, in the precision of the network; for a shared weight the
    maximum over its uses. A weight that is zero, and one whose layer is never called, has none.
    Raises `EvidenceError` where a layer sees no batch of images, or inputs that are not finite.

    >>> layer = nn.Linear(4, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, 1.0, -1.0, 0.5]]))
    >>> images = torch.tensor([[1.0, 1.0, 1.0, 2.0], [0.0, 3.0, 1.0, 0.0]])
    >>> compute_sensitivities(layer, ["weight"], [(images, torch.zeros(2))], "mean")
    {'weight': tensor([[0.5000, 1.0000, 1.0000, 0.2500]])}
    """
    largest = {name: torch.zeros_like(model.get_parameter(name)) for name in names}
    with torch.no_grad():
        for name, use in iterate_uses(model, names, batches):
            edges = _compute_edges(use, model.get_parameter(name), positions)
            torch.maximum(largest[name], edges, out=largest[name])
    return largest


def _compute_edges(use: Use, weight: Tensor, positions: Positions) -> Tensor:
    """Compute s_ij of one call of a layer over all its images, shaped as the weight."""
    layer = use.layer
    matrices = as_matrices(layer, weight)
    # One row for each sign of each output: (G, 2 out / G, K).
    signs = torch.cat([matrices.clamp_min(0.0), (-matrices).clamp_min(0.0)], 1)
    worst = torch.zeros_like(signs)
    images = _count_images_at_once(extract_patches(layer, use.inputs[:1]), signs)
    for part in torch.split(split_signs(use.inputs), images):
        if positions == "max" and has_sparse_maxima(part):
            seen = _maximise_by_offset(layer, part, signs)
        else:
            patches = extract_patches(layer, part)  # (N, G, K, L)
            inverse = _invert_sums(signs @ patches)
            reduce_positions = _average_positions if positions == "mean" else _maximise_positions
            seen = reduce_positions(inverse, patches)
        torch.maximum(worst, seen, out=worst)
    # A weight has one sign: the other row of its output has 0 for it.
    by_sign = (signs * worst).reshape(len(signs), 2, *matrices.shape[1:])
    return by_sign.amax(1).reshape(weight.shape)


def has_sparse_maxima(inputs: Tensor) -> bool:
    """Return whether torch has products in which maxima stand for sums, for such inputs."""
    return inputs.is_cpu and inputs.dtype in (torch.float32, torch.float64)


def _invert_sums(sums: Tensor) -> Tensor:
    """Compute 1 / z, and 0 where z is taken as nothing."""
    return torch.where(sums > SMALLEST, sums.reciprocal(), 0.0)


def _count_images_at_once(first_patches: Tensor, signs: Tensor) -> int:
    """Count the images whose patches, sums and reductions take at most `BYTES`; at least one."""
    sums = signs[..., 0].numel() * first_patches.shape[-1]
    elements = max(first_patches.numel(), signs.numel(), sums)
    return max(1, BYTES // (first_patches.element_size() * elements))


def count_output_positions(
    model: nn.Module, names: Collection[str], image: Tensor
) -> dict[str, int]:
    """Count the positions that each layer's output has for one image (1, C, H, W), by weight name.

    All uses of a layer together; 0 without a use.

    >>> count_output_positions(nn.Conv2d(1, 1, 3), ["weight"], torch.zeros(1, 1, 5, 5))
    {'weight': 9}
    """
    with evaluate_mode(model), torch.no_grad(), record_uses(model, names) as uses:
        model(image)
    return {
        name: sum(extract_patches(use.layer, use.inputs).shape[-1] for use in calls)
        for name, calls in uses.items()
    }


def count_known_positions(evidence: Evidence) -> dict[str, int]:
    """Count the positions that each layer's output has for one image; 0 where it has no part.

    Raises `EvidenceError` for a weight that the loss depends on though its layer is never called,
    as that of the output projection of `nn.MultiheadAttention`: its inputs are not known.
    """
    image = evidence.batches[0][0][:1]
    positions = count_output_positions(evidence.model, list(evidence.weights), image)
    for name, count in positions.items():
        if not count:
            evidence.refuse_hidden(name)
    return positions


def compute_sample_size(
    model: nn.Module, positions: Mapping[str, int], *, delta: float, c: float
) -> int:
    """Compute |S| = ceil(c ln(8 eta_max eta / delta)), the images that a sensitivity needs.

    eta is the number of output elements of all layers, eta_max that of the largest; `positions` are
    the positions of each layer's output. With c = 3 and delta = 1e-16 as in the released code:

    >>> layers = nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10)
    >>> net = nn.Sequential(nn.Flatten(), *layers)
    >>> positions = {f"{i}.weight": 1 for i in (1, 2, 3)}
    >>> compute_sample_size(net, positions, delta=1e-16, c=3.0)
    152
    """
    outputs = [count * len(model.get_parameter(name)) for name, count in positions.items()]
    largest = max(1, *outputs)
    total = max(1, sum(outputs))
    return max(1, math.ceil(c * math.log(8 * largest * total / delta)))


def split_signs(inputs: Tensor) -> Tensor:
    """Split inputs of which some are negative into positive parts and negative parts.

    The result has twice as many images; inputs without negative entries are returned as they are.

    >>> split_signs(torch.tensor([[1.0, -2.0]]))
    tensor([[1., 0.],
            [0., 2.]])
    """
    if bool((inputs < 0).any()):
        return torch.cat([inputs.clamp_min(0.0), (-inputs).clamp_min(0.0)])
    return inputs


def _average_positions(inverse: Tensor, patches: Tensor) -> Tensor:
    """Compute max over n of (1 / L) sum over l of inverse (N, G, O, L) times patches (N, G, K, L).

    Returns (G, O, K).
    """
    return (inverse @ patches.mT).amax(0) / patches.shape[-1]


def _maximise_positions(inverse: Tensor, patches: Tensor) -> Tensor:
    """Compute max over n and l of inverse (N, G, O, L) times patches (N, G, K, L): (G, O, K)."""
    rows = inverse.permute(1, 2, 0, 3).flatten(2)  # (G, O, N L)
    columns = patches.permute(1, 2, 0, 3).flatten(2)  # (G, K, N L)
    largest = torch.empty(*rows.shape[:2], columns.shape[1], dtype=rows.dtype, device=rows.device)
    # As many rows at a time as the products (rows, K, N L) fit into the cache; in a depthwise
    # convolution, with few rows in each group, many groups at once.
    block = max(1, CACHE // (columns.element_size() * max(1, columns[0].numel())))
    groups_at_once = max(1, block // rows.shape[1])
    for group in range(0, len(rows), groups_at_once):
        groups = slice(group, group + groups_at_once)
        for start in range(0, rows.shape[1], block):
            part = slice(start, start + block)
            products = rows[groups, part, None] * columns[groups, None]
            largest[groups, part] = products.amax(-1)
    return largest


def _maximise_by_offset(layer: Layer, inputs: Tensor, signs: Tensor) -> Tensor:
    """Compute what `_maximise_positions` does, (G, O, K), without the patches and their products.

    For one offset of the kernel it is a product of two matrices in which maxima stand for sums: of
    the inputs, and of 1 / z laid out where the offset finds its input. torch has such a product on
    the CPU, for a sparse first matrix, so that inputs of zero cost nothing.
    """
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    if isinstance(layer, nn.Linear):
        # Positions as the columns of a grid, (N, K, 1, L), seen by a kernel of one.
        grid = inputs.reshape(len(inputs), 1, -1, inputs.shape[-1]).movedim(3, 1)
        kernel, stride, dilation = (1, 1), (1, 1), (1, 1)
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        grid = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
        kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    groups, out = signs.shape[:2]
    weight = signs.reshape(groups * out, -1, *kernel)
    sums = F.conv2d(grid, weight, stride=stride, dilation=dilation, groups=groups)
    # 1 / z of an output at its first input in the grid: (G N, H, W, O), 0 elsewhere.
    images, _, height, width = grid.shape
    below, right = dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1)
    longest = below * width + right
    cells = groups * images * height * width
    padded = grid.new_zeros(longest + cells, out)
    first = padded[longest:].view(groups, images, height, width, out)
    by_group = _invert_sums(sums).reshape(images, groups, out, *sums.shape[2:])
    rows = slice(0, height - below, stride[0])
    columns = slice(0, width - right, stride[1])
    first[:, :, rows, columns] = by_group.permute(1, 0, 3, 4, 2)
    sparse = _list_inputs(grid, groups)
    largest = torch.stack(
        [
            torch.sparse.mm(sparse, padded[longest - offset :][:cells], "amax")
            for y in range(0, below + 1, dilation[0])
            for offset in range(y * width, y * width + right + 1, dilation[1])
        ],
        1,
    )  # (in, offsets, O)
    return largest.reshape(groups, -1, out).mT


def _list_inputs(grid: Tensor, groups: int) -> Tensor:
    """List the entries of a grid (N, C, H, W) that are not zero: a sparse matrix (C, G N H W), a
    channel in the columns of its group.
    """
    channels = grid.shape[1]
    flat = grid.transpose(0, 1).reshape(channels, -1)
    cells = flat.shape[1]
    places = flat.flatten().nonzero().flatten()
    group = places // (channels // groups * cells)
    starts = F.pad(flat.count_nonzero(1).cumsum(0), (1, 0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(
            starts,
            places % cells + group * cells,
            flat.flatten()[places],
            (channels, groups * cells),
            check_invariants=False,
        )
