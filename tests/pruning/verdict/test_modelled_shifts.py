"""Shifts that are declared to be modelled, and what the job trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.schemas.recipe import Recipe
from pruning.verdict.modelled_shifts import list_shift_warnings
from tasks.processes.helper import estimate
from tests.support import cases
from tests.support.finished_jobs import finish_and_export

CORRUPT: dict[str, Any] = {"names": ["fog"]}


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ({}, False),
        ({"shifts": {"knowledge": "unexpected"}}, False),
        ({"shifts": {"knowledge": "partly_modelled"}}, False),
        ({"shifts": {"knowledge": "modelled"}}, True),
        ({"shifts": {"knowledge": "modelled"}, "train": {"epochs": 1}}, True),
        (
            {"shifts": {"knowledge": "modelled"}, "train": {"epochs": 1, "corrupt": CORRUPT}},
            False,
        ),
        (
            {"shifts": {"knowledge": "modelled"}, "retrain": {"epochs": 1, "corrupt": CORRUPT}},
            False,
        ),
    ],
)
def test_modelled_shifts_that_no_training_sees_are_warned_of(
    fields: dict[str, Any], warned: bool
) -> None:
    recipe = Recipe.model_validate({"targets": {"sparsity": [0.5]}, **fields})
    warnings = list_shift_warnings(recipe)
    assert bool(warnings) == warned
    assert all("no training of this job sees corrupted images" in text for text in warnings)


def test_the_report_and_the_check_before_submission_warn(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"shifts": {"knowledge": "modelled"}, "retrain": {"mode": "none"}}
    recipe = cases.recipe(0.5, evaluations=(), **changes)
    results, _ = finish_and_export(recipe, tmp_path)
    report = results.report()
    (expected,) = list_shift_warnings(recipe)
    assert expected in report.warnings
    spec = {
        "type": "prune",
        "model": {"architecture": "mlp", "train": {"epochs": 1}},
        "dataset": {"builtin": "digits"},
        "targets": {"sparsity": [0.5]},
        **changes,
    }
    dataset = {
        "shape": [1, 8, 8],
        "classes": [str(number) for number in range(10)],
        "counts": {"train": 1000, "test": 200},
        "task": "classification",
    }
    question: dict[str, Any] = {"spec": spec, "model": None, "dataset": dataset, "shifted": []}
    assert expected in estimate(question)["warnings"]
