"""Filters and input channels that leave a network layer by layer, and what leaves with them.

Source: the code released with Lost in Pruning (Liebenwein et al., MLSys 2021): a filter that no
layer reads is removed, and so is an input channel that is the same for all images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pruning.channels.coupling import OUTPUTS, Labels
from pruning.channels.graph import ChannelGraph
from pruning.masks import PRUNABLE
from pruning.networks.layers import as_matrices, name_tensor
from pruning.types import Masks

Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.float64]
"""Whole numbers, as floats so that products of matrices are fast."""


@dataclass
class LayerChannels:
    """The filters and input channels of one layer; those of a group of a convolution in a row."""

    counts: Counts
    """(groups, filters of a group, inputs of a group): the weights that there are."""
    filters: Flags
    """(groups, filters of a group): True for what remains."""
    inputs: Flags
    """(groups, inputs of a group): True for what remains."""

    @property
    def of_filters(self) -> Counts:
        """The weights of each filter in the remaining input channels, shaped as `filters`."""
        return (self.counts @ self.inputs[:, :, None])[:, :, 0]

    @property
    def of_inputs(self) -> Counts:
        """The weights of each input channel in the remaining filters, shaped as `inputs`."""
        return (self.filters[:, None, :] @ self.counts)[:, 0]

    def count(self) -> int:
        """The number of weights that remain."""
        return int((self.of_filters * self.filters).sum())

    def drop_empty(self) -> None:
        """Remove filters and input channels without a weight."""
        self.filters &= self.of_filters > 0
        self.inputs &= self.of_inputs > 0


@dataclass(frozen=True)
class Link:
    """The part of a layer's inputs that another writes: filters, and the inputs they arrive at."""

    writer: str
    reader: str
    filters: Labels
    inputs: Labels


class SeparateChannels:
    """The channels of a network, of which each layer loses its own.

    An input channel that no filter before it writes any more is the same for all images, and
    removed. So is a filter that no layer after it reads. Layers that add into one stream see of it
    what was written before them. Both rules hold only within groups that the graph can remove
    channels of: an image, the network's outputs, and layers that are excluded or frozen stay.
    """

    def __init__(self, graph: ChannelGraph, model: nn.Module, masks: Masks) -> None:
        stays = np.zeros(graph.size, bool)
        answers = np.zeros(graph.size, bool)
        for group in graph.groups:
            stays[group.span] = group.reason is not None
            answers[group.span] = group.reason == OUTPUTS
        self.counts: dict[str, Counts] = {}
        self.weights: dict[str, str] = {}
        for name in graph.inputs:
            module = model.get_submodule(name)
            weight = name_tensor(name, module, "weight")
            if isinstance(module, PRUNABLE) and weight in masks:
                self.weights[name] = weight
                by_group = as_matrices(module, masks[weight].cpu())
                width = module.weight.shape[1]
                counts = by_group.reshape(*by_group.shape[:2], width, -1).sum(3)
                self.counts[name] = counts.numpy().astype(np.float64)
        writes = {name: graph.outputs[name].numpy() for name in self.counts}
        reads = {name: graph.inputs[name].numpy() for name in self.counts}
        self.writes_stay = {name: stays[numbers] for name, numbers in writes.items()}
        self.reads_stay = {name: stays[numbers] for name, numbers in reads.items()}
        self.answering = {name for name, numbers in writes.items() if answers[numbers].any()}
        carried = graph.carried.numpy()
        self.links = [
            Link(writer, reader, *_match(writes[writer], reads[reader], carried))
            for writer, reader in sorted(graph.feeds)
            if writer in writes and reader in reads
        ]

    def without(
        self, filters: Mapping[str, Flags], inputs: Mapping[str, Flags]
    ) -> dict[str, LayerChannels]:
        """The layers where only these filters (out,) and input channels of each group remain, and
        what no longer matters has left too.
        """
        layers = {}
        for name, counts in self.counts.items():
            groups, out, width = counts.shape
            kept_filters = filters.get(name, np.ones(groups * out, bool))
            kept_inputs = inputs.get(name, np.ones(width, bool))
            layers[name] = LayerChannels(
                counts, kept_filters.reshape(groups, out).copy(), np.tile(kept_inputs, (groups, 1))
            )
        before = -1
        while (after := self._spread(layers)) != before:
            before = after
        return layers

    def _spread(self, layers: Mapping[str, LayerChannels]) -> int:
        """Remove what is not read and what is not written, once; return how much remains."""
        written = {name: stay.copy() for name, stay in self.reads_stay.items()}
        read = {name: stay.copy() for name, stay in self.writes_stay.items()}
        for layer in layers.values():
            layer.drop_empty()
        for link in self.links:
            writes = layers[link.writer].filters.ravel()[link.filters]
            written[link.reader][link.inputs[writes]] = True
            reads = layers[link.reader].inputs.ravel()[link.inputs]
            read[link.writer][link.filters[reads]] = True
        remains = 0
        for name, layer in layers.items():
            layer.filters &= read[name].reshape(layer.filters.shape)
            layer.inputs &= written[name].reshape(layer.inputs.shape)
            remains += int(layer.filters.sum()) + int(layer.inputs.sum())
        return remains

    def count(self, layers: Mapping[str, LayerChannels]) -> int:
        """The number of weights that remain."""
        return sum(layer.count() for layer in layers.values())

    def masks(self, layers: Mapping[str, LayerChannels], before: Masks) -> Masks:
        """The masks of the layers' weights, nested in those before."""
        masks: Masks = {}
        for name, layer in layers.items():
            key = self.weights[name]
            mask = before[key]
            filters = torch.from_numpy(layer.filters)
            inputs = torch.from_numpy(layer.inputs)
            both = (filters[:, :, None] & inputs[:, None, :]).flatten(0, 1)
            shaped = both.reshape(*both.shape, *[1] * (mask.dim() - 2))
            masks[key] = mask & shaped.to(mask.device)
        return masks


def _match(written: Labels, read: Labels, carried: Labels) -> tuple[Labels, Labels]:
    """The positions of a writer and of a reader that have one channel, or a channel and the one
    that shortcuts carry it into.
    """
    filters, numbers = np.arange(len(written)), written
    parts = [_join(filters, numbers, read)]
    for _ in range(carried.shape[1]):
        place, step = _join(np.arange(len(numbers)), numbers, carried[0])
        if not len(place):
            break
        filters, numbers = filters[place], carried[1][step]
        parts.append(_join(filters, numbers, read))
    pairs = np.unique(np.concatenate(parts, 1), axis=1)
    return pairs[0], pairs[1]


def _join(labels: Labels, numbers: Labels, others: Labels) -> Labels:
    """(2, n): the label of each number with each of the positions where it is among the others."""
    order = np.argsort(others, kind="stable")
    first = np.searchsorted(others[order], numbers, "left")
    counts = np.searchsorted(others[order], numbers, "right") - first
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([np.repeat(labels, counts), order[np.repeat(first, counts) + offsets]])
