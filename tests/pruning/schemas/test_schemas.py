"""Documents: what a job may ask for, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pruning.schemas.job import JobSpec
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.report import Estimate
from tests.support.specs import DATA, MODEL, spec

TRAIN = {"architecture": "mlp", "train": {"epochs": 3, "rewind_epoch": 1}}


def test_the_least_job_has_every_default() -> None:
    job = JobSpec.model_validate(spec())
    recipe = job.recipe()
    assert (recipe.criteria[0].name, recipe.sparsifier, recipe.schedule.name) == (
        "magnitude",
        None,
        "targets_only",
    )
    assert recipe.allocation is recipe.granularity is None
    assert (recipe.retrain.mode, recipe.retrain.epochs, recipe.retrain.distillation) == (
        "fine_tune",
        1,
        None,
    )
    assert (recipe.when, recipe.batchnorm, recipe.seed) == ("after_training", "reestimate", 0)
    assert JobSpec.model_validate_json(job.model_dump_json(exclude_unset=True)) == job
    assert Recipe.model_validate_json(recipe.model_dump_json(exclude_unset=True)) == recipe


@pytest.mark.parametrize(
    "changes",
    [
        {"retrain": {"mode": "weight_rewind", "rewind": {"model": {"id": "mdl_11111111"}}}},
        {"retrain": {"mode": "weight_rewind"}, "model": TRAIN},
        {"retrain": {"mode": "lr_rewind"}, "model": TRAIN},
        {"retrain": {"mode": "lr_rewind", "epochs": 4, "rewind_epoch": 2}},
        {
            "retrain": {
                "mode": "fine_tune",
                "epochs": 2,
                "optimizer": {"name": "adamw", "lr": 1e-3},
            },
            "model": TRAIN,
        },
        {"retrain": {"mode": "none"}},
        {"retrain": {"mode": "none"}, "batchnorm": "keep"},
        {"retrain": {"distill": True}},
        {"retrain": {"distill": {"alpha": 1, "temperature": 2}}},
        {"retrain": {"mode": "weight_rewind", "distill": True}, "model": TRAIN},
        {"retrain": {"mode": "lr_rewind", "distill": {"alpha": 0.9}}, "model": TRAIN},
        {"retrain": {"mode": "gradual", "epochs": 8, "prune_epochs": 8, "distill": True}},
        {
            "retrain": {"mode": "gradual", "epochs": 8},
            "targets": {"sparsity": [0.5, 0.9]},
            "independent": True,
        },
        {"retrain": {"mode": "gradual", "epochs": 8}, "model": TRAIN},
        {"allocation": {"name": "uniform"}, "granularity": {"name": "weight"}},
        {
            "model": {"architecture": "mlp", "train": {"penalty": {"l1": 1e-4}}},
            "retrain": {"mode": "weight_rewind"},
        },
        {
            "model": {
                "architecture": "mlp",
                "train": {"penalty": {"l1": 0}, "optimizer": {"name": "adamw"}},
            }
        },
        {
            "when": "before_training",
            "model": {"architecture": "mlp", "train": {"penalty": {"l1": 1e-4}}},
        },
        {"when": "before_training", "model": TRAIN},
        {"when": "before_training", "model": TRAIN, "retrain": {"mode": "none"}},
        {"model": {"id": "mdl_00000000", "train": {"epochs": 2}}},
        {"criterion": [{"name": "magnitude"}, {"name": "magnitude", "params": {"p": 2}}]},
        {"dataset": {"id": "dst_00000000", "limit": {"train": 5, "stratify": False}}},
        {"targets": {"sparsity": [0.9, 0.5, 0.1]}},
    ],
)
def test_sensible_jobs_are_accepted(changes: dict[str, Any]) -> None:
    job = JobSpec.model_validate(spec(**changes))
    assert (
        JobSpec.model_validate_json(job.model_dump_json(exclude_unset=True)).recipe()
        == job.recipe()
    )
    if job.when == "before_training":
        assert job.recipe().retrain.mode == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "famly"}, "Input should be 'prune'"),
        ({"model": None}, "model"),
        ({"targets": None}, "targets"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
        ({"model": {}}, "give either 'id'"),
        ({"model": MODEL | TRAIN}, "give either 'id'"),
        ({"model": MODEL | {"kwargs": {"depth": 8}}}, "kwargs come with the uploaded model"),
        ({"model": {"architecture": "mlp"}}, "needs 'train'"),
        ({"model": {"id": "../../etc"}}, "String should match"),
        ({"dataset": {}}, "give either 'id'"),
        ({"dataset": {"id": "dst_00000000", "builtin": "digits"}}, "give either 'id'"),
        ({"dataset": DATA | {"limit": {"train": 0}}}, "greater than or equal to 1"),
        ({"targets": {"sparsity": []}}, "at least 1 item"),
        ({"targets": {"sparsity": [1.0]}}, "less than 1"),
        ({"targets": {"sparsity": [0]}}, "greater than 0"),
        ({"targets": {"sparsity": [-0.1]}}, "greater than 0"),
        ({"targets": {"sparsity": ["a"]}}, "valid number"),
        ({"targets": {"sparsity": [float("nan")]}}, "finite number|greater than"),
        ({"targets": {"sparsity": [0.5, 0.5]}}, "a sparsity is listed twice"),
        ({"criterion": []}, "at least 1 item"),
        ({"criterion": {"name": "../x"}}, "String should match"),
        ({"when": "before_training"}, "needs model.train"),
        (
            {"when": "before_training", "model": TRAIN, "retrain": {"mode": "fine_tune"}},
            "leave retrain out",
        ),
        (
            {"when": "before_training", "model": TRAIN, "retrain": {"mode": "weight_rewind"}},
            "leave retrain out",
        ),
        (
            {"when": "before_training", "model": TRAIN, "retrain": {"distill": True}},
            "leave retrain out",
        ),
        (
            {"when": "before_training", "model": TRAIN, "batchnorm": "keep"},
            "batchnorm: has no effect",
        ),
        ({"batchnorm": "refit"}, "Input should be 'reestimate' or 'keep'"),
        ({"retrain": {"mode": "none", "epochs": 2}}, "epochs has no effect with mode 'none'"),
        ({"retrain": {"mode": "none", "distill": True}}, "distill has no effect with mode 'none'"),
        ({"retrain": {"distill": {"alpha": 0}}}, "greater than 0"),
        ({"retrain": {"distill": {"alpha": 1.1}}}, "less than or equal to 1"),
        ({"retrain": {"distill": {"temperature": 0}}}, "greater than 0"),
        ({"retrain": {"distill": {"teacher": "mdl_00000000"}}}, "Extra inputs are not permitted"),
        ({"retrain": {"prune_epochs": 1}}, "prune_epochs has no effect with mode 'fine_tune'"),
        (
            {"retrain": {"mode": "gradual", "prune_epochs": 2}},
            "prune_epochs 2 is more than the 1 epochs",
        ),
        ({"retrain": {"mode": "gradual", "prune_epochs": 0}}, "greater than or equal to 1"),
        (
            {"retrain": {"mode": "gradual", "epochs": 3, "rewind_epoch": 1}},
            "rewind_epoch has no effect with mode 'gradual'",
        ),
        (
            {"retrain": {"mode": "gradual"}, "targets": {"sparsity": [0.5, 0.9]}},
            "a gradual run ends at one target",
        ),
        (
            {"retrain": {"mode": "fine_tune", "rewind_epoch": 0}, "seed": -1},
            "greater than or equal to 0",
        ),
        (
            {"retrain": {"mode": "fine_tune", "epochs": 3, "rewind_epoch": 1}},
            "rewind_epoch has no effect",
        ),
        (
            {"retrain": {"mode": "lr_rewind", "epochs": 3, "rewind_epoch": 3}},
            "must lie before the last of 3 epochs",
        ),
        ({"retrain": {"mode": "weight_rewind"}}, "needs the weights to rewind to"),
        (
            {"retrain": {"mode": "lr_rewind", "rewind": {"model": {"id": "mdl_11111111"}}}},
            "rewind has no effect",
        ),
        ({"retrain": {"mode": "weight_rewind", "rewind": {"model": {}}}}, "at least 1 item"),
        (
            {
                "model": TRAIN,
                "retrain": {"mode": "weight_rewind", "rewind": {"model": {"id": "mdl_11111111"}}},
            },
            "leave retrain.rewind out",
        ),
        (
            {"model": TRAIN, "retrain": {"mode": "lr_rewind", "epochs": 2}},
            "epochs come from model.train",
        ),
        (
            {"model": {"architecture": "mlp", "train": {"epochs": 2, "rewind_epoch": 2}}},
            "must lie before the last",
        ),
        ({"model": MODEL | {"train": {"penalty": {"l1": -1e-4}}}}, "greater than or equal to 0"),
        ({"model": MODEL | {"train": {"penalty": {"l1": float("inf")}}}}, "finite number"),
        (
            {"model": MODEL | {"train": {"penalty": {"l1": float("nan")}}}},
            "finite number|greater than",
        ),
        ({"model": MODEL | {"train": {"penalty": {}}}}, "Field required"),
        ({"model": MODEL | {"train": {"penalty": {"l2": 1}}}}, "Extra inputs are not permitted"),
        (
            {"model": MODEL | {"train": {"penalty": {"l1": 1e-4}, "optimizer": {"name": "adamw"}}}},
            "needs the optimizer 'sgd'",
        ),
        ({"retrain": {"penalty": {"l1": 1e-4}}}, "Extra inputs are not permitted"),
        (
            {"retrain": {"optimizer": {"name": "adamw", "momentum": 0.5}}},
            "momentum has no effect with the optimizer",
        ),
        (
            {"retrain": {"optimizer": {"betas": [0.5, 0.5]}}},
            "betas has no effect with the optimizer",
        ),
        ({"retrain": {"optimizer": {"nesterov": True, "momentum": 0}}}, "nesterov needs momentum"),
        ({"retrain": {"optimizer": {"lr": 0}}}, "greater than 0"),
        ({"retrain": {"lr_schedule": {"name": "step"}}}, "needs milestones"),
        (
            {"retrain": {"lr_schedule": {"name": "cosine", "milestones": [1]}}},
            "milestones and gamma have no effect",
        ),
        (
            {"retrain": {"lr_schedule": {"name": "cosine", "gamma": 0.5}}},
            "milestones and gamma have no effect",
        ),
        (
            {"retrain": {"epochs": 2, "lr_schedule": {"name": "step", "milestones": [2]}}},
            "has no effect",
        ),
        ({"retrain": {"epochs": 2, "lr_schedule": {"warmup_epochs": 3}}}, "has no effect"),
        ({"evaluations": [{"name": "accuracy"}, {"name": "accuracy"}]}, "listed twice"),
        (
            {"retrain": {"lr_schedule": {"name": "step", "milestones": [2, 1]}}},
            "milestones must increase",
        ),
        ({"retrain": {"epochs": 0}}, "greater than or equal to 1"),
        ({"gates": {"max_error_increase": -0.1}}, "greater than or equal to 0"),
        (
            {"gates": {"max_delta_excess_error": 0.1}, "evaluations": [{"name": "accuracy"}]},
            "'robustness', which is not listed",
        ),
        (
            {
                "gates": {"max_delta_excess_error": 0.1},
                "evaluations": [{"name": "robustness", "params": {"against": "given"}}],
            },
            "above that of the dense control",
        ),
        ({"control": {"budget": "two_rounds"}}, "'matched' or 'one_round'"),
        ({"deadline_s": 0}, "greater than 0"),
        ({"deadline_s": float("inf")}, "finite number"),
        ({"priority": 10}, "less than or equal to 9"),
        ({"labels": {"a" * 64: "b"}}, "at most 63"),
        ({"labels": {"": "b"}}, "match pattern"),
        ({"labels": {"a=b": "c"}}, "match pattern"),
    ],
)
def test_what_has_no_effect_or_contradicts_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        JobSpec.model_validate(spec(**changes))


def test_numbers_that_are_none_are_refused() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Estimate(value=value)


def test_documents_and_uploads_import_without_torch() -> None:
    modules = (
        "schemas.job",
        "schemas.report",
        "schemas.recipe",
        "schemas.presets",
        "errors",
        "storage.signatures",
        "data.uploads",
        "data.builtin",
        "registry",
    )
    code = "import sys\n" + "".join(
        f"import pruning.{module}\n"
        f"assert not {{'torch', 'scipy', 'sklearn'}} & set(sys.modules), {module!r}\n"
        for module in modules
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_a_method_that_is_only_named_is_told_how_to_be_written() -> None:
    with pytest.raises(ValidationError, match=r'write \{"name": "filter_norm"\}'):
        Method.model_validate("filter_norm")
