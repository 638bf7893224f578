"""The plan of gradual pruning: its epochs, and the cubic of the paper."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.errors import ParameterError
from pruning.rounds.costs import estimate_costs
from pruning.rounds.plan import find_training_epochs, plan_rounds
from pruning.schedules import schedules
from tests.support import cases
from tests.support.job_sizes import COUNTS, MANY

# gradual pruning


@pytest.mark.parametrize(
    ("epochs", "prune_epochs", "rounds_", "expected"),
    [
        (10, 8, 4, [(0, 2), (2, 4), (4, 6), (6, 10)]),
        (
            10,
            None,
            4,
            [(0, 2), (2, 4), (4, 6), (6, 10)],
        ),  # three quarters of 10 are 7.5, rounded to even
        (10, 10, 4, [(0, 2), (2, 5), (5, 7), (7, 10)]),
        (
            100,
            40,
            8,
            [(0, 5), (5, 10), (10, 15), (15, 20), (20, 25), (25, 30), (30, 35), (35, 100)],
        ),
        (3, 3, 3, [(0, 1), (1, 2), (2, 3)]),
        (1, None, 1, [(0, 1)]),
    ],
)
def test_gradual_rounds_share_one_schedule(
    epochs: int, prune_epochs: int | None, rounds_: int, expected: list[tuple[int, int]]
) -> None:
    retrain = {"mode": "gradual", "epochs": epochs} | (
        {} if prune_epochs is None else {"prune_epochs": prune_epochs}
    )
    recipe = cases.recipe(
        0.5, schedule={"name": "cubic", "params": {"rounds": rounds_}}, retrain=retrain
    )
    planned = plan_rounds(recipe)
    assert [plan.epochs for plan in planned] == expected
    assert [plan.trained_epochs for plan in planned] == [stop for _, stop in expected]
    assert find_training_epochs(recipe) == (0, epochs)
    assert (
        estimate_costs(recipe, COUNTS, **MANY)["steps"] == 2 * epochs
    )  # one batch an epoch, the control alike


@settings(max_examples=200, deadline=None, derandomize=True)
@given(epochs=st.integers(1, 60), data=st.data())
def test_gradual_epochs_join_to_the_whole_schedule(epochs: int, data: st.DataObject) -> None:
    pruning = data.draw(st.integers(1, epochs))
    number = data.draw(st.integers(1, pruning))
    recipe = cases.recipe(
        0.5,
        0.9,
        schedule={"name": "linear", "params": {"rounds": number}},
        independent=True,
        retrain={"mode": "gradual", "epochs": epochs, "prune_epochs": pruning},
    )
    planned = plan_rounds(recipe)
    assert len(planned) == 2 * number
    for part in (planned[:number], planned[number:]):
        spans = [plan.epochs for plan in part if plan.epochs is not None]
        joined = [epoch for start, stop in spans for epoch in range(start, stop)]
        assert joined == list(range(epochs))
        assert all(start < stop for start, stop in spans)
        assert spans[-1][0] < pruning
        gaps = {later[0] - earlier[0] for earlier, later in itertools.pairwise(spans)}
        assert max(gaps, default=0) - min(gaps, default=0) <= 1
        assert [plan.trained_epochs for plan in part] == [stop for _, stop in spans]


@pytest.mark.parametrize(
    ("retrain", "place"),
    [
        ({"epochs": 6, "prune_epochs": 3}, "/retrain/prune_epochs"),
        ({"epochs": 4}, "/retrain/epochs"),
    ],
)
def test_more_rounds_than_pruning_epochs_are_refused_before_the_job_runs(
    retrain: dict[str, Any], place: str
) -> None:
    recipe = cases.recipe(
        0.5,
        schedule={"name": "linear", "params": {"rounds": 4}},
        retrain={"mode": "gradual"} | retrain,
    )
    with pytest.raises(
        ParameterError, match="4 rounds do not fit into 3 epochs of pruning"
    ) as caught:
        estimate_costs(recipe, COUNTS, **MANY)
    assert caught.value.pointer == place


# the cubic of gradual magnitude pruning


@pytest.mark.parametrize("initial", [0.0, 0.05, 0.5, 0.79])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_the_cubic_is_that_of_the_paper(initial: float, number: int) -> None:
    """s_t = s_f + (s_i - s_f) (1 - t)^3 at t = 1 / R ... 1."""
    expected = [0.8 + (initial - 0.8) * (1 - step / number) ** 3 for step in range(1, number + 1)]
    densities = schedules.create("cubic", {"rounds": number, "initial": initial}).densities(
        1.0, 1.0 - 0.8
    )
    assert [1 - density for density in densities] == pytest.approx(expected, abs=1e-12)
    assert densities[-1] == 1.0 - 0.8


def test_an_initial_sparsity_belongs_to_the_dense_network() -> None:
    plain, other = schedules.create("cubic"), schedules.create("cubic", {"initial": 0.3})
    assert other.densities(0.9, 0.2) == plain.densities(0.9, 0.2)
    assert other.densities(1.0, 0.2) != plain.densities(1.0, 0.2)
    assert other.densities(1.0, 0.7) == [0.7], "a target not above it has one round"
    cascade = plan_rounds(
        cases.recipe(0.5, 0.9, schedule={"name": "cubic", "params": {"rounds": 2, "initial": 0.2}})
    )
    assert [round(plan.sparsity, 10) for plan in cascade] == [0.4625, 0.5, 0.85, 0.9]
