"""What a criterion may know of a network: each quantity computed once, on first use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pruning.errors import EvidenceError
from pruning.masks import prunable
from pruning.modes import evaluating
from pruning.types import Masks, Scores

Batches = Sequence[tuple[Tensor, Tensor]]


class Evidence:
    """Model, masks, batches, loss and generator; the model is at its current masked point and is not changed.

    `batches` holds (inputs, labels), normalised and on the model's device, or makes them when first asked; without it,
    asking for what needs data raises `EvidenceError`.
    """

    def __init__(self, model: nn.Module, masks: Masks | None = None,
                 batches: Batches | Callable[[], Batches] | None = None,
                 generator: Generator | None = None, exclude: Collection[str] = (),
                 loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy) -> None:
        self.model = model
        self.loss = loss
        self.generator = generator or torch.Generator().manual_seed(0)
        self._batches = batches
        self.weights = {name: weight.detach() for name, weight in prunable(model, exclude).items()}
        """The prunable weights by name."""
        self.masks = masks or {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}

    @cached_property
    def batches(self) -> Batches:
        """The calibration batches, or `EvidenceError`."""
        batches = self._batches() if callable(self._batches) else self._batches
        if not batches:
            raise EvidenceError("this criterion needs data: pass batches of (inputs, labels)")
        return batches

    @cached_property
    def gradient(self) -> Scores:
        """The gradient of the mean loss over all batches at the current point, in eval mode, by parameter name.

        g = (1/n) sum_i d loss(f(x_i), y_i) / d theta, each batch weighted by its size; no weight decay.
        """
        parameters = prunable(self.model, [])
        wanted = {name: parameters[name] for name in self.weights}
        total = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        images = 0
        with evaluating(self.model), torch.enable_grad():
            for inputs, labels in self.batches:
                loss = self.loss(self.model(inputs), labels)
                gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
                for name, gradient in zip(wanted, gradients, strict=True):
                    if gradient is not None:
                        total[name] += gradient * len(labels)
                images += len(labels)
        return {name: value / images for name, value in total.items()}
