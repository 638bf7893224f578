"""The papers' forms against slow evaluations by hand, and each factor replaced by its value at the
input.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.bounds import corenet, mussay, pfp, sipp
from pruning.bounds.forms import CERTIFIED, Paper, PrunedLayer, bound_certified_forms
from pruning.bounds.sums import sum_channels, sum_edges
from pruning.networks.layers import extract_patches
from pruning.types import DrawLaw
from tests.support.bound_cases import seeded

DELTA, LOG = 0.05, 9.0
OUT, IN = 3, 6


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def normalise_rows(p: Tensor) -> Tensor:
    return p / p.sum(1, keepdim=True).clamp_min(1e-300)


def make_weights(draws: tuple[int, ...] = (4, 0, -1, 2, 7, 3), prune: bool = False) -> PrunedLayer:
    """Single weights of a linear layer; rows: positive weights of three outputs, then negative
    ones.
    """
    layer = nn.Linear(IN, OUT).double()
    w = torch.randn(OUT, IN, generator=seeded(1), dtype=torch.float64)
    x = uniform(2, IN, seed=2)
    rows = torch.cat([w > 0, w < 0])
    scores = uniform(2 * OUT, IN, seed=3) * rows
    m = torch.tensor(draws)
    gone = (uniform(OUT, IN, seed=4) < 0.4).repeat(2, 1) if prune else (m == 0)[:, None] & rows
    patches = extract_patches(layer, x)
    law = DrawLaw(normalise_rows(scores), m)
    sums = sum_edges(layer, w, patches, law.probabilities)
    return PrunedLayer(
        name="w",
        layer=layer,
        weight=w,
        scores=scores,
        kept=~gone,
        law=law,
        open=law.probabilities,
        sums=sums,
        patches=patches,
        log=LOG,
        log_split=LOG + 1,
        delta=DELTA,
        sampled=not prune,
        by_weight=True,
    )


def make_channels(draws: int = 5, prune: bool = False) -> PrunedLayer:
    """Channels of a convolution, whose kernel has four weights."""
    layer = nn.Conv2d(4, OUT, 2).double()
    w = torch.randn(layer.weight.shape, generator=seeded(1), dtype=torch.float64)
    x = torch.randn(2, 4, 3, 3, generator=seeded(2), dtype=torch.float64)
    scores, m = uniform(1, 4, seed=3), torch.tensor([draws])
    patches = extract_patches(layer, x)
    kept = torch.ones(1, 4).bool()
    if prune:
        kept = torch.tensor([[True, False, True, False]])
    law = DrawLaw(normalise_rows(scores), m)
    sums = sum_channels(layer, w, patches, law.probabilities)
    return PrunedLayer(
        name="w",
        layer=layer,
        weight=w,
        scores=scores,
        kept=kept,
        law=law,
        open=law.probabilities,
        sums=sums,
        patches=patches,
        log=LOG,
        log_split=LOG + 1,
        delta=DELTA,
        sampled=not prune,
        by_weight=False,
    )


def sum_by_hand(layer: PrunedLayer, epsilon: Any, constant: float) -> Tensor:
    """sum over sides of epsilon(S, m) sum_j |v_j|, with C sum_(j pruned) s_j for a side that is not
    drawn: one number at a time.
    """
    errors = torch.zeros_like(layer.sums.value[0])
    for side, n, i, p in itertools.product(*map(range, layer.sums.value.shape)):
        row = side * OUT + i if layer.by_weight else side
        m, s = int(layer.law.draws[row]), layer.scores[row]
        size = float(layer.sums.size[side, n, i, p])
        part = (
            constant * float(s[~layer.kept[row]].sum())
            if m < 0
            else 1.0
            if m == 0
            else epsilon(float(s.sum()), m)
        )
        errors[n, i, p] += part * size if size > 0 else 0.0
    return errors


def assert_close(actual: Tensor | None, expected: Tensor) -> None:
    assert actual is not None
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def invert_exactly(u: float) -> float:
    return u + math.sqrt(u * u + 6 * u)


def test_certified_forms_are_the_inequalities_side_by_side() -> None:
    layer = make_weights()
    forms = bound_certified_forms(layer, components=True)
    wide = torch.zeros(2, OUT, 1).double()
    tight = torch.zeros_like(wide)
    alone = torch.zeros_like(wide)
    for side, n, i in itertools.product(range(2), range(2), range(OUT)):
        m = int(layer.law.draws[side * OUT + i])
        z, low, high, var = (
            float(quantity[side, n, i, 0])
            for quantity in (layer.sums.value, layer.sums.low, layer.sums.high, layer.sums.variance)
        )
        if m == 0:
            for sums in (wide, tight, alone):
                sums[n, i] += abs(z)
        if m > 0:
            wide[n, i] += (high - low) * math.sqrt(LOG / (2 * m))
            alone[n, i] += (high - low) * math.sqrt(math.log(2 / DELTA) / (2 * m))
            u = max(high - z, z - low) * LOG / (3 * m)
            tight[n, i] += u + math.sqrt(u * u + 2 * var * LOG / m)
    assert_close(forms["hoeffding"], wide)
    assert_close(forms["bernstein"], tight)
    assert_close(forms["hoeffding with no union bound"], alone)
    assert bool((forms["minimum"] >= torch.minimum(wide, tight)).all()), (
        "delta is divided over the forms"
    )
    assert (
        set(bound_certified_forms(layer, components=False))
        == {"hoeffding", "bernstein", "minimum"}
        <= set(CERTIFIED)
    )


@pytest.mark.parametrize("make", [make_weights, make_channels])
def test_the_deterministic_form_is_the_share_that_is_pruned_of_the_largest_term(make: Any) -> None:
    layer = make((-1,) * 6, prune=True) if make is make_weights else make(-1, prune=True)
    forms = bound_certified_forms(layer, components=True)
    assert set(forms) == {"deterministic"}
    lost = (layer.scores * ~layer.kept).sum(1) / layer.scores.sum(1)
    expected = (
        layer.sums.reach
        * (lost.reshape(2, 1, OUT, 1) if make is make_weights else lost.reshape(1, 1, 1, 1))
    ).sum(0)
    assert_close(forms["deterministic"], expected)


@pytest.mark.parametrize("scaled", [True, False])
def test_sipps_form_and_its_factors(scaled: bool) -> None:
    layer, c = make_weights(), 3.0
    alpha = sipp.coefficient(1, 1, DELTA, c)
    factor, fixed = (1.0, c / alpha) if scaled else (alpha, c)

    def epsilon(times: float = factor) -> Any:
        return lambda s, m: invert_exactly(times * s / (3 * m)) / 2

    paper = sipp.bound_errors(layer, alpha, DELTA, c, scaled=scaled)
    assert paper.form == "code"
    assert_close(paper.error, sum_by_hand(layer, epsilon(), fixed))
    theorem = sum_by_hand(layer, lambda s, m: invert_exactly(factor * s / (6 * m)), fixed)
    assert_close(paper.forms["paper"], theorem)
    assert paper.error is not None
    assert bool((paper.forms["paper"] >= paper.error).all())
    assert_close(
        paper.swaps["no union bound"],
        sum_by_hand(layer, epsilon(factor * 2 * c * math.log(2 / DELTA) / alpha), fixed),
    )
    assert_close(
        paper.swaps["the sensitivity sum as it is here"],
        sum_by_hand(layer, lambda s, m: invert_exactly(alpha / (3 * m)) / 2, fixed),
    )
    assert paper.assumption is not None


@pytest.mark.parametrize("make", [make_weights, make_channels])
def test_sipp_and_pfp_without_draws(make: Any) -> None:
    layer = make((-1,) * 6, prune=True) if make is make_weights else make(-1, prune=True)
    size = (layer.weight.flatten(1)[None, :, :, None] * layer.patches).abs()
    kept = (
        layer.kept[:OUT]
        if make is make_weights
        else layer.kept.repeat_interleave(4, 1).expand(OUT, -1)
    )
    gone = (size * ~kept[None, :, :, None]).sum(2)
    if make is make_weights:
        paper: Paper = sipp.bound_errors(layer, 7.0, DELTA, 3.0, scaled=False)
        assert_close(paper.error, sum_by_hand(layer, None, 3.0))
    else:
        paper = pfp.bound_errors(layer, 7.0, DELTA, 3.0)
        assert_close(paper.error, sum_by_hand(layer, None, 3.0 * 4 / 7.0))
        assert "no union bound" not in paper.swaps
    assert_close(paper.swaps["sensitivities as they are here"], gone)


def test_pfps_form_and_its_factors() -> None:
    layer, c = make_channels(), 2.0
    alpha = sipp.coefficient(4, 4, DELTA, c)

    def epsilon(times: float = 1.0) -> Any:
        return lambda s, m: invert_exactly(3 * times * s / m)

    paper = pfp.bound_errors(layer, alpha, DELTA, c)
    assert_close(paper.error, sum_by_hand(layer, epsilon(), c * 4 / alpha))
    assert_close(
        paper.swaps["no union bound"],
        sum_by_hand(layer, epsilon(2 * c * math.log(2 / DELTA) / alpha), 0.0),
    )
    assert_close(
        paper.swaps["the sensitivity sum as it is here"],
        sum_by_hand(layer, lambda s, m: invert_exactly(3 * alpha / m), 0.0),
    )
    e = invert_exactly(3 * float(layer.scores.sum()) / 5)
    assert 3 * (6 + 2 * e) * float(layer.scores.sum()) / e**2 == pytest.approx(5)


def test_corenets_form_and_its_factors() -> None:
    layer = make_weights()
    constants, factor = corenet.Constants.from_widths([6, 5, 3], 0.1), 2.5
    paper = corenet.bound_errors(layer, corenet.Growth(constants, {"w": 3.0}, {"w": factor}))

    def epsilon(k: float = constants.k, log: float = constants.log) -> Any:
        return lambda s, m: math.sqrt(8 * s / factor * k * log / m)

    fixed = constants.k / factor
    assert_close(paper.error, sum_by_hand(layer, epsilon(), fixed))
    assert_close(
        paper.swaps["no union bound"], sum_by_hand(layer, epsilon(log=math.log(2 / 0.1)), fixed)
    )
    assert_close(
        paper.swaps["Bernstein for the constant 8"],
        sum_by_hand(
            layer,
            lambda s, m: invert_exactly(s / factor * constants.k * constants.log / (3 * m)),
            fixed,
        ),
    )
    assert_close(
        paper.swaps["the sensitivity sum as it is here"],
        sum_by_hand(layer, lambda s, m: math.sqrt(8 * constants.k * constants.log / m), fixed),
    )
    tau = corenet.bound_relative_error(
        [layer], corenet.Growth(constants, {"w": 3.0}, {"w": factor})
    )
    assert {
        name: float(torch.as_tensor(bound).amax()) for name, bound in tau.items()
    } == dict.fromkeys(tau, math.inf)


def test_mussays_form_and_its_factors() -> None:
    layer, dimension, c = make_channels(), 5, 2.0
    norms, radius = uniform(4, seed=8) + 2, torch.tensor([1.5, 2.0]).double()
    bounds = mussay.bound_errors(
        layer, norms, radius=radius, beta=1.75, activation="relu", dimension=dimension, c=c
    )
    w, p = layer.weight.abs().sum((2, 3)), layer.law.probabilities[0]
    assert bool((layer.patches.abs().amax((0, 1, 3)).reshape(4, 4).amax(1) <= 2.0 * norms).all()), (
        "within the ball"
    )

    def compute_t(values: Tensor, output: int | None = None) -> float:
        return max(
            float((w[:, j].max() if output is None else w[output, j]) * values[j] / p[j])
            for j in range(4)
        )

    def compute_paper_form(total: float, d: int = dimension) -> float:
        return math.sqrt(c * total * (d * math.log(max(total, math.e)) + math.log(1 / DELTA)) / 5)

    ball = compute_t(2.0 * norms)
    whole = torch.ones_like(layer.sums.value[0])
    assert_close(bounds.error, compute_paper_form(ball) * whole)
    independent = compute_paper_form(compute_t(1.75 * norms)) * whole
    assert_close(bounds.forms["data-independent"], independent)
    assert_close(bounds.forms["ball"], ball * math.sqrt(2 * LOG / 5) * whole)
    assert_close(
        bounds.forms["ball bernstein"],
        (2 * ball * layer.sums.size[0] * LOG / 5).sqrt() + 4 * ball * LOG / 15,
    )
    assert_close(bounds.swaps["no union over the ball"], compute_paper_form(ball, 0) * whole)
    for n in range(2):
        assert_close(
            bounds.swaps["the norm of each input"][n],
            compute_paper_form(compute_t(radius[n] * norms)) * whole[n],
        )
        reads = layer.patches[n].abs().amax((0, 2)).reshape(4, 4).amax(1)
        assert_close(
            bounds.swaps["activations as they are"][n],
            compute_paper_form(compute_t(reads)) * whole[n],
        )
    for i in range(OUT):
        assert_close(
            bounds.swaps["outgoing weights of each output"][:, i],
            compute_paper_form(compute_t(2.0 * norms, i)) * whole[:, i],
        )


def test_an_activation_beyond_what_the_ball_allows_widens_it() -> None:
    """A layer without the activation before it: tanh lets nothing be above 1, what is read is
    50.
    """
    layer = make_channels()
    big = PrunedLayer(**{**layer.__dict__, "patches": 100 * layer.patches})
    ball = mussay.bound_errors(
        big,
        torch.ones(4).double(),
        radius=torch.ones(2).double(),
        beta=1.0,
        activation="tanh",
        dimension=5,
        c=1.0,
    ).forms["ball"]
    most = big.patches.abs().amax((0, 1, 3)).reshape(4, 4).amax(1)
    t = float((layer.weight.abs().sum((2, 3)).amax(0) * most / layer.law.probabilities[0]).max())
    assert float(ball[0, 0, 0]) == pytest.approx(t * math.sqrt(2 * LOG / 5))


def test_of_single_weights_mussay_says_nothing() -> None:
    paper = mussay.bound_errors(
        make_weights(),
        torch.ones(IN).double(),
        radius=torch.ones(2).double(),
        beta=1.0,
        activation="relu",
        dimension=5,
        c=1.0,
    )
    assert paper == Paper(None)
