"""The empirical Fisher in blocks: curvature from the gradients of the loss on groups of images.

F = lambda I + (1 / m) sum_i g_i g_i^T with g_i the gradient of the mean loss on group i, along each
layer's flattened weight, between weights of one block only.

Source: Singh and Alistarh, WoodFisher: efficient second-order approximation for neural network
compression, NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from pruning.errors import ScoreError
from pruning.evidence.cached import once_per_evidence
from pruning.evidence.evidence import Evidence
from pruning.evidence.gradients import compute_image_gradients
from pruning.evidence.quadratic_models import split_matrices
from pruning.types import Scores


@once_per_evidence
def compute_group_gradients(evidence: Evidence, groups: int) -> Scores:
    """Compute the gradients of the mean loss on m groups of images: (m, N) by name.

    In eval mode, in the weight's dtype. The images of the evidence are taken in order, in `groups`
    groups whose sizes differ by at most one, or each image for itself if there are fewer; zero for
    masked weights. Raises `ScoreError` for gradients that are not finite.

    >>> layer = torch.nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.zero_()
    >>> batches = [(torch.tensor([[2.0], [4.0], [8.0]]), torch.tensor([0, 1, 1]))]
    >>> compute_group_gradients(Evidence(layer, batches=batches), 2)
    {'weight': tensor([[ 0.5000, -0.5000],
            [ 4.0000, -4.0000]])}
    """
    images = sum(len(labels) for _, labels in evidence.batches)
    m = min(groups, images)
    device = next(iter(evidence.weights.values())).device
    group_of_image = torch.arange(images, device=device) * m // images
    sizes = group_of_image.bincount(minlength=m)
    by_group = {
        name: weight.new_zeros(m, weight.numel()) for name, weight in evidence.weights.items()
    }
    start = 0
    for chunk in compute_image_gradients(
        evidence.model, list(evidence.weights), evidence.batches, evidence.loss
    ):
        chunk_size = len(next(iter(chunk.values())))
        index = group_of_image[start : start + chunk_size]
        for name, gradients in chunk.items():
            by_group[name].index_add_(0, index, gradients.flatten(1) / sizes[index, None])
        start += chunk_size
    for name, gradients in by_group.items():
        if not bool(torch.isfinite(gradients).all()):
            raise ScoreError(f"{name}: the gradients of the loss are not finite")
        gradients.masked_fill_(~evidence.masks[name].flatten(), 0.0)
    return by_group


def build_blocks(gradients: Tensor, size: int, damping: float) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of the N weights with their Fisher blocks, float64 (c, b, b).

    F = damping I + (1 / m) G^T G from the gradients G (m, N) in each block of b = min(size, N)
    weights; the last block of all is filled up with weights of no gradient. Only as many blocks at
    a time as the bound on memory allows.

    >>> for part, fisher in build_blocks(torch.tensor([[2.0, 0.0, 1.0], [2.0, 4.0, 1.0]]), 2, 1.0):
    ...     print(part, fisher)
    slice(0, 3, None) tensor([[[5., 4.],
             [4., 9.]],
    <BLANKLINE>
            [[2., 0.],
             [0., 1.]]], dtype=torch.float64)
    """
    m, total = gradients.shape
    b = min(size, total)
    blocks = -(-total // b)  # rounded up
    for part in split_matrices(blocks, b * max(b, m)):
        weights = slice(part.start * b, min(part.stop * b, total))
        stacked = stack_blocks(gradients[:, weights].double(), b)  # (m, c, b)
        columns = stacked.permute(1, 2, 0)
        fisher = columns @ columns.mT / m
        fisher.diagonal(dim1=1, dim2=2).add_(damping)
        yield weights, fisher


def stack_blocks(values: Tensor, size: int) -> Tensor:
    """Stack consecutive values in blocks: (..., n) to (..., c, size).

    The last block is filled up with zeros (False).

    >>> stack_blocks(torch.tensor([1, 2, 3]), 2)
    tensor([[1, 2],
            [3, 0]])
    """
    padded = F.pad(values, (0, -values.shape[-1] % size))
    return padded.reshape(*values.shape[:-1], -1, size)
