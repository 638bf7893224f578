"""One method's pruned networks beside their bounds: drawn from the dense network, and measured at
the same inputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pruning.bounds.carrier import Carrier
from pruning.bounds.forms import (
    BoundedCriterion,
    Preparing,
    PrunedLayer,
    Relative,
    bound_certified_forms,
)
from pruning.bounds.inputs import Inputs
from pruning.bounds.rows import arrange_by_row, certain_law, find_columns_read
from pruning.bounds.sums import Sums, first_of_channel, multiply_patches, sum_channels, sum_edges
from pruning.channels.graph import ChannelGraph
from pruning.errors import EvidenceError, ParameterError, StructureError
from pruning.evidence.criterion import CompensatesRemoval
from pruning.evidence.evidence import Batches, Evidence
from pruning.evidence.layer_inputs import LayerInputs
from pruning.graphs.tracing import fold_batchnorm, is_chain
from pruning.masks import apply_masks_, build_full_masks, density
from pruning.networks.layers import Layer, as_matrices, count_groups, record_uses
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import mask_scores
from pruning.types import DrawLaw, Masks, Scores, Selection, Shape

Cache: TypeAlias = dict[str, tuple[Tensor, Sums]]
MEMORY = 256 * 2**20
"""What is kept at once of the sums of all layers."""
ROUNDING = 1e-9
"""What float64 may add to an error, relative to the sum of the sizes of its terms."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A network pruned once, not retrained."""

    requested: float
    sparsity: float
    trial: int
    weights: Mapping[str, Tensor]
    masks: Masks
    laws: Mapping[str, DrawLaw]


@dataclass(kw_only=True)
class Outcome:
    """What was bounded and what was measured of one pruned network at N inputs, float64."""

    pruned: Pruned
    logits: dict[str, list[Tensor]] = field(default_factory=dict)
    """By form (`error`: measured), |z' - z| of every logit, (N, classes)."""
    answers: list[Tensor] = field(default_factory=list)
    """The pruned network's logits, (N, classes)."""
    layers: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)
    """By weight and form (`error`: measured), the largest error over a layer's outputs, (N,)."""
    above: dict[str, list[Tensor]] = field(default_factory=dict)
    """By form, whether a layer's output or a logit of an input is further off than the form says,
    (N,).
    """
    assumption: list[float] = field(default_factory=list)
    """Fraction of the outputs at which the paper's assumption holds, by layer and part of the
    inputs.
    """

    def __getitem__(self, form: str) -> Tensor:
        return torch.cat(self.logits[form])

    @property
    def forms(self) -> list[str]:
        """Names of the bounds; components are named `<form> with <factor>`."""
        return [name for name in self.logits if name != "error"]


class Study:
    """A method on a network: its BatchNorm is folded, its scores are taken once, and every pruning
    starts from it.

    Everything is computed on the CPU, in float64.
    """

    def __init__(
        self,
        model: nn.Module,
        seams: PruningMethod,
        batches: Batches,
        shape: Shape,
        generator: Generator,
        exclude: Sequence[str] = (),
    ) -> None:
        """`batches` are calibration images, normalised; raises what the criterion raises."""
        if not Study.takes(seams):
            raise ParameterError("a criterion that moves the weights that remain has no bound here")
        dense = copy.deepcopy(model).cpu().double().eval()
        self.model, self.seams = fold_batchnorm(dense), seams
        given = [(inputs.cpu().double(), labels.cpu()) for inputs, labels in batches]
        for inputs, _ in given[:1]:
            if not torch.allclose(
                self.answers(inputs[:1]), dense(inputs[:1]), 1e-6, 1e-6, equal_nan=True
            ):
                raise StructureError(
                    "a BatchNorm cannot be folded into the layer before: it normalises no "
                    "channels of it"
                )
        self.evidence = Evidence(self.model, None, given, generator, exclude, shape=shape)
        self.names = list(self.evidence.weights)
        self.scores: Scores = mask_scores(self.evidence, seams.criterion.score(self.evidence))
        self.chain = is_chain(self.model)
        self.prepared = (
            seams.criterion.prepare(self.evidence)
            if isinstance(seams.criterion, Preparing)
            else None
        )
        self.carrier, self.views = Carrier(self.model), LayerInputs(self.evidence)

    @staticmethod
    def takes(seams: PruningMethod) -> bool:
        """Whether there are bounds: not for a criterion that moves the weights that remain."""
        return not isinstance(seams.criterion, CompensatesRemoval)

    def answers(self, inputs: Tensor) -> Tensor:
        """The dense network's logits, float64."""
        with torch.no_grad():
            return torch.cat(
                [self.model(chunk) for chunk in torch.split(inputs.cpu().double(), 100)]
            )

    @property
    def sampled(self) -> bool:
        """Whether the sparsifier draws."""
        return getattr(self.seams.sparsifier, "reweights", False)

    def prune(self, sparsity: float, trial: int, generator: Generator) -> Pruned:
        """The network pruned in one shot; `BudgetError` for a sparsity that cannot be had."""
        evidence = self.evidence
        masks = build_full_masks(evidence.weights)
        selected = self.seams.granularity.select(
            Selection(
                model=self.model,
                weights=evidence.weights,
                scores=self.scores,
                masks=masks,
                density=1.0 - sparsity,
                allocation=self.seams.allocation,
                sparsifier=self.seams.sparsifier,
                generator=generator,
                shape=lambda: evidence.shape,
                view=self.views,
            )
        )
        weights = {
            name: selected.weights.get(name, weight).masked_fill(~selected.masks[name], 0.0)
            for name, weight in evidence.weights.items()
        }
        return Pruned(
            requested=sparsity,
            sparsity=1.0 - density(selected.masks),
            trial=trial,
            weights=weights,
            masks=selected.masks,
            laws=selected.laws,
        )

    def outcomes(
        self,
        pruned: Sequence[Pruned],
        inputs: Tensor,
        delta: float,
        advance: Callable[[int], None] = lambda images: None,
    ) -> list[Outcome]:
        """Each network's bounds and errors at the inputs (N, C, H, W), with probability 1 - delta
        for all together.

        `advance` is told how many images a network has been bounded at.
        """
        found = [Outcome(pruned=one) for one in pruned]
        copies = [self._network(one) for one in pruned]
        inputs, self.delta = inputs.cpu().double(), delta
        first = self._seen(inputs[:1])
        counts = {
            name: len(one.layer.weight) * one.patches.shape[-1] for name, one in first.items()
        }
        rows = (
            [len(law.draws) for one in pruned for law in one.laws.values()]
            if self._channels
            else []
        )
        every = max([2, *rows]) * len(inputs) * sum(counts.values())
        logs = math.log(2 * every / delta), math.log(2 * 2 * every / delta)
        part = max(1, MEMORY // (8 * 12 * max(1, sum(counts.values()))))
        for chunk in torch.split(inputs, part):
            seen = self._seen(chunk)
            with torch.no_grad():
                dense = self.model(chunk)
            cache: Cache = {}
            for outcome, network in zip(found, copies, strict=True):
                with torch.no_grad():
                    answers = network(chunk)
                outcome.answers.append(answers)
                outcome.logits.setdefault("error", []).append((answers - dense).abs())
                self._bound(outcome, seen, cache, chunk, logs)
                if outcome.pruned.trial == 0:
                    self._depth(outcome, seen, chunk, dense)
                advance(len(chunk))
        return found

    def _bound(
        self,
        outcome: Outcome,
        seen: Mapping[str, Inputs],
        cache: Cache,
        chunk: Tensor,
        logs: tuple[float, float],
    ) -> None:
        pruned, criterion = outcome.pruned, self.seams.criterion
        errors: dict[str, dict[str, Tensor]] = {}
        above: dict[str, Tensor] = {}
        every: list[PrunedLayer] = []
        for name, use in seen.items():
            drawn = self._drawn(name, seen, pruned, cache, logs)
            every.append(drawn)
            forms = bound_certified_forms(drawn, pruned.trial == 0)
            if isinstance(criterion, BoundedCriterion):
                paper = criterion.bound(drawn)
                forms |= (
                    paper.forms if paper.error is None else {"paper": paper.error, **paper.forms}
                )
                if pruned.trial == 0:
                    forms |= {
                        f"paper with {factor}": error for factor, error in paper.swaps.items()
                    }
                if paper.assumption is not None:
                    outcome.assumption.append(float(paper.assumption.double().mean()))
            alive = (
                pruned.masks[name].flatten(1).any(1)
                if self._channels
                else torch.ones(len(drawn.weight)).bool()
            )
            true = (
                _outputs(use.layer, pruned.weights[name] - drawn.weight, use.inputs).abs()
                * alive[None, :, None]
            )
            gone = 0.0 if bool(alive.all()) else self._removed(drawn, pruned.masks, alive)
            slack = ROUNDING * drawn.sums.size.sum(0)
            kept = outcome.layers.setdefault(name, {})
            kept.setdefault("error", []).append(true.flatten(1).amax(1))
            for form, error in forms.items():
                error = error * alive[None, :, None]
                kept.setdefault(form, []).append(error.flatten(1).amax(1))
                wrong = (true > error + slack).flatten(1).any(1)
                above[form] = above[form] | wrong if form in above else wrong
                errors.setdefault(form, {})[name] = use.shaped(error + gone)
        if isinstance(criterion, Relative) and self.chain:
            with torch.no_grad():
                size = self.model(chunk).abs()
            for form, tau in criterion.relative(every).items():
                relative = size * torch.as_tensor(tau, dtype=size.dtype).reshape(-1, 1)
                outcome.logits.setdefault(form, []).append(
                    relative.nan_to_num(math.inf, posinf=math.inf)
                )
                above[form] = torch.zeros(len(chunk), dtype=torch.bool)
        for form, each in errors.items():
            base = errors[
                form.partition(" with ")[0]
            ]  # a layer that knows nothing of a factor has it as it is
            outcome.logits.setdefault(form, []).append(
                self.carrier.carry(chunk, pruned.weights, base | each)
            )
        true = outcome.logits["error"][-1]
        for form, layers in above.items():
            wrong = (true > outcome.logits[form][-1] * (1 + ROUNDING) + ROUNDING * true.amax()).any(
                1
            )
            outcome.above.setdefault(form, []).append(layers | wrong)

    def _drawn(
        self,
        name: str,
        uses: Mapping[str, Inputs],
        pruned: Pruned,
        cache: Cache,
        logs: tuple[float, float],
    ) -> PrunedLayer:
        layer, weight, mask = uses[name].layer, self.evidence.weights[name], pruned.masks[name]
        seen = uses[name].patches
        scores = arrange_by_row(
            self.scores[name]
            if isinstance(self.seams.criterion, BoundedCriterion)
            else weight.abs(),
            layer,
            weight,
            self._channels,
        )
        law = pruned.laws.get(name)
        if law is None:
            law = certain_law(scores)
        kept = (
            find_columns_read(mask, layer) if self._channels else mask.flatten(1).repeat(2, 1)
        ).expand_as(law.probabilities)
        certain = (law.probabilities >= 1) & (law.draws != 0)[:, None] & kept
        random, first = law.probabilities.masked_fill(certain, 0.0), None
        if (
            self._channels and name in pruned.laws
        ):  # those of the groups that the layer reads, as they were drawn
            first = self._firsts(name, layer)
            shares = (
                random
                if first is None
                else random * (first == torch.arange(first.shape[1])).flatten()
            )
            scores = shares * (scores * (random > 0)).sum(1, keepdim=True)
        if name not in cache or not torch.equal(cache[name][0], random):
            cache[name] = (
                random,
                (
                    sum_channels(layer, weight, seen, random, first)
                    if self._channels
                    else sum_edges(layer, weight, seen, random)
                ),
            )
        log, split = (log + math.log(law.repeats) for log in logs)
        return PrunedLayer(
            name=name,
            layer=layer,
            weight=weight,
            scores=scores,
            kept=kept,
            law=law,
            open=random,
            sums=cache[name][1],
            patches=seen,
            log=log,
            log_split=split,
            delta=self.delta,
            sampled=self.sampled,
            by_weight=not self._channels,
            first=first,
            seen=uses,
            prepared=self.prepared,
        )

    def _removed(self, drawn: PrunedLayer, masks: Masks, alive: Tensor) -> Tensor:
        """What outputs that are removed were, and no longer give to those they are carried into,
        (N, out, L).
        """
        found = multiply_patches(as_matrices(drawn.layer, drawn.weight)[None], drawn.patches)[0]
        bias, gone = drawn.layer.bias, masks.get(f"{drawn.name.removesuffix('weight')}bias")
        if bias is not None and gone is not None:
            found = found + (bias.detach() * ~gone)[:, None]
        return found.abs() * ~alive[None, :, None]

    def _firsts(self, name: str, layer: Layer) -> Tensor | None:
        """Which inputs are one channel, None where each is one of its own."""
        found = first_of_channel(layer, self._graph.inputs[name.rpartition(".")[0]])
        return None if bool((found == torch.arange(found.shape[1])).all()) else found

    @cached_property
    def _graph(self) -> ChannelGraph:
        return ChannelGraph.of(self.model, self.evidence.shape, self.names)

    def _depth(
        self, outcome: Outcome, seen: Mapping[str, Inputs], chunk: Tensor, dense: Tensor
    ) -> None:
        """Bounds of the logits with the gain of every layer as it is: its largest effect on a logit
        over its error.

        sum_l max_i epsilon_li max_k |z'_k - z_k| / max_i |error_li|, z' with the weights of layer l
        alone replaced.
        """
        names = [
            name
            for name in seen
            if bool((outcome.pruned.weights[name] != self.evidence.weights[name]).any())
        ]
        found = {
            form: torch.zeros_like(dense[:, 0])
            for form in outcome.forms
            if " with " not in form and all(form in outcome.layers[name] for name in names)
        }
        probe = copy.deepcopy(self.model)
        for name in names:
            parameter = probe.get_parameter(name)
            with torch.no_grad():
                parameter.copy_(outcome.pruned.weights[name])
                effect = (probe(chunk) - dense).abs().amax(1)
                parameter.copy_(self.evidence.weights[name])
            errors = {form: each[-1] for form, each in outcome.layers[name].items()}
            gain = torch.where(errors["error"] > 0, effect / errors["error"].clamp_min(1e-300), 0.0)
            for form, sum_ in found.items():
                sum_ += errors[form] * gain
        for form, sum_ in found.items():
            outcome.logits.setdefault(f"{form} with gains of layers as they are", []).append(
                sum_[:, None].expand_as(dense)
            )

    @cached_property
    def _channels(self) -> bool:
        return self.seams.compacts

    def _network(self, pruned: Pruned) -> nn.Module:
        network = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, weight in pruned.weights.items():
                network.get_parameter(name).copy_(weight)
        apply_masks_(network, pruned.masks)
        return network

    def _seen(self, inputs: Tensor) -> dict[str, Inputs]:
        with torch.no_grad(), record_uses(self.model, self.names) as uses:
            self.model(inputs)
        for name, calls in uses.items():
            if len(calls) != 1:
                raise StructureError(
                    f"{name} is used {len(calls)} times; bounds are for layers that are used once"
                )
            if not bool(torch.isfinite(calls[0].inputs).all()):
                raise EvidenceError(f"{name}: the inputs of its layer are no finite numbers")
        return {name: Inputs(calls[0]) for name, calls in uses.items()}


def _outputs(layer: Layer, weight: Tensor, inputs: Tensor) -> Tensor:
    """What a weight gives without the bias, (N, out, L)."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight).reshape(len(inputs), -1, len(weight)).transpose(1, 2)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    return F.conv2d(
        padded, weight, None, layer.stride, 0, layer.dilation, count_groups(layer)
    ).flatten(2)
