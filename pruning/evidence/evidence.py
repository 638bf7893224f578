"""The evidence that a criterion scores: each quantity is computed once, on first use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pruning.errors import EvidenceError
from pruning.evidence.curvature import Curvature, compute_diagonal
from pruning.evidence.hessian import compute_exact_diagonal, estimate_diagonal
from pruning.masks import find_prunable
from pruning.networks.modes import evaluate_mode
from pruning.schemas.layer_patterns import LayerPattern
from pruning.types import Masks, Scores, Shape

Batches = Sequence[tuple[Tensor, Tensor]]


class Evidence:
    """Quantities of a model at its current masked point, which is not changed.

    `batches` holds (inputs, labels), normalised and on the model's device, or a function that makes
    them when they are first asked for; without it, asking for what needs data raises
    `EvidenceError`. `shape` is that of an image; without it, it is read from the batches.
    """

    def __init__(  # noqa: PLR0913 (the rarer ones are by keyword)
        self,
        model: nn.Module,
        masks: Masks | None = None,
        batches: Batches | Callable[[], Batches] | None = None,
        generator: Generator | None = None,
        exclude: Collection[LayerPattern] = (),
        *,
        include: Collection[LayerPattern] = (),
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        shape: Shape | None = None,
    ) -> None:
        self.model = model
        self.loss = loss
        self.generator = generator or torch.Generator().manual_seed(0)
        self._batches = batches
        self._shape = shape
        self._curvatures: dict[tuple[Curvature | None, int], Scores] = {}
        self.weights = {
            name: weight.detach() for name, weight in find_prunable(model, exclude, include).items()
        }
        """The prunable weights by name."""
        self.masks = masks or {
            name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()
        }

    @cached_property
    def batches(self) -> Batches:
        """The calibration batches; `EvidenceError` where there are none."""
        batches = self._batches() if callable(self._batches) else self._batches
        if not batches:
            raise EvidenceError("this criterion needs data: pass batches of (inputs, labels)")
        return batches

    @property
    def shape(self) -> Shape:
        """Channels, height and width of an image; `EvidenceError` where they are not known."""
        if self._shape is None:
            inputs = self.batches[0][0]
            if inputs.dim() != 4:
                raise EvidenceError(
                    f"inputs of shape {tuple(inputs.shape)} are not images (N, C, H, W)"
                )
            self._shape = (inputs.shape[1], inputs.shape[2], inputs.shape[3])
        return self._shape

    @cached_property
    def gradient(self) -> Scores:
        """The gradient of the mean loss over all batches at the current point, by parameter name.

        g = (1/n) sum_i d loss(f(x_i), y_i) / d theta in eval mode, each batch weighted by its size;
        no weight decay.
        """
        total = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        images = 0
        for size, gradient in self.batch_gradients():
            for name, value in gradient.items():
                total[name] += value * size
            images += size
        return {name: value / images for name, value in total.items()}

    def refuse_hidden(self, name: str) -> None:
        """Raise `EvidenceError` where a weight whose layer is never called matters all the same."""
        if bool(self.gradient[name].any()):
            raise EvidenceError(
                f"{name} is used without a call of its layer: its inputs are not known"
            )

    def batch_gradients(self) -> Iterator[tuple[int, Scores]]:
        """Yield the number of images of each batch and the gradient of its mean loss.

        In eval mode; zeros for weights on which the loss does not depend.
        """
        parameters = find_prunable(self.model, [])
        weights = [parameters[name] for name in self.weights]
        for inputs, labels in self.batches:
            with evaluate_mode(self.model), torch.enable_grad():
                loss = self.loss(self.model(inputs), labels)
                gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            by_name = {
                name: torch.zeros_like(weight) if gradient is None else gradient
                for (name, weight), gradient in zip(self.weights.items(), gradients, strict=True)
            }
            yield len(labels), by_name

    def curvature(self, kind: Curvature | None = None, samples: int = 1) -> Scores:
        """Compute the diagonal of the curvature of the mean loss, shaped as the weights.

        At the current point, once for each kind. `kind` is one of `pruning.evidence.curvature` and
        `pruning.evidence.hessian`; None is `ggn` up to 20 classes, `mc_fisher` above, for which
        `samples` labels of each image are drawn; `hutchinson` draws as many vectors.
        """
        key = kind, samples
        if key not in self._curvatures:
            self._curvatures[key] = self._compute_curvature(kind, samples)
        return self._curvatures[key]

    def _compute_curvature(self, kind: Curvature | None, samples: int) -> Scores:
        masks = {name: self.masks[name] for name in self.weights}
        if kind == "hessian":
            return compute_exact_diagonal(self.model, masks, self.batches, self.loss)
        if kind == "hutchinson":
            return estimate_diagonal(
                self.model,
                masks,
                batches=self.batches,
                loss=self.loss,
                samples=samples,
                generator=self.generator,
            )
        return compute_diagonal(
            self.model,
            list(self.weights),
            batches=self.batches,
            kind=kind,
            generator=self.generator,
            loss=self.loss,
            samples=samples,
        )

    def losses(self) -> Tensor:
        """Compute the loss of every image of the batches at the current point; (n,), eval mode."""
        with evaluate_mode(self.model), torch.no_grad():
            return torch.cat(
                [
                    self._compute_image_losses(self.model(inputs), labels)
                    for inputs, labels in self.batches
                ]
            )

    def _compute_image_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.loss is F.cross_entropy:
            return F.cross_entropy(outputs, labels, reduction="none")
        return torch.stack(
            [self.loss(outputs[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]
        )
