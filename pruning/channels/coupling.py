"""Which channels of a network are coupled, read off its computational graph with torch-pruning.

Two channels are coupled when an operation between layers pairs them: an addition adds them, a
BatchNorm normalises one into the other, a flattening spreads one over several inputs of the next
layer (Fang et al., DepGraph, CVPR 2023).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruning.architectures._attention import PackedAttention
from pruning.architectures._attention_heads import AttentionHeads
from pruning.architectures._channel_map import ChannelMap
from pruning.channels._torch_pruning import BasePruningFunc, torch_pruning
from pruning.channels.index_mapping import IndexMapping, Positions, map_positions
from pruning.channels.slicing import count_channels
from pruning.errors import StructureError

Labels: TypeAlias = Positions
"""A label for each channel of a layer."""
OUTPUTS = "they are the network's outputs"
"""Why the channels that the network answers with must stay."""


@dataclass
class Coupling:
    """A label for each channel of each layer; coupled channels have the same label."""

    inputs: dict[str, Labels] = field(default_factory=dict)
    """The labels of the channels that a module reads, by its name."""
    outputs: dict[str, Labels] = field(default_factory=dict)
    """The labels of the channels that a module writes, by its name."""
    fixed: list[tuple[Labels, str]] = field(default_factory=list)
    """The channels that cannot be removed, with the reason."""
    feeds: set[tuple[str, str]] = field(default_factory=set)
    """A convolution or linear layer, and another that reads what it writes with none between."""


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
        run = getattr(self.net, "every_output", self.net)
        output = run(self.image(x))
        if not isinstance(output, Tensor):
            raise TypeError(f"it answers with a {type(output).__name__}, not with a tensor")
        return output * 1


class _OwnChannels(BasePruningFunc):  # type: ignore[misc]
    """The interface of our own modules to torch-pruning: their inputs and outputs are not coupled
    by it.
    """

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError

    def get_out_channels(self, layer: nn.Module) -> int:
        channels = count_channels(layer)
        assert channels is not None
        return channels[1]

    def get_in_channels(self, layer: nn.Module) -> int:
        channels = count_channels(layer)
        assert channels is not None
        return channels[0]


class _Outline(torch.autograd.Function):
    """An operation that stands for the heads of an attention: zeros of the right shape."""

    @staticmethod
    def forward(ctx: Any, width: int, *projected: Tensor) -> Tensor:
        return projected[0].new_zeros(*projected[0].shape[:-1], width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        raise NotImplementedError


@contextmanager
def _outline_heads(net: nn.Module) -> Iterator[None]:
    """Let the heads of every attention be one operation of the graph, until the block ends."""
    cores = [module for module in net.modules() if isinstance(module, AttentionHeads)]

    def outline(width: int, attend: Any, *projected: Tensor) -> Tensor:
        result: Tensor = _Outline.apply(width, *projected)  # type: ignore[no-untyped-call]
        return result

    for core in cores:
        core.forward = partial(outline, core.channels[1])  # type: ignore[method-assign]
    try:
        yield
    finally:
        for core in cores:
            del core.forward


def couple_channels(net: nn.Module, image: Tensor) -> Coupling:
    """The coupling of a network whose parameters all take gradients, traced with one batch.

    Raises `StructureError` where tracing fails.
    """
    framed = _Framed(net, image)
    own = {
        type(module): _OwnChannels()
        for module in net.modules()
        if isinstance(module, ChannelMap | AttentionHeads)
    }
    # Seen are their projections and heads; of a whole attention torch-pruning knows no heads.
    attentions = [module for module in net.modules() if isinstance(module, PackedAttention)]
    try:
        with warnings.catch_warnings(), torch.enable_grad(), _outline_heads(net):
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph()
            graph.build_dependency(
                framed,
                (image,),
                customized_pruners=own,
                ignored_layers=attentions,
                verbose=False,
            )
        names = {module: name for name, module in net.named_modules()}
        return _Tracer(graph, names, framed.image).trace()
    except StructureError:
        raise
    except Exception as error:  # a network may fail in any way when it is traced
        raise StructureError(
            "the network cannot be traced for channels: their way cannot be followed through "
            f"{_describe_place(net, error)}. Single weights can be pruned (granularity 'weight')"
        ) from error


def _describe_place(net: nn.Module, error: Exception) -> str:
    """Where a network could not be traced: what it answers with, or after which of its layers."""
    if isinstance(error, TypeError) and "it answers with" in str(error):
        return f"its outputs ({error})"
    names = {module: name for name, module in net.named_modules() if name}
    trace = error.__traceback__
    node: Any = None
    while trace is not None:
        node = trace.tb_frame.f_locals.get("node", node)
        trace = trace.tb_next
    ahead: list[Any] = [node] if hasattr(node, "inputs") else []
    for before in ahead:
        if before.module in names:
            return f"what rearranges them after the layer {names[before.module]!r}"
        ahead += [other for other in before.inputs if other not in ahead]
    return "one of its operations"


@dataclass(frozen=True)
class _Link:
    """Two rows of channels, the second of which is computed from the first by index mappings."""

    source: int
    target: int
    mappings: list[IndexMapping]


class _Tracer:
    """Contracts the graph of torch-pruning to rows of channels.

    Every node has two sides: side 2 i is what node i reads, side 2 i + 1 what it writes. Sides that
    are joined without an index mapping have the same channels: they are one row.
    """

    def __init__(self, graph: Any, names: dict[nn.Module, str], image: nn.Module) -> None:
        self.graph = graph
        self.names = names
        self.image = image
        self.nodes = list(graph.module2node.values())
        read_side = {id(node): 2 * index for index, node in enumerate(self.nodes)}
        joined: list[tuple[int, int]] = []
        mapped: list[_Link] = []
        for node in self.nodes:
            reads = read_side[id(node)]
            writes = reads + 1
            if self._count_channels(node) is None or isinstance(node.module, _BatchNorm):
                joined.append((reads, writes))
            # The dependencies on a node's inputs come first: the nodes before enter those edges.
            neighbours = [*node.inputs, *node.outputs]
            dependencies = list(zip(node.dependencies, neighbours, strict=True))
            for dependency, successor in dependencies[len(node.inputs) :]:
                target = read_side[id(successor)]
                mappings = [step for step in dependency.index_mapping if step is not None]
                if mappings:
                    mapped.append(_Link(writes, target, mappings))
                else:
                    joined.append((writes, target))
        edges = np.array(joined, np.int64).reshape(-1, 2)
        self.row = find_components(2 * len(self.nodes), edges)
        self.links = [
            _Link(int(self.row[link.source]), int(self.row[link.target]), link.mappings)
            for link in mapped
        ]

    def trace(self) -> Coupling:
        """The coupling: all channels of all rows are numbered, and paired channels are joined."""
        lengths, positions, clashing = self._measure_rows()
        first = np.concatenate([[0], np.cumsum(lengths)])  # the first number of each row
        pairs = []
        for link, (before, after) in zip(self.links, positions, strict=True):
            pairs.append((first[link.source] + before, first[link.target] + after))
        for index, node in enumerate(self.nodes):
            if isinstance(node.module, nn.Conv2d) and node.module.groups > 1:
                first_in, first_out = first[self._find_rows(index)]
                pairs.append(_pair_groups(node.module, first_in, first_out))
            elif isinstance(node.module, AttentionHeads):
                first_in, first_out = first[self._find_rows(index)]
                pairs.append(_pair_heads(node.module, first_in, first_out))
        edges = [np.empty((0, 2), np.int64), *(np.stack(pair, 1) for pair in pairs)]
        label = find_components(int(first[-1]), np.concatenate(edges))
        coupling = Coupling()
        coupling.fixed = [
            (label[first[row] : first[row + 1]], "layers of different widths meet there")
            for row in sorted(clashing)
        ]
        for index, node in enumerate(self.nodes):
            channels = self._count_channels(node)
            if channels is not None:
                first_in, first_out = first[self._find_rows(index)]
                reads = label[first_in : first_in + channels[0]]
                writes = label[first_out : first_out + channels[1]]
                self._add_node(coupling, node, reads, writes)
            if self._is_layer(node):
                writer = self.names[node.module]
                coupling.feeds |= {(writer, reader) for reader in self._find_readers(node)}
        return coupling

    def _is_layer(self, node: Any) -> bool:
        """Whether a node is a convolution or linear layer of the network."""
        return node.module in self.names and isinstance(node.module, nn.Linear | nn.Conv2d)

    def _find_readers(self, writer: Any) -> set[str]:
        """The names of the layers that read what a layer writes, with no other layer between."""
        readers = set()
        ahead, seen = list(writer.outputs), set()
        while ahead:
            node = ahead.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if self._is_layer(node):
                readers.add(self.names[node.module])
            else:
                ahead += node.outputs
        return readers

    def _find_rows(self, index: int) -> list[int]:
        """The row that a node reads and the row that it writes."""
        return [int(self.row[2 * index]), int(self.row[2 * index + 1])]

    def _add_node(self, coupling: Coupling, node: Any, reads: Labels, writes: Labels) -> None:
        """Enter the labels of a node's channels: by its name, or as channels that must stay."""
        name = self.names.get(node.module)
        if node.module is self.image:
            coupling.fixed.append((writes, "they are the image's channels"))
        elif node.type == torch_pruning.ops.OPTYPE.OUTPUT:
            coupling.fixed.append((reads, OUTPUTS))
        elif name is None or count_channels(node.module) is None:
            reason = f"a {type(node.module).__name__} uses them"
            coupling.fixed += [(reads, reason), (writes, reason)]
        else:
            coupling.inputs[name] = reads
            coupling.outputs[name] = writes

    def _count_channels(self, node: Any) -> tuple[int, int] | None:
        """The numbers of channels that a node reads and writes; None for an operation that takes
        any number.
        """
        channels = count_channels(node.module)
        if channels is not None:
            return channels
        reads, writes = self.graph.get_in_channels(node), self.graph.get_out_channels(node)
        return None if reads is None or writes is None else (int(reads), int(writes))

    def _measure_rows(self) -> tuple[list[int], list[tuple[Positions, Positions]], set[int]]:
        """The number of channels of each row, the positions that each link maps, and the rows with
        layers that disagree about that number.
        """
        declared: dict[int, set[int]] = {}
        for index, node in enumerate(self.nodes):
            for side, count in enumerate(self._count_channels(node) or ()):
                declared.setdefault(int(self.row[2 * index + side]), set()).add(count)
        lengths = [max(declared.get(row, {0})) for row in range(int(self.row.max()) + 1)]
        clashing = {row for row, counts in declared.items() if len(counts) > 1}
        # Rows of operations alone declare no length: they are as long as what is mapped to them.
        # Lengths travel along one link in each pass, so that more passes than links change nothing.
        for _ in range(len(self.links) + 1):
            earlier = list(lengths)
            positions = []
            for link in self.links:
                before, after = map_positions(lengths[link.source], link.mappings)
                positions.append((before, after))
                if len(after) and after.max() >= lengths[link.target]:
                    lengths[link.target] = int(after.max()) + 1
                    clashing |= {link.target} & set(declared)
            if lengths == earlier:
                return lengths, positions, clashing
        raise StructureError("the numbers of channels cannot be determined")


def _pair_groups(conv: nn.Conv2d, first_in: int, first_out: int) -> tuple[Positions, Positions]:
    """Two arrays of the input and output channels of a grouped convolution: channel i of the first
    is coupled with channel i of the second.

    Channels are numbered over the whole network, from `first_in` and `first_out` on. All groups
    must stay equally wide, so that what is removed from one group is removed at the same position
    from every group. A group with a single input or a single output can only go as a whole, which
    needs no other group to follow: then its own inputs and outputs are coupled instead.
    """
    inputs_per_group = conv.in_channels // conv.groups
    outputs_per_group = conv.out_channels // conv.groups
    inputs, outputs = np.arange(conv.in_channels), np.arange(conv.out_channels)
    channels = np.concatenate([first_in + inputs, first_out + outputs])
    if inputs_per_group == 1 or outputs_per_group == 1:
        # Every channel is paired with the first input of its group.
        groups = [inputs // inputs_per_group, outputs // outputs_per_group]
        group_of_channel = np.concatenate(groups)
        return channels, first_in + inputs_per_group * group_of_channel
    # Every channel is paired with the one at its position in the first group.
    partners = [first_in + inputs % inputs_per_group, first_out + outputs % outputs_per_group]
    return channels, np.concatenate(partners)


def _pair_heads(core: AttentionHeads, first_in: int, first_out: int) -> tuple[Labels, Labels]:
    """The pairs of channels that an attention couples: all of a head, in what it reads and writes.

    Every channel is paired with the first that its head writes.
    """
    read, written = (np.arange(count) for count in core.channels)
    channels = np.concatenate([first_in + read, first_out + written])
    heads = np.concatenate([read % len(written), written]) // core.size
    return channels, first_out + heads * core.size


def find_components(count: int, edges: Labels) -> Labels:
    """The number of the connected component of each of `count` points; edges are (number, 2)."""
    present = np.ones(len(edges), bool)
    graph = coo_array((present, (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, components = connected_components(graph, directed=False)
    return np.asarray(components, dtype=np.int64)
