"""The diagonal of the curvature of the mean cross-entropy: exact Gauss-Newton, empirical Fisher,
sampled Fisher.

With J_i the Jacobian of the logits of image i in the weights and p_i their softmax,

- `ggn`: D = (1/n) sum_i diag(J_i^T (diag p_i - p_i p_i^T) J_i), the generalised Gauss-Newton
  matrix, which for softmax cross-entropy is the true Fisher; C - 1 backward passes;
- `mc_fisher`: the same with k labels for each image drawn from p_i instead of all, an unbiased
  estimate; k passes;
- `empirical_fisher`: (1/n) sum_i (d loss_i / d theta)^2, with the true labels; one pass.

Sources: Schraudolph, Fast curvature matrix-vector products, 2002; Kunstner et al., Limitations of
the empirical Fisher approximation, NeurIPS 2019; the curvature of Laurent et al., Revisiting loss
modelling for unstructured pruning, 2020.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pruning.errors import EvidenceError, ScoreError
from pruning.evidence.gradients import (
    BYTES,
    Deltas,
    Footprint,
    Loss,
    Vectors,
    compute_loss_vectors,
    propagate_deltas,
    refuse_mixing,
    sum_over_uses,
)
from pruning.measurement.objective import refuse_masks
from pruning.networks.modes import evaluate_mode
from pruning.types import Scores

GaussNewton = Literal["ggn", "empirical_fisher", "mc_fisher"]
"""The kinds of this module."""
Curvature = Literal["ggn", "empirical_fisher", "mc_fisher", "hessian", "hutchinson"]
"""Every kind, those of `pruning.evidence.hessian` too."""
EXACT_CLASSES = 20
"""With more classes than this the default is one drawn label for each image."""
CUDA_FACTOR = 8
"""On a GPU, larger pieces: the launches of small ones cost more than their arithmetic."""


def choose_curvature(classes: int) -> GaussNewton:
    """Choose the exact curvature up to 20 classes, the sampled one above."""
    return "ggn" if classes <= EXACT_CLASSES else "mc_fisher"


def compute_diagonal(  # noqa: PLR0913 (what is computed is by keyword)
    model: nn.Module,
    names: Collection[str],
    *,
    batches: Sequence[tuple[Tensor, Tensor]],
    kind: GaussNewton | None,
    generator: Generator,
    loss: Loss = F.cross_entropy,
    samples: int = 1,
    size_bytes: int | None = None,
) -> Scores:
    """Compute D of the weights `names` over all images, in eval mode, shaped as the weights.

    With `kind` None it is the default for the number of classes; `samples` labels of each image are
    drawn for `mc_fisher`. The largest intermediate result
    takes `size_bytes` (64 MiB, eight times that on a GPU), or what one vector of one image takes.
    Raises `EvidenceError` where `ggn` or `mc_fisher` is asked of another loss than cross-entropy,
    `ScoreError` for outputs that are not finite.

    >>> layer = nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.zero_()
    >>> batches = [(torch.tensor([[2.0]]), torch.tensor([0]))]
    >>> diagonal = compute_diagonal(
    ...     layer, ["weight"], batches=batches, kind="ggn", generator=torch.Generator()
    ... )
    >>> diagonal["weight"].flatten()  # p (1 - p) x^2 = 4 / 4
    tensor([1.0000, 1.0000])
    """
    refuse_mixing(model)
    refuse_masks(batches[0][1], "curvatures of the loss")
    inputs = batches[0][0]
    with evaluate_mode(model), torch.no_grad():
        classes = model(inputs[:1]).shape[1]
    kind = kind or choose_curvature(classes)
    if kind != "empirical_fisher" and loss is not F.cross_entropy:
        raise EvidenceError(f"{kind} is known for softmax cross-entropy only; use empirical_fisher")
    count = sum(len(labels) for _, labels in batches)
    drawn = count if kind == "mc_fisher" else 0
    draws = torch.rand(samples, drawn, generator=generator, dtype=torch.float64)
    limit = size_bytes or BYTES * (CUDA_FACTOR if inputs.is_cuda else 1)
    footprint = Footprint.from_forward_pass(model, names, inputs, spare_linear=True)
    vectors = {"ggn": classes - 1, "mc_fisher": samples, "empirical_fisher": 1}[kind]
    at_once = min(vectors, footprint.count_vectors(limit)) or 1
    images = footprint.count_images(at_once, limit)

    diagonal = {name: torch.zeros_like(model.get_parameter(name)) for name in names}
    done = 0
    for batch in batches:
        for x, y in zip(*(torch.split(part, images) for part in batch), strict=True):
            make_vectors: dict[GaussNewton, Vectors] = {
                "ggn": compute_ggn_vectors,
                "empirical_fisher": partial(compute_loss_vectors, loss, y),
                "mc_fisher": partial(compute_fisher_vectors, draws[:, done : done + len(x)]),
            }
            for size, deltas in propagate_deltas(model, names, x, make_vectors[kind], at_once):
                for name in names:
                    diagonal[name] += _sum_squares(
                        deltas.pop(name), diagonal[name], images=len(x), vectors=size
                    )
            done += len(x)
    return {name: value / done for name, value in diagonal.items()}


def compute_ggn_vectors(logits: Tensor) -> Tensor:
    """Compute C - 1 vectors v_k with sum_k v_k v_k^T = diag p - p p^T by image, (C - 1, N, C).

    diag p - p p^T = S S^T with S = diag(s) - p s^T, s = sqrt p. The reflection H = I - w w^T / (1 +
    s_m), w = s + e_m, maps s to -e_m, m the likeliest class; S H has the columns s * h_j, h_j
    orthogonal to s, and zero for j = m.
    """
    p = _compute_softmax(logits)
    s = p.sqrt()
    n, classes = p.shape
    likeliest = p.argmax(1, keepdim=True)
    w = s.scatter_add(1, likeliest, torch.ones_like(s[:, :1]))
    scaled_w = w / (1 + s.gather(1, likeliest))
    h = torch.diag_embed(torch.ones_like(s)) - scaled_w[:, :, None] * w[:, None, :]
    # The numbers of all classes but the likeliest, whose column is zero.
    others = torch.arange(classes - 1, device=p.device).expand(n, -1)
    others = others + (others >= likeliest)
    columns = others[:, None, :].expand(n, classes, -1)
    return (s[:, :, None] * h).gather(2, columns).permute(2, 0, 1)


def compute_fisher_vectors(draws: Tensor, logits: Tensor) -> Tensor:
    """Compute softmax less the one-hot of each label drawn from it, over sqrt(k), (k, N, C).

    `draws` are uniform on [0, 1), k for each image, (k, N).
    """
    p = _compute_softmax(logits)
    cumulative = p.cpu().double().cumsum(1)
    # The last sum is not exactly 1: the draws are scaled to it.
    targets = draws.T.contiguous() * cumulative[:, -1:]
    labels = torch.searchsorted(cumulative, targets, right=True).clamp_max(p.shape[1] - 1)
    one_hot = F.one_hot(labels.T.to(p.device), p.shape[1]).to(p.dtype)
    return (p - one_hot) / math.sqrt(len(draws))


def _compute_softmax(logits: Tensor) -> Tensor:
    if not torch.isfinite(logits).all():
        raise ScoreError("the network's outputs are not finite: they have no curvature")
    return logits.softmax(1)


def _sum_squares(uses: Deltas, weight: Tensor, *, images: int, vectors: int) -> Tensor:
    """Sum the squared gradients of single images over images and vectors, shaped as the weight."""
    if len(uses) == 1:
        ((use, delta),) = uses
        if isinstance(use.layer, nn.Linear) and delta.dim() == 3:
            # One position: the square of a product is the product of the squares.
            return delta.square().sum(1).T @ use.inputs.square()
    return sum_over_uses(uses, weight, images, vectors).square_().sum((0, 1))
