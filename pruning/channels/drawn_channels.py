"""Channels that are drawn: those drawn stand for the others in every layer that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from pruning.channels.graph import ChannelGraph
from pruning.masks import select_top
from pruning.networks.layers import Layer, as_matrices, count_groups
from pruning.types import DrawLaw, Scores, Sparsifier


@dataclass(frozen=True)
class DrawnChannels:
    """One draw of the channels of every group that can lose some.

    Where F_j, the factor of channel j, is right on average, so is every sum over channels: E[sum_j
    F_j w_ij a_j] is sum_j w_ij a_j for a layer that reads inputs a. What writes the channels stays
    as it is, as BatchNorm and activations lie between; so does a depthwise convolution, each output
    of which is fed by one unit alone: it sums over nothing drawn.
    """

    graph: ChannelGraph
    factors: Tensor
    """By channel number, float64: 1 for those that cannot be removed, 0 for those not drawn."""
    rows: Mapping[str, tuple[Tensor, int]]
    """By group, the probabilities by channel number (0 for those of other groups) and the number of
    draws.
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

        Where none of a group has an importance above 0, so that none can be drawn, the first of
        those that remain stays. Raises `ParameterError` for importances below 0.
        """
        found = torch.ones(graph.size, dtype=torch.float64)
        rows: dict[str, tuple[Tensor, int]] = {}
        for group in graph.removable:
            score, count = importance[group.name], int(keep[group.span].sum())
            sparse = sparsifier.sparsify(torch.ones_like(score), score, count, generator)
            factor = sparse.weight
            law = sparse.law
            if not bool((factor > 0).any()):
                factor = select_top(score, min(1, count)).double()
                law = DrawLaw(factor[None], torch.tensor([-1]))
            if law is not None:
                rows[group.name] = (
                    _placed(graph, group.span, law.probabilities[0]),
                    int(law.draws[0]),
                )
            found[group.span] = factor
        return DrawnChannels(graph, found, rows)

    def reweighted(self, model: nn.Module, weights: Mapping[str, Tensor]) -> Scores:
        """The weights times the factors of the channels they read."""
        found = dict(weights)
        for name, layer in _summing(model, self.graph, weights):
            inputs = self.graph.inputs[name.rpartition(".")[0]]
            weight = weights[name]
            by_channel = as_matrices(layer, weight).reshape(
                count_groups(layer), len(weight) // count_groups(layer), weight.shape[1], -1
            )
            factor = self.factors[inputs].reshape(count_groups(layer), 1, -1, 1).to(weight.device)
            found[name] = (by_channel.double() * factor).to(weight.dtype).reshape(weight.shape)
        return found

    def laws(self, model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, DrawLaw]:
        """By weight name, of the layers that read a group that was drawn: a row for each such
        group, (groups, in).

        Channels that cannot be removed make one more row, with draws -1.
        """
        fixed = torch.ones(self.graph.size, dtype=torch.float64)
        for group in self.graph.removable:
            fixed[group.span] = 0.0
        found = {}
        for name, _ in _summing(model, self.graph, weights):
            inputs = self.graph.inputs[name.rpartition(".")[0]]
            drawn = [(p[inputs], draws) for p, draws in self.rows.values() if bool(p[inputs].any())]
            if not drawn:
                continue
            rest = [(fixed[inputs], -1)] if bool(fixed[inputs].any()) else []
            found[name] = DrawLaw(
                torch.stack([p for p, _ in drawn + rest]),
                torch.tensor([draws for _, draws in drawn + rest]),
            )
        return found


def _placed(graph: ChannelGraph, span: slice, values: Tensor) -> Tensor:
    found = torch.zeros(graph.size, dtype=torch.float64)
    found[span] = values
    return found


def _summing(
    model: nn.Module, graph: ChannelGraph, weights: Mapping[str, Tensor]
) -> list[tuple[str, Layer]]:
    """The layers that sum over channels they read."""
    found = []
    for name, weight in weights.items():
        owner = name.rpartition(".")[0]
        layer = model.get_submodule(owner)
        if owner not in graph.inputs or not isinstance(layer, Layer):
            continue
        alone = count_groups(layer) > 1 and (
            weight.shape[1] == 1 or len(weight) == count_groups(layer)
        )
        if not alone:
            found.append((name, layer))
    return found
