"""Slow, obvious answers that the fast code is held against. Pure Python and float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def kept_by_sorting(scores: Sequence[float], keep: int) -> list[bool]:
    """Find the `keep` highest by a stable sort: of equal scores the first remain."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    chosen = set(order[:keep])
    return [i in chosen for i in range(len(scores))]


def binomial_tail(errors: int, n: int, rate: float) -> float:
    """Compute P(X >= errors) for X ~ Binomial(n, rate)."""
    return math.fsum(
        math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(errors, n + 1)
    )


def clopper_pearson(errors: int, n: int, confidence: float) -> tuple[float, float]:
    """Find both limits by bisection.

    P(X >= errors | low) = P(X <= errors | high) = (1 - confidence) / 2.
    """
    tail = (1 - confidence) / 2
    low = 0.0 if errors == 0 else bisect(lambda p: binomial_tail(errors, n, p) - tail)
    high = 1.0 if errors == n else bisect(lambda p: tail - (1 - binomial_tail(errors + 1, n, p)))
    return low, high


def bisect(increasing: Callable[[float], float]) -> float:
    """Find the root in [0, 1] of an increasing function."""
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if increasing(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def finite_differences(loss: Callable[[], Tensor], weight: Tensor, step: float = 1e-6) -> Tensor:
    """Compute central differences of a loss in every entry of a float64 weight."""
    gradient = torch.zeros_like(weight)
    flat = weight.data.view(-1)
    flat_gradient = gradient.view(-1)
    with torch.no_grad():
        for i in range(flat.numel()):
            before = float(flat[i])
            flat[i] = before + step
            above = float(loss())
            flat[i] = before - step
            below = float(loss())
            flat[i] = before
            flat_gradient[i] = (above - below) / (2 * step)
    return gradient


def gradient(parameter: Tensor) -> Tensor:
    """The gradient of a parameter through which a loss has gone backward."""
    assert parameter.grad is not None
    return parameter.grad


def cross_entropy(logits: Sequence[float], label: int) -> float:
    """Compute -log softmax(logits)[label]."""
    top = max(logits)
    return top + math.log(math.fsum(math.exp(x - top) for x in logits)) - logits[label]


def global_counts(scores: dict[str, list[float]], keep: int) -> dict[str, int]:
    """Rank all weights of all layers in one list and count the best of each layer."""
    named = [(name, value) for name, values in scores.items() for value in values]
    # The position decides between equal scores: the first remain.
    ranked = sorted((-value, position, name) for position, (name, value) in enumerate(named))
    best = [name for _, _, name in ranked[:keep]]
    return {name: best.count(name) for name in scores}


def augmented(image: Tensor, top: int, left: int, flip: bool, padding: int) -> Tensor:
    """Pad an image with black, crop it at (top, left) and flip it, pixel by pixel."""
    channels, height, width = image.shape
    result = torch.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                row = top + y - padding
                column = left + (width - 1 - x if flip else x) - padding
                if 0 <= row < height and 0 <= column < width:
                    result[c, y, x] = image[c, row, column]
    return result


def lr_factor(
    name: str, t: float, total: float, milestones: Sequence[float], gamma: float, warmup: float
) -> float:
    """Compute the documented factor on the learning rate, case by case."""
    if name == "constant":
        factor = 1.0
    elif name == "cosine":
        factor = (1 + math.cos(math.pi * t / total)) / 2
    elif name == "linear":
        factor = 1 - t / total
    else:
        factor = 1.0
        for milestone in milestones:
            if t >= milestone:
                factor *= gamma
    return factor * (t / warmup if warmup > 0 and t < warmup else 1.0)


def module_modes(model: nn.Module) -> list[bool]:
    """List whether each submodule is in training mode."""
    return [module.training for module in model.modules()]
