"""One pruning step: evidence, score, allocate, sparsify."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from pruning.errors import BudgetError, ScoreError
from pruning.evidence import Evidence
from pruning.masks import apply_masks_, keep_count
from pruning.types import Allocation, Budget, Criterion, Masks, Scores, Sparsifier


def prune_(model: nn.Module, evidence: Evidence, density: float, *, criterion: Criterion, allocation: Allocation,
           sparsifier: Sparsifier, generator: Generator) -> Masks:
    """Prune the model in place to `density` (of all prunable weights) and return the new masks.

    Masks are nested: what the evidence's masks prune stays pruned. Raises `ScoreError` for scores that cannot be ranked,
    `BudgetError` for a density that cannot be reached.
    """
    scores = alive_scores(evidence, criterion.score(evidence))
    sizes = {name: weight.numel() for name, weight in evidence.weights.items()}
    budget = Budget(keep_count(sum(sizes.values()), density), sizes)
    keeps = allocation.allocate(scores, budget)
    if sum(keeps.values()) > budget.keep:
        raise BudgetError(f"the allocation keeps {sum(keeps.values())} weights, the budget is {budget.keep}")
    masks: Masks = {}
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in evidence.weights.items():
            sparse = sparsifier.sparsify(weight, scores[name], keeps[name], generator)
            masks[name] = sparse.mask & evidence.masks[name]
            parameters[name].copy_(sparse.weight)
    apply_masks_(model, masks)
    return masks


def alive_scores(evidence: Evidence, scores: Scores) -> Scores:
    """The scores with -inf for what is pruned already; checks names, shapes and finiteness."""
    if set(scores) != set(evidence.weights):
        raise ScoreError(f"scores for {sorted(scores)}, expected {sorted(evidence.weights)}")
    alive: Scores = {}
    for name, weight in evidence.weights.items():
        score = scores[name]
        if score.dim() != weight.dim() or any(s not in (1, w) for s, w in zip(score.shape, weight.shape, strict=True)):
            raise ScoreError(f"{name}: a score of shape {tuple(score.shape)} does not broadcast to {tuple(weight.shape)}")
        if not torch.isfinite(score).all():
            raise ScoreError(f"{name}: {int((~torch.isfinite(score)).sum())} scores are no finite numbers")
        alive[name] = score.masked_fill(~_any_alive(evidence.masks[name], score), -math.inf)
    return alive


def _any_alive(mask: Tensor, score: Tensor) -> Tensor:
    dims = [dim for dim, size in enumerate(score.shape) if size != mask.shape[dim]]
    return mask.amax(dims, keepdim=True) if dims else mask
