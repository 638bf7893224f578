"""The empirical Fisher in blocks: curvature from the gradients of the loss on groups of images.

F = lambda I + (1 / m) sum_i g_i g_i^T with g_i the gradient of the mean loss on group i, along each
layer's flattened weight, between weights of one block only.

Source: Singh and Alistarh, WoodFisher: efficient second-order approximation for neural network
compression, NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pruning.errors import ScoreError
from pruning.evidence.cached import once_per_evidence
from pruning.evidence.evidence import Evidence
from pruning.evidence.gradients import compute_image_gradients
from pruning.evidence.quadratic_models import split_matrices
from pruning.types import Scores

GRADIENTS = 2**31
"""The bytes of group gradients that are held at a time: 2 GiB."""


@dataclass(frozen=True)
class FisherBlocks:
    """Some consecutive Fisher blocks of a weight, flattened."""

    name: str
    weights: slice
    """The weights of these blocks."""
    fisher: Tensor
    """The blocks, float64 (c, b, b); the last is filled up with weights of no gradient."""

    @property
    def size(self) -> int:
        """b, the number of weights in one block."""
        return self.fisher.shape[-1]

    @property
    def count(self) -> int:
        """The number of weights in all of these blocks."""
        return int(self.weights.stop - self.weights.start)


def iterate_blocks(
    evidence: Evidence, *, groups: int, size: int, damping: float
) -> Iterator[FisherBlocks]:
    """Yield the Fisher blocks of all weights in order, those of a weight from its first on.

    The gradients of all groups are computed once for each evidence where they take at most
    `GRADIENTS` bytes, else as many blocks at a time as that allows, with a pass over the images for
    each.
    """
    for piece, gradients in _iterate_gradients(evidence, groups, size):
        for part, fisher in build_blocks(gradients, size, damping):
            start = piece.start + part.start
            yield FisherBlocks(piece.name, slice(start, piece.start + part.stop), fisher)
        del gradients  # before those of the next pass are computed


@dataclass(frozen=True)
class Piece:
    """The weights `start ... stop - 1` of a flattened weight."""

    name: str
    start: int
    stop: int


def _iterate_gradients(
    evidence: Evidence, groups: int, size: int
) -> Iterator[tuple[Piece, Tensor]]:
    """Yield pieces of the weights in whole blocks of `size`, each with its gradients (m, n)."""
    images = sum(len(labels) for _, labels in evidence.batches)
    passes = divide_weights(evidence.weights, size, min(groups, images))
    if len(passes) == 1:
        whole = compute_group_gradients(evidence, groups)
        yield from ((piece, whole[piece.name]) for piece in passes[0])
        return
    for pieces in passes:
        by_piece = _compute_pieces(evidence, groups, pieces)
        for piece in pieces:
            yield piece, by_piece.pop(0)


def divide_weights(weights: Scores, size: int, groups: int) -> list[list[Piece]]:
    """Divide weights into pieces of whole blocks, and these into passes of `GRADIENTS` bytes.

    A pass has at least one block. Where all fits into one pass, no weight is cut.

    >>> divide_weights({"weight": torch.zeros(3)}, 2, 10)
    [[Piece(name='weight', start=0, stop=3)]]
    """
    passes: list[list[Piece]] = [[]]
    free = GRADIENTS
    for name, weight in weights.items():
        bytes_each = groups * weight.element_size()
        start = 0
        while start < weight.numel():
            blocks = max(0, free) // (bytes_each * size)
            left = weight.numel() - start
            if left * bytes_each <= free:
                stop = weight.numel()
            elif blocks or not passes[-1]:
                stop = min(start + max(1, blocks) * size, weight.numel())
            else:  # nothing more fits into this pass
                passes.append([])
                free = GRADIENTS
                continue
            passes[-1].append(Piece(name, start, stop))
            free -= (stop - start) * bytes_each
            start = stop
    return passes


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
    pieces = [Piece(name, 0, weight.numel()) for name, weight in evidence.weights.items()]
    gradients = _compute_pieces(evidence, groups, pieces)
    return {piece.name: value for piece, value in zip(pieces, gradients, strict=True)}


def _compute_pieces(evidence: Evidence, groups: int, pieces: list[Piece]) -> list[Tensor]:
    """Compute the group gradients of these pieces, (m, n) each, in one pass over the images."""
    images = sum(len(labels) for _, labels in evidence.batches)
    m = min(groups, images)
    device = next(iter(evidence.weights.values())).device
    group_of_image = torch.arange(images, device=device) * m // images
    sizes = group_of_image.bincount(minlength=m)
    by_piece = [
        evidence.weights[piece.name].new_zeros(m, piece.stop - piece.start) for piece in pieces
    ]
    names = list(dict.fromkeys(piece.name for piece in pieces))
    start = 0
    for chunk in compute_image_gradients(evidence.model, names, evidence.batches, evidence.loss):
        chunk_size = len(next(iter(chunk.values())))
        index = group_of_image[start : start + chunk_size]
        for piece, total in zip(pieces, by_piece, strict=True):
            gradients = chunk[piece.name].flatten(1)[:, piece.start : piece.stop]
            total.index_add_(0, index, gradients / sizes[index, None])
        start += chunk_size
    for piece, total in zip(pieces, by_piece, strict=True):
        if not bool(torch.isfinite(total).all()):
            raise ScoreError(f"{piece.name}: the gradients of the loss are not finite")
        keep = evidence.masks[piece.name].flatten()[piece.start : piece.stop]
        total.masked_fill_(~keep, 0.0)
    return by_piece


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
