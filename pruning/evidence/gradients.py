"""Products of vectors with each image's Jacobian of the logits: gradients of single images with
respect to the weights.

For a layer that computes z = W u at the positions l of image i, the gradient of <f(x_i), v> with
respect to W is sum_l delta_l u_l^T, delta = d <f(x_i), v> / d z. So backward passes stop at the
outputs of the layers, and one matrix product for each image and layer serves all vectors; squares,
where they are wanted, come after the sum over positions and over the uses of a shared weight.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.errors import EvidenceError
from pruning.measurement.objective import refuse_masks
from pruning.networks.layers import (
    Use,
    arrange_by_position,
    extract_patches,
    record_uses,
    require_one_input_per_image,
)
from pruning.networks.modes import evaluate_mode
from pruning.types import Scores

Vectors = Callable[[Tensor], Tensor]
"""From logits (N, C) to K vectors for every image, (K, N, C)."""
Loss = Callable[[Tensor, Tensor], Tensor]
BYTES = 64 * 2**20
"""What the largest intermediate result may take."""


Deltas = list[tuple[Use, Tensor]]
"""The uses of a weight, each with d <f(x_i), v_ki> / d output, (N, K, ...) as the output of one
image.
"""


@dataclass(frozen=True)
class Footprint:
    """Bytes of the largest results for one image: the patches of a layer, and what every vector
    adds.
    """

    patches: int
    vector: int

    @staticmethod
    def of(
        model: nn.Module, names: Collection[str], inputs: Tensor, spared: bool = False
    ) -> Footprint:
        """Of the first image, by one forward pass; `spared` are the weights of `Linear` layers
        without positions.
        """
        with evaluate_mode(model), torch.no_grad(), record_uses(model, names) as uses:
            model(inputs[:1])
            seen = [
                (use.layer, extract_patches(use.layer, use.inputs))
                for found in uses.values()
                for use in found
            ]
        outputs = sum(layer.weight.shape[0] * columns.shape[-1] for layer, columns in seen)
        weights = [
            layer.weight.numel()
            for layer, _ in seen
            if not (spared and isinstance(layer, nn.Linear))
        ]
        size = inputs.element_size()
        return Footprint(
            size * max([1, *(columns.numel() for _, columns in seen)]),
            size * max([1, outputs, *weights]),
        )

    def images(self, vectors: int, size_bytes: int) -> int:
        """How many images at once keep every result below so many bytes; at least one."""
        return max(1, size_bytes // max(self.patches, self.vector * vectors))

    def vectors(self, size_bytes: int) -> int:
        """How many vectors at once do for one image; at least one."""
        return max(1, size_bytes // self.vector)


def compute_products(
    model: nn.Module, names: Collection[str], inputs: Tensor, vectors: Vectors
) -> Iterator[tuple[str, Tensor]]:
    """The gradient of <f(x_i), v_ki> with respect to every weight, layer by layer: names and
    tensors (N, K, *weight).

    Eval mode; the vectors are constants; positions and the uses of a shared weight are summed;
    zeros where the logits do not depend on a weight. One layer's tensor is held at a time, beside K
    times the outputs of all layers: see `split_batches`. Raises `EvidenceError` for a weight that
    is used without a call of its layer.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> for name, found in compute_products(
    ...     layer, ["weight"], torch.tensor([[3.0, 4.0]]), lambda logits: torch.ones(1, 1, 1)
    ... ):
    ...     print(name, found)
    weight tensor([[[[3., 4.]]]])
    """
    for count, found in propagate_deltas(model, names, inputs, vectors):
        for name in names:
            yield (
                name,
                sum_over_uses(found.pop(name), model.get_parameter(name), len(inputs), count),
            )


def propagate_deltas(
    model: nn.Module,
    names: Collection[str],
    inputs: Tensor,
    vectors: Vectors,
    at_once: int | None = None,
) -> Iterator[tuple[int, dict[str, Deltas]]]:
    """The vectors in turn, `at_once` (or all) of them: how many, and by name of the weight the uses
    that matter.

    Raises `EvidenceError` where gradients of single images cannot be had.
    """
    refuse_mixing(model)
    with evaluate_mode(model), torch.enable_grad(), record_uses(model, names) as uses:
        logits = model(inputs)
    _refuse_hidden(model, logits, [name for name in names if not uses[name]])
    for name in names:
        for use in uses[name]:
            require_one_input_per_image(name, use, len(inputs))
    rows = [
        (name, use, use.output) for name in names for use in uses[name] if use.output is not None
    ]
    edges = [edge for _, _, edge in rows]
    given = vectors(logits.detach())
    for block in torch.split(given, at_once or max(1, len(given))):
        columns = zip(
            *(
                torch.autograd.grad(logits, edges, vector, retain_graph=True, allow_unused=True)
                for vector in block
            ),
            strict=True,
        )
        found: dict[str, Deltas] = {name: [] for name in names}
        for (name, use, _), column in zip(
            rows, columns, strict=False
        ):  # no columns without vectors
            if column[0] is not None:
                found[name].append((use, torch.stack(column, 1)))
        yield len(block), found


def sum_over_uses(uses: Deltas, weight: Tensor, images: int, vectors: int) -> Tensor:
    """The sum over uses of a weight's gradients, (N, K, *weight)."""
    found: Tensor | None = None
    for use, delta in uses:
        one = multiply_use(use, delta)
        found = one if found is None else found.add_(one)
    return weight.new_zeros(images, vectors, *weight.shape) if found is None else found


def multiply_use(use: Use, delta: Tensor) -> Tensor:
    """The weight gradients of one use: sum_l delta_l u_l^T for every image and vector, (N, K,
    *weight).

    `delta` is (N, K, ...) as the output of one image.
    """
    n, k = delta.shape[:2]
    seen = extract_patches(use.layer, use.inputs)  # (N, G, P, L)
    rows = arrange_by_position(use.layer, delta.flatten(0, 1))  # (N K, G, out / G, L)
    groups, out = rows.shape[1:3]
    rows = rows.reshape(n, k, groups, out, -1).transpose(1, 2).flatten(2, 3)
    found = rows @ seen.transpose(2, 3)
    return (
        found.reshape(n, groups, k, out, -1).transpose(1, 2).reshape(n, k, *use.layer.weight.shape)
    )


def split_batches(
    model: nn.Module,
    names: Collection[str],
    batches: Iterable[tuple[Tensor, Tensor]],
    vectors: int = 1,
    size_bytes: int = BYTES,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches cut so that no intermediate result of `compute_products` with so many vectors is
    larger than `size_bytes`.

    At least one image at a time.
    """
    refuse_mixing(model)
    images: int | None = None
    for inputs, labels in batches:
        refuse_masks(labels, "gradients of single images")
        images = images or Footprint.of(model, names, inputs).images(vectors, size_bytes)
        yield from zip(torch.split(inputs, images), torch.split(labels, images), strict=True)


def compute_image_gradients(
    model: nn.Module,
    names: Collection[str],
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Loss = F.cross_entropy,
    size_bytes: int = BYTES,
) -> Iterator[Scores]:
    """The gradient of each image's own loss, chunk by chunk of the images in order: (n, *weight) by
    name.

    All weights of a chunk together take at most `size_bytes`, or one image's.

    >>> layer = nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.zero_()
    >>> list(
    ...     compute_image_gradients(
    ...         layer, ["weight"], [(torch.tensor([[2.0], [4.0]]), torch.tensor([0, 1]))]
    ...     )
    ... )
    [{'weight': tensor([[[-1.],
             [ 1.]],
    <BLANKLINE>
            [[ 2.],
             [-2.]]])}]
    """
    parameters = dict(model.named_parameters())
    every = sum(parameters[name].nbytes for name in names)
    for inputs, labels in split_batches(model, names, batches, 1, size_bytes):
        images = max(1, size_bytes // max(every, 1))
        for x, y in zip(torch.split(inputs, images), torch.split(labels, images), strict=True):
            yield {
                name: found[:, 0]
                for name, found in compute_products(
                    model, names, x, partial(compute_loss_vectors, loss, y)
                )
            }


def compute_loss_vectors(loss: Loss, labels: Tensor, logits: Tensor) -> Tensor:
    """The gradient of each image's loss in its logits, (1, N, C): softmax less one-hot for
    cross-entropy.
    """
    if loss is F.cross_entropy:
        return (logits.softmax(1) - F.one_hot(labels, logits.shape[1]))[None]
    each = torch.func.grad(lambda logit, label: loss(logit[None], label[None]))
    vectors: Tensor = torch.func.vmap(each)(logits, labels)
    return vectors[None]


def refuse_mixing(model: nn.Module) -> None:
    """Raise `EvidenceError` for a network in which the images of a batch influence each other."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise EvidenceError(
                f"{name} normalises by the statistics of the batch, in eval mode too: images "
                "influence each "
                "other, and gradients of single images cannot be had"
            )


def _refuse_hidden(model: nn.Module, logits: Tensor, unseen: list[str]) -> None:
    weights = dict(model.named_parameters())
    if not unseen or not logits.requires_grad:
        return
    used = torch.autograd.grad(
        logits,
        [weights[name] for name in unseen],
        torch.zeros_like(logits),
        retain_graph=True,
        allow_unused=True,
    )
    for name, gradient in zip(unseen, used, strict=True):
        if gradient is not None:
            raise EvidenceError(
                f"{name} is used without a call of its layer: gradients of single images cannot "
                "be had"
            )
