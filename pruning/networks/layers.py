"""Prunable layers as matrix products: their inputs and outputs, and a convolution's patches.

Every Linear or Conv2d is, for one image, groups g = 1 ... G of `out[g] = W[g] @ patches[g]` with
W[g] of shape (out / G, K), K = in / G times the kernel's positions, and patches[g] of shape (K, L),
L the output's positions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

from pruning.architectures._attention import PackedProjection
from pruning.errors import EvidenceError
from pruning.networks.modes import evaluate_mode

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class Use:
    """A call of a layer; a layer called twice, or two layers that share a weight, have two uses."""

    layer: Layer
    inputs: Tensor
    output: GradientEdge | None
    """The place in the graph of gradients where that of the output is found.

    A later operation in place does not move it.
    """


def name_layer(weight: str) -> str:
    """The name of the layer that a weight belongs to, by the name of the weight.

    >>> name_layer("conv1.weight"), name_layer("attention.in_proj_weight"), name_layer("weight")
    ('conv1', 'attention.in_proj', '')
    """
    if weight.rpartition(".")[2].startswith("in_proj_"):
        return weight.rpartition("_")[0]
    return weight.rpartition(".")[0]


def name_tensor(layer: str, module: nn.Module, tensor: str) -> str:
    """The name in the network of a layer's tensor: of the weight `weight_name` with `"weight"`."""
    if isinstance(module, PackedProjection):
        return f"{layer}_{tensor}"
    return f"{layer}.{tensor}" if layer else tensor


def list_own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a layer without those of submodules, by their names in the layer."""
    if isinstance(module, PackedProjection):
        packed = {"weight": module.weight, "bias": module.bias}
        return {name: value for name, value in packed.items() if value is not None}
    return dict(module.named_parameters(recurse=False))


@contextmanager
def forward_hooks(
    modules: Iterable[nn.Module], hook: Callable[[nn.Module, tuple[Any, ...], Any], Any]
) -> Iterator[None]:
    """Call `hook(module, inputs, output)` after each call of the modules, until the block ends.

    >>> layer = nn.Linear(1, 1)
    >>> seen = []
    >>> with forward_hooks([layer], lambda module, inputs, output: seen.append(output.shape)):
    ...     _ = layer(torch.zeros(2, 1))
    >>> _ = layer(torch.zeros(3, 1))
    >>> seen
    [torch.Size([2, 1])]
    """
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_uses(model: nn.Module, names: Collection[str]) -> Iterator[dict[str, list[Use]]]:
    """Record the calls of the layers that own the weights `names`, by first name of the weight."""
    owners = {id(parameter): name for name, parameter in model.named_parameters() if name in names}
    uses: dict[str, list[Use]] = {name: [] for name in names}

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(module, Layer)
        edge = get_gradient_edge(output) if output.requires_grad else None
        uses[owners[id(module.weight)]].append(Use(module, inputs[0].detach(), edge))

    layers = [
        module
        for module in model.modules()
        if isinstance(module, Layer) and id(module.weight) in owners
    ]
    with forward_hooks(layers, record):
        yield uses


def iterate_uses(
    model: nn.Module, names: Collection[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[str, Use]]:
    """The calls of the layers that own the weights `names`, in eval mode, batch by batch.

    Raises `EvidenceError` where a layer does not see one input for each image, or sees inputs that
    are not finite.
    """
    for inputs, _ in batches:
        with torch.no_grad(), evaluate_mode(model), record_uses(model, names) as uses:
            model(inputs)
        for name, calls in uses.items():
            for use in calls:
                require_one_input_per_image(name, use, len(inputs))
                if not bool(torch.isfinite(use.inputs).all()):
                    raise EvidenceError(f"{name}: the inputs of its layer are not finite")
                yield name, use


def require_one_input_per_image(name: str, use: Use, images: int) -> None:
    """Raise `EvidenceError` where the first dimension of a layer's inputs is not that of images."""
    if len(use.inputs) != images:
        raise EvidenceError(
            f"{name}: its layer sees {len(use.inputs)} inputs for {images} images; keep the "
            "images in the first dimension, and positions or tokens in their own"
        )


def count_groups(layer: Layer) -> int:
    """The number of groups of a convolution; 1 for any other layer."""
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def extract_patches(layer: Layer, inputs: Tensor) -> Tensor:
    """The inputs that each output position sees, (N, G, K, L).

    >>> extract_patches(nn.Conv2d(2, 4, 3, groups=2), torch.zeros(5, 2, 4, 4)).shape
    torch.Size([5, 2, 9, 4])
    >>> extract_patches(nn.Linear(3, 2), torch.zeros(5, 7, 3)).shape
    torch.Size([5, 1, 3, 7])
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(len(inputs), 1, -1, inputs.shape[-1]).transpose(2, 3)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    patches = F.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    return patches.reshape(len(inputs), layer.groups, -1, patches.shape[-1])


def arrange_by_position(layer: Layer, output: Tensor) -> Tensor:
    """A tensor shaped as the layer's output, by group and position: (N, G, out / G, L)."""
    if isinstance(layer, nn.Linear):
        return output.reshape(len(output), 1, -1, output.shape[-1]).transpose(2, 3)
    return output.reshape(len(output), layer.groups, layer.out_channels // layer.groups, -1)


def as_matrices(layer: Layer, weight: Tensor) -> Tensor:
    """A tensor shaped as the layer's weight as one matrix per group, (G, out / G, K); a view."""
    groups = count_groups(layer)
    return weight.reshape(groups, weight.shape[0] // groups, -1)
