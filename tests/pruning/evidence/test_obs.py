"""Optimal brain surgeon by the Fisher in blocks against the explicit matrix."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pruning.evidence.fisher_blocks
import pruning.evidence.quadratic_models
from pruning.criteria.obs import OBS
from pruning.errors import ScoreError
from pruning.evidence.cached import once_per_evidence
from pruning.evidence.evidence import Evidence
from pruning.evidence.fisher_blocks import (
    GRADIENTS,
    compute_group_gradients,
    divide_weights,
)
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


def minimise_quadratic(h: Tensor, g: Tensor, theta: Tensor, gone: list[int]) -> Tensor:
    """Solve the conditions of the least g^T delta + 1/2 delta^T H delta with delta = -theta on
    `gone`, multipliers and all, in one dense system.
    """
    n, m = len(theta), len(gone)
    selection = torch.eye(n, dtype=torch.float64)[gone]
    top = torch.cat([h, selection.T], 1)
    bottom = torch.cat([selection, torch.zeros(m, m, dtype=torch.float64)], 1)
    right = torch.cat([-g, -theta[gone]])
    return torch.linalg.solve(torch.cat([top, bottom]), right)[:n]


@pytest.mark.parametrize(
    ("case", "masked", "size"), [("plain", True, 3), ("grouped", False, 7), ("tied", False, 500)]
)
def test_woodtaylor_agrees_with_the_dense_quadratic_with_gradient(
    case: str, masked: bool, size: int
) -> None:
    evidence = build_double(case, mask_half(case) if masked else None)
    criterion = OBS(block_size=size, damping=1e-2, gradients=4, gradient_term=True)
    masks = draw_masks(evidence.masks)
    scores = criterion.score(evidence)
    weights = criterion.compensate(evidence, masks)
    loss = torch.stack(
        [F.cross_entropy(evidence.model(x), y) * len(y) for x, y in evidence.batches]
    )
    total = loss.sum() / sum(len(y) for _, y in evidence.batches)
    change = plain = 0.0
    for name, weight in evidence.weights.items():
        fisher = compute_fisher_by_hand(evidence, name, 4, 1e-2, size)
        (gradient,) = torch.autograd.grad(
            total, evidence.model.get_parameter(name), retain_graph=True
        )
        g = (gradient * evidence.masks[name]).flatten()
        theta = weight.flatten()
        newton = -torch.linalg.solve(fisher, g)
        free = float(g @ newton + 0.5 * newton @ fisher @ newton)
        for k in (0, len(theta) // 2, len(theta) - 1):
            move = minimise_quadratic(fisher, g, theta, [k])
            cost = float(g @ move + 0.5 * move @ fisher @ move) - free
            if evidence.masks[name].flatten()[k]:
                assert float(scores[name].flatten()[k]) == pytest.approx(cost, rel=1e-7, abs=1e-12)
            else:
                assert float(scores[name].flatten()[k]) == 0.0
        gone = (~masks[name]).flatten().nonzero().flatten().tolist()
        move = minimise_quadratic(fisher, g, theta, gone)
        torch.testing.assert_close(weights[name].flatten(), theta + move, rtol=1e-8, atol=1e-10)
        change += float(g @ move + 0.5 * move @ fisher @ move)
        away = torch.zeros_like(theta)
        away[gone] = -theta[gone]
        plain += float(g @ away + 0.5 * away @ fisher @ away)
    assert criterion.predict(evidence, masks) == pytest.approx(change, rel=1e-8)
    still = OBS(block_size=size, damping=1e-2, gradients=4, gradient_term=True, update=False)
    assert still.predict(evidence, masks) == pytest.approx(plain, rel=1e-8)
    assert change < plain


@pytest.mark.parametrize(("case", "limit"), [("plain", 1), ("plain", 400), ("grouped", 1500)])
def test_gradients_in_several_passes_give_the_same_and_stay_below_the_limit(
    case: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = build_double(case, mask_half(case))
    criterion = OBS(block_size=3, damping=1e-3, gradients=4, gradient_term=True)
    masks = draw_masks(evidence.masks)
    expected = criterion.score(evidence), criterion.compensate(evidence, masks)
    predicted = criterion.predict(evidence, masks)
    monkeypatch.setattr(pruning.evidence.fisher_blocks, "GRADIENTS", limit)
    largest = 0
    compute = pruning.evidence.fisher_blocks._compute_pieces

    def measure(*args: Any) -> list[Tensor]:
        nonlocal largest
        pieces = compute(*args)
        largest = max(largest, sum(piece.nbytes for piece in pieces))
        return pieces

    monkeypatch.setattr(pruning.evidence.fisher_blocks, "_compute_pieces", measure)
    parts = Evidence(evidence.model, evidence.masks, evidence.batches)
    for scores, whole in zip(
        (criterion.score(parts), criterion.compensate(parts, masks)), expected, strict=True
    ):
        for name in whole:
            torch.testing.assert_close(scores[name], whole[name], rtol=1e-12, atol=1e-12)
    assert criterion.predict(parts, masks) == pytest.approx(predicted, rel=1e-12)
    block = 3 * 4 * 8
    assert 0 < largest <= max(limit, block)


def test_a_large_layer_is_cut_and_memory_is_estimated_by_the_limit() -> None:
    vgg = {"conv": torch.empty(512, 512 * 9, device="meta"), "fc": torch.empty(10, 512)}
    passes = divide_weights(vgg, 500, 250)
    assert len(passes) == 2
    assert sum(piece.stop - piece.start for pieces in passes for piece in pieces) == (
        512 * 512 * 9 + 5120
    )
    for pieces in passes:
        assert sum(piece.stop - piece.start for piece in pieces) * 250 * 4 <= GRADIENTS
        assert all(piece.start % 500 == 0 for piece in pieces)
    shapes = [(512, 512, 3, 3)] * 8 + [(4096, 25088)]
    assert OBS().memory(shapes, 1000) <= 5 * 2**30


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
