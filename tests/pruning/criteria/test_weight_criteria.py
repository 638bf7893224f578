"""LAMP and Wanda against their definitions, weight by weight."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.criteria.lamp import LAMP
from pruning.criteria.wanda import Wanda
from pruning.errors import ScoreError
from pruning.evidence.evidence import Evidence
from pruning.masks import apply_masks_, build_full_masks, count_kept, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Method
from pruning.seeding import seeded
from pruning.types import Masks
from tests.support import cases

fast = settings(max_examples=60, deadline=None, derandomize=True)


def build_layer(values: list[float], dtype: torch.dtype = torch.float32) -> nn.Linear:
    layer = nn.Linear(len(values), 1, bias=False, dtype=dtype)
    layer.weight.data.copy_(torch.tensor([values], dtype=torch.float64))
    return layer


def prune(
    model: nn.Module,
    masks: Masks,
    keep: int,
    method: Method,
    evidence: Callable[[Masks, int], Evidence],
) -> Masks:
    density = keep / sum(mask.numel() for mask in masks.values())
    return prune_(
        model,
        masks,
        density,
        PruningMethod.of(cases.recipe(0.5), method),
        evidence,
        generator=torch.Generator(),
    )


# LAMP


def score_lamp(values: list[float]) -> list[float]:
    """Compute theta_u^2 over the sum of all before or at u in descending order, equal ones in
    order.
    """
    order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
    scores = [0.0] * len(values)
    for place, u in enumerate(order):
        below = math.fsum(values[v] ** 2 for v in order[: place + 1])
        scores[u] = values[u] ** 2 / below if below else float(place == 0)
    return scores


@fast
@given(
    values=st.lists(
        st.one_of(
            st.sampled_from([0.0, 1.0, -1.0, 2.0]),
            st.floats(-1e3, 1e3, width=32).map(lambda v: 0.0 if abs(v) < 1e-30 else v),
        ),
        min_size=1,
        max_size=30,
    ),
    data=st.data(),
)
def test_lamp_is_its_definition_on_what_remains(values: list[float], data: st.DataObject) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    layer = build_layer(values)
    score = LAMP().score(Evidence(layer, {"weight": torch.tensor([mask])}))["weight"][0]
    assert torch.isfinite(score).all()
    expected = score_lamp([value for value, alive in zip(values, mask, strict=True) if alive])
    torch.testing.assert_close(
        score[torch.tensor(mask)], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_lamp_ranks_as_the_magnitudes_do_where_float32_would_not() -> None:
    rng = torch.Generator().manual_seed(0)
    values = torch.cat(
        [
            torch.full((1,), 1e6),
            1 + torch.arange(2000) * 2.0**-23,
            torch.rand(2000, generator=rng) * 1e-19,
        ]
    )
    values = values[torch.randperm(len(values), generator=rng)]
    score = LAMP().score(Evidence(build_layer(values.tolist())))["weight"][0]
    distinct, place = values.unique(return_inverse=True)
    by_value = torch.empty(len(distinct), dtype=torch.float64).scatter_(0, place, score)
    assert (by_value[1:] > by_value[:-1]).all()
    assert (LAMP().score(Evidence(build_layer([3.0] * 5)))["weight"][0].diff() < 0).all(), (
        "of equal weights the first remain"
    )


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_lamp_does_not_depend_on_the_scale(scale: float) -> None:
    score = LAMP().score(Evidence(build_layer([scale, -2 * scale, 2 * scale], torch.float64)))[
        "weight"
    ][0]
    torch.testing.assert_close(
        score, torch.tensor([1 / 9, 1, 0.5], dtype=torch.float64), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("case", ["plain", "grouped", "zero_weights", "mixed_modes"])
@pytest.mark.parametrize("pruned", [False, True])
def test_lamp_empties_no_layer(case: str, pruned: bool) -> None:
    for extra in range(4):
        model, _ = cases.awkward(case)
        masks = cases.half_masks(model) if pruned else build_full_masks(find_prunable(model))
        apply_masks_(model, masks)
        after = prune(
            model,
            masks,
            len(masks) + extra,
            Method(name="lamp"),
            lambda masks, stage, model=model: Evidence(  # type: ignore[misc]
                model, masks
            ),
        )
        assert min(count_kept(after).values()) >= 1
        scores = LAMP().score(Evidence(model, after))
        assert all(float(score[after[name]].max()) == 1 for name, score in scores.items())


def test_lamp_leaves_numbers_that_are_none_to_be_refused() -> None:
    assert torch.isnan(LAMP().score(Evidence(build_layer([1.0, math.nan])))["weight"]).any()


# Wanda


def extract_features(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Extract what each weight is multiplied with, one weight at a time.

    By image and output position, (n, *weight.shape).
    """
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    columns = []
    for index in range(layer.weight.numel()):
        probe = torch.zeros_like(layer.weight).flatten()
        probe[index] = 1.0
        with torch.no_grad():
            if isinstance(layer, nn.Linear):
                out = nn.functional.linear(inputs, probe.view_as(layer.weight))
            else:
                out = layer._conv_forward(inputs, probe.view_as(layer.weight), None)
        row = index // layer.weight[0].numel()
        columns.append(out[:, row].reshape(-1))
    return torch.stack(columns, -1).reshape(-1, *layer.weight.shape)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "padded": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 4, 4)),
    "grouped": (lambda: nn.Conv2d(4, 6, (3, 2), groups=2, stride=(2, 1)), (4, 5, 4)),
    "depthwise": (
        lambda: nn.Conv2d(3, 3, 2, groups=3, padding=1, padding_mode="circular"),
        (3, 3, 3),
    ),
    "dilated": (
        lambda: nn.Conv2d(1, 2, 2, dilation=2, padding="same", padding_mode="reflect"),
        (1, 4, 4),
    ),
}


@pytest.mark.parametrize("case", LAYERS)
def test_wanda_is_magnitude_times_the_norm_of_the_input(case: str) -> None:
    build, shape = LAYERS[case]
    rng = torch.Generator().manual_seed(0)
    with seeded(0):
        layer = build().double()
    inputs = torch.randn(7, *shape, dtype=torch.float64, generator=rng)
    weight = layer.get_parameter("weight").detach()
    expected = weight.abs() * extract_features(layer, inputs).norm(dim=0)
    batches = [(inputs[:4], torch.zeros(4)), (inputs[4:], torch.zeros(3))]
    score = Wanda(per_row=False).score(Evidence(nn.Sequential(layer), batches=batches))["0.weight"]
    torch.testing.assert_close(score, expected, rtol=1e-10, atol=0)


def test_wanda_adds_up_all_uses_of_a_weight() -> None:
    model, batches = cases.awkward("tied")
    model.double()
    inputs = torch.cat([x for x, _ in batches]).double().flatten(1)
    first = model.get_submodule("first")
    assert isinstance(first, nn.Linear)
    hidden = torch.tanh(first(inputs))
    norm = torch.cat([inputs, hidden]).norm(dim=0)
    scores = Wanda(per_row=False).score(
        Evidence(model, batches=[(x.double(), y) for x, y in batches])
    )
    torch.testing.assert_close(
        scores["first.weight"], (first.weight.abs() * norm).detach(), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("case", ["plain", "grouped", "pointwise"])
def test_wanda_keeps_as_many_of_every_row(case: str, pruned: bool) -> None:
    model, batches = cases.awkward(case)
    masks = build_full_masks(find_prunable(model))
    if pruned:
        for name, mask in masks.items():
            masks[name] = (
                (torch.arange(mask[0].numel()) % 3 != 0)
                .reshape(mask[0].shape)
                .expand_as(mask)
                .clone()
            )
        apply_masks_(model, masks)
    evidence = Evidence(model, masks, batches)
    raw, ranked = (Wanda(per_row=per_row).score(evidence) for per_row in (False, True))
    for name, score in ranked.items():
        assert ((score > 0) & (score <= 1)).all()
        assert len(score.unique()) == score.numel()
        for row, values, mask in zip(
            score.flatten(1), raw[name].flatten(1), masks[name].flatten(1), strict=True
        ):
            values = values.masked_fill(~mask, -1.0)  # what is pruned is last
            assert (values[row.argsort(descending=True)].diff() <= 0).all()
    total = sum(count_kept(masks).values())
    for keep in {total // 4, total // 2, total - 3} - {0}:
        model, _ = cases.awkward(case)
        after = prune(
            model,
            masks,
            keep,
            Method(name="wanda"),
            lambda masks, stage, model=model: Evidence(  # type: ignore[misc]
                model, masks, batches
            ),
        )
        for mask in after.values():
            rows = mask.flatten(1).sum(1)
            assert int(rows.max() - rows.min()) <= 1


def test_wanda_spends_a_share_that_does_not_divide_on_the_best() -> None:
    layer = nn.Linear(2, 3, bias=False)
    layer.weight.data.copy_(torch.tensor([[1.0, 9.0], [2.0, 8.0], [3.0, 7.0]]))
    score = Wanda().score(Evidence(layer, batches=[(torch.ones(1, 2), torch.tensor([0]))]))[
        "weight"
    ]
    assert score.flatten().argsort(descending=True).tolist() == [1, 3, 5, 4, 2, 0]


def test_wanda_refuses_infinite_inputs() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with pytest.raises(ScoreError, match="2 scores are not finite"):
        Wanda().score(
            Evidence(layer, batches=[(torch.tensor([[1.0, math.inf]]), torch.tensor([0]))])
        )


def test_wanda_asks_for_images_and_is_uniform() -> None:
    assert Wanda(images=7).calibration(10).images == Wanda(images=7).units(10) == 7
    assert Wanda.allocation == "uniform"
    assert LAMP.allocation == "global"
