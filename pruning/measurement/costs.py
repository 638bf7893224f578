"""The costs of a network that are counted: FLOPs and file sizes."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruning.architectures._attention_heads import AttentionHeads
from pruning.masks import count_kept
from pruning.networks.layers import forward_hooks
from pruning.networks.loading import build_network, resolve
from pruning.networks.modes import evaluate_mode
from pruning.storage.checkpoints import WRITERS
from pruning.types import Masks


@cache
def dense_costs(architecture: str, parameters: str, shape: tuple[int, int, int]) -> tuple[int, int]:
    """FLOPs of one image, and how many values a backward pass keeps for it: the outputs of the
    modules without children.

    `parameters` are all parameters of the architecture, as JSON: equal networks are traced once.
    The tensors have shapes only, nothing of their size is allocated.
    """
    with torch.device("meta"):
        model = build_network(resolve(architecture, json.loads(parameters))).eval()
    kept = 0

    def count(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal kept
        kept += output.numel()

    leaves = [module for module in model.modules() if not list(module.children())]
    with forward_hooks(leaves, count):
        flops = count_flops(model, shape)
    return flops, kept


@dataclass(frozen=True)
class FlopsTable:
    """The FLOPs of one image by what they depend on."""

    by_weight: Mapping[str, int]
    """The FLOPs that each single weight of a layer takes, by the name of the layer's weight."""
    sizes: Mapping[str, int]
    """The number of weights of each layer."""
    heads: int
    """The FLOPs of the heads of attention."""

    def count(self, masks: Masks | None = None) -> int:
        """Count them without those of pruned weights."""
        return self.count_kept(count_kept(masks or {}))

    def count_kept(self, kept: Mapping[str, int]) -> int:
        """Count them where so many weights remain of some layers, and all of the others."""
        weights = dict(self.sizes) | {name: kept[name] for name in kept if name in self.sizes}
        return self.heads + sum(flops * weights[name] for name, flops in self.by_weight.items())


def count_flops(model: nn.Module, shape: tuple[int, int, int], masks: Masks | None = None) -> int:
    """Two times the multiply-adds of one image through every Linear and convolution, without those
    of pruned weights, and through the heads of attention.

    FLOPs = 2 sum_l nnz(W_l) P_l, P_l the output positions of layer l (Lost in Pruning), of a
    transposed convolution its input positions, and what
    `AttentionHeads.count_flops` says. Equals the dense count of `torch.utils.flop_counter` when
    nothing is pruned.
    """
    return tabulate_flops(model, shape).count(masks)


def tabulate_flops(model: nn.Module, shape: tuple[int, int, int]) -> FlopsTable:
    """Find the FLOPs of one image, see `count_flops`, from one pass through the network."""
    cores = [module for module in model.modules() if isinstance(module, AttentionHeads)]
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | _ConvNd)]
    # A tied weight is listed once, under its first name.
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_weight: dict[str, int] = {}
    sizes: dict[str, int] = {}
    heads = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight = module.get_parameter("weight")
        name = names[id(weight)]
        if isinstance(module, _ConvTransposeNd):
            positions = inputs[0][0, 0].numel()
        elif isinstance(module, _ConvNd):
            positions = output[0, 0].numel()
        else:
            positions = output[0].numel() // output.shape[-1]
        sizes[name] = weight.numel()
        by_weight[name] = by_weight.get(name, 0) + 2 * positions

    def count_heads(core: nn.Module, handed: tuple[Any, ...], _: Any) -> None:
        nonlocal heads
        assert isinstance(core, AttentionHeads)
        heads += core.count_flops(handed[1])

    device = next(model.parameters()).device
    hooks = forward_hooks(layers, count), forward_hooks(cores, count_heads)
    with hooks[0], hooks[1], torch.no_grad(), evaluate_mode(model):
        model(torch.zeros(1, *shape, device=device))
    return FlopsTable(by_weight, sizes, heads)


def measure_file_sizes(
    state: Mapping[str, Tensor], masks: Masks, *, compacted: bool = False, **info: Any
) -> dict[str, int]:
    """Bytes of every checkpoint format, and of the dense and the sparse file after gzip.

    `compacted` says that the state is without the channels that the masks remove; `info` goes into
    the metadata of the files.
    """
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for format, write in WRITERS.items():
            path = Path(folder) / format
            # The tensors of a compacted network no longer have the shapes of the masks.
            applied = {} if compacted and format != "masks" else masks
            write(path, state, applied, **info)
            sizes[format] = path.stat().st_size
        for format in ("sparse", "dense"):
            sizes[f"{format}_gzip"] = _measure_gzip_size(Path(folder) / format)
    return sizes


def _measure_gzip_size(path: Path) -> int:
    """The bytes of a file after gzip, without writing them."""
    packer = zlib.compressobj(6, wbits=31)
    size = 0
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(2**20), b""):
            size += len(packer.compress(chunk))
    return size + len(packer.flush())
