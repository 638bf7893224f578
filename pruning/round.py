"""One pruning round: evidence, score, allocate, sparsify, in as many stages as the criterion asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from pruning.allocations import allocations
from pruning.criteria import criteria
from pruning.errors import ParameterError, ScoreError
from pruning.evidence import Evidence
from pruning.granularities import granularities
from pruning.masks import apply_masks_, density
from pruning.schemas.recipe import Method, Recipe
from pruning.sparsifiers import sparsifiers
from pruning.types import (
    Allocation,
    Compensating,
    Criterion,
    Granularity,
    LossModel,
    Masks,
    Scores,
    Selection,
    Sparsifier,
    Staged,
)
from pruning.views import Views

LARGEST = torch.finfo(torch.float32).max
TRUST = 0.5
"""A local loss model is not trusted with a stage that removes more than this fraction of the weights that remain."""


@dataclass(frozen=True)
class Seams:
    """The four choices that make a pruning method, and what it removes together."""

    criterion: Criterion
    allocation: Allocation
    sparsifier: Sparsifier
    granularity: Granularity

    @staticmethod
    def of(recipe: Recipe, method: Method) -> Seams:
        """Those of a recipe for one of its criteria; what it leaves open is the criterion's own."""
        criterion = criteria.create(method.name, method.params)
        chosen = recipe.granularity or Method(name=getattr(criterion, "granularity", "weight"))
        granularity = granularities.create(chosen.name, chosen.params)
        own = getattr(granularity, "allocation", getattr(criterion, "allocation", "global"))
        allocation = recipe.allocation or Method(name=own)
        drawn = getattr(criterion, "sparsifier", "top_k")
        sparsifier = recipe.sparsifier or (drawn if isinstance(drawn, Method) else Method(name=drawn))
        return Seams(criterion, allocations.create(allocation.name, allocation.params),
                     sparsifiers.create(sparsifier.name, sparsifier.params), granularity)

    @property
    def compacts(self) -> bool:
        """Whether the network becomes smaller: channels are removed as a whole."""
        return getattr(self.granularity, "compacts", False)

    def stages(self, start: float, target: float) -> Sequence[float]:
        """The densities of the stages of one round from density `start` to `target`."""
        if not isinstance(self.criterion, Staged) or target >= start:
            return [target]
        return self.criterion.stage_densities(start, target)

    def cautions(self, start: float, target: float, retraining: str) -> list[str]:
        """What a user should know of this pruning before it is retrained so."""
        lost = isinstance(self.criterion, Compensating) and retraining == "weight_rewind"
        found = [self._locality(start, target), "rewinding the weights undoes what the criterion changed in those that "
                 "remain; only its choice of weights counts" if lost else None]
        return [caution for caution in found if caution is not None]

    def _locality(self, start: float, target: float) -> str | None:
        """A local loss model used far from where it was made."""
        if not isinstance(self.criterion, LossModel):
            return None
        stages = self.stages(start, target)
        removed = max(1 - after / before for before, after in zip([start, *stages], stages, strict=False))
        if removed <= TRUST:
            return None
        penalty = ", or a larger lambda," if hasattr(self.criterion, "lambda_") else ""
        return (f"a single stage removes more than {TRUST:.0%} of the weights that remain (pi = {len(stages)}): a local "
                "model of the loss is not to be trusted that far; exponential stages with pi of log2(density before / "
                f"density after) or more{penalty} help")


def refuse_repeated(recipe: Recipe) -> None:
    """Raise `ParameterError` where two criteria are the same, defaults written in."""
    found: list[Criterion] = []
    for method in recipe.criteria:
        criterion = criteria.create(method.name, method.params)
        if criterion in found:
            raise ParameterError(f"{method.name} is listed twice with the same parameters, defaults included",
                                 pointer="/criterion")
        found.append(criterion)


@dataclass(frozen=True)
class StageLoss:
    """What a loss model predicted for one stage, and what came of it on the same calibration images."""

    sparsity: float
    predicted: float
    """Modelled change of the mean loss in this stage."""
    before: float
    """Mean loss before the stage, before its weights are removed."""
    after: float
    images: int


def prune_(model: nn.Module, masks: Masks, target: float, seams: Seams, evidence: Callable[[Masks, int], Evidence], *,
           generator: Generator, on_stage: Callable[[StageLoss | None], None] = lambda stage: None,
           warn: Callable[[str], None] = lambda message: None) -> Masks:
    """Prune the model in place to density `target` (of all prunable weights) and return the new masks.

    Masks are nested: what `masks` prune stays pruned. `evidence(masks, stage)` gives what the criterion may know at each
    stage, of this model at its current point; `on_stage` is told after each, with the losses where the criterion models
    them. Raises `ScoreError` for scores that cannot be ranked, `BudgetError` for a density that cannot be reached.
    """
    for number, stage in enumerate(seams.stages(density(masks), target)):
        found = evidence(masks, number)
        scores = alive_scores(found, seams.criterion.score(found))
        selected = seams.granularity.select(Selection(
            model, found.weights, scores, masks, stage, seams.allocation, seams.sparsifier, generator,
            lambda found=found: found.shape, Views(found)))  # type: ignore[misc]
        for name, reason in selected.left_dense.items() if number == 0 else ():
            warn(f"{name} is left dense: {reason}")
        on_stage(_step(model, found, selected.masks, selected.weights, seams.criterion))
        masks = selected.masks
    return masks


def _step(model: nn.Module, evidence: Evidence, masks: Masks, weights: Scores, criterion: Criterion) -> StageLoss | None:
    """Put the selected weights into the model; the evidence is of the point before."""
    if isinstance(criterion, Compensating):
        weights = criterion.compensate(evidence, masks)
    modelled = isinstance(criterion, LossModel)
    predicted = criterion.predict(evidence, masks) if isinstance(criterion, LossModel) else 0.0
    before = evidence.losses() if modelled else None
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)
    apply_masks_(model, masks)
    if before is None:
        return None
    after = evidence.losses()
    return StageLoss(1.0 - density(masks), _finite(predicted), _mean(before), _mean(after), len(after))


def _mean(losses: Tensor) -> float:
    """The mean; a network that overflows counts as the largest float32."""
    return float(torch.nan_to_num(losses.double(), nan=math.inf).clamp_max(LARGEST).mean())


def _finite(value: float) -> float:
    return min(LARGEST, max(-LARGEST, LARGEST if math.isnan(value) else value))


def alive_scores(evidence: Evidence, scores: Scores) -> Scores:
    """The scores with -inf for what is pruned already; checks names, shapes and finiteness."""
    if set(scores) != set(evidence.weights):
        raise ScoreError(f"scores for {sorted(scores)}, expected {sorted(evidence.weights)}")
    alive: Scores = {}
    for name, weight in evidence.weights.items():
        score = scores[name]
        if score.dim() != weight.dim() or any(s not in (1, w) for s, w in zip(score.shape, weight.shape, strict=True)):
            raise ScoreError(f"{name}: a score of shape {tuple(score.shape)} does not broadcast to {tuple(weight.shape)}")
        lowest, highest = score.aminmax()
        if not (float(lowest) > -math.inf and float(highest) < math.inf):
            raise ScoreError(f"{name}: {int((~torch.isfinite(score)).sum())} scores are no finite numbers")
        alive[name] = score.masked_fill(~_any_alive(evidence.masks[name], score), -math.inf)
    return alive


def _any_alive(mask: Tensor, score: Tensor) -> Tensor:
    dims = [dim for dim, size in enumerate(score.shape) if size != mask.shape[dim]]
    return mask.amax(dims, keepdim=True) if dims else mask

