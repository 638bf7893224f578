"""The diagonal of the Hessian of the mean loss itself: exact for small networks, or estimated.

- `hessian`: D_k = e_k^T H e_k, one product with the Hessian for each weight;
- `hutchinson`: D = (1/k) sum_s v_s * (H v_s), the entries of v_s 1 or -1 at random: unbiased, with
  variance (1/k) sum_(j not i) H_ij^2 at weight i.

Each product is a backward pass through a gradient. Unlike the Gauss-Newton matrix, the Hessian may
have negative entries on its diagonal. Where all activations are piecewise linear and no weight is
used twice, the logits are piecewise linear in each weight alone, and the diagonals are the same.

Sources: LeCun et al., Optimal Brain Damage, NeurIPS 1989; Pearlmutter, Fast exact multiplication by
the Hessian, 1994; Bekas, Kokiopoulou and Saad, An estimator for the diagonal of a matrix, 2007.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning.errors import EvidenceError, ScoreError
from pruning.evidence.gradients import Loss, refuse_mixing
from pruning.measurement.objective import refuse_masks
from pruning.networks.modes import evaluate_mode
from pruning.types import Masks, Scores

WEIGHTS = 5_000
"""The most weights of a network whose Hessian diagonal is computed exactly."""
AT_ONCE = 32
"""The products with the Hessian that are computed at once."""
Gradients = dict[str, Tensor]
Products = Callable[[Gradients, dict[str, nn.Parameter]], Scores]
"""A function from the gradients of a loss and the weights to entries of the diagonal."""


def multiply_hessian(
    gradients: Sequence[Tensor], vectors: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Compute H v as the gradient of sum g v: 0 where the loss is linear in the weights."""
    products = [
        (gradient * vector).sum() for gradient, vector in zip(gradients, vectors, strict=True)
    ]
    flow = torch.stack(products).sum()
    if not flow.requires_grad:
        return tuple(torch.zeros_like(weight) for weight in weights)
    return torch.autograd.grad(flow, weights, retain_graph=True, materialize_grads=True)


def compute_exact_diagonal(
    model: nn.Module, masks: Masks, batches: Sequence[tuple[Tensor, Tensor]], loss: Loss
) -> Scores:
    """Compute the diagonal of the Hessian in the weights of `masks`, shaped as they are.

    In eval mode, in the precision of the network. Raises `EvidenceError` for more than `WEIGHTS`
    weights.

    >>> layer = nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.zero_()
    >>> masks = {"weight": torch.ones(2, 1, dtype=torch.bool)}
    >>> batches = [(torch.tensor([[2.0]]), torch.tensor([0]))]
    >>> compute_exact_diagonal(layer, masks, batches, nn.functional.cross_entropy)
    {'weight': tensor([[1.],
            [1.]])}
    """
    total = sum(mask.numel() for mask in masks.values())
    if total > WEIGHTS:
        raise EvidenceError(
            f"the exact diagonal of the Hessian takes a pass for each weight: {total} are too "
            f"many, {WEIGHTS} at most are taken; use hutchinson or ggn"
        )
    return _sum_over_batches(model, masks, batches, loss, _multiply_units)


def estimate_diagonal(
    model: nn.Module,
    masks: Masks,
    *,
    batches: Sequence[tuple[Tensor, Tensor]],
    loss: Loss,
    samples: int,
    generator: Generator,
) -> Scores:
    """Estimate the diagonal of the Hessian in the weights of `masks` by `samples` random vectors.

    The vectors are 0 where the masks prune, and so are the estimates there: weights that are gone
    add no noise.
    """
    signs = {
        name: torch.randint(0, 2, (samples, *mask.shape), generator=generator) * 2 - 1
        for name, mask in masks.items()
    }

    def multiply_signs(gradients: Gradients, weights: dict[str, nn.Parameter]) -> Scores:
        diagonal = {name: torch.zeros_like(gradient) for name, gradient in gradients.items()}
        for number in range(samples):
            vectors = {
                name: signs[name][number].to(gradient) * masks[name]
                for name, gradient in gradients.items()
            }
            products = multiply_hessian(
                list(gradients.values()), list(vectors.values()), list(weights.values())
            )
            for name, product in zip(gradients, products, strict=True):
                diagonal[name] += vectors[name] * product / samples
        return diagonal

    return _sum_over_batches(model, masks, batches, loss, multiply_signs)


def _multiply_units(gradients: Gradients, weights: dict[str, nn.Parameter]) -> Scores:
    """Compute e_k^T H e_k for every weight k."""
    diagonal = {}
    for name, gradient in gradients.items():
        entries = torch.zeros_like(gradient).flatten()
        if gradient.requires_grad:
            for numbers in torch.split(torch.arange(len(entries)).to(entries.device), AT_ONCE):
                units = torch.zeros(len(numbers), len(entries)).to(gradient)
                units.scatter_(1, numbers[:, None], 1.0)
                (rows,) = torch.autograd.grad(
                    gradient,
                    weights[name],
                    units.reshape(-1, *gradient.shape),
                    retain_graph=True,
                    is_grads_batched=True,
                    allow_unused=True,
                )
                if rows is not None:  # else its gradient depends on other weights alone
                    entries[numbers] = rows.flatten(1).gather(1, numbers[:, None]).flatten()
        diagonal[name] = entries.reshape(gradient.shape)
    return diagonal


def _sum_over_batches(
    model: nn.Module,
    masks: Masks,
    batches: Sequence[tuple[Tensor, Tensor]],
    loss: Loss,
    multiply: Products,
) -> Scores:
    """Sum what `multiply` makes of each batch's share of the mean loss."""
    refuse_mixing(model)
    refuse_masks(batches[0][1], "curvatures of the loss")
    weights = {name: model.get_parameter(name) for name in masks}
    diagonal = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    images = sum(len(labels) for _, labels in batches)
    for inputs, labels in batches:
        share = len(labels) / images
        # Other kernels of attention cannot be differentiated twice.
        with evaluate_mode(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            batch_loss = loss(model(inputs), labels) * share
            if not bool(torch.isfinite(batch_loss)):
                raise ScoreError("the network's outputs are not finite: they have no curvature")
            gradients = torch.autograd.grad(
                batch_loss, list(weights.values()), create_graph=True, materialize_grads=True
            )
            entries = multiply(dict(zip(weights, gradients, strict=True)), weights)
        for name, value in entries.items():
            diagonal[name] += value.detach()
    return diagonal
