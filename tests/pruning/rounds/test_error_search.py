"""The search for the sparsest network within a limit, beside a sweep over all steps."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from pruning.rounds.error_search import (
    STEPS,
    choose_step,
    count_most_tried,
    find_bracket,
    search,
    space_steps,
)

LIMIT = 0.01


def sweep(curve: list[float], limit: float) -> int:
    """The sparsest step within the limit of all; 0 for none."""
    return max((step for step, increase in enumerate(curve, 1) if increase <= limit), default=0)


def try_steps(
    curve: list[float], limits: list[float], forecast: list[float] | None = None
) -> dict[int, float]:
    """The steps that a search tries, with what it finds."""
    tried: dict[int, float] = {}
    for step in search(limits, tried, lambda: forecast):
        assert step not in tried
        assert 1 <= step <= STEPS
        tried[step] = curve[step - 1]
    return tried


def make_step_curve(last: int) -> list[float]:
    """An increase that is within the limit up to a step, and beyond it from the next on."""
    return [0.0 if step <= last else 0.5 for step in range(1, STEPS + 1)]


@pytest.mark.parametrize("last", range(STEPS + 1))
def test_every_monotone_curve_ends_at_the_step_of_the_sweep(last: int) -> None:
    # A search reads of a curve on which side of the limit it is: these are all curves that rise,
    # and with every forecast of the crossing, right or wrong, all that a search may be told.
    forecasts = [None, *(make_step_curve(predicted) for predicted in range(STEPS + 1))]
    for forecast in forecasts:
        tried = try_steps(make_step_curve(last), [LIMIT], forecast)
        assert find_bracket(tried, LIMIT)[0] == last == sweep(make_step_curve(last), LIMIT)
        assert len(tried) <= count_most_tried(1) <= 0.4 * STEPS


def test_a_right_forecast_saves_networks() -> None:
    def count(forecast: bool) -> float:
        curves = [make_step_curve(last) for last in range(STEPS + 1)]
        counts = [len(try_steps(curve, [LIMIT], curve if forecast else None)) for curve in curves]
        return sum(counts) / len(counts)

    assert count(forecast=True) < 0.6 * count(forecast=False)


def test_several_limits_share_what_was_tried() -> None:
    limits = [0.01, 0.02, 0.04, 0.08]
    rise = random.Random(0)
    for count in (2, 3, 4):
        for _ in range(300):
            ends = sorted(rise.randint(0, STEPS) for _ in range(count))
            curve = [
                next((limits[i] for i, end in enumerate(ends) if step <= end), 0.5)
                for step in range(1, STEPS + 1)
            ]
            tried = try_steps(curve, limits[:count])
            assert [find_bracket(tried, limit)[0] for limit in limits[:count]] == [
                sweep(curve, limit) for limit in limits[:count]
            ]
            assert len(tried) <= count_most_tried(count)
    assert count_most_tried(2) <= 0.4 * STEPS


@pytest.mark.parametrize("seed", range(200))
def test_on_noisy_curves_it_ends_beside_a_network_that_is_beyond_the_limit(seed: int) -> None:
    draw = random.Random(seed)
    knee, noise = draw.uniform(2, STEPS), draw.uniform(0, 0.01)
    curve = [
        0.02 * math.exp((step - knee) / 3) + draw.gauss(0, noise) for step in range(1, STEPS + 1)
    ]
    tried = try_steps(curve, [LIMIT])
    within, beyond = find_bracket(tried, LIMIT)
    assert len(tried) <= count_most_tried(1)
    assert beyond == within + 1
    assert within == 0 or curve[within - 1] <= LIMIT
    assert beyond > STEPS or curve[beyond - 1] > LIMIT


def test_noise_that_does_not_reach_over_a_step_leaves_the_answer() -> None:
    draw = random.Random(0)
    for knee in range(2, STEPS):
        smooth = [0.004 * (step - knee) + LIMIT for step in range(1, STEPS + 1)]
        curve = [increase + draw.uniform(-0.0039, 0.0039) for increase in smooth]
        tried = try_steps(curve, [LIMIT])
        assert abs(find_bracket(tried, LIMIT)[0] - sweep(curve, LIMIT)) <= 1


def test_a_search_that_is_run_again_goes_the_same_way() -> None:
    curve = [0.001 * step for step in range(1, STEPS + 1)]
    limits = [LIMIT, 0.02]
    whole = list(try_steps(curve, limits))
    for interrupted in range(1, len(whole)):
        tried: dict[int, float] = {}
        for step in search(limits, tried):
            tried[step] = curve[step - 1]
            if len(tried) == interrupted:
                break
        assert list(tried) == whole[:interrupted]


def test_what_cannot_be_pruned_so_far_is_beyond_every_limit() -> None:
    curve = [0.0] * 12 + [math.inf] * (STEPS - 12)
    assert find_bracket(try_steps(curve, [0.9]), 0.9) == (12, 13)
    assert choose_step({12: 0.0, 13: math.inf}, 0.9, 1) is None


def test_steps_begin_at_the_density_of_the_network_as_it_comes() -> None:
    densities = space_steps(0.5)
    assert densities[0] == pytest.approx(0.5 * 0.85)
    assert all(after < before for before, after in itertools.pairwise(densities))
    assert len(densities) == STEPS
