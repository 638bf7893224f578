"""The sums of drawn terms against every outcome of the draws, and the inequalities where they have
power.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from pruning.bounds.sums import (
    Sums,
    add_errors,
    bernstein,
    first_of_channel,
    hoeffding,
    sum_channels,
    sum_edges,
)
from pruning.networks.layers import Layer, count_groups, extract_patches
from pruning.sparsifiers._signed_rows import compute_reweighting_factors
from pruning.types import DrawLaw
from tests.support.bound_cases import seeded

DELTA = 0.1


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def enumerate_draws(
    weight: Tensor, inputs: Tensor, p: list[float], members: list[int]
) -> dict[str, float]:
    """Mean, variance and range of X, the sum of a drawn channel's terms over p, by enumeration;
    `members` are the channels of the inputs.
    """
    sums_by_channel = [
        (
            p[members.index(j)],
            sum(float(weight[k] * inputs[k]) for k in range(len(members)) if members[k] == j),
        )
        for j in dict.fromkeys(members)
        if p[members.index(j)] > 0
    ]
    draws = [(chance, value / chance) for chance, value in sums_by_channel]
    mean = sum(chance * x for chance, x in draws)
    return {
        "value": mean,
        "variance": sum(chance * (x - mean) ** 2 for chance, x in draws),
        "low": min([0.0, *(x for _, x in draws)]),
        "high": max([0.0, *(x for _, x in draws)]),
        "size": 0.0
        if not draws
        else sum(
            abs(float(weight[k] * inputs[k]))
            for k in range(len(members))
            if p[members.index(members[k])] > 0
        ),
    }


def draw_probabilities(*shape: int, seed: int = 0, zeros: float = 0.3) -> Tensor:
    p = uniform(*shape, seed=seed) * (uniform(*shape, seed=seed + 1) > zeros)
    return p / p.sum(-1, keepdim=True).clamp_min(1e-300)


LAYERS: dict[str, tuple[Callable[[], Layer], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "tokens": (lambda: nn.Linear(5, 3), (4, 5)),
    "conv": (lambda: nn.Conv2d(2, 3, 2, padding=1), (2, 3, 3)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2), (4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(3, 3, 2, groups=3), (3, 3, 3)),
    "one": (lambda: nn.Linear(1, 1), (1,)),
}


def make_case(name: str, sign: str) -> tuple[Layer, Tensor, Tensor]:
    build, shape = LAYERS[name]
    layer = build().double()
    weight = layer.weight.detach() * (torch.rand_like(layer.weight) > 0.2)
    x = normal(4, *shape)
    x = {
        "signed": x,
        "positive": x.abs(),
        "relu": x.relu(),
        "zero": torch.zeros_like(x),
        "negative": -x.abs(),
    }[sign]
    return layer, weight, extract_patches(layer, x)


def check_sums(sums: Sums, index: tuple[Any, ...], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert float(getattr(sums, name)[index]) == pytest.approx(value, rel=1e-9, abs=1e-11), name
    assert float(sums.reach[index]) == pytest.approx(
        max(expected["high"], -expected["low"]), abs=1e-11
    )


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        *((name, "signed") for name in LAYERS),
        *((name, "relu") for name in ("tokens", "grouped")),
        *(("conv", sign) for sign in ("positive", "relu", "zero", "negative")),
        ("one", "negative"),
    ],
)
def test_sums_of_weights_are_those_of_every_outcome(name: str, sign: str) -> None:
    layer, weight, patches = make_case(name, sign)
    rows = weight.flatten(1)
    out, k = rows.shape
    sides = torch.cat([rows > 0, rows < 0])
    p = draw_probabilities(2 * out, k) * sides
    p = p / p.sum(1, keepdim=True).clamp_min(1e-300)
    sums = sum_edges(layer, weight, patches, p)
    for side, n, i, pos in itertools.product(
        range(2), range(4), range(out), range(patches.shape[3])
    ):
        group = i // (out // count_groups(layer))
        row = p[side * out + i].tolist()
        expected = enumerate_draws(
            rows[i] * sides[side * out + i], patches[n, group, :, pos], row, list(range(k))
        )
        expected["size"] = float(
            (rows[i] * sides[side * out + i] * patches[n, group, :, pos]).abs().sum()
        )
        check_sums(sums, (side, n, i, pos), expected)


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        *((name, "signed") for name in LAYERS),
        ("linear", "relu"),
        ("conv", "relu"),
        ("grouped", "zero"),
    ],
)
def test_sums_of_channels_are_those_of_every_outcome(name: str, sign: str) -> None:
    """Two rows of the law that share no channel; in the second case some inputs are one channel."""
    layer, weight, patches = make_case(name, sign)
    channels, kernel = weight.shape[1] * count_groups(layer), weight[0, 0].numel()
    for spread in (1, 2):
        members = (
            torch.arange(channels) // spread % max(1, weight.shape[1] - 1)
            if spread > 1
            else torch.arange(channels)
        )
        by_member = uniform(channels) * (uniform(channels, seed=3) > 0.2)
        owner = torch.arange(channels) % 2
        p = torch.stack([by_member[members] * (owner[members] == row) for row in range(2)])
        first = None if spread == 1 else first_of_channel(layer, members)
        sums = sum_channels(layer, weight, patches, p, first)
        per = channels // count_groups(layer)
        for row, n, i, pos in itertools.product(
            range(2), range(4), range(len(weight)), range(patches.shape[3])
        ):
            group = i // (len(weight) // count_groups(layer))
            span = slice(group * per, (group + 1) * per)
            terms = weight[i].flatten() * patches[n, group, :, pos]
            summed, chances = terms.reshape(per, kernel).sum(1), p[row, span].tolist()
            expected = enumerate_draws(summed, torch.ones(per), chances, members[span].tolist())
            value = expected.pop(
                "value"
            )  # p need not sum to 1 within a group: the second moment is what enumeration gives
            second = expected.pop("variance") + value**2 * (
                2 - sum({int(m): c for m, c in zip(members[span], chances, strict=True)}.values())
            )
            expected["size"] = float(
                (terms.abs().reshape(per, kernel).sum(1) * (p[row, span] > 0)).sum()
            )
            check_sums(
                sums,
                (row, n, i, pos),
                expected | {"value": value, "variance": max(0.0, second - value**2)},
            )


def test_all_draws_together_have_the_mean_and_the_variance_of_one_over_m() -> None:
    """Three draws of four weights, all 64 sequences, by the very factors that samplers use."""
    weight, x = (
        torch.tensor([[3.0, 2.0, 0.5, 1.0]]).double(),
        torch.tensor([1.0, -2.0, 3.0, 0.5]).double(),
    )
    p = torch.tensor([[0.4, 0.1, 0.2, 0.3], [0.0] * 4]).double()
    sums = sum_edges(nn.Linear(4, 1), weight, x.reshape(1, 1, 4, 1), p)
    mean, second = 0.0, 0.0
    for sequence in itertools.product(range(4), repeat=3):
        chance = math.prod(float(p[0, j]) for j in sequence)
        z = sum(float(weight[0, j] * x[j] / p[0, j]) for j in sequence) / 3
        mean, second = mean + chance * z, second + chance * z * z
    assert float(sums.value.sum()) == pytest.approx(mean)
    assert float(sums.variance[0]) / 3 == pytest.approx(second - mean**2)


def test_certain_rows_have_no_error_and_empty_ones_all_of_it() -> None:
    layer, weight, patches = make_case("linear", "signed")
    p = draw_probabilities(6, 5) * torch.cat([weight > 0, weight < 0])
    sums = sum_edges(layer, weight, patches, p)
    for inequality in (hoeffding, bernstein):
        assert not inequality(sums, torch.tensor(-1), 3.0).any()
        assert torch.equal(inequality(sums, torch.tensor(0), 3.0), sums.value.abs())
        errors = inequality(sums, torch.tensor([5, -1]).reshape(2, 1, 1, 1), 3.0)
        assert bool((errors[0] >= 0).all())
        assert not errors[1].any()
    torch.testing.assert_close(add_errors(sums.value, torch.tensor(-1.0)), sums.value.sum(0) + 1)


@pytest.mark.parametrize("log", [0.5, 3.0, 30.0])
def test_widths_invert_the_tails(log: float) -> None:
    layer, weight, patches = make_case("conv", "signed")
    rows = torch.cat([weight.flatten(1) > 0, weight.flatten(1) < 0])
    p = rows / rows.sum(1, keepdim=True).clamp_min(1)
    sums, m = sum_edges(layer, weight, patches, p), torch.tensor(7)
    reach = torch.maximum(sums.high - sums.value, sums.value - sums.low)
    h, b = hoeffding(sums, m, log), bernstein(sums, m, log)
    torch.testing.assert_close(2 * m * h**2, log * (sums.high - sums.low) ** 2)
    torch.testing.assert_close(
        m * b**2 / 2, log * (sums.variance + reach * b / 3), rtol=1e-9, atol=1e-15
    )


# one sum, one input, one layer: where the inequalities have power


def covers(violations: int, trials: int, delta: float = DELTA) -> bool:
    """Whether the violations are no evidence, at 1 %, of a failure probability above delta."""
    return bool(binom.sf(violations - 1, trials, delta) > 0.01)


def draw_weights(weight: Tensor, law: DrawLaw, seeds: int) -> Tensor:
    """The weight drawn with every seed, (seeds, K)."""
    return torch.stack(
        [weight[0] * compute_reweighting_factors(law, seeded(seed)).sum(0) for seed in range(seeds)]
    )


SPREADS: dict[str, Callable[[], tuple[Tensor, Tensor, Tensor, int]]] = {
    "alike": lambda: (torch.ones(1, 30), uniform(30), torch.full((30,), 1 / 30), 20),
    "two values": lambda: (torch.ones(1, 2), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]), 8),
    "signed inputs": lambda: (uniform(1, 20), normal(20), torch.full((20,), 1 / 20), 30),
    "importance": lambda: (
        uniform(1, 50) + 0.1,
        uniform(50, seed=2),
        (uniform(50) + 0.1) / (uniform(50) + 0.1).sum(),
        40,
    ),
    "heavy": lambda: (torch.ones(1, 10), uniform(10, seed=1) ** 6, torch.full((10,), 0.1), 3),
    "one draw": lambda: (uniform(1, 10), uniform(10, seed=1), torch.full((10,), 0.1), 1),
    "outlier": lambda: (torch.ones(1, 100), torch.eye(100)[0], torch.full((100,), 0.01), 50),
}
SHARP = ("alike", "two values", "signed inputs", "importance")
"""The cases where draws reach a twentieth of the bound in more than one seed in ten."""


@pytest.mark.parametrize("name", SPREADS)
def test_one_sum_is_covered_and_a_twentieth_of_the_bound_is_not(name: str) -> None:
    *tensors, m = SPREADS[name]()
    weight, x, p = (tensor.double() for tensor in tensors)
    law = DrawLaw(torch.stack([p, torch.zeros_like(p)]), torch.tensor([m, 0]))
    changes = draw_weights(weight, law, 400) - weight[0]
    for scale, inequality in itertools.product((1.0, 10.0, 100.0), (hoeffding, bernstein)):
        sums = sum_edges(
            nn.Linear(len(x), 1), scale * weight, x.reshape(1, 1, -1, 1), law.probabilities
        )
        bound = float(inequality(sums, law.draws.reshape(2, 1, 1, 1), math.log(2 / DELTA)).sum())
        errors = (scale * changes @ x).abs()
        assert covers(int((errors > bound * (1 + 1e-9)).sum()), 400)
        if name in SHARP:
            assert not covers(int((errors > bound / 20).sum()), 400)


def test_the_binomial_test_has_power() -> None:
    assert covers(40, 400)
    assert covers(54, 400)
    assert not covers(60, 400)
    assert not covers(1, 1, 0.0)


def test_inputs_that_are_one_channel_are_drawn_together() -> None:
    """Taken one by one their range and their variance are too small, and the bound does not
    cover.
    """
    members = torch.arange(40) // 10
    weight, x = torch.ones(1, 40).double(), torch.ones(40).double()
    x[:10], p = 3.0, torch.full((1, 40), 0.25).double()
    layer = nn.Linear(40, 1)
    law = DrawLaw(p[:, ::10], torch.tensor([6]))
    errors = torch.stack(
        [
            (compute_reweighting_factors(law, seeded(seed))[0][members] - 1) @ x
            for seed in range(400)
        ]
    ).abs()

    def violations(first: Tensor | None) -> int:
        sums = sum_channels(layer, weight, x.reshape(1, 1, -1, 1), p, first)
        return int((errors > float(hoeffding(sums, torch.tensor(6), math.log(2 / DELTA)))).sum())

    assert covers(violations(first_of_channel(layer, members)), 400)
    assert not covers(violations(None), 400)
