"""The Hessians of the squared errors of the layers' outputs: what a layer's inputs say about
removing its weights.

Changing one row w of a layer's weight by delta changes its output, summed over positions and
averaged over images, by (1 / n) sum_i ||delta^T X_i||^2 = 1/2 delta^T H delta with H = (2 / n)
sum_i X_i X_i^T, the same H for every row. In blocks of consecutive inputs, the entries of H between
inputs of different blocks are left out.

Source: Dong et al., Learning to prune deep neural networks via layer-wise optimal brain surgeon,
NeurIPS 2017; Frantar and Alistarh, Optimal brain compression, NeurIPS 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pruning.errors import EvidenceError, OutOfMemoryError, ScoreError
from pruning.evidence.cached import once_per_evidence
from pruning.evidence.evidence import Evidence
from pruning.networks.layers import Use, extract_patches, record_uses
from pruning.networks.modes import evaluate_mode
from pruning.types import Scores

ELEMENTS = 2**23
"""The entries of the largest batch of patches that is held at a time: 64 MiB in float64."""
INPUTS = 8192
"""The most inputs of a layer in one Hessian: it takes 512 MiB, and a few of them are held."""


@once_per_evidence
def compute_layer_hessians(evidence: Evidence, block_size: int | None = None) -> Scores:
    """Compute H = (2 / n) sum_i X_i X_i^T by name of the weight, float64 (G, K, K).

    One matrix for each group, K inputs with the kernel. X_i (K, L) holds what the L output
    positions of image i see, in eval mode; the uses of a shared weight are summed. With
    `block_size`, b = min(K, block_size), the blocks on the diagonal of H alone, (G ceil(K / b), b,
    b), those of a group one after the other; the last is filled up with inputs of 0. Raises
    `EvidenceError` for a weight used without a call of its layer or as matrices of two shapes,
    `ScoreError` for inputs that are not finite, `OutOfMemoryError` above `INPUTS` inputs.

    >>> layer = torch.nn.Linear(2, 1)
    >>> batches = [(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.zeros(2))]
    >>> compute_layer_hessians(Evidence(layer, batches=batches))
    {'weight': tensor([[[10.,  2.],
             [ 2.,  4.]]], dtype=torch.float64)}
    """
    sums: Scores = {}
    images = 0
    for inputs, _ in evidence.batches:
        with (
            record_uses(evidence.model, list(evidence.weights)) as uses,
            evaluate_mode(evidence.model),
            torch.no_grad(),
        ):
            evidence.model(inputs)
        images += len(inputs)
        for name, calls in uses.items():
            for use in calls:
                _add_squares_(sums, name, _sum_squares(name, use, block_size))
    return {
        name: sums[name].mul_(2 / images)
        if name in sums
        else _build_unused(evidence, name, block_size)
        for name in evidence.weights
    }


def count_block(inputs: int, block_size: int | None) -> tuple[int, int]:
    """Return the size of a block of a layer's inputs, and the number of blocks.

    >>> count_block(7, None), count_block(7, 3), count_block(7, 8)
    ((7, 1), (3, 3), (7, 1))
    """
    size = min(inputs, block_size or inputs)
    return size, -(-inputs // size)  # rounded up


def _add_squares_(sums: Scores, name: str, squares: Tensor) -> None:
    if name not in sums:
        sums[name] = squares
        return
    if sums[name].shape != squares.shape:
        raise EvidenceError(f"{name}: layers that share it see it as matrices of two shapes")
    sums[name].add_(squares)


def _sum_squares(name: str, use: Use, block_size: int | None) -> Tensor:
    """Compute sum_i X_i X_i^T in blocks, (G blocks, b, b)."""
    first_patches = extract_patches(use.layer, use.inputs[:1])
    _, groups, inputs, _ = first_patches.shape
    size, blocks = count_block(inputs, block_size)
    if size > INPUTS:
        raise OutOfMemoryError(
            f"{name}: {size} inputs make a Hessian of {8 * size**2 / 1e9:.1f} GB, at most "
            f"{INPUTS} are taken; set block_size, or exclude the layer"
        )
    device = first_patches.device
    total = torch.zeros(groups * blocks, size, size, dtype=torch.float64, device=device)
    for part in torch.split(use.inputs, max(1, ELEMENTS // first_patches.numel())):
        patches = extract_patches(use.layer, part)  # (N, G, K, L)
        columns = patches.permute(1, 2, 0, 3).flatten(2).double()
        filled_up = F.pad(columns, (0, 0, 0, blocks * size - inputs))
        stacked = filled_up.reshape(groups * blocks, size, -1)
        total.baddbmm_(stacked, stacked.mT)
    if not bool(torch.isfinite(total).all()):
        raise ScoreError(f"{name}: the inputs of its layer are not finite")
    return total


def _build_unused(evidence: Evidence, name: str, block_size: int | None) -> Tensor:
    """Build zeros for a layer that is never called."""
    evidence.refuse_hidden(name)
    weight = evidence.weights[name]
    size, blocks = count_block(weight[0].numel(), block_size)
    return torch.zeros(blocks, size, size, dtype=torch.float64, device=weight.device)
