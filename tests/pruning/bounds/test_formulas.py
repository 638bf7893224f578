"""The formulas of the papers' bounds, against numbers worked by hand and the draws they invert."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from pruning.bounds import corenet, mussay, sipp
from tests.support.bound_cases import seeded

DELTA = 0.05


def test_numbers_worked_by_hand() -> None:
    c = sipp.coefficient(1, 1) * torch.tensor([1.75, 1.75]).double()
    assert [round(float(error), 5) for error in sipp.epsilon(c, torch.tensor([100, 10_000]))] == [
        2.29334,
        0.15131,
    ]
    assert float(corenet.propagate([0.01] * 3, [2.0, 3.0, 1.5])) == pytest.approx(0.15226, abs=5e-6)
    assert 2 * sum(0.01 * math.prod([2.0, 3.0, 1.5][start:]) for start in range(3)) >= 0.15226
    assert float(mussay.hoeffding(7.0, 10, math.log(2 * 2 / 0.05))) == pytest.approx(
        6.553, abs=5e-4
    )
    lenet = corenet.Constants.from_widths([784, 300, 100, 10], 0.1)
    assert (round(lenet.k, 2), round(lenet.kappa, 1), lenet.sample_size) == (11.72, 192.1, 189)
    assert 8 * lenet.k * lenet.log == pytest.approx(974.9, abs=0.05)
    assert lenet.kappa**3 == pytest.approx(7.1e6, rel=0.01)
    assert corenet.count_draws(1.0, 0.5 / 6 / lenet.kappa**3, lenet) == pytest.approx(
        7e18, rel=0.02
    )
    incoming = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    outgoing = torch.tensor([[1.0, -2.0], [0.5, 0.25]])
    assert mussay.bound_importance(incoming, outgoing, "relu", 1.0).tolist() == [5, 2]


def test_mussays_inequalities_in_the_example_of_the_notes() -> None:
    """d = 20, n = 300, k = 10, m = 2000: Bernstein's is tighter than Hoeffding's and above what is
    seen.
    """
    rng = seeded(0)
    w1 = torch.randn(300, 21, generator=rng).double() / 21**0.5
    w2 = torch.randn(10, 300, generator=rng).double() / 300**0.5
    x = torch.randn(20, generator=rng).double()
    x = torch.cat([x / x.norm(), torch.ones(1).double()])
    s = mussay.bound_importance(w1, w2, "relu", 2**0.5)
    t, p, log = float(s.sum()), s / s.sum(), math.log(2 * 10 / 0.05)
    a = (w1 @ x).relu()
    variation = float((w2.abs() * a).sum(1).max())
    wide = float(mussay.hoeffding(t, 2000, log))
    tight = float(mussay.bernstein(t, variation, 2000, log))
    counts = torch.stack(
        [
            torch.multinomial(p, 2000, True, generator=rng).bincount(minlength=300)
            for _ in range(200)
        ]
    )
    errors = ((counts / (2000 * p)) * a @ w2.T - w2 @ a).abs().amax(1)
    assert float(errors.quantile(0.95)) < tight < wide


@pytest.mark.parametrize("epsilon", [0.03, 0.4, 2.0])
def test_errors_invert_numbers_of_draws(epsilon: float) -> None:
    s, lenet = 1.75, corenet.Constants.from_widths([784, 300, 100, 10], 0.1)
    m = corenet.count_draws(s, epsilon, lenet)
    error = corenet.epsilon(torch.tensor([s]), torch.tensor([m]), lenet)
    assert float(error) <= epsilon <= float(error) * (1 + 1 / m) + 1e-9
    log = math.log(2 / DELTA)
    exact = torch.tensor((6 + 2 * epsilon) * s * log / (3 * epsilon**2))
    assert float(corenet.bernstein(torch.tensor(s), exact, log)) == pytest.approx(epsilon, rel=1e-6)


def test_the_relative_recursion_is_infinite_beyond_one() -> None:
    assert float(corenet.propagate([0.5], [2.0])) == 1
    for errors, growth in (
        ([0.5 + 1e-9], [2.0]),
        ([0.6, 0.0], [2.0, 0.1]),
        ([0.1, 0.1], [3.0, 30.0]),
    ):
        assert float(corenet.propagate(errors, growth)) == math.inf
    by_input = corenet.propagate([0.1, 0.1], [torch.tensor([1.0, 20.0]), torch.tensor([1.0, 1.0])])
    assert by_input.tolist() == [pytest.approx(0.21), math.inf]


@pytest.mark.parametrize("name", mussay.LARGEST)
def test_no_activation_is_larger_than_the_largest(name: str) -> None:
    functions: dict[str, Any] = {
        "identity": lambda z: z,
        "binary_step": lambda z: (z >= 0).double(),
        "gaussian": lambda z: (-z * z).exp(),
        "sin": torch.sin,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        **{
            activation: getattr(nn.functional, activation)
            for activation in ("relu", "softplus", "leaky_relu", "gelu", "silu")
        },
    }
    for radius in (0.0, 0.01, 0.3, 1.0, 3.0, 30.0):
        z = torch.linspace(-radius, radius, 10_001).double()
        assert (
            float(functions[name](z).abs().max())
            <= float(mussay.LARGEST[name](torch.tensor(radius).double())) + 1e-12
        )
