"""Optimal brain surgeon by the Fisher in blocks against the explicit matrix."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pruning.evidence.quadratic_models
from pruning.criteria.obs import OBS
from pruning.errors import ScoreError
from pruning.evidence.cached import once_per_evidence
from pruning.evidence.evidence import Evidence
from pruning.evidence.fisher_blocks import compute_group_gradients
from pruning.types import Scores
from tests.support import cases
from tests.support.quadratic_cases import (
    build_double,
    compute_brute_cost,
    compute_brute_move,
    draw_masks,
    mask_half,
)
from tests.support.seeds import make_generator

pytestmark = pytest.mark.usefixtures("same_layers")


def compute_groups_by_hand(evidence: Evidence, groups: int) -> list[Scores]:
    """Compute the gradient of each group's mean loss by a backward pass for each image."""
    images = [(x[i : i + 1], y[i : i + 1]) for x, y in evidence.batches for i in range(len(y))]
    m = min(groups, len(images))
    model = evidence.model.eval()
    gradients = []
    for group in range(m):
        members = [image for index, image in enumerate(images) if index * m // len(images) == group]
        total = {name: torch.zeros_like(weight) for name, weight in evidence.weights.items()}
        for x, y in members:
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            for name in total:
                gradient = model.get_parameter(name).grad
                if gradient is not None:
                    total[name] += gradient / len(members)
        model.zero_grad()
        gradients.append({name: value * evidence.masks[name] for name, value in total.items()})
    return gradients


def compute_fisher_by_hand(
    evidence: Evidence, name: str, groups: int, damping: float, size: int
) -> Tensor:
    """Compute the whole Fisher, (N, N), zero between blocks."""
    gradients = torch.stack(
        [gradient[name].flatten() for gradient in compute_groups_by_hand(evidence, groups)]
    )
    fisher = gradients.T @ gradients / len(gradients) + damping * torch.eye(
        gradients.shape[1], dtype=torch.float64
    )
    block = torch.arange(gradients.shape[1]) // size
    return fisher * (block[:, None] == block[None, :])


NETWORKS = [
    "plain",
    "grouped",
    "depthwise",
    "strided",
    "tied",
    "frozen",
    "one_weight",
    "zero_weights",
    "flat_batchnorm",
]


@pytest.mark.parametrize("groups", [1, 2, 3, 6, 7, 250])
def test_group_gradients_are_the_means_over_groups_of_images(groups: int) -> None:
    evidence = build_double("plain", mask_half("plain"))
    group_gradients = compute_group_gradients(evidence, groups)
    expected = compute_groups_by_hand(evidence, groups)
    for name in evidence.weights:
        assert group_gradients[name].shape == (min(groups, 7), evidence.weights[name].numel())
        torch.testing.assert_close(
            group_gradients[name], torch.stack([gradient[name].flatten() for gradient in expected])
        )
        assert not group_gradients[name][:, ~evidence.masks[name].flatten()].any()


BLOCKS = ((1, 2**23), (3, 2**23), (3, 1), (7, 40), (500, 2**23))
"""Sizes of blocks, and how many elements are computed at once."""


@pytest.mark.parametrize(
    ("case", "masked", "size", "elements"),
    [
        *((case, True, 3, 2**23) for case in NETWORKS),
        *(("grouped", False, *block) for block in BLOCKS),
        *(("plain", True, *block) for block in BLOCKS),
        ("tied", False, 7, 40),
        ("frozen", False, 500, 2**23),
    ],
)
def test_obs_agrees_with_the_explicit_fisher(
    case: str, masked: bool, size: int, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning.evidence.quadratic_models, "ELEMENTS", elements)
    evidence = build_double(case, mask_half(case) if masked else None)
    criterion = OBS(block_size=size, damping=1e-3, gradients=4)
    masks = draw_masks(evidence.masks)
    scores = criterion.score(evidence)
    weights = criterion.compensate(evidence, masks)
    cost = plain = 0.0
    for name, weight in evidence.weights.items():
        fisher = compute_fisher_by_hand(evidence, name, 4, 1e-3, size)
        whole = torch.linalg.inv(fisher)
        theta = weight.flatten()
        torch.testing.assert_close(
            scores[name].flatten(), theta.square() / (2 * whole.diagonal()), rtol=1e-8, atol=1e-15
        )
        gone = (evidence.masks[name] & ~masks[name]).flatten().nonzero().flatten().tolist()
        move = compute_brute_move(fisher, theta, gone) if gone else torch.zeros_like(theta)
        torch.testing.assert_close(weights[name].flatten(), theta + move, rtol=1e-8, atol=1e-11)
        assert not weights[name][~masks[name]].any()
        cost += compute_brute_cost(fisher, theta, gone) if gone else 0.0
        away = torch.zeros_like(theta)
        away[gone] = theta[gone]
        plain += 0.5 * float(away @ fisher @ away)
    assert criterion.predict(evidence, masks) == pytest.approx(cost, rel=1e-8)
    still = OBS(block_size=size, damping=1e-3, gradients=4, update=False)
    assert still.predict(evidence, masks) == pytest.approx(plain, rel=1e-8)
    assert cost <= plain * (1 + 1e-9)
    for name, weight in still.compensate(evidence, masks).items():
        assert torch.equal(weight, evidence.weights[name].masked_fill(~masks[name], 0.0))
        assert torch.equal(still.score(evidence)[name], scores[name])


def test_blocks_of_one_are_the_diagonal() -> None:
    evidence = build_double("plain")
    scores = OBS(block_size=1, damping=0.01).score(evidence)
    gradients = compute_groups_by_hand(evidence, 7)
    for name, weight in evidence.weights.items():
        diagonal = sum(gradient[name].square() for gradient in gradients) / 7 + 0.01
        torch.testing.assert_close(scores[name], weight.square() * diagonal / 2)
    masks = draw_masks(evidence.masks)
    for name, weight in OBS(block_size=1).compensate(evidence, masks).items():
        assert torch.equal(weight, evidence.weights[name].masked_fill(~masks[name], 0.0))


def test_masked_weights_move_nothing_and_are_moved_by_nothing() -> None:
    masks = mask_half("plain")
    evidence = build_double("plain", masks)
    weights = OBS().compensate(evidence, masks)
    assert all(torch.equal(weights[name], evidence.weights[name]) for name in weights)
    assert OBS().predict(evidence, masks) == 0.0


def test_float32_models_keep_their_type_and_agree() -> None:
    model, batches = cases.awkward("plain")
    evidence = Evidence(model, batches=batches)
    other = build_double("plain")
    masks = draw_masks(evidence.masks)
    criterion = OBS(damping=1e-3)
    assert compute_group_gradients(evidence, 250)["1.weight"].dtype == torch.float32
    for name, weight in criterion.compensate(evidence, masks).items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(
            weight.double(), criterion.compensate(other, masks)[name], rtol=1e-3, atol=1e-5
        )
    for name, score in criterion.score(evidence).items():
        assert score.dtype == torch.float64
        torch.testing.assert_close(score, criterion.score(other)[name], rtol=1e-3, atol=1e-8)


def test_a_fisher_lost_to_rounding_is_refused_by_name() -> None:
    layer = nn.Linear(4, 3)
    evidence = Evidence(
        layer, batches=[(1e12 * torch.randn(5, 4, generator=make_generator()), torch.arange(5) % 3)]
    )
    with pytest.raises(ScoreError, match="more damping"):
        OBS(damping=1e-12).score(evidence)


def test_the_fisher_is_computed_once_for_each_point() -> None:
    evidence = build_double("plain")
    calls: list[int] = []
    evidence.model.register_forward_hook(lambda *_: calls.append(1))
    criterion = OBS()
    criterion.score(evidence)
    first = len(calls)
    criterion.predict(evidence, draw_masks(evidence.masks))
    criterion.compensate(evidence, draw_masks(evidence.masks))
    assert len(calls) == first
    OBS(gradients=3).score(evidence)
    assert len(calls) == 2 * first


def test_what_is_computed_once_goes_with_its_evidence() -> None:
    made: list[weakref.ref[Tensor]] = []

    @once_per_evidence
    def compute(evidence: Evidence, factor: float = 1.0) -> Tensor:
        result = torch.full((2,), factor)
        made.append(weakref.ref(result))
        return result

    evidence = Evidence(nn.Linear(1, 1))
    other = Evidence(nn.Linear(1, 1))
    assert compute(evidence) is compute(evidence)
    assert compute(evidence, factor=2.0) is compute(evidence, factor=2.0) is not compute(evidence)
    assert compute(other) is not compute(evidence)
    assert len(made) == 3
    del evidence
    gc.collect()
    assert [reference() is None for reference in made] == [True, True, False]
