"""The dense controls of a job, and what they cost, before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.rounds.control_plan import plan_controls
from pruning.rounds.costs import Costs, estimate_costs
from pruning.rounds.plan import plan_rounds
from tests.support import cases
from tests.support.job_sizes import COUNTS, IMAGES, MANY

FINE_TUNE: dict[str, Any] = {"mode": "fine_tune", "epochs": 2, "batch_size": 8}
LR_REWIND: dict[str, Any] = {"mode": "lr_rewind", "epochs": 5, "rewind_epoch": 3}
TRAIN = {"epochs": 3, "rewind_epoch": 1, "batch_size": 8}
LINEAR: dict[str, Any] = {"schedule": {"name": "linear", "params": {"rounds": 2}}}
GEOMETRIC: dict[str, Any] = {"schedule": {"name": "geometric", "params": {"fraction": 0.5}}}
CUBIC: dict[str, Any] = {"schedule": {"name": "cubic", "params": {"rounds": 3}}}
ONE_ROUND: dict[str, Any] = {"control": {"budget": "one_round"}}
GRADUAL: dict[str, Any] = {"mode": "gradual", "epochs": 5, "prune_epochs": 4}

Row = tuple[str, str | None, int, tuple[int, int] | None, bool, tuple[int, ...]]

PLANS: list[tuple[dict[str, Any], list[Row]]] = [
    (
        {"retrain": FINE_TUNE},
        [
            ("control", None, 1, (0, 2), True, (1,)),
            ("control-002", "control", 2, (0, 2), True, (2,)),
        ],
    ),
    (
        {"retrain": FINE_TUNE, **LINEAR},
        [
            ("control", None, 1, (0, 2), False, (1,)),
            ("control-002", "control", 2, (0, 2), True, (2,)),
            ("control-003", "control-002", 3, (0, 2), False, (3,)),
            ("control-004", "control-003", 4, (0, 2), True, (4,)),
        ],
    ),
    (
        {"retrain": FINE_TUNE, "independent": True},
        [("control", None, 1, (0, 2), True, (1, 2))],
    ),
    (
        {"retrain": FINE_TUNE, "independent": True, **GEOMETRIC},
        [
            ("control", None, 1, (0, 2), True, (1, 2)),
            ("control-002", "control", 2, (0, 2), False, (3,)),
            ("control-003", "control-002", 3, (0, 2), True, (4,)),
        ],
    ),
    (
        {"retrain": LR_REWIND},
        [
            ("control", None, 1, (3, 5), True, (1,)),
            ("control-002", "control", 2, (3, 5), True, (2,)),
        ],
    ),
    (
        {"retrain": {"mode": "weight_rewind"}, "train": TRAIN, **LINEAR},
        [("control", None, 1, (1, 3), True, (1, 2, 3, 4))],
    ),
    (
        {"retrain": {"mode": "none"}, **LINEAR},
        [("control", None, 0, None, True, (1, 2, 3, 4))],
    ),
    (
        {"when": "before_training", "train": TRAIN},
        [("control", None, 0, None, True, (1, 2))],
    ),
    (
        {"retrain": GRADUAL, "independent": True},
        [("control", None, 1, (0, 5), True, (1, 2))],
    ),
    (
        {"retrain": GRADUAL, "independent": True, **CUBIC},
        [
            ("control-001", None, 1, (0, 1), False, (1, 4)),
            ("control-002", "control-001", 2, (1, 2), False, (2, 5)),
            ("control-003", "control-002", 3, (2, 5), True, (3, 6)),
        ],
    ),
    (
        {"retrain": FINE_TUNE, **LINEAR, **ONE_ROUND},
        [("control", None, 1, (0, 2), True, (1, 2, 3, 4))],
    ),
    (
        {"retrain": GRADUAL, "independent": True, **CUBIC, **ONE_ROUND},
        [("control", None, 1, (0, 5), True, (1, 2, 3, 4, 5, 6))],
    ),
]


@pytest.mark.parametrize(("fields", "expected"), PLANS)
def test_controls_are_trained_as_the_rounds_are(
    fields: dict[str, Any], expected: list[Row]
) -> None:
    recipe = cases.recipe(0.5, 0.8, **fields)
    controls = plan_controls(recipe)
    rows = [
        (
            control.stage,
            control.before,
            control.retrainings,
            control.epochs,
            control.measured,
            control.rounds,
        )
        for control in controls
    ]
    assert rows == expected


@pytest.mark.parametrize(
    "fields", [fields for fields, _ in PLANS if "control" not in fields], ids=str
)
def test_each_checkpoint_has_a_control_of_equal_training(fields: dict[str, Any]) -> None:
    recipe = cases.recipe(0.5, 0.8, **fields)
    controls = plan_controls(recipe)
    for planned in plan_rounds(recipe):
        (control,) = [control for control in controls if planned.number in control.rounds]
        if recipe.when == "after_training":
            assert control.trained_epochs == planned.trained_epochs
        assert control.measured or planned.target is None


def test_controls_between_targets_cost_their_training_alone() -> None:
    recipe = cases.recipe(0.5, 0.8, retrain=FINE_TUNE, **LINEAR)
    training, measuring = 3 * 2 * 40, 40
    assert Costs(recipe, IMAGES, 3).control == 4 * training + 2 * measuring
    single = cases.recipe(0.5, 0.8, retrain=FINE_TUNE, **LINEAR, **ONE_ROUND)
    assert Costs(single, IMAGES, 3).control == training + measuring


def test_the_estimate_counts_the_steps_of_all_controls() -> None:
    matched, single = (
        estimate_costs(cases.recipe(0.5, 0.8, retrain=FINE_TUNE, **fields), COUNTS, **MANY)
        for fields in ({}, ONE_ROUND)
    )
    assert matched["steps"] == 6 * 2 * 4  # 45 images in batches of 8; two rounds and two controls
    assert single["steps"] == 6 * 2 * 3
    assert matched["units"] - single["units"] == 3 * 2 * 45 + 5 + 30


def test_the_digest_is_that_of_earlier_versions_where_the_budget_is_matched() -> None:
    plain = cases.recipe(0.5, retrain=FINE_TUNE)
    matched = cases.recipe(0.5, retrain=FINE_TUNE, control={"budget": "matched"})
    assert plain.digest() == matched.digest()
    assert plain.digest() != cases.recipe(0.5, retrain=FINE_TUNE, **ONE_ROUND).digest()
