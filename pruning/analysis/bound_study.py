"""The study of a method's bounds: networks are pruned from the dense one, bounded, and measured at
the same inputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

from pruning.analysis.bound_layers import (
    FailureProbability,
    InputPart,
    LayerDescriber,
    Pruned,
    apply_without_bias,
    compute_removed_outputs,
)
from pruning.bounds.carrier import Carrier
from pruning.bounds.forms import (
    BoundedCriterion,
    BoundsRelativeError,
    PreparesBound,
    PrunedLayer,
    bound_certified_forms,
)
from pruning.bounds.inputs import Inputs
from pruning.errors import EvidenceError, ParameterError, StructureError
from pruning.evidence.criterion import moves_weights
from pruning.evidence.evidence import Batches, Evidence
from pruning.evidence.layer_inputs import LayerInputs
from pruning.graphs.tracing import fold_batchnorm, is_chain
from pruning.masks import apply_masks_, build_full_masks, density
from pruning.networks.layers import record_uses
from pruning.rounds.loss_curves import measure_allocation
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import mask_scores
from pruning.schemas.layer_patterns import LayerPattern
from pruning.types import Scores, Selection, Shape

MEMORY = 256 * 2**20
"""Bytes that the sums of all layers may take at once."""
BYTES_PER_TERM = 8 * 12
"""Bytes for each output at each position: about twelve float64 numbers."""
ROUNDING = 1e-9
"""The rounding of float64 in an error, relative to the sum of the sizes of its terms."""
ANSWERED_AT_ONCE = 100
"""Inputs that the dense network answers at once."""


@dataclass(kw_only=True)
class Outcome:
    """The bounds and the measured errors of one pruned network at N inputs, float64."""

    pruned: Pruned
    logits: dict[str, list[Tensor]] = field(default_factory=dict)
    """|z' - z| of every logit by form (`error`: measured), (N, classes)."""
    answers: list[Tensor] = field(default_factory=list)
    """The pruned network's logits, (N, classes)."""
    layers: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)
    """The largest error over a layer's outputs by weight and form (`error`: measured), (N,)."""
    violations: dict[str, list[Tensor]] = field(default_factory=dict)
    """Whether a layer's output or a logit of an input is further off than a form says, (N,), by
    form.
    """
    assumption: list[float] = field(default_factory=list)
    """The fraction of the outputs at which the paper's assumption holds, by layer and part of the
    inputs.
    """

    def __getitem__(self, form: str) -> Tensor:
        return torch.cat(self.logits[form])

    @property
    def forms(self) -> list[str]:
        """The names of the bounds; components are named `<form> with <factor>`."""
        return [name for name in self.logits if name != "error"]

    def add_logits(self, form: str, errors: Tensor) -> None:
        """Add |z' - z| of every logit at one more part of the inputs, (n, classes)."""
        self.logits.setdefault(form, []).append(errors)

    def add_layer(self, name: str, form: str, errors: Tensor) -> None:
        """Add the errors of a layer's outputs at one more part of the inputs, (n, out, L)."""
        largest = errors.flatten(1).amax(1)
        self.layers.setdefault(name, {}).setdefault(form, []).append(largest)


class Study:
    """A method on a network: its BatchNorm is folded, its scores are taken once, and every pruning
    starts from it.

    Everything is computed in float64, on the device of the network and the calibration images.
    """

    def __init__(
        self,
        model: nn.Module,
        method: PruningMethod,
        batches: Batches,
        shape: Shape,
        generator: Generator,
        *,
        exclude: Sequence[LayerPattern] = (),
        include: Sequence[LayerPattern] = (),
    ) -> None:
        """`batches` are calibration images, normalised; raises what the criterion raises."""
        if not Study.takes(method):
            raise ParameterError("a criterion that moves the weights that remain has no bound here")
        dense = copy.deepcopy(model).double().eval()
        self.model = fold_batchnorm(dense)
        self.method = method
        self.allocation = method.allocation
        calibration = [(inputs.double(), labels) for inputs, labels in batches]
        if calibration:
            self._check_folding(dense, calibration[0][0][:1])
        self.evidence = Evidence(
            self.model,
            batches=calibration,
            generator=generator,
            exclude=exclude,
            include=include,
            shape=shape,
        )
        self.names = list(self.evidence.weights)
        criterion = method.criterion
        self.scores: Scores = mask_scores(self.evidence, criterion.score(self.evidence))
        self.chain = is_chain(self.model)
        prepared: Any = None
        if isinstance(criterion, PreparesBound):
            prepared = criterion.prepare(self.evidence)
        self.carrier = Carrier(self.model)
        self.layer_inputs = LayerInputs(self.evidence)
        self.layers = LayerDescriber(
            method=method,
            evidence=self.evidence,
            scores=self.scores,
            sampled=self.sampled,
            prepared=prepared,
        )

    def _check_folding(self, dense: nn.Module, inputs: Tensor) -> None:
        """Raise `StructureError` where the folded network answers differently."""
        folded_answers, answers = self.answers(inputs), dense(inputs)
        if not torch.allclose(folded_answers, answers, rtol=1e-6, atol=1e-6, equal_nan=True):
            raise StructureError(
                "a BatchNorm cannot be folded: it does not normalise the channels of the layer "
                "before it"
            )

    @staticmethod
    def takes(method: PruningMethod) -> bool:
        """Whether there are bounds: not for a criterion that moves the weights that remain."""
        return not moves_weights(method.criterion)

    def answers(self, inputs: Tensor) -> Tensor:
        """The dense network's logits, float64."""
        chunks = torch.split(inputs.double(), ANSWERED_AT_ONCE)
        with torch.no_grad():
            return torch.cat([self.model(chunk) for chunk in chunks])

    @property
    def sampled(self) -> bool:
        """Whether the sparsifier draws."""
        return getattr(self.method.sparsifier, "reweights", False)

    def prune(self, sparsity: float, trial: int, generator: Generator) -> Pruned:
        """The network pruned in one shot; `BudgetError` for a sparsity that cannot be reached."""
        evidence = self.evidence
        selection = Selection(
            model=self.model,
            weights=evidence.weights,
            scores=self.scores,
            masks=build_full_masks(evidence.weights),
            density=1.0 - sparsity,
            allocation=self.allocation,
            sparsifier=self.method.sparsifier,
            generator=generator,
            shape=lambda: evidence.shape,
            view=self.layer_inputs,
        )
        method = self.method
        selection = measure_allocation(selection, method.granularity, method.criterion, evidence)
        self.allocation = selection.allocation  # what is measured once holds for all sparsities
        selected = method.select(selection)
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

        `advance` is called with the number of images that a network has been bounded at.
        """
        outcomes = [Outcome(pruned=network) for network in pruned]
        networks = [self._build_network(network) for network in pruned]
        inputs = inputs.double()
        outputs = sum(
            len(use.layer.weight) * use.patches.shape[-1]
            for use in self._record_inputs(inputs[:1]).values()
        )
        failure = self._divide_failure_probability(pruned, len(inputs) * outputs, delta)
        images_at_once = max(1, MEMORY // (BYTES_PER_TERM * max(1, outputs)))
        for chunk in torch.split(inputs, images_at_once):
            uses = self._record_inputs(chunk)
            with torch.no_grad():
                part = InputPart(inputs=chunk, uses=uses, logits=self.model(chunk))
            for outcome, network in zip(outcomes, networks, strict=True):
                with torch.no_grad():
                    answers = network(chunk)
                outcome.answers.append(answers)
                outcome.add_logits("error", (answers - part.logits).abs())
                self._bound(outcome, part, failure)
                if outcome.pruned.trial == 0:
                    self._bound_with_measured_gains(outcome, part)
                advance(len(chunk))
        return outcomes

    def _divide_failure_probability(
        self, pruned: Sequence[Pruned], outputs: int, delta: float
    ) -> FailureProbability:
        """The share of delta that each bound has: `outputs` are those of all layers, positions and
        inputs.
        """
        sides = 2  # weights are drawn by sign, channels by the rows of their law
        if self.layers.by_channel:
            rows = [len(law.draws) for network in pruned for law in network.laws.values()]
            sides = max([2, *rows])
        bounds = sides * outputs
        return FailureProbability(
            delta=delta,
            log=math.log(2 * bounds / delta),
            log_split=math.log(2 * 2 * bounds / delta),
        )

    def _bound(self, outcome: Outcome, part: InputPart, failure: FailureProbability) -> None:
        """Bound every layer at a part of the inputs, carry the bounds to the logits, and record
        what is further off than its bound.
        """
        pruned, criterion = outcome.pruned, self.method.criterion
        errors: dict[str, dict[str, Tensor]] = {}  # by form and weight, as the layer's output
        violated: dict[str, Tensor] = {}  # by form, (N,)
        layers: list[PrunedLayer] = []
        for name, use in part.uses.items():
            layer = self.layers.describe(name, pruned, part, failure)
            layers.append(layer)
            forms = self._bound_layer(layer, outcome)
            alive = self.layers.find_alive(layer, pruned.masks)
            change = pruned.weights[name] - layer.weight
            measured = apply_without_bias(use.layer, change, use.inputs).abs()
            measured = measured * alive[None, :, None]
            removed: Tensor | float = 0.0
            if not bool(alive.all()):
                removed = compute_removed_outputs(layer, pruned.masks, alive)
            slack = ROUNDING * layer.sums.size.sum(0)
            outcome.add_layer(name, "error", measured)
            for form, error in forms.items():
                error = error * alive[None, :, None]
                outcome.add_layer(name, form, error)
                wrong = (measured > error + slack).flatten(1).any(1)
                violated[form] = wrong | violated[form] if form in violated else wrong
                errors.setdefault(form, {})[name] = use.reshape_as_output(error + removed)
        if isinstance(criterion, BoundsRelativeError) and self.chain:
            for form, bound in self._bound_relatively(criterion, layers, part).items():
                outcome.add_logits(form, bound)
                violated[form] = torch.zeros(len(part.inputs)).to(bound).bool()
        for form, by_weight in errors.items():
            # a layer that does not know a factor keeps its bound without that factor
            base = errors[form.partition(" with ")[0]]
            bound = self.carrier.carry(part.inputs, pruned.weights, base | by_weight)
            outcome.add_logits(form, bound)
        _record_violations(outcome, violated)

    def _bound_layer(self, layer: PrunedLayer, outcome: Outcome) -> dict[str, Tensor]:
        """Every form of a layer's bound, (N, out, L), and in the first trial its components; the
        paper's assumption is recorded in the outcome.
        """
        criterion, first_trial = self.method.criterion, outcome.pruned.trial == 0
        forms = bound_certified_forms(layer, components=first_trial)
        if not isinstance(criterion, BoundedCriterion):
            return forms
        paper = criterion.bound(layer)
        if paper.error is not None:
            forms[paper.form] = paper.error
        forms |= paper.forms
        if first_trial:
            forms |= {f"{paper.form} with {factor}": error for factor, error in paper.swaps.items()}
        if paper.assumption is not None:
            outcome.assumption.append(float(paper.assumption.double().mean()))
        return forms

    def _bound_relatively(
        self, criterion: BoundsRelativeError, layers: Sequence[PrunedLayer], part: InputPart
    ) -> dict[str, Tensor]:
        """The bounds tau |z| of every logit by form, (N, classes)."""
        with torch.no_grad():
            size = self.model(part.inputs).abs()
        bounds = {}
        for form, tau in criterion.relative(layers).items():
            bound = size * torch.as_tensor(tau, dtype=size.dtype, device=size.device).reshape(-1, 1)
            bounds[form] = bound.nan_to_num(math.inf, posinf=math.inf)
        return bounds

    def _bound_with_measured_gains(self, outcome: Outcome, part: InputPart) -> None:
        """Bound the logits with the measured gain of every layer: its largest effect on a logit
        over its error.

        sum_l max_i epsilon_li max_k |z'_k - z_k| / max_i |error_li|, z' with the weights of layer l
        alone replaced.
        """
        dense_weights, weights = self.evidence.weights, outcome.pruned.weights
        names = [name for name in part.uses if bool((weights[name] != dense_weights[name]).any())]
        bounds = {
            form: torch.zeros_like(part.logits[:, 0])
            for form in outcome.forms
            if " with " not in form and all(form in outcome.layers[name] for name in names)
        }
        probe = copy.deepcopy(self.model)
        for name in names:
            parameter = probe.get_parameter(name)
            with torch.no_grad():
                parameter.copy_(weights[name])
                effect = (probe(part.inputs) - part.logits).abs().amax(1)
                parameter.copy_(dense_weights[name])
            errors = {form: parts[-1] for form, parts in outcome.layers[name].items()}
            measured = errors["error"]
            gain = torch.where(measured > 0, effect / measured.clamp_min(1e-300), 0.0)
            for form, bound in bounds.items():
                bound += errors[form] * gain
        for form, bound in bounds.items():
            every_logit = bound[:, None].expand_as(part.logits)
            outcome.add_logits(f"{form} with gains of layers as they are", every_logit)

    def _build_network(self, pruned: Pruned) -> nn.Module:
        """A copy of the dense network with the weights and the masks of a pruned one."""
        network = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, weight in pruned.weights.items():
                network.get_parameter(name).copy_(weight)
        apply_masks_(network, pruned.masks)
        return network

    def _record_inputs(self, inputs: Tensor) -> Mapping[str, Inputs]:
        """The inputs of every layer of the dense network, by weight."""
        with torch.no_grad(), record_uses(self.model, self.names) as uses:
            self.model(inputs)
        for name, calls in uses.items():
            if len(calls) != 1:
                raise StructureError(
                    f"{name} is used {len(calls)} times; bounds are for layers that are used once"
                )
            if not bool(torch.isfinite(calls[0].inputs).all()):
                raise EvidenceError(f"{name}: the inputs of its layer are not finite")
        return {name: Inputs(calls[0]) for name, calls in uses.items()}


def _record_violations(outcome: Outcome, in_layers: Mapping[str, Tensor]) -> None:
    """Record by form whether an output of a layer (`in_layers`, (N,)) or a logit is further off
    than the form says, at the part of the inputs that was added last.
    """
    measured = outcome.logits["error"][-1]
    for form, violated in in_layers.items():
        limit = outcome.logits[form][-1] * (1 + ROUNDING) + ROUNDING * measured.amax()
        outcome.violations.setdefault(form, []).append(violated | (measured > limit).any(1))
