"""Channels that are drawn at random and stand for the others in every layer that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from pruning.channels.graph import ChannelGraph
from pruning.masks import select_top
from pruning.networks.layers import Layer, as_matrices, count_groups, name_layer
from pruning.types import DrawLaw, Scores, Sparsifier


@dataclass(frozen=True)
class DrawnChannels:
    """A draw of the channels of every group that can lose some.

    Where F_j, the factor of channel j, is right on average, so is every sum over channels: E[sum_j
    F_j w_ij a_j] is sum_j w_ij a_j for a layer that reads inputs a. What writes the channels stays
    as it is, as BatchNorm and activations lie between; so does a depthwise convolution, each output
    of which is fed by one unit alone: it sums over nothing drawn.
    """

    graph: ChannelGraph
    factors: Tensor
    """The factor of each channel by number, float64: 1 for channels that cannot be removed, 0 for
    channels that were not drawn.
    """
    rows: Mapping[str, tuple[Tensor, int]]
    """The probabilities by channel number (0 for channels of other groups) and the number of draws,
    by group.
    """

    @staticmethod
    def of(
        graph: ChannelGraph,
        importance: Mapping[str, Tensor],
        keep: Tensor,
        sparsifier: Sparsifier,
        generator: Generator,
    ) -> DrawnChannels:
        """Let the sparsifier draw as many channels of each group as `keep` (bool, by number)
        leaves.

        Where no channel of a group has an importance above 0, so that none can be drawn, the first
        one that remains stays. Raises `ParameterError` for importances below 0.
        """
        factors = torch.ones(graph.size, dtype=torch.float64)
        rows: dict[str, tuple[Tensor, int]] = {}
        for group in graph.removable:
            score = importance[group.name]
            count = int(keep[group.span].sum())
            sparse = sparsifier.sparsify(torch.ones_like(score), score, count, generator)
            factor = sparse.weight
            law = sparse.law
            if not bool((factor > 0).any()):
                factor = select_top(score, min(1, count)).double()
                law = DrawLaw(factor[None], torch.tensor([-1]))
            if law is not None:
                probabilities = torch.zeros(graph.size, dtype=torch.float64)
                probabilities[group.span] = law.probabilities[0]
                rows[group.name] = probabilities, int(law.draws[0])
            factors[group.span] = factor
        return DrawnChannels(graph, factors, rows)

    def reweighted(self, model: nn.Module, weights: Mapping[str, Tensor]) -> Scores:
        """The weights times the factors of the channels they read."""
        reweighted = dict(weights)
        for name, layer in _list_summing_layers(model, self.graph, weights):
            inputs = self.graph.inputs[name_layer(name)]
            weight = weights[name]
            groups = count_groups(layer)
            # (groups, outputs of a group, channels it reads, positions of the kernel)
            by_channel = as_matrices(layer, weight).reshape(
                groups, len(weight) // groups, weight.shape[1], -1
            )
            factor = self.factors[inputs].reshape(groups, 1, -1, 1).to(weight.device)
            product = by_channel.double() * factor
            reweighted[name] = product.to(weight.dtype).reshape(weight.shape)
        return reweighted

    def laws(self, model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, DrawLaw]:
        """The laws of the layers that read groups that were drawn, by weight name.

        A law has a row for each such group, (groups, in), and one more for the channels that cannot
        be removed, with draws -1.
        """
        fixed = torch.ones(self.graph.size, dtype=torch.float64)
        for group in self.graph.removable:
            fixed[group.span] = 0.0
        laws = {}
        for name, _ in _list_summing_layers(model, self.graph, weights):
            inputs = self.graph.inputs[name_layer(name)]
            probabilities, draws = [], []
            for by_number, count in self.rows.values():
                if bool(by_number[inputs].any()):
                    probabilities.append(by_number[inputs])
                    draws.append(count)
            if not probabilities:
                continue
            if bool(fixed[inputs].any()):
                probabilities.append(fixed[inputs])
                draws.append(-1)
            law = DrawLaw(torch.stack(probabilities), torch.tensor(draws))
            laws[name] = law.to(weights[name].device)
        return laws


def _list_summing_layers(
    model: nn.Module, graph: ChannelGraph, weights: Mapping[str, Tensor]
) -> list[tuple[str, Layer]]:
    """The layers that sum over channels they read, by the names of their weights."""
    layers = []
    for name, weight in weights.items():
        owner = name_layer(name)
        layer = model.get_submodule(owner) if owner in graph.inputs else None
        if not isinstance(layer, Layer):
            continue
        groups = count_groups(layer)
        # Groups with one input or one output are depthwise: they follow the unit that feeds them.
        depthwise = groups > 1 and (weight.shape[1] == 1 or len(weight) == groups)
        if not depthwise:
            layers.append((name, layer))
    return layers
