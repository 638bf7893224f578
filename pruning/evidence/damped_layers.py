"""Layers as rows of weights, with the damped Hessian of their outputs' squared error.

The rows of a group of a grouped convolution, and of an attention's projection, have one Hessian.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from pruning.evidence.evidence import Evidence
from pruning.evidence.layer_hessians import INPUTS, compute_layer_hessians, count_block
from pruning.evidence.quadratic_models import split_matrices
from pruning.types import Masks

HessianImages = Annotated[
    int, Field(ge=1, le=1_000_000, description="training images that give the layers' inputs")
]
Damping = Annotated[
    float, Field(gt=0, le=1e6, description="added to the diagonal of H, relative to its mean")
]
BlockSize = Annotated[
    int | None,
    Field(
        ge=1,
        le=INPUTS,
        description="consecutive inputs of a layer in one block of its Hessian; null: all, "
        f"at most {INPUTS}",
    ),
]


@dataclass(frozen=True)
class DampedLayer:
    """A layer as rows R of K inputs; where its Hessian is in blocks, each block of a row is one."""

    hessian: Tensor
    """The Hessians with damping, (G, K, K)."""
    dead: Tensor
    """True for inputs that are always zero, (G, K)."""
    group: Tensor
    """The Hessian of each row, (R,)."""
    rows: Tensor
    """The weight, float64 (R, K)."""
    keep: Tensor
    """The mask, (R, K)."""

    def split_rows(self) -> Iterator[slice]:
        """Yield the rows whose Hessians are held at a time."""
        return split_matrices(len(self.rows), self.hessian[0].numel())

    def join_blocks(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Put rows (R, K) together, shaped as the weight."""
        inputs = weight[0].numel()
        return rows.reshape(len(weight), -1)[:, :inputs].reshape(weight.shape)


def damp_layers(
    evidence: Evidence, masks: Masks, damping: float, block_size: int | None = None
) -> Iterator[tuple[str, DampedLayer]]:
    """Yield each layer by the name of its weight, with `damping` times the mean of the Hessian's
    diagonal added to it.

    The diagonal is 1 for an input that is always zero, which would make the Hessian singular. With
    `block_size` see `compute_layer_hessians`.
    """
    for name, hessian in compute_layer_hessians(evidence, block_size).items():
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        dead = diagonal == 0
        alive_inputs = (~dead).sum(1, keepdim=True).clamp_min(1)
        added = damping * diagonal.sum(1, keepdim=True) / alive_inputs
        weight = evidence.weights[name]
        _, blocks = count_block(weight[0].numel(), block_size)
        groups = len(hessian) // blocks
        # The Hessian of each block of each row: those of a group are the same for its rows.
        numbers = torch.arange(len(hessian), device=weight.device).reshape(groups, 1, blocks)
        layer = DampedLayer(
            hessian=hessian + torch.diag_embed(torch.where(dead, 1.0, added)),
            dead=dead,
            group=numbers.expand(-1, len(weight) // groups, -1).flatten(),
            rows=_split_blocks(weight.double(), hessian.shape[1], 0.0),
            keep=_split_blocks(masks[name], hessian.shape[1], True),
        )
        yield name, layer


def _split_blocks(weight: Tensor, size: int, filling: float) -> Tensor:
    """Cut every row of a weight into blocks of `size` inputs, the last filled up: (R, size)."""
    rows = weight.flatten(1)
    return F.pad(rows, (0, -rows.shape[1] % size), value=filling).reshape(-1, size)
