"""Whole rounds of optimal brain surgeon."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.criteria import criteria
from pruning.criteria.obs import OBS
from pruning.evidence.evidence import Evidence
from pruning.masks import apply_masks_, build_full_masks, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import StageLoss, mask_scores, prune_
from pruning.schemas.recipe import Method
from pruning.types import Masks
from tests.support import cases
from tests.support.quadratic_cases import draw_masks
from tests.support.seeds import make_generator

pytestmark = pytest.mark.usefixtures("same_layers")


def train_network() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """Train a network on its few images, so that a model of its loss is meaningful."""
    data = cases.make_data()
    model = cases.mlp()
    batches = list(data.batches(data.fit, 16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(60):
        for inputs, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model, batches


def prune_in_rounds(
    name: str, params: dict[str, Any], *targets: float
) -> tuple[nn.Module, Masks, list[StageLoss | None], list[Masks]]:
    model, batches = train_network()
    masks = build_full_masks(find_prunable(model))
    stages: list[StageLoss | None] = []
    points: list[Masks] = []
    for target in targets:

        def evidence(masks: Masks, stage: int) -> Evidence:
            for key, mask in masks.items():
                assert not model.get_parameter(key)[~mask].detach().any(), (
                    "a masked weight came back"
                )
            points.append(masks)
            return Evidence(model, masks, batches)

        masks = prune_(
            model,
            masks,
            target,
            PruningMethod.of(cases.recipe(0.5), Method(name=name, params=params)),
            evidence,
            generator=make_generator(),
            on_stage=stages.append,
        )
    return model, masks, stages, points


@pytest.mark.parametrize(
    ("name", "params", "stages"),
    [
        ("obs", {"pi": 2}, 4),
        ("obs", {"pi": 2, "block_size": 5}, 4),
        ("obs", {"pi": 1, "update": False}, 2),
        ("obs", {"pi": 2, "gradient_term": True}, 4),
        ("exact_obs", {}, 2),
    ],
)
def test_rounds_are_deterministic_and_leave_masked_weights_zero(
    name: str, params: dict[str, Any], stages: int
) -> None:
    first, masks, losses, points = prune_in_rounds(name, params, 0.6, 0.3)
    second, again, *_ = prune_in_rounds(name, params, 0.6, 0.3)
    assert len(losses) == len(points) == stages
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == total - round(0.7 * total)
    for earlier, later in itertools.pairwise([*points, masks]):
        assert all(not (later[key] & ~earlier[key]).any() for key in later)
    for key, mask in masks.items():
        assert torch.equal(mask, again[key])
        assert torch.equal(first.get_parameter(key), second.get_parameter(key))
        assert not first.get_parameter(key)[~mask].detach().any()
    if name == "obs":
        assert all(stage is not None and math.isfinite(stage.predicted) for stage in losses)
    if name == "obs" and "gradient_term" not in params:
        assert all(stage is not None and stage.predicted >= 0 for stage in losses)


def test_four_stages_at_a_point_that_moves() -> None:
    assert OBS().stage_densities(1.0, 0.0625) == pytest.approx([0.5, 0.25, 0.125, 0.0625])
    assert OBS().stage_densities(1.0, 0.0625)[-1] == 0.0625


def test_the_update_preserves_the_loss_better_than_masking() -> None:
    after = {}
    for update in (True, False):
        _, _, losses, _ = prune_in_rounds("obs", {"pi": 1, "update": update, "damping": 1e-4}, 0.6)
        assert losses[0] is not None
        after[update] = losses[0].after
    assert after[True] < after[False]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("obs", {}),
        ("obs", {"gradient_term": True, "block_size": 3}),
        ("exact_obs", {}),
        ("exact_obs", {"block_size": 3}),
    ],
)
@pytest.mark.parametrize("case", cases.AWKWARD)
def test_awkward_networks_get_finite_scores_weights_and_predictions(
    name: str, params: dict[str, Any], case: str
) -> None:
    model, batches = cases.awkward(case)
    masks = cases.half_masks(model)
    apply_masks_(model, masks)
    evidence = Evidence(model, masks, batches)
    criterion: Any = criteria.create(name, params)
    mask_scores(evidence, criterion.score(evidence))
    after = draw_masks(masks)
    for key, weight in criterion.compensate(evidence, after).items():
        assert torch.isfinite(weight).all()
        assert weight.shape == evidence.weights[key].shape
        assert weight.dtype == evidence.weights[key].dtype
        assert not weight[~after[key]].any()
    if name == "obs":
        assert math.isfinite(criterion.predict(evidence, after))


def test_the_error_of_layers_is_not_comparable_so_the_default_is_uniform() -> None:
    assert (
        PruningMethod.of(cases.recipe(0.5), Method(name="exact_obs")).allocation
        == PruningMethod.of(
            cases.recipe(0.5, allocation={"name": "uniform"}), Method(name="magnitude")
        ).allocation
    )
