"""What every registered criterion must keep, whoever wrote it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pruning
from pruning.criteria import criteria
from pruning.errors import BudgetError
from pruning.evidence.criterion import Criterion
from pruning.evidence.evidence import Evidence
from pruning.granularities import granularities
from pruning.masks import build_full_masks, count_kept, find_prunable, select_weight_masks
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import mask_scores, prune_
from pruning.schemas.recipe import Method
from pruning.types import Masks
from tests.support import cases, oracles


def evidence_of(case: str, masks: Masks | None = None, seed: int = 0) -> Evidence:
    model, batches = cases.awkward(case)
    if masks is not None:
        pruning.masks.apply_masks_(model, masks)
    return Evidence(model, masks, batches, torch.Generator().manual_seed(seed))


STATEFUL = ("grouped", "tied", "frozen", "mixed_modes")
"""Networks with something that a criterion might change or read twice: groups, a shared weight, a
weight without a gradient, modules in train mode.
"""
PRUNABLE = ("grouped", "strided", "tied", "frozen", "one_weight", "flat_batchnorm", "zero_weights")
"""Networks on which the second round takes another way: groups, weights that stand twice or stay,
nothing to spare, BatchNorm without variance, scores that are all equal.
"""


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "obs with gradient": ("obs", {"gradient_term": True}),
    "exact_obs in blocks": ("exact_obs", {"block_size": 3}),
    "thinet with update": ("thinet", {"update": True}),
    "qm with hessian": ("qm", {"curvature": "hessian", "pi": 1}),
    "obd with hutchinson": ("obd", {"curvature": "hutchinson", "pi": 1}),
}
"""Criteria with options that compute something else, by label."""


def describe(label: str) -> Method:
    """Describe a registered criterion, or a variant of the table."""
    name, params = VARIANTS.get(label, (label, {}))
    return Method(name=name, params=params)


def create(label: str) -> Criterion:
    method = describe(label)
    return criteria.create(method.name, method.params)


@pytest.mark.parametrize("name", [*criteria.names(), *VARIANTS])
class TestCriterion:
    def test_scores_every_prunable_weight_with_finite_numbers(self, name: str) -> None:
        for case in cases.AWKWARD:
            evidence = evidence_of(case)
            scores = create(name).score(evidence)
            assert set(scores) == set(find_prunable(evidence.model)) != set(), case
            # Raises for a shape that does not broadcast, and for what is not finite.
            mask_scores(evidence, scores)
            for key, weight in evidence.weights.items():
                torch.broadcast_to(scores[key], weight.shape)
                assert scores[key].device == weight.device, case
                assert not scores[key].requires_grad, case

    def test_same_generator_seed_gives_the_same_scores(self, name: str) -> None:
        state = torch.get_rng_state()
        for case in STATEFUL:
            first, second = (create(name).score(evidence_of(case, seed=7)) for _ in range(2))
            assert all(torch.equal(first[key], second[key]) for key in first), case
            assert torch.equal(torch.get_rng_state(), state), (
                "the criterion drew from the global generator"
            )

    def test_changes_nothing(self, name: str) -> None:
        for case in STATEFUL:
            self.check_unchanged(name, case, torch.float32)
        self.check_unchanged(name, "mixed_modes", torch.float64)

    def check_unchanged(self, name: str, case: str, dtype: torch.dtype) -> None:
        """Assert that a criterion leaves the network, its masks and the images as they were."""
        model, batches = cases.awkward(case)
        model, batches = model.to(dtype), [(x.to(dtype), y) for x, y in batches]
        masks = build_full_masks(find_prunable(model))
        evidence = Evidence(model, masks, batches, torch.Generator().manual_seed(0))
        before = {key: value.clone() for key, value in model.state_dict().items()}
        modes, trains = oracles.module_modes(model), [p.requires_grad for p in model.parameters()]
        images = [(x.clone(), y.clone()) for x, y in batches]
        scores = create(name).score(evidence)
        for key in scores:
            scores[key].zero_()  # nor may the scores be the weights themselves
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert all(bool(mask.all()) for mask in masks.values())
        assert oracles.module_modes(model) == modes
        assert [p.requires_grad for p in model.parameters()] == trains
        assert all(p.grad is None for p in model.parameters())
        assert all(
            torch.equal(x, a) and torch.equal(y, b)
            for (x, y), (a, b) in zip(batches, images, strict=True)
        )
        assert not any(
            module._forward_hooks or module._backward_hooks for module in model.modules()
        )

    def test_prunes_a_pruned_network_further(self, name: str) -> None:
        for case in PRUNABLE:
            self.check_further_pruning(name, case)

    def check_further_pruning(self, name: str, case: str) -> None:
        """Assert that a second round removes more, and nothing comes back."""
        masks = cases.half_masks(cases.awkward(case)[0])
        evidence = evidence_of(case, masks)
        total, alive = sum(m.numel() for m in masks.values()), sum(count_kept(masks).values())
        keep = max(1, alive // 2)
        method = PruningMethod.of(cases.recipe(0.5), describe(name))
        try:
            after = prune_(
                evidence.model,
                masks,
                keep / total,
                method,
                lambda masks, stage: Evidence(evidence.model, masks, evidence.batches),
                generator=torch.Generator(),
            )
        except BudgetError:  # at least one channel of each group remains
            assert isinstance(method.granularity, granularities.get("channel"))
            return
        if getattr(method.sparsifier, "reweights", False):  # so many are expected
            assert sum(count_kept(select_weight_masks(after)).values()) <= alive
        else:
            assert sum(count_kept(select_weight_masks(after)).values()) <= keep
        assert all(not bool((after[key] & ~masks[key]).any()) for key in masks)
        weights = dict(evidence.model.named_parameters())
        assert not any(bool(weights[key][~after[key]].detach().any()) for key in after)
