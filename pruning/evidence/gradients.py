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
"""A function from logits (N, C) to K vectors for every image, (K, N, C)."""
Loss = Callable[[Tensor, Tensor], Tensor]
BYTES = 64 * 2**20
"""The most bytes that the largest intermediate result may take."""


Deltas = list[tuple[Use, Tensor]]
"""The uses of a weight, each with d <f(x_i), v_ki> / d output, (N, K, ...) as the output of one
image.
"""


@dataclass(frozen=True)
class Footprint:
    """Bytes of the largest results for one image."""

    patches: int
    """The bytes of the largest layer's patches."""
    vector: int
    """The bytes that every vector adds."""

    @staticmethod
    def from_forward_pass(
        model: nn.Module, names: Collection[str], inputs: Tensor, spare_linear: bool = False
    ) -> Footprint:
        """Measure the first image by one forward pass.

        With `spare_linear` the weights of `Linear` layers do not count: for those without positions
        no gradient of a single image is formed.
        """
        with evaluate_mode(model), torch.no_grad(), record_uses(model, names) as uses:
            model(inputs[:1])
            layer_patches = [
                (use.layer, extract_patches(use.layer, use.inputs))
                for calls in uses.values()
                for use in calls
            ]
        outputs = sum(layer.weight.shape[0] * patches.shape[-1] for layer, patches in layer_patches)
        weights = [
            layer.weight.numel()
            for layer, _ in layer_patches
            if not (spare_linear and isinstance(layer, nn.Linear))
        ]
        largest_patches = max([1, *(patches.numel() for _, patches in layer_patches)])
        largest_vector = max([1, outputs, *weights])
        element = inputs.element_size()
        return Footprint(patches=element * largest_patches, vector=element * largest_vector)

    def count_images(self, vectors: int, size_bytes: int) -> int:
        """Count the images that at once keep every result below `size_bytes`; at least one."""
        return max(1, size_bytes // max(self.patches, self.vector * vectors))

    def count_vectors(self, size_bytes: int) -> int:
        """Count the vectors that at once do so for one image; at least one."""
        return max(1, size_bytes // self.vector)


def compute_products(
    model: nn.Module, names: Collection[str], inputs: Tensor, vectors: Vectors
) -> Iterator[tuple[str, Tensor]]:
    """Compute the gradient of <f(x_i), v_ki> with respect to every weight, layer by layer.

    Yields names and tensors (N, K, *weight). Eval mode; the vectors are constants; positions and
    the uses of a shared weight are summed; zeros where the logits do not depend on a weight. One
    layer's tensor is held at a time, beside K times the outputs of all layers: see `split_batches`.
    Raises `EvidenceError` for a weight that is used without a call of its layer.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> images = torch.tensor([[3.0, 4.0]])
    >>> def vectors(logits):
    ...     return torch.ones(1, 1, 1)
    >>> for name, gradient in compute_products(layer, ["weight"], images, vectors):
    ...     print(name, gradient)
    weight tensor([[[[3., 4.]]]])
    """
    for count, deltas in propagate_deltas(model, names, inputs, vectors):
        for name in names:
            weight = model.get_parameter(name)
            yield name, sum_over_uses(deltas.pop(name), weight, len(inputs), count)


def propagate_deltas(
    model: nn.Module,
    names: Collection[str],
    inputs: Tensor,
    vectors: Vectors,
    at_once: int | None = None,
) -> Iterator[tuple[int, dict[str, Deltas]]]:
    """Propagate the vectors back in turn, `at_once` (or all) of them.

    Yields how many they are, and by name of the weight its uses that matter. Raises `EvidenceError`
    where gradients of single images are not possible.
    """
    refuse_mixing(model)
    with evaluate_mode(model), torch.enable_grad(), record_uses(model, names) as uses:
        logits = model(inputs)
    _refuse_hidden(model, logits, [name for name in names if not uses[name]])
    for name in names:
        for use in uses[name]:
            require_one_input_per_image(name, use, len(inputs))
    connected = [
        (name, use, use.output) for name in names for use in uses[name] if use.output is not None
    ]
    outputs = [output for _, _, output in connected]
    all_vectors = vectors(logits.detach())
    for block in torch.split(all_vectors, at_once or max(1, len(all_vectors))):
        by_vector = [
            torch.autograd.grad(logits, outputs, vector, retain_graph=True, allow_unused=True)
            for vector in block
        ]
        deltas: dict[str, Deltas] = {name: [] for name in names}
        by_output = zip(*by_vector, strict=True)
        # Without vectors there is nothing for any output: hence not strict.
        for (name, use, _), gradients in zip(connected, by_output, strict=False):
            if gradients[0] is not None:
                deltas[name].append((use, torch.stack(gradients, 1)))
        yield len(block), deltas


def sum_over_uses(uses: Deltas, weight: Tensor, images: int, vectors: int) -> Tensor:
    """Sum a weight's gradients over its uses, (N, K, *weight)."""
    total: Tensor | None = None
    for use, delta in uses:
        gradient = multiply_use(use, delta)
        total = gradient if total is None else total.add_(gradient)
    return weight.new_zeros(images, vectors, *weight.shape) if total is None else total


def multiply_use(use: Use, delta: Tensor) -> Tensor:
    """Compute the weight gradients of one use: sum_l delta_l u_l^T, (N, K, *weight).

    For every image and vector; `delta` is (N, K, ...) as the output of one image.
    """
    n, k = delta.shape[:2]
    patches = extract_patches(use.layer, use.inputs)  # (N, G, P, L)
    rows = arrange_by_position(use.layer, delta.flatten(0, 1))  # (N K, G, out / G, L)
    groups, out = rows.shape[1:3]
    # All vectors of an image as rows of one matrix for each group: (N, G, K out / G, L).
    rows = rows.reshape(n, k, groups, out, -1).transpose(1, 2).flatten(2, 3)
    products = rows @ patches.transpose(2, 3)
    by_vector = products.reshape(n, groups, k, out, -1).transpose(1, 2)
    return by_vector.reshape(n, k, *use.layer.weight.shape)


def split_batches(
    model: nn.Module,
    names: Collection[str],
    batches: Iterable[tuple[Tensor, Tensor]],
    vectors: int = 1,
    size_bytes: int = BYTES,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut the batches so that no intermediate result of `compute_products` is above `size_bytes`.

    `vectors` is the number of vectors for each image. At least one image at a time.
    """
    refuse_mixing(model)
    images: int | None = None
    for inputs, labels in batches:
        refuse_masks(labels, "gradients of single images")
        if images is None:
            footprint = Footprint.from_forward_pass(model, names, inputs)
            images = footprint.count_images(vectors, size_bytes)
        yield from zip(torch.split(inputs, images), torch.split(labels, images), strict=True)


def compute_image_gradients(
    model: nn.Module,
    names: Collection[str],
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Loss = F.cross_entropy,
    size_bytes: int = BYTES,
) -> Iterator[Scores]:
    """Compute the gradient of each image's own loss: (n, *weight) by name.

    Chunk by chunk of the images in order. All weights of a chunk together take at most
    `size_bytes`, or what one image takes.

    >>> layer = nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.zero_()
    >>> batches = [(torch.tensor([[2.0], [4.0]]), torch.tensor([0, 1]))]
    >>> list(compute_image_gradients(layer, ["weight"], batches))
    [{'weight': tensor([[[-1.],
             [ 1.]],
    <BLANKLINE>
            [[ 2.],
             [-2.]]])}]
    """
    parameters = dict(model.named_parameters())
    weight_bytes = sum(parameters[name].nbytes for name in names)
    images = max(1, size_bytes // max(weight_bytes, 1))
    for inputs, labels in split_batches(model, names, batches, 1, size_bytes):
        for x, y in zip(torch.split(inputs, images), torch.split(labels, images), strict=True):
            products = compute_products(model, names, x, partial(compute_loss_vectors, loss, y))
            yield {name: gradient[:, 0] for name, gradient in products}


def compute_loss_vectors(loss: Loss, labels: Tensor, logits: Tensor) -> Tensor:
    """Compute the gradient of each image's loss in its logits, (1, N, C).

    For cross-entropy it is softmax less one-hot.
    """
    if loss is F.cross_entropy:
        return (logits.softmax(1) - F.one_hot(labels, logits.shape[1]))[None]
    differentiate = torch.func.grad(lambda logit, label: loss(logit[None], label[None]))
    vectors: Tensor = torch.func.vmap(differentiate)(logits, labels)
    return vectors[None]


def refuse_mixing(model: nn.Module) -> None:
    """Raise `EvidenceError` for a network in which the images of a batch influence each other."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise EvidenceError(
                f"{name} normalises by the statistics of the batch, in eval mode too: images "
                "influence each other, and gradients of single images are not possible"
            )


def _refuse_hidden(model: nn.Module, logits: Tensor, uncalled: list[str]) -> None:
    """Raise `EvidenceError` where a weight matters though its layer was not called."""
    if not uncalled or not logits.requires_grad:
        return
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(
        logits,
        [parameters[name] for name in uncalled],
        torch.zeros_like(logits),
        retain_graph=True,
        allow_unused=True,
    )
    for name, gradient in zip(uncalled, gradients, strict=True):
        if gradient is not None:
            raise EvidenceError(
                f"{name} is used without a call of its layer: gradients of single images are not "
                "possible"
            )
