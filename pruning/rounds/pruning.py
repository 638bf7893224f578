"""A pruning round: evidence, score, allocate, sparsify, in stages where the criterion asks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from pruning.errors import ScoreError
from pruning.evidence.criterion import Criterion, PredictsLossChange, moves_weights
from pruning.evidence.evidence import Evidence
from pruning.evidence.layer_inputs import LayerInputs
from pruning.masks import apply_masks_, density
from pruning.measurement.objective import LARGEST_LOSS, limit_losses
from pruning.rounds.budgets import Counter, select_within
from pruning.rounds.loss_curves import measure_allocation
from pruning.rounds.method import PruningMethod
from pruning.types import Masks, Scores, Selection


@dataclass(frozen=True)
class StageLoss:
    """The change of the loss that a loss model predicted for one stage, and the losses measured on
    the same calibration images.
    """

    sparsity: float
    predicted: float
    """The modelled change of the mean loss in this stage."""
    before: float
    """The mean loss before the stage, before its weights are removed."""
    after: float
    """The mean loss right after the stage."""
    images: int


def prune_(  # noqa: PLR0913 (the callbacks are by keyword)
    model: nn.Module,
    masks: Masks,
    target: float,
    method: PruningMethod,
    evidence: Callable[[Masks, int], Evidence],
    *,
    generator: Generator,
    counter: Counter | None = None,
    on_stage: Callable[[StageLoss | None], None] = lambda stage: None,
    on_measured: Callable[[int], None] = lambda images: None,
    warn: Callable[[str], None] = lambda message: None,
) -> Masks:
    """Prune the model in place to density `target` (of all prunable weights) and return the new
    masks.

    With a `counter` the target, and each stage on the way to it, is a budget: the share that
    remains of what the dense network has of the quantity that it counts.

    Masks are nested: what `masks` prune stays pruned. `evidence(masks, stage)` is what the
    criterion may know of this model at its current point; `on_stage` is called after each stage,
    with the losses where the criterion models them. For an allocation that divides by measured
    losses they are measured at each stage, and `on_measured` is called with the images of each
    batch. Raises `ScoreError` for scores that cannot be ranked, `BudgetError` for a density or a
    budget that cannot be reached.
    """
    start = density(masks) if counter is None else counter.measure_share(masks)
    for number, stage_density in enumerate(method.stages(start, target)):
        stage_evidence = evidence(masks, number)
        scores = mask_scores(stage_evidence, method.criterion.score(stage_evidence))
        selection = Selection(
            model=model,
            weights=stage_evidence.weights,
            scores=scores,
            masks=masks,
            density=stage_density,
            allocation=method.allocation,
            sparsifier=method.sparsifier,
            generator=generator,
            # The default binds this stage's evidence: the next stage has another.
            shape=lambda evidence=stage_evidence: evidence.shape,  # type: ignore[misc]
            view=LayerInputs(stage_evidence),
        )
        selection = measure_allocation(
            selection,
            method.granularity,
            method.criterion,
            stage_evidence,
            batch_statistics=method.reestimates,
            advance=on_measured,
        )
        if counter is None:
            selected = method.select(selection)
        else:
            selected = select_within(method.granularity, selection, counter)
        if number == 0:
            for name, reason in selected.left_dense.items():
                warn(f"{name} is left dense: {reason}")
        stage_loss = _remove_weights_(
            model,
            selected.masks,
            selected.weights,
            evidence=stage_evidence,
            criterion=method.criterion,
        )
        on_stage(stage_loss)
        masks = selected.masks
    return masks


def _remove_weights_(
    model: nn.Module, masks: Masks, weights: Scores, *, evidence: Evidence, criterion: Criterion
) -> StageLoss | None:
    """Put the selected weights into the model, and return what a loss model says about it.

    The evidence is that of the point before: predictions are made while the model is still there.
    """
    if moves_weights(criterion):
        weights = criterion.compensate(evidence, masks)
    if not isinstance(criterion, PredictsLossChange):
        _assign_weights_(model, weights, masks)
        return None
    predicted = criterion.predict(evidence, masks)
    before = evidence.losses()
    _assign_weights_(model, weights, masks)
    after = evidence.losses()
    return StageLoss(
        sparsity=1.0 - density(masks),
        predicted=_limit_finite(predicted),
        before=_average_losses(before),
        after=_average_losses(after),
        images=len(after),
    )


def _assign_weights_(model: nn.Module, weights: Scores, masks: Masks) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)
    apply_masks_(model, masks)


def _average_losses(losses: Tensor) -> float:
    """The mean loss, finite also for a network that overflows."""
    return float(limit_losses(losses.double()).mean())


def _limit_finite(value: float) -> float:
    """The value between the smallest and the largest finite float32; nan counts as the largest."""
    if math.isnan(value):
        return LARGEST_LOSS
    return min(LARGEST_LOSS, max(-LARGEST_LOSS, value))


def mask_scores(evidence: Evidence, scores: Scores) -> Scores:
    """The scores with -inf for what is pruned already.

    Raises `ScoreError` for scores of other weights, of another shape, or that are not finite.
    """
    if set(scores) != set(evidence.weights):
        raise ScoreError(f"scores for {sorted(scores)}, expected {sorted(evidence.weights)}")
    alive: Scores = {}
    # Each score is let go before the next is copied: the caller hands on its only reference.
    scores = dict(scores)
    for name, weight in evidence.weights.items():
        score = scores.pop(name)
        if not _broadcasts(score.shape, weight.shape):
            raise ScoreError(
                f"{name}: a score of shape {tuple(score.shape)} does not broadcast to "
                f"{tuple(weight.shape)}"
            )
        # The extremes tell whether all are finite without a copy of a large score; nan fails both.
        lowest, highest = score.aminmax()
        if not (float(lowest) > -math.inf and float(highest) < math.inf):
            broken = int((~torch.isfinite(score)).sum())
            raise ScoreError(f"{name}: {broken} scores are not finite")
        remaining = _reduce_mask(evidence.masks[name], score)
        # Where nothing is pruned the score is handed on as it is, not copied.
        is_whole = int(remaining.count_nonzero()) == remaining.numel()
        alive[name] = score if is_whole else torch.where(remaining, score, -math.inf)
    return alive


def _broadcasts(score_shape: torch.Size, weight_shape: torch.Size) -> bool:
    """Whether a score has as many dimensions as its weight, each of the same size or of size 1."""
    if len(score_shape) != len(weight_shape):
        return False
    sizes = zip(score_shape, weight_shape, strict=True)
    return all(score_size in (1, weight_size) for score_size, weight_size in sizes)


def _reduce_mask(mask: Tensor, score: Tensor) -> Tensor:
    """The mask in the shape of the score: True where any weight that the score is for remains."""
    dims = [dim for dim, size in enumerate(score.shape) if size != mask.shape[dim]]
    return mask.amax(dims, keepdim=True) if dims else mask
