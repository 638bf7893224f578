"""Which channels of a network are one and the same: read off its computational graph with
torch-pruning.

Two channels are coupled when an operation between layers pairs them: an addition adds them, a
BatchNorm normalises one into the other, a flattening spreads one over several inputs of the next
layer (Fang et al., DepGraph, CVPR 2023).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_pruning._helpers import _HybridIndex
from torch_pruning.pruner.function import BasePruningFunc

from pruning.architectures._channel_map import ChannelMap
from pruning.channels.slicing import count_channels
from pruning.errors import StructureError

Labels = NDArray[np.int64]


@dataclass
class Coupling:
    """A label for each channel of each layer; coupled channels have the same."""

    inputs: dict[str, Labels] = field(default_factory=dict)
    """By module name, of what it reads."""
    outputs: dict[str, Labels] = field(default_factory=dict)
    """By module name, of what it writes."""
    fixed: list[tuple[Labels, str]] = field(default_factory=list)
    """Channels that cannot be removed, with the reason."""


class _Framed(nn.Module):
    """The network between an operation that stands for the image and one that stands for the
    outputs.
    """

    def __init__(self, net: nn.Module, image: Tensor) -> None:
        super().__init__()
        channels = image.shape[1]
        with torch.random.fork_rng(devices=[]):  # a layer draws its weights
            self.image = nn.Conv2d(channels, channels, 1, bias=False, dtype=image.dtype)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        found = getattr(self.net, "every_output", self.net)(self.image(x))
        if not isinstance(found, Tensor):
            raise TypeError(f"it answers with a {type(found).__name__}, not with a tensor")
        return found * 1


class _MapChannels(BasePruningFunc):  # type: ignore[misc]
    """What torch-pruning has to know of a `ChannelMap`: its inputs and outputs are not coupled."""

    def prune_out_channels(self, layer: ChannelMap, idxs: Sequence[int]) -> ChannelMap:
        raise NotImplementedError

    def prune_in_channels(self, layer: ChannelMap, idxs: Sequence[int]) -> ChannelMap:
        raise NotImplementedError

    def get_out_channels(self, layer: ChannelMap) -> int:
        return len(layer.sources)

    def get_in_channels(self, layer: ChannelMap) -> int:
        return layer.channels_in


def couple_channels(net: nn.Module, image: Tensor) -> Coupling:
    """The coupling of a network whose parameters all take gradients, traced with one batch;
    `StructureError` if it fails.
    """
    framed = _Framed(net, image)
    maps = {
        type(module): _MapChannels() for module in net.modules() if isinstance(module, ChannelMap)
    }
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph()
            graph.build_dependency(framed, (image,), customized_pruners=maps, verbose=False)
        return _Tracer(
            graph, {module: name for name, module in net.named_modules()}, framed.image
        ).coupling()
    except Exception as error:  # a network may fail in any way when it is traced
        raise StructureError(
            f"the network cannot be traced for channels: {type(error).__name__}: {error}"
        ) from error


class _Tracer:
    """Contracts what torch-pruning found: sides of nodes joined without an index mapping are one
    row of channels.
    """

    def __init__(self, graph: Any, names: dict[nn.Module, str], image: nn.Module) -> None:
        self.graph, self.names, self.image = graph, names, image
        self.nodes = list(graph.module2node.values())
        side = {
            id(node): 2 * place for place, node in enumerate(self.nodes)
        }  # what it reads; + 1: what it writes
        same: list[tuple[int, int]] = []
        mapped: list[tuple[int, int, list[Callable[..., Any]]]] = []
        for node in self.nodes:
            start = side[id(node)]
            if self._size(node) is None or isinstance(node.module, _BatchNorm):
                same.append((start, start + 1))
            links = list(zip(node.dependencies, [*node.inputs, *node.outputs], strict=True))[
                len(node.inputs) :
            ]
            for dependency, other in links:
                mappings = [one for one in dependency.index_mapping if one is not None]
                edge = start + 1, side[id(other)]
                if mappings:
                    mapped.append((*edge, mappings))
                else:
                    same.append(edge)
        self.row = find_components(2 * len(self.nodes), np.array(same, np.int64).reshape(-1, 2))
        self.mapped = [(self.row[a], self.row[b], mappings) for a, b, mappings in mapped]

    def coupling(self) -> Coupling:
        length, links, clashing = self._rows()
        start = np.concatenate([[0], np.cumsum(length)])
        pairs = [(start[a] + old, start[b] + new) for a, b, old, new in links]
        rows = [
            (node, start[self.row[2 * place]], start[self.row[2 * place + 1]])
            for place, node in enumerate(self.nodes)
        ]
        for node, first_in, first_out in rows:
            if isinstance(node.module, nn.Conv2d) and node.module.groups > 1:
                pairs.append(_grouped(node.module, first_in, first_out))
        edges = np.concatenate([np.empty((0, 2), np.int64), *(np.stack(one, 1) for one in pairs)])
        label = find_components(int(start[-1]), edges)
        found = Coupling()
        found.fixed = [
            (label[start[row] : start[row + 1]], "layers of different widths meet there")
            for row in sorted(clashing)
        ]
        for node, first_in, first_out in rows:
            size = self._size(node)
            if size is None:
                continue
            reads, writes = (
                label[first_in : first_in + size[0]],
                label[first_out : first_out + size[1]],
            )
            name, kind = self.names.get(node.module), type(node.module).__name__
            if node.module is self.image:
                found.fixed.append((writes, "they are the image's channels"))
            elif node.type == torch_pruning.ops.OPTYPE.OUTPUT:
                found.fixed.append((reads, "they are the network's outputs"))
            elif name is None or count_channels(node.module) is None:
                found.fixed += [(labels, f"a {kind} uses them") for labels in (reads, writes)]
            else:
                found.inputs[name], found.outputs[name] = reads, writes
        return found

    def _size(self, node: Any) -> tuple[int, int] | None:
        """How many channels a node reads and writes; None for what has as many as come."""
        known = count_channels(node.module)
        if known is not None:
            return known
        reads, writes = self.graph.get_in_channels(node), self.graph.get_out_channels(node)
        return None if reads is None or writes is None else (int(reads), int(writes))

    def _rows(self) -> tuple[list[int], list[tuple[int, int, Labels, Labels]], set[int]]:
        """How many channels each row has, which go where between rows, and the rows in which layers
        disagree.
        """
        said: dict[int, set[int]] = {}
        for place, node in enumerate(self.nodes):
            for side, size in enumerate(self._size(node) or ()):
                said.setdefault(int(self.row[2 * place + side]), set()).add(size)
        length = [max(said.get(row, {0})) for row in range(int(self.row.max()) + 1)]
        clashing = {row for row, found in said.items() if len(found) > 1}
        for _ in range(
            len(self.mapped) + 1
        ):  # rows of operations alone are as long as what is mapped to them
            before, links = list(length), []
            for a, b, mappings in self.mapped:
                old, new = _map(range(length[a]), mappings)
                links.append((a, b, old, new))
                if len(new) and new.max() >= length[b]:
                    length[b] = int(new.max()) + 1
                    clashing |= {b} & set(said)
            if length == before:
                return length, links, clashing
        raise StructureError("the numbers of channels cannot be told")


def _map(places: Iterable[int], mappings: Sequence[Callable[..., Any]]) -> tuple[Labels, Labels]:
    """Where each place goes, as pairs."""
    found = [_HybridIndex(idx=place, root_idx=place) for place in places]
    for mapping in mappings:
        found = mapping(found)
    return np.array([one.root_idx for one in found], np.int64), np.array(
        [one.idx for one in found], np.int64
    )


def _grouped(conv: nn.Conv2d, first_in: int, first_out: int) -> tuple[Labels, Labels]:
    """A grouped convolution couples the same position of every group, or whole groups where these
    have single channels.
    """
    width, height = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    reads, writes = np.arange(conv.in_channels), np.arange(conv.out_channels)
    if width == 1 or height == 1:
        return (
            np.concatenate([first_in + reads, first_out + writes]),
            first_in + width * np.concatenate([reads // width, writes // height]),
        )
    return (
        np.concatenate([first_in + reads, first_out + writes]),
        np.concatenate([first_in + reads % width, first_out + writes % height]),
    )


def find_components(count: int, edges: Labels) -> Labels:
    """The connected component of each of so many points, edges of shape (number, 2)."""
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
