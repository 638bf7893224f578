"""The parts of presets beyond networks and schedules: robust runs, settings, methods."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from pruning.evaluations import evaluations
from pruning.rounds.method import PruningMethod
from pruning.schemas.job import JobSpec
from pruning.schemas.presets import PRESETS
from pruning.schemas.recipe import Recipe, Shifts
from pruning.schemas.training import Corrupt

MODEL = {"id": "mdl_00000000"}


def recipe(name: str, **changes: Any) -> Recipe:
    job = {"type": "prune", "preset": name, "dataset": {"id": "dst_00000000"}, **changes}
    return JobSpec.model_validate(job).recipe()


@pytest.mark.parametrize(
    ("name", "epochs", "lr", "milestones", "kappa"),
    [
        ("loss_mlp", 800, 0.01, (), 0.98847),
        ("loss_vgg11", 300, 0.01, (60, 120, 180, 240), 0.956),
        ("loss_preact_resnet18", 200, 0.1, (70, 140), 0.956),
    ],
)
def test_loss_modelling_is_the_papers(
    name: str, epochs: int, lr: float, milestones: tuple[int, ...], kappa: float
) -> None:
    """82 settings of one sparsity of the prunable weights, each trained again in full."""
    expanded = recipe(name)
    train = expanded.train
    assert train is not None
    assert (train.epochs, train.batch_size, train.keep) == (epochs, 100, "best")
    assert (train.optimizer.lr, train.optimizer.weight_decay) == (lr, 5e-4)
    assert (train.lr_schedule.milestones, train.lr_schedule.gamma) == (milestones, 0.1)
    assert (expanded.targets.sparsity, expanded.batchnorm) == ((kappa,), "keep")
    assert (expanded.retrain.mode, PRESETS[name].runs) == ("lr_rewind", 5)
    settings = {json.dumps(method.model_dump(), sort_keys=True) for method in expanded.criteria}
    assert len(settings) == len(expanded.criteria) == 82
    assert {method.params.get("pi") for method in expanded.criteria} == {None, 1, 14, 140}


def test_robust_runs_see_corruptions_and_end_at_the_papers_densities() -> None:
    for name, (number, least) in {"resnet20": (16, 0.03), "densenet22": (13, 0.05)}.items():
        expanded, preset = recipe(f"{name}_robust"), PRESETS[f"{name}_robust"]
        kept = [1 - ratio / 100 for ratio in preset.prune_ratios]
        assert len(kept) == number
        assert [kept[0], kept[-1]] == pytest.approx([0.8, least])
        factors = [after / before for before, after in pairwise(kept)]
        assert factors == pytest.approx([factors[0]] * len(factors), rel=1e-4)
        assert expanded.train is not None
        assert expanded.train.corrupt == Corrupt()
        assert expanded.shifts == Shifts(knowledge="partly_modelled")
    assert recipe("vgg16_robust").retrain.corrupt == Corrupt()
    assert recipe("resnet20_robust", model=MODEL).retrain.corrupt == Corrupt()


def test_filters_go_layer_by_layer_unless_the_job_says_otherwise() -> None:
    names = [{"name": "filter_norm"}, {"name": "pfp", "params": {"c": 2}}, {"name": "magnitude"}]
    expanded = recipe("resnet20", criterion=names)
    granularities = [
        type(PruningMethod.of(expanded, method).granularity).__name__
        for method in expanded.criteria
    ]
    assert granularities == ["Filter", "Filter", "Weight"]
    assert expanded.criteria[1].params == {"coupling": "layer", "c": 2}
    coupled = {"name": "filter_norm", "params": {"coupling": "network"}}
    for changes in ({"criterion": coupled}, {"criterion": names, "granularity": {"name": "block"}}):
        left = recipe("resnet20", **changes)
        assert left.criteria[0].params.get("coupling") != "layer"
    assert recipe("loss_mlp", criterion=names).criteria[0].params == {}


def test_a_job_that_names_no_evaluations_has_those_of_the_paper() -> None:
    pruning_lost = recipe("resnet20", gates={"max_class_increase": 0.0})
    assert [method.name for method in pruning_lost.named_evaluations] == [
        "accuracy",
        "robustness",
        "prune_potential",
        "class_damage",
    ]
    assert pruning_lost.named_evaluations[2].params["noise_draws"] == 100
    assert [method.name for method in recipe("loss_mlp").named_evaluations] == [
        "accuracy",
        "comparison",
        "loss_model",
    ]
    assert recipe("resnet20", evaluations="all").evaluations == "all"


def test_evaluations_that_are_named_are_the_papers() -> None:
    names = ("robustness", "prune_potential", "noise_similarity", "informative_features")
    given = [{"name": name} for name in names]
    filled = recipe("resnet20", evaluations=given).named_evaluations
    params = {method.name: method.params for method in filled}
    assert params["robustness"] == {"against": "given"}
    potential, similarity = params["prune_potential"], params["noise_similarity"]
    assert potential["against"] == "given"
    for measured in (potential, similarity):
        assert measured["noise_unit"] == "paper"
    assert (potential["noise_draws"], potential["margin"], similarity["draws"]) == (100, 0.005, 100)
    assert (
        similarity["levels"]
        == [0.0, *potential["noise"]]
        == pytest.approx([0.05 * step for step in range(15)])
    )
    for method in filled:
        evaluations.create(method.name, method.params)  # raises for what it does not know
    own = [{"name": "robustness", "params": {"against": "control", "images": 50}}]
    kept = recipe("resnet20", evaluations=own).named_evaluations
    assert kept[0].params == {"against": "control", "images": 50}
    gated = recipe("resnet20", evaluations=given[:1], gates={"max_delta_excess_error": 0.1})
    assert gated.named_evaluations[0].params == {}
