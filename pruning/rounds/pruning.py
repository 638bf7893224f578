"""One pruning round: evidence, score, allocate, sparsify, in as many stages as the criterion asks
for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from pruning.errors import ScoreError
from pruning.evidence.criterion import CompensatesRemoval, Criterion, PredictsLossChange
from pruning.evidence.evidence import Evidence
from pruning.evidence.layer_inputs import LayerInputs
from pruning.masks import apply_masks_, density
from pruning.rounds.method import PruningMethod
from pruning.types import Masks, Scores, Selection

LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class StageLoss:
    """What a loss model predicted for one stage, and what came of it on the same calibration
    images.
    """

    sparsity: float
    predicted: float
    """Modelled change of the mean loss in this stage."""
    before: float
    """Mean loss before the stage, before its weights are removed."""
    after: float
    images: int


def prune_(
    model: nn.Module,
    masks: Masks,
    target: float,
    seams: PruningMethod,
    evidence: Callable[[Masks, int], Evidence],
    *,
    generator: Generator,
    on_stage: Callable[[StageLoss | None], None] = lambda stage: None,
    warn: Callable[[str], None] = lambda message: None,
) -> Masks:
    """Prune the model in place to density `target` (of all prunable weights) and return the new
    masks.

    Masks are nested: what `masks` prune stays pruned. `evidence(masks, stage)` gives what the
    criterion may know at each stage, of this model at its current point; `on_stage` is told after
    each, with the losses where the criterion models them. Raises `ScoreError` for scores that
    cannot be ranked, `BudgetError` for a density that cannot be reached.
    """
    for number, stage in enumerate(seams.stages(density(masks), target)):
        found = evidence(masks, number)
        scores = mask_scores(found, seams.criterion.score(found))
        selected = seams.granularity.select(
            Selection(
                model=model,
                weights=found.weights,
                scores=scores,
                masks=masks,
                density=stage,
                allocation=seams.allocation,
                sparsifier=seams.sparsifier,
                generator=generator,
                shape=lambda found=found: found.shape,  # type: ignore[misc]
                view=LayerInputs(found),
            )
        )
        for name, reason in selected.left_dense.items() if number == 0 else ():
            warn(f"{name} is left dense: {reason}")
        on_stage(_step(model, found, selected.masks, selected.weights, seams.criterion))
        masks = selected.masks
    return masks


def _step(
    model: nn.Module, evidence: Evidence, masks: Masks, weights: Scores, criterion: Criterion
) -> StageLoss | None:
    """Put the selected weights into the model; the evidence is of the point before."""
    if isinstance(criterion, CompensatesRemoval):
        weights = criterion.compensate(evidence, masks)
    modelled = isinstance(criterion, PredictsLossChange)
    predicted = (
        criterion.predict(evidence, masks) if isinstance(criterion, PredictsLossChange) else 0.0
    )
    before = evidence.losses() if modelled else None
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)
    apply_masks_(model, masks)
    if before is None:
        return None
    after = evidence.losses()
    return StageLoss(
        1.0 - density(masks), _finite(predicted), _mean(before), _mean(after), len(after)
    )


def _mean(losses: Tensor) -> float:
    """The mean; a network that overflows counts as the largest float32."""
    return float(torch.nan_to_num(losses.double(), nan=math.inf).clamp_max(LARGEST).mean())


def _finite(value: float) -> float:
    return min(LARGEST, max(-LARGEST, LARGEST if math.isnan(value) else value))


def mask_scores(evidence: Evidence, scores: Scores) -> Scores:
    """The scores with -inf for what is pruned already; checks names, shapes and finiteness."""
    if set(scores) != set(evidence.weights):
        raise ScoreError(f"scores for {sorted(scores)}, expected {sorted(evidence.weights)}")
    alive: Scores = {}
    for name, weight in evidence.weights.items():
        score = scores[name]
        if score.dim() != weight.dim() or any(
            s not in (1, w) for s, w in zip(score.shape, weight.shape, strict=True)
        ):
            raise ScoreError(
                f"{name}: a score of shape {tuple(score.shape)} does not broadcast to "
                f"{tuple(weight.shape)}"
            )
        lowest, highest = score.aminmax()
        if not (float(lowest) > -math.inf and float(highest) < math.inf):
            raise ScoreError(
                f"{name}: {int((~torch.isfinite(score)).sum())} scores are no finite numbers"
            )
        alive[name] = score.masked_fill(~_any_alive(evidence.masks[name], score), -math.inf)
    return alive


def _any_alive(mask: Tensor, score: Tensor) -> Tensor:
    dims = [dim for dim, size in enumerate(score.shape) if size != mask.shape[dim]]
    return mask.amax(dims, keepdim=True) if dims else mask
