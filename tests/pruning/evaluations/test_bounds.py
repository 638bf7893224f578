"""The evaluation of bounds in whole jobs, and on inputs and networks nobody would think of."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.analysis.bound_report import summarise_outcomes
from pruning.analysis.bound_study import Study
from pruning.errors import BudgetError, EvidenceError, ParameterError, StructureError
from pruning.evaluations.bounds import GRID, Bounds
from pruning.pipeline.results import Results
from pruning.rounds.method import PruningMethod
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Section
from tests.support import cases
from tests.support.bound_cases import DETERMINISTIC, SAMPLERS, remembered, seeded
from tests.support.finished_jobs import finish_and_export
from tests.support.pipelines import MODES

TRAINED: dict[str, Any] = {"train": {"epochs": 20, "batch_size": 8, "optimizer": {"lr": 0.05}}}
METHODS = SAMPLERS | DETERMINISTIC
QUICK = ("corenet corenet", "mussay importance", "magnitude", "sipp")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name not in QUICK]
EVERY = [*QUICK, *SLOW]
__all__ = ["remembered"]


def finish(recipe: Recipe, folder: Path, net: Callable[[], nn.Module] = cases.mlp) -> Results:
    results, _ = finish_and_export(recipe, folder, net)
    return results


def make_recipe(
    *sparsity: float, mode: str = "none", params: dict[str, Any] | None = None, **fields: Any
) -> Recipe:
    return cases.recipe(
        *sparsity,
        evaluations=({"name": "bounds", "params": {"images": 12, **(params or {})}},),
        **MODES[mode],
        **fields,
    )


def evaluate(results: Results) -> Section:
    sections, failures = results.evaluate()
    assert failures == []
    section = sections["bounds"]
    assert (
        Section.model_validate_json(json.dumps(section.model_dump(mode="json"), allow_nan=False))
        == section
    )
    return section


def list_methods(section: Section) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in section.details["predictions"]))


def test_by_default_the_methods_of_the_job_that_a_paper_bounds(tmp_path: Path) -> None:
    criterion = (
        {"name": "magnitude"},
        {"name": "sipp", "params": {"variant": "randomized"}},
        {"name": "corenet"},
    )
    section = evaluate(
        finish(make_recipe(0.5, 0.8, criterion=criterion, params={"trials": 1}), tmp_path)
    )
    assert list_methods(section) == ["sipp", "corenet"]
    rows = section.details["predictions"]
    assert {row["requested_sparsity"] for row in rows} == {*GRID, 0.5, 0.8}
    assert {row["form"] for row in rows if row["method"] == "sipp"} == {
        "hoeffding",
        "bernstein",
        "minimum",
        "code",
        "paper",
    }
    assert "paper relative" in {row["form"] for row in rows if row["method"] == "corenet"}
    for row in rows:
        assert row["predicted_accuracy"] <= row["optimistic_accuracy"]
        assert row["certified"] == (row["form"] in ("hoeffding", "bernstein", "minimum"))
        if row["certified"]:
            assert row["trials_with_violation"] == 0
            assert (
                row["predicted_accuracy"] <= row["measured_accuracy"] <= row["optimistic_accuracy"]
            )
            assert row["tightness"] is None or row["tightness"]["median"] >= 1
    assert {row["trials"] for row in section.details["coverage"]} == {len(GRID) + 2}
    assert all(
        key.split("/")[0] in ("predicted", "distance", "tightness", "components")
        for key in section.curves
    )
    assert any("Certified are" in note for note in section.notes)


def test_otherwise_all_of_them_and_they_cannot_fail(tmp_path: Path) -> None:
    section = evaluate(finish(make_recipe(0.5), tmp_path))
    assert list_methods(section) == ["magnitude"]
    assert {row["form"] for row in section.details["predictions"]} == {"deterministic"}
    (row,) = section.details["coverage"]
    assert (
        row["trials"],
        row["failure_probability"],
        row["trials_with_violation"],
        row["holds"],
    ) == (len(GRID) + 1, 0.0, 0, True)


@pytest.mark.parametrize("mode", ["before_training", "fine_tune"])
def test_the_network_as_given_is_bounded(tmp_path: Path, mode: str) -> None:
    results = finish(make_recipe(0.5, mode=mode, params={"images": 30}), tmp_path)
    section = evaluate(results)
    data = results.pipeline.data
    model = results.pipeline.dense().double()
    row = next(
        row for row in section.details["predictions"] if row["requested_sparsity"] == GRID[0]
    )
    with torch.no_grad():
        right = model(data.normalize(data.test.images).double()).argmax(1) == data.test.labels
    assert row["measured_accuracy"] == float(right.double().mean()), (
        "nothing is pruned at so little"
    )
    assert row["trials_with_violation"] == 0


def test_methods_asked_for_have_their_own_allocation_and_sparsifier(tmp_path: Path) -> None:
    methods = [SAMPLERS["pfp top"], SAMPLERS["mussay importance"], {"name": "wanda"}]
    params = {"methods": methods, "sparsities": [0.2], "trials": 2, "delta": 0.1}
    section = evaluate(
        finish(make_recipe(0.5, params=params, **TRAINED), tmp_path, lambda: cases.mlp(hidden=12))
    )
    assert list_methods(section) == ["pfp", "mussay", "wanda"]
    rows = {(row["method"], row["form"]): row for row in section.details["coverage"]}
    assert rows["pfp", "minimum"]["trials"] == 2
    assert rows["wanda", "deterministic"]["trials"] == 1
    assert rows["mussay", "ball"]["certified"]
    assert not rows["mussay", "paper"]["certified"]
    assert rows["mussay", "minimum"]["failure_probability"] == 0.1


def test_channels_that_leave_the_network_are_bounded_at_full_size(tmp_path: Path) -> None:
    recipe = make_recipe(0.3, criterion={"name": "filter_norm"}, **TRAINED)
    section = evaluate(finish(recipe, tmp_path, lambda: cases.mlp(hidden=12)))
    rows = section.details["predictions"]
    assert all(row["trials_with_violation"] == 0 for row in rows)
    assert max(row["sparsity"] for row in rows) >= 0.3


def test_a_criterion_that_moves_weights_is_named(tmp_path: Path) -> None:
    recipe = make_recipe(
        0.5, params={"methods": [{"name": "obs"}, {"name": "magnitude"}], "sparsities": [0.2]}
    )
    section = evaluate(finish(recipe, tmp_path))
    assert list_methods(section) == ["magnitude"]
    assert any(
        "obs has no bounds here: a criterion that moves the weights" in note
        for note in section.notes
    )
    only = make_recipe(0.5, params={"methods": [{"name": "obs"}]})
    sections, failures = finish(only, tmp_path / "only").evaluate()
    assert (sections, failures[0].code) == ({}, "invalid_parameter")


def test_a_job_without_a_bounded_method_is_left_alone(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, criterion={"name": "obs"}, **MODES["none"])
    assert not Bounds()._list_methods(recipe)
    assert "bounds" not in finish(recipe, tmp_path).evaluate()[0]


def test_sparsities_that_cannot_be_reached_are_noted(tmp_path: Path) -> None:
    params = {"methods": [{"name": "pfp"}], "sparsities": [0.1, 0.99]}
    section = evaluate(
        finish(make_recipe(0.3, params=params, **TRAINED), tmp_path, lambda: cases.mlp(hidden=12))
    )
    assert {row["requested_sparsity"] for row in section.details["predictions"]} == {0.1}
    assert any(note.startswith("pfp: nothing at a sparsity of 99 %: ") for note in section.notes)


def test_a_second_evaluation_gives_the_same(tmp_path: Path) -> None:
    recipe = make_recipe(0.5, criterion=SAMPLERS["corenet corenet"])
    assert evaluate(finish(recipe, tmp_path / "a")) == evaluate(finish(recipe, tmp_path / "b"))


# odd ones


def make_study(net: nn.Module, method: dict[str, Any], x: Tensor, **fields: Any) -> Study:
    recipe = cases.recipe(0.5, criterion=method, **fields)
    return Study(
        net,
        PruningMethod.of(recipe, recipe.criteria[0]),
        [(x, torch.zeros(len(x)).long())],
        (x.shape[1], x.shape[2], x.shape[3]),
        seeded(),
    )


def check_study(study: Study, sparsities: tuple[float, ...], x: Tensor) -> None:
    """Assert that bounds are numbers, and that certified ones hold."""
    pruned = [
        study.prune(sparsity, trial, seeded(trial))
        for sparsity in sparsities
        for trial in range(2 if study.sampled else 1)
    ]
    outcomes = study.outcomes(pruned, x, 0.05)
    report = summarise_outcomes(outcomes, study.answers(x), torch.arange(len(x)) % 2, 0.05)
    json.dumps([prediction.document() for prediction in report.predictions], allow_nan=False)
    for outcome in outcomes:
        for form in outcome.forms:
            assert not torch.isnan(outcome[form]).any(), form
    for prediction in report.predictions:
        assert not prediction.certified or prediction.broken == 0, prediction.form
        assert 0 <= prediction.predicted <= prediction.optimistic <= 1


def make_networks(hidden: int = 8) -> dict[str, nn.Module]:
    torch.manual_seed(1)
    dead = cases.mlp(hidden=hidden)
    dead.get_parameter("1.bias").data.fill_(-100)
    balanced = nn.Sequential(
        nn.Flatten(), nn.Linear(16, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, 3, bias=False)
    )
    balanced.get_parameter("1.weight").data = torch.tensor([1.0, -1.0]).repeat(hidden, 8)
    one_sided, zero = cases.mlp(hidden=hidden), cases.mlp(hidden=hidden)
    for index in (1, 3):
        one_sided.get_parameter(f"{index}.weight").data.abs_().mul_(1 - 2 * (index == 3))
    for parameter in zero.parameters():
        parameter.data.zero_()
    tiny = cases.mlp(hidden=hidden)
    tiny.get_parameter("1.weight").data.mul_(1e-30)
    return {
        "dead": dead,
        "balanced": balanced,
        "one sided": one_sided,
        "zero": zero,
        "tiny": tiny,
        "one layer": nn.Sequential(nn.Flatten(), nn.Linear(16, 3)),
        "one neuron": cases.mlp(hidden=1),
        "narrow": nn.Sequential(
            nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 1), nn.ReLU(), nn.Linear(1, 3)
        ),
    }


ODD = ("dead", "balanced", "one sided", "zero", "tiny", "one layer", "one neuron", "narrow")
"""The names of these networks."""


def list_odd_cases() -> Iterator[Any]:
    """Each network with a method that draws and one that does not, weights and channels in turn;
    each other method with two of the networks.
    """
    assert list(make_networks()) == list(ODD)
    for number, name in enumerate(ODD):
        yield name, ("corenet corenet", "mussay importance")[number % 2]
        other = ("sipp", "magnitude")[number // 2 % 2]
        yield pytest.param(name, other, marks=pytest.mark.slow)
    others = [method for method in METHODS if method not in QUICK]
    for number, method in enumerate(others):
        for name in (ODD[number % 8], ODD[(number + 3) % 8]):
            yield pytest.param(name, method, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "method"), list(list_odd_cases()))
def test_odd_networks_have_numbers_or_named_errors(name: str, method: str) -> None:
    x = torch.rand(6, 1, 4, 4, generator=seeded())
    network = make_networks()[name]
    for inputs in (x, torch.zeros(6, 1, 4, 4)):
        try:
            study = make_study(copy.deepcopy(network), METHODS[method], x)
            check_study(study, (0.01, 0.3), inputs)
        except BudgetError:
            assert "one" in name or name == "narrow"


@pytest.mark.parametrize("method", EVERY)
def test_budgets_of_everything_and_of_nothing(method: str) -> None:
    x = torch.rand(4, 1, 4, 4, generator=seeded())
    study = make_study(cases.mlp(hidden=8), METHODS[method], x)
    check_study(study, (1e-9,), x)
    pruned = study.prune(1e-9, 0, seeded())
    (outcome,) = study.outcomes([pruned], x, 0.05)
    if pruned.sparsity == 0:
        assert not outcome["error"].any()
        assert not outcome["minimum" if study.sampled else "deterministic"].any()
    for sparsity in (0.9, 0.97, 1 - 1 / 152, 0.999999):
        try:
            check_study(study, (sparsity,), x)
        except BudgetError:
            assert study.method.compacts or sparsity == 0.999999


@pytest.mark.parametrize("method", EVERY)
def test_one_image_alone_and_images_that_are_all_zero(method: str) -> None:
    x = torch.randn(1, 1, 4, 4, generator=seeded())
    check_study(make_study(cases.mlp(hidden=8), METHODS[method], x), (0.3,), x)
    zeros = torch.zeros(3, 1, 4, 4)
    check_study(make_study(cases.mlp(hidden=8), METHODS[method], zeros), (0.3,), x)


def test_what_cannot_be_bounded_is_named() -> None:
    x = torch.rand(4, 1, 2, 2)
    with pytest.raises(StructureError, match="used 2 times"):
        check_study(make_study(cases.Tied(), {"name": "magnitude"}, x), (0.3,), x)
    tokens = nn.Sequential(
        nn.Flatten(1, 2),
        nn.Linear(2, 2),
        nn.BatchNorm1d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    tokens.get_buffer("2.running_mean").copy_(torch.tensor([3.0, -1.0]))
    with pytest.raises(StructureError, match="does not normalise the channels"):
        make_study(tokens, {"name": "magnitude"}, x)
    with pytest.raises(EvidenceError, match="are not finite"):
        check_study(
            make_study(cases.mlp(inputs=4), {"name": "magnitude"}, x), (0.3,), x.fill_(math.nan)
        )
    with pytest.raises(ParameterError, match="moves the weights"):
        make_study(cases.mlp(inputs=4), {"name": "obs"}, x)


UNTIED = [name for name in cases.AWKWARD if name != "tied"]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, "corenet corenet") for name in UNTIED),
        *((name, ("magnitude", "sipp")[number % 2]) for number, name in enumerate(UNTIED)),
    ],
)
def test_awkward_networks(name: str, method: str) -> None:
    model, batches = cases.awkward(name)
    before = copy.deepcopy(model.state_dict())
    check_study(make_study(model, METHODS[method], batches[0][0]), (0.2,), batches[1][0])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "method", ["pfp top", "mussay importance", "corenet corenet", "pfp", "filter_norm", "sipp"]
)
def test_channels_of_layers_that_are_grouped_or_have_one_output(method: str) -> None:
    for net in (
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 1, groups=8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 3),
        ),
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 1, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(1, 4, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 3),
        ),
    ):
        x = torch.randn(3, 1, 4, 4, generator=seeded())
        check_study(make_study(net, METHODS[method], x), (0.3,), x)
        if method not in SAMPLERS:
            check_study(
                make_study(net, METHODS[method], x, granularity={"name": "channel"}), (0.3,), x
            )


@pytest.mark.parametrize("variant", ["top_k", "uniform"])
def test_mussays_neurons_taken_weight_by_weight(variant: str) -> None:
    x = torch.rand(3, 1, 4, 4, generator=seeded())
    study = make_study(
        cases.mlp(),
        {"name": "mussay", "params": {"variant": variant}},
        x,
        granularity={"name": "weight"},
    )
    (outcome,) = study.outcomes([study.prune(0.3, 0, seeded())], x, 0.05)
    assert [form for form in outcome.forms if " with " not in form] == ["deterministic"]
    check_study(study, (0.3,), x)
