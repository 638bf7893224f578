"""Quadratic models by hand: matrices, removals one at a time, and the Jacobian of each row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pruning.evidence.evidence import Evidence
from pruning.masks import apply_masks_
from pruning.seeding import seeded
from pruning.types import Masks
from tests.support import cases
from tests.support.seeds import make_generator


def draw_positive_definite(
    size: int, seed: int = 0, rank: int | None = None, damping: float = 1e-2
) -> Tensor:
    """Draw a positive definite matrix, well correlated."""
    root = (
        torch.randn(size, rank or 2 * size, generator=make_generator(seed), dtype=torch.float64)
        + 0.5
    )
    return root @ root.T / root.shape[1] + damping * torch.eye(size, dtype=torch.float64)


def draw_vector(size: int, seed: int = 1) -> Tensor:
    """Draw a vector of standard normal numbers."""
    return torch.randn(size, generator=make_generator(seed), dtype=torch.float64)


def build_double(case: str, masks: Masks | None = None) -> Evidence:
    """Build the evidence of an awkward network in float64."""
    model, batches = cases.awkward(case)
    model.double()
    if masks is not None:
        apply_masks_(model, masks)
    return Evidence(model, masks, [(x.double(), y) for x, y in batches])


def mask_half(case: str) -> Masks:
    """Build masks of half the weights of an awkward network."""
    return cases.half_masks(cases.awkward(case)[0])


def draw_masks(masks: Masks, fraction: float = 0.6, seed: int = 5) -> Masks:
    """Draw masks nested in the given ones."""
    generator = make_generator(seed)
    return {
        name: mask & (torch.rand(mask.shape, generator=generator) < fraction)
        for name, mask in masks.items()
    }


def compute_brute_cost(h: Tensor, theta: Tensor, gone: list[int]) -> float:
    """Compute 1/2 theta_Q^T ([H^-1]_QQ)^-1 theta_Q, as printed."""
    block = torch.linalg.inv(h)[gone][:, gone]
    return 0.5 * float(theta[gone] @ torch.linalg.inv(block) @ theta[gone])


def compute_brute_move(h: Tensor, theta: Tensor, gone: list[int]) -> Tensor:
    """Compute -H^-1 E_Q ([H^-1]_QQ)^-1 theta_Q, as printed."""
    whole = torch.linalg.inv(h)
    return -whole[:, gone] @ torch.linalg.inv(whole[gone][:, gone]) @ theta[gone]


def order_naively(h: Tensor, w: Tensor, alive: list[int]) -> list[tuple[int, float]]:
    """Order the removals of one row, with a solve of its own for each candidate at each step."""
    w = w.clone()
    alive = list(alive)
    order = []
    while alive:
        whole = torch.linalg.inv(h[alive][:, alive])
        prices = [float(w[p] ** 2 / (2 * whole[i, i])) for i, p in enumerate(alive)]
        i = min(range(len(alive)), key=lambda i: prices[i])
        p = alive[i]
        w[alive] -= w[p] / whole[i, i] * whole[:, i]
        w[p] = 0.0
        order.append((p, prices[i]))
        alive.remove(p)
    return order


def record_inputs(model: nn.Module, name: str, batches: Any) -> list[tuple[nn.Module, Tensor]]:
    """Record every call of the layers that own the weight, with its inputs."""
    weight = model.get_parameter(name)
    calls: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output: calls.append((module, inputs[0].detach()))
        )
        for module in model.modules()
        if getattr(module, "weight", None) is weight
    ]
    model.eval()
    with torch.no_grad():
        for inputs, _ in batches:
            model(inputs)
    for hook in hooks:
        hook.remove()
    return calls


def compute_row_outputs(layer: nn.Module, inputs: Tensor, row: int, w: Tensor) -> Tensor:
    """Compute the contribution of one row of the weight to the layer's output.

    It covers all images and positions, without the bias.
    """
    weight = torch.zeros_like(layer.weight.detach())  # type: ignore[operator]
    weight = torch.cat([weight[:row], w.reshape(1, *weight.shape[1:]), weight[row + 1 :]])
    out = torch.func.functional_call(
        layer,
        {
            "weight": weight,
            **({"bias": torch.zeros(len(weight), dtype=w.dtype)} if layer.bias is not None else {}),
        },
        (inputs,),
    )
    return out.movedim(-1 if isinstance(layer, nn.Linear) else 1, 0)[row].flatten()


def compute_row_jacobian(evidence: Evidence, name: str, row: int) -> Tensor:
    """Compute d outputs / d one row of the weight, (outputs, K).

    The layer is linear: it is called with unit weights.
    """
    units = torch.eye(evidence.weights[name][row].numel(), dtype=torch.float64)
    with torch.no_grad():
        return torch.cat(
            [
                torch.stack([compute_row_outputs(layer, inputs, row, unit) for unit in units], 1)
                for layer, inputs in record_inputs(evidence.model, name, evidence.batches)
            ]
        )


def count_images(evidence: Evidence) -> int:
    """Count the images of all batches."""
    return sum(len(labels) for _, labels in evidence.batches)


CONVOLUTIONS = {
    "dilated": nn.Conv2d(2, 4, 3, padding=2, dilation=2),
    "reflected": nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
    "uneven": nn.Conv2d(2, 2, (1, 3), stride=(2, 1), padding=(0, 1), groups=2),
    "multiplier": nn.Conv2d(2, 6, 3, padding="same", groups=2, bias=False),
}


def build_convolution(name: str) -> Evidence:
    """Build the evidence of a network that begins with a convolution of the table."""
    model = nn.Sequential(
        CONVOLUTIONS[name],
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CONVOLUTIONS[name].out_channels, 3),
    ).double()
    with seeded(0):
        for layer in (model[0], model[4]):
            layer.reset_parameters()  # type: ignore[operator]
    images = torch.randn(8, 2, 5, 5, generator=make_generator(), dtype=torch.float64)
    return Evidence(
        model, batches=[(images[:5], torch.arange(5) % 3), (images[5:], torch.arange(3) % 3)]
    )


EVERYTHING = [case for case in cases.AWKWARD if case not in ("mixed_modes", "flat_batchnorm")]


def build_evidence(case: str, masks: Masks | None = None) -> Evidence:
    """Build the evidence of a convolution of the table, or of an awkward network."""
    return build_convolution(case) if case in CONVOLUTIONS else build_double(case, masks)
