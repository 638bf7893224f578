"""Prunable layers as matrix products: the inputs and outputs they see, and a convolution's patches.

Every Linear or Conv2d is, for one image, groups g = 1 ... G of `out[g] = W[g] @ patches[g]` with
W[g] of shape (out / G, K), K = in / G times the kernel's positions, and patches[g] of shape (K, L),
L the output's positions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

from pruning.errors import EvidenceError
from pruning.networks.modes import evaluate_mode

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class Use:
    """One call of a layer; a layer called twice, or two layers that share a weight, give two."""

    layer: Layer
    inputs: Tensor
    output: GradientEdge | None
    """Where the gradient with respect to the output can be asked for; an operation in place
    afterwards does not move it.
    """


@contextmanager
def record_uses(model: nn.Module, names: Collection[str]) -> Iterator[dict[str, list[Use]]]:
    """Record every call of the layers that own the weights `names`, by (first) name of the
    weight.
    """
    owners = {id(parameter): name for name, parameter in model.named_parameters() if name in names}
    uses: dict[str, list[Use]] = {name: [] for name in names}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, Layer)
        edge = get_gradient_edge(output) if output.requires_grad else None
        uses[owners[id(module.weight)]].append(Use(module, inputs[0].detach(), edge))

    hooks = [
        module.register_forward_hook(note)
        for module in model.modules()
        if isinstance(module, Layer) and id(module.weight) in owners
    ]
    try:
        yield uses
    finally:
        for hook in hooks:
            hook.remove()


def iterate_uses(
    model: nn.Module, names: Collection[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[str, Use]]:
    """Each call of each of the layers that own the weights `names`, in eval mode, batch by batch.

    Raises `EvidenceError` where a layer sees no batch of images, or inputs that are no finite
    numbers.
    """
    for inputs, _ in batches:
        with torch.no_grad(), evaluate_mode(model), record_uses(model, names) as uses:
            model(inputs)
        for name, calls in uses.items():
            for use in calls:
                require_one_input_per_image(name, use, len(inputs))
                if not bool(torch.isfinite(use.inputs).all()):
                    raise EvidenceError(f"{name}: the inputs of its layer are no finite numbers")
                yield name, use


def require_one_input_per_image(name: str, use: Use, images: int) -> None:
    """Raise `EvidenceError` where a layer does not see one input for each image along its first
    dimension.
    """
    if len(use.inputs) != images:
        raise EvidenceError(
            f"{name}: its layer sees {len(use.inputs)} inputs for {images} images; keep the "
            "images in the "
            "first dimension, and positions or tokens in their own"
        )


def count_groups(layer: Layer) -> int:
    """Of a grouped convolution; 1 otherwise."""
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def extract_patches(layer: Layer, inputs: Tensor) -> Tensor:
    """What each output position sees, (N, G, K, L).

    >>> import torch
    >>> extract_patches(nn.Conv2d(2, 4, 3, groups=2), torch.zeros(5, 2, 4, 4)).shape
    torch.Size([5, 2, 9, 4])
    >>> extract_patches(nn.Linear(3, 2), torch.zeros(5, 7, 3)).shape
    torch.Size([5, 1, 3, 7])
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(len(inputs), 1, -1, inputs.shape[-1]).transpose(2, 3)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    found = F.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    return found.reshape(len(inputs), layer.groups, -1, found.shape[-1])


def arrange_by_position(layer: Layer, output: Tensor) -> Tensor:
    """A tensor shaped as the layer's output, by group and position: (N, G, out / G, L)."""
    if isinstance(layer, nn.Linear):
        return output.reshape(len(output), 1, -1, output.shape[-1]).transpose(2, 3)
    return output.reshape(len(output), layer.groups, layer.out_channels // layer.groups, -1)


def as_matrices(layer: Layer, weight: Tensor) -> Tensor:
    """A tensor shaped as the layer's weight as one matrix per group, (G, out / G, K); a view."""
    return weight.reshape(count_groups(layer), weight.shape[0] // count_groups(layer), -1)
