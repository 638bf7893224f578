"""The layers of a pruned network, described as their bounds need them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.bounds.forms import BoundedCriterion, PrunedLayer
from pruning.bounds.inputs import Inputs
from pruning.bounds.rows import arrange_by_row, certain_law, find_columns_read
from pruning.bounds.sums import Sums, first_of_channel, multiply_patches, sum_channels, sum_edges
from pruning.channels.graph import ChannelGraph
from pruning.evidence.evidence import Evidence
from pruning.networks.layers import Layer, as_matrices, count_groups, name_layer
from pruning.rounds.method import PruningMethod
from pruning.types import DrawLaw, Masks, Scores


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A network pruned once, not retrained."""

    requested: float
    sparsity: float
    trial: int
    weights: Mapping[str, Tensor]
    masks: Masks
    laws: Mapping[str, DrawLaw]


@dataclass(frozen=True, kw_only=True)
class FailureProbability:
    """The failure probability that all certified bounds of a study share."""

    delta: float
    log: float
    """ln(2 n / delta), n the bounds that share it, the repeats of a layer's draws not counted."""
    log_split: float
    """The same logarithm where delta is divided over the certified forms too."""


@dataclass(frozen=True, kw_only=True)
class InputPart:
    """A part of a study's inputs, and what the dense network makes of it."""

    inputs: Tensor
    uses: Mapping[str, Inputs]
    """The inputs of every layer, by weight."""
    logits: Tensor
    """The logits of the dense network, (N, classes)."""
    sums: dict[str, tuple[Tensor, Sums]] = field(default_factory=dict)
    """The probabilities that a layer's sums were last computed for, and those sums, by weight:
    prunings that differ in the draws alone share them.
    """


@dataclass(kw_only=True)
class LayerDescriber:
    """Describes layers of networks that one method pruned from the same dense network."""

    method: PruningMethod
    evidence: Evidence
    """The evidence of the dense network, BatchNorm folded."""
    scores: Scores
    sampled: bool
    """Whether the sparsifier draws."""
    prepared: Any
    """The answer of a criterion's `prepare`, else None."""

    @property
    def by_channel(self) -> bool:
        """Whether whole channels are removed, or else single weights."""
        return self.method.compacts

    def describe(
        self, name: str, pruned: Pruned, part: InputPart, failure: FailureProbability
    ) -> PrunedLayer:
        """Describe a layer of a pruned network at a part of the inputs."""
        layer, weight = part.uses[name].layer, self.evidence.weights[name]
        scores = self._arrange_scores(name, layer)
        law = pruned.laws.get(name)
        if law is None:
            law = certain_law(scores)
        kept = self._find_kept(pruned.masks[name], layer).expand_as(law.probabilities)
        certain = (law.probabilities >= 1) & (law.draws != 0)[:, None] & kept
        uncertain = law.probabilities.masked_fill(certain, 0.0)
        first = None
        if self.by_channel and name in pruned.laws:
            first = self._find_first_of_channel(name, layer)
            scores = _share_scores(scores, uncertain, first)
        return PrunedLayer(
            name=name,
            layer=layer,
            weight=weight,
            scores=scores,
            kept=kept,
            law=law,
            open=uncertain,
            sums=self._compute_sums(name, part, uncertain, first),
            patches=part.uses[name].patches,
            log=failure.log + math.log(law.repeats),
            log_split=failure.log_split + math.log(law.repeats),
            delta=failure.delta,
            sampled=self.sampled,
            by_weight=not self.by_channel,
            first=first,
            seen=part.uses,
            prepared=self.prepared,
        )

    def find_alive(self, layer: PrunedLayer, masks: Masks) -> Tensor:
        """Which outputs of a layer are still there, bool (out,)."""
        if self.by_channel:
            return masks[layer.name].flatten(1).any(1)
        return torch.ones(len(layer.weight), dtype=torch.bool, device=layer.weight.device)

    def _arrange_scores(self, name: str, layer: Layer) -> Tensor:
        """The scores of a layer by row of its law; of a criterion without a bound, |w|."""
        weight = self.evidence.weights[name]
        bounded = isinstance(self.method.criterion, BoundedCriterion)
        score = self.scores[name] if bounded else weight.abs()
        return arrange_by_row(score, layer, weight, channels=self.by_channel)

    def _find_kept(self, mask: Tensor, layer: Layer) -> Tensor:
        """The terms that remain: input channels, or weights once for each of their two signs."""
        if self.by_channel:
            return find_columns_read(mask, layer)
        return mask.flatten(1).repeat(2, 1)

    def _compute_sums(
        self, name: str, part: InputPart, probabilities: Tensor, first: Tensor | None
    ) -> Sums:
        """The sums of a layer's terms, taken from `part.sums` where the probabilities are the
        same.
        """
        if name in part.sums:
            known_probabilities, known_sums = part.sums[name]
            if torch.equal(known_probabilities, probabilities):
                return known_sums
        use, weight = part.uses[name], self.evidence.weights[name]
        if self.by_channel:
            sums = sum_channels(use.layer, weight, use.patches, probabilities, first)
        else:
            sums = sum_edges(use.layer, weight, use.patches, probabilities)
        part.sums[name] = probabilities, sums
        return sums

    def _find_first_of_channel(self, name: str, layer: Layer) -> Tensor | None:
        """The first input of each input's channel; None where every input is a channel of its
        own.
        """
        module = name_layer(name)
        first = first_of_channel(layer, self._graph.inputs[module]).to(layer.weight.device)
        own_channels = bool((first == _list_places(first)).all())
        return None if own_channels else first

    @cached_property
    def _graph(self) -> ChannelGraph:
        """The channels of the dense network, and the layers that read them."""
        evidence = self.evidence
        return ChannelGraph.of(evidence.model, evidence.shape, list(evidence.weights))


def _share_scores(scores: Tensor, probabilities: Tensor, first: Tensor | None) -> Tensor:
    """The scores of the groups that a layer reads, in proportion to how they were drawn."""
    shares = probabilities
    if first is not None:
        # a channel that a flattening spreads over several inputs counts once
        shares = probabilities * (first == _list_places(first)).flatten()
    return shares * (scores * (probabilities > 0)).sum(1, keepdim=True)


def _list_places(first: Tensor) -> Tensor:
    """The place of each input of a group, (in / G,)."""
    return torch.arange(first.shape[1], device=first.device)


def compute_removed_outputs(layer: PrunedLayer, masks: Masks, alive: Tensor) -> Tensor:
    """|z| of the outputs that are removed, which the layers they are carried into now miss,
    (N, out, L).
    """
    outputs = multiply_patches(as_matrices(layer.layer, layer.weight)[None], layer.patches)[0]
    bias = layer.layer.bias
    bias_mask = masks.get(f"{layer.name.removesuffix('weight')}bias")
    if bias is not None and bias_mask is not None:
        outputs = outputs + (bias.detach() * ~bias_mask)[:, None]
    return outputs.abs() * ~alive[None, :, None]


def apply_without_bias(layer: Layer, weight: Tensor, inputs: Tensor) -> Tensor:
    """The outputs of a layer with another weight and without its bias, (N, out, L)."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight).reshape(len(inputs), -1, len(weight)).transpose(1, 2)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    outputs = F.conv2d(
        padded,
        weight,
        bias=None,
        stride=layer.stride,
        padding=0,
        dilation=layer.dilation,
        groups=count_groups(layer),
    )
    return outputs.flatten(2)
