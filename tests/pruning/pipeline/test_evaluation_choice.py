"""Which evaluations a job runs: those that it names, by default those that a person decides by."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.evaluations import evaluations
from pruning.pipeline.evaluation_traits import (
    list_evaluations,
    list_pixel_evaluations,
    reads_losses,
    reads_unretrained,
)
from pruning.schemas.gates import EVALUATION_OF_GATE
from pruning.schemas.recipe import Recipe

DEFAULT = {"accuracy", "class_damage", "scaling_law"}
ABOUT_SHIFTS = {"robustness", "prune_potential"}
LIMITS: dict[str, Any] = {
    "max_class_increase": 0.0,
    "max_delta_excess_error": 0.0,
    "min_prune_potential": {"nominal": 0.5},
    "min_certified_accuracy": 0.5,
}
"""A limit for each gate that reads an evaluation; zero is one too."""


def choose(
    *, segmentation: bool = False, has_shifted_sets: bool = False, **fields: Any
) -> set[str]:
    """The names of the evaluations of a job whose recipe has these fields."""
    recipe = Recipe.model_validate({"targets": {"sparsity": [0.5]}} | fields)
    methods = list_evaluations(recipe, segmentation=segmentation, has_shifted_sets=has_shifted_sets)
    return {method.name for method in methods}


def test_by_default_they_are_what_a_person_decides_by() -> None:
    assert choose() == DEFAULT
    assert choose(criterion=[{"name": "magnitude"}, {"name": "random"}]) == DEFAULT | {"comparison"}
    assert choose(segmentation=True) == {"accuracy"}


@pytest.mark.parametrize("gate", sorted(EVALUATION_OF_GATE))
def test_what_a_gate_reads_runs(gate: str) -> None:
    assert choose(gates={gate: LIMITS[gate]}) == DEFAULT | {EVALUATION_OF_GATE[gate]}


def test_shifts_are_looked_at_where_a_job_has_some() -> None:
    assert choose(has_shifted_sets=True) == DEFAULT | ABOUT_SHIFTS
    assert choose(shifts={"knowledge": "unexpected"}) == DEFAULT | ABOUT_SHIFTS
    assert choose(has_shifted_sets=True, segmentation=True) == {"accuracy"} | ABOUT_SHIFTS


def test_all_are_those_that_the_job_has_a_use_for() -> None:
    known = set(evaluations.names())
    assert choose(evaluations="all") == known - {"comparison", "loss_model"}
    assert choose(evaluations="all", criterion={"name": "obd"}) == known - {"comparison"}
    several = [{"name": "magnitude"}, {"name": "random"}]
    assert choose(evaluations="all", criterion=several) == known
    pixels = set(list_pixel_evaluations())
    assert choose(evaluations="all", segmentation=True) == pixels - {"comparison"}


def test_those_that_a_job_names_are_run_and_no_others() -> None:
    names = [{"name": "certificate"}, {"name": "comparison"}]
    assert choose(evaluations=names, has_shifted_sets=True) == {"certificate", "comparison"}
    assert choose(evaluations=[], has_shifted_sets=True) == set()


@pytest.mark.parametrize(
    ("fields", "losses", "unretrained"),
    [
        ({}, False, False),
        ({"criterion": {"name": "obd"}}, False, False),
        ({"criterion": [{"name": "obd"}, {"name": "magnitude"}]}, True, False),
        ({"evaluations": "all"}, False, True),
        ({"evaluations": "all", "criterion": {"name": "obd"}}, True, True),
        ({"evaluations": [{"name": "loss_model"}]}, True, False),
        ({"evaluations": [{"name": "approximation"}]}, False, True),
    ],
)
def test_a_job_computes_only_what_its_evaluations_read(
    fields: dict[str, Any], losses: bool, unretrained: bool
) -> None:
    recipe = Recipe.model_validate({"targets": {"sparsity": [0.5]}} | fields)
    assert reads_losses(recipe) is losses
    assert reads_unretrained(recipe) is unretrained
