"""The estimated cost of evaluations against the images that they then put through networks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pruning.evaluations.informative_features
import pruning.evaluations.robustness
from pruning.analysis.job_size import EstimatesUnits, JobSize
from pruning.analysis.shift_parameters import CORRUPTING
from pruning.errors import ParameterError
from pruning.evaluations import evaluations
from pruning.masks import find_prunable
from pruning.measurement.costs import count_flops
from pruning.pipeline.evaluation_costs import estimate_evaluation_units
from pruning.pipeline.ledger import Ledger
from pruning.pipeline.results import Results
from pruning.rounds.costs import estimate_costs
from pruning.schemas.recipe import Recipe, Shifts
from pruning.schemas.report import Picture
from pruning.storage.stages import Stages
from tests.support import cases
from tests.support.finished_records import finish_job as finished
from tests.support.finished_records import make_record as trial_of
from tests.support.pipelines import Listener
from tests.support.shifted_sets import dark

ALL: dict[str, dict[str, Any]] = {
    "accuracy": {},
    "comparison": {},
    "loss_model": {},
    "approximation": {"images": 20},
    "certificate": {},
    "bounds": {"images": 7, "sparsities": [0.2, 0.6]},
    "robustness": {"corruptions": ["fog", "contrast"], "images": 25},
    "prune_potential": {"corruptions": [], "noise": [0.1], "noise_draws": 2},
    "noise_similarity": {"images": 10, "draws": 2},
    "informative_features": {"images": 2, "block": 2, "share": 0.3},
    "sensitivity": {"images": 7, "levels": [0.4, 0.8]},
}


@pytest.fixture(autouse=True)
def _draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = Picture(caption="", png="")
    for module in (pruning.evaluations.robustness, pruning.evaluations.informative_features):
        monkeypatch.setattr(module, "draw_grid", lambda *args, **fields: blank)
    monkeypatch.setattr(
        pruning.evaluations.informative_features, "draw_heatmap", lambda *args: blank
    )


def measure_size(results: Results) -> JobSize:
    pipeline = results.pipeline
    data = pipeline.data
    return JobSize(
        recipe=pipeline.recipe,
        images=data.sizes,
        shape=data.shape,
        macs=count_flops(pipeline.dense(), data.shape) // 2,
        shifted={name: (len(split.val), len(split.test)) for name, split in data.shifted.items()},
        segmentation=data.segmentation,
        classes=len(data.classes),
        layers=len(find_prunable(pipeline.dense())),
    )


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A finished job of two criteria, whose data have a shifted set."""
    recipe = cases.recipe(
        0.4,
        0.8,
        criterion=({"name": "sipp"}, {"name": "sipp", "params": {"variant": "randomized"}}),
        evaluations="all",
    )
    return finished(
        recipe,
        tmp_path_factory.mktemp("shifted"),
        data=replace(cases.make_data(), shifted={"night": dark(cases.make_data())}),
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A finished job of one target."""
    return finished(cases.recipe(0.5), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_evaluation_tells_of_as_many_images_as_it_said(name: str, shifted: Results) -> None:
    evaluation = evaluations.create(name, ALL[name])
    advanced: list[int] = []
    size = measure_size(shifted)
    evaluation.evaluate(trial_of(shifted, advance=advanced.append))
    units = evaluation.units(size) if isinstance(evaluation, EstimatesUnits) else 0
    making = 0
    if name == "robustness":
        making = 2 * 25 * CORRUPTING * math.prod(size.shape) // size.macs
    assert sum(advanced) == units - making


def test_controls_are_looked_at_under_shift_where_they_are_the_reference(shifted: Results) -> None:
    size, units = measure_size(shifted), {}
    assert size.controls == 2
    for against in ("control", "given"):
        fields = {"corruptions": [], "noise": [0.1], "against": against}
        evaluation = evaluations.create("prune_potential", fields)
        advanced: list[int] = []
        evaluation.evaluate(trial_of(shifted, advance=advanced.append))
        assert isinstance(evaluation, EstimatesUnits)
        units[against] = evaluation.units(size)
        assert sum(advanced) == units[against]
    images = size.images["test"] + size.shifted["night"][1]
    assert units["control"] - units["given"] == 2 * images


def test_the_shifts_of_a_recommendation_are_looked_at_on_validation_images_too(
    tmp_path: Path,
) -> None:
    recipe = cases.recipe(0.5).model_copy(update={"shifts": Shifts(knowledge="partly_modelled")})
    results = finished(recipe, tmp_path)
    evaluation = evaluations.create("prune_potential", {"corruptions": [], "noise": [0.1]})
    advanced: list[int] = []
    evaluation.evaluate(trial_of(results, advance=advanced.append))
    assert isinstance(evaluation, EstimatesUnits)
    assert sum(advanced) == evaluation.units(measure_size(results)) == (30 + 10) * 3


def test_the_evaluations_that_run_are_counted(plain: Results) -> None:
    size = measure_size(plain)
    assert set(estimate_evaluation_units(size)) == {"accuracy", "class_damage", "scaling_law"}
    recipe: Recipe = cases.recipe(0.5, evaluations="all")
    units = estimate_evaluation_units(replace(size, recipe=recipe))
    assert set(evaluations.names()) - set(units) == {"comparison", "loss_model"}
    assert units["accuracy"] == 0 < units["certificate"]
    recipe = cases.recipe(0.5, evaluations=({"name": "noise_similarity"},))
    assert set(estimate_evaluation_units(replace(measure_size(plain), recipe=recipe))) == {
        "noise_similarity"
    }


def test_of_masks_only_what_knows_masks_is_counted(plain: Results) -> None:
    size = replace(measure_size(plain), segmentation=True)
    assert set(estimate_evaluation_units(size)) == {"accuracy"}
    size = replace(size, recipe=cases.recipe(0.5, evaluations="all"))
    assert set(estimate_evaluation_units(size)) == {
        "accuracy",
        "noise_similarity",
        "robustness",
        "prune_potential",
    }


def test_robustness_without_a_shift_is_refused_before_anything_runs(plain: Results) -> None:
    recipe = cases.recipe(
        0.5,
        evaluations=({"name": "accuracy"}, {"name": "robustness", "params": {"corruptions": []}}),
    )
    size = replace(measure_size(plain), recipe=recipe)
    with pytest.raises(ParameterError, match="no shift to look at") as refused:
        estimate_evaluation_units(size)
    assert refused.value.pointer == "/evaluations/1/params"
    assert (
        estimate_evaluation_units(replace(size, shifted={"night": (3, 4)}))["robustness"] == 4 * 3
    )


def test_the_estimate_holds_them() -> None:
    fields: dict[str, Any] = {
        "prunable": [(100,)],
        "forward_flops": 7,
        "parameters": 110,
        "activations": 13,
        "classes": 3,
    }
    counts = {"train": 50, "test": 30, "val": 0}
    without = estimate_costs(cases.recipe(0.5), counts, **fields)
    estimate = estimate_costs(
        cases.recipe(0.5), counts, **fields, evaluations={"robustness": 1000, "accuracy": 0}
    )
    assert estimate["evaluations"] == {"robustness": 1000, "accuracy": 0}
    assert (estimate["units"], estimate["flops"]) == (
        without["units"] + 1000,
        without["flops"] + 7000,
    )


def test_a_share_of_the_progress_is_done_however_it_ends(tmp_path: Path) -> None:
    listener = Listener()
    ledger = Ledger(stages=Stages(tmp_path, "x"), watcher=listener, total=100.0)
    with ledger.share(30):
        ledger.advance(10)
    with pytest.raises(ZeroDivisionError), ledger.share(20):
        raise ZeroDivisionError
    ledger.advance(5)
    assert [done for done, _ in listener.done] == [10.0, 30.0, 50.0, 55.0]


@pytest.mark.parametrize(("test", "looked_at"), [(5_000, 1_000), (397, 397)])
@pytest.mark.parametrize("name", ["robustness", "prune_potential"])
def test_shifts_are_looked_at_on_a_thousand_images_or_all(
    name: str, test: int, looked_at: int
) -> None:
    def count(**params: int) -> int:
        evaluation = evaluations.create(name, {"corruptions": ["fog"], **params})
        assert isinstance(evaluation, EstimatesUnits)
        size = JobSize(
            recipe=cases.recipe(0.5),
            images={"fit": 10, "val": 10, "test": test},
            shape=(1, 2, 2),
            macs=10**9,
        )
        return evaluation.units(size)

    assert count() == count(images=looked_at)
    assert count() != count(images=looked_at - 1)
