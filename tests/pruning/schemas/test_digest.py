"""The digest of a recipe: what changes it and what does not."""

from __future__ import annotations

import json
from typing import Any

from pruning.schemas.job import JobSpec
from pruning.schemas.recipe import Method, Recipe, Retrain, Targets
from pruning.schemas.training import Penalty, Train
from tests.support.specs import spec

BASE: dict[str, Any] = {"targets": {"sparsity": [0.5, 0.9]}}
CHANGES: dict[str, list[dict[str, Any]]] = {
    "criterion": [
        {"criterion": {"name": "random"}},
        {"criterion": {"name": "magnitude", "params": {"p": 2}}},
        {"criterion": [{"name": "magnitude"}, {"name": "random"}]},
    ],
    "allocation": [{"allocation": {"name": "uniform"}}, {"allocation": {"name": "global"}}],
    "granularity": [{"granularity": {"name": "weight"}}, {"granularity": {"name": "filter"}}],
    "batchnorm": [{"batchnorm": "keep"}],
    "sparsifier": [{"sparsifier": {"name": "other"}}],
    "schedule": [
        {"schedule": {"name": "linear"}},
        {"schedule": {"name": "linear", "params": {"rounds": 2}}},
    ],
    "when": [{"when": "before_training", "train": {}}],
    "independent": [{"independent": True}],
    "targets": [{"targets": {"sparsity": [0.5]}}, {"targets": {"sparsity": [0.5, 0.9000001]}}],
    "exclude": [{"exclude": ["fc1.weight"]}, {"exclude": [{"kind": "Conv2d"}]}],
    "include": [{"include": ["fc1.weight"]}, {"include": [{"kind": "Conv2d"}]}],
    "overrides": [{"overrides": {"fc1": 0.5}}, {"overrides": {"fc1": 0.6}}],
    "train": [
        {"train": {}},
        {"train": {"epochs": 2}},
        {"train": {"epochs": 2, "rewind_epoch": 1}},
        {"train": {"augment": "crop"}},
        {"train": {"penalty": {"l1": 1e-4}}},
        {"train": {"penalty": {"l1": 2e-4}}},
        {"train": {"keep": "best"}},
    ],
    "retrain": [
        {"retrain": {"mode": "none"}},
        {"retrain": {"epochs": 2}},
        {"retrain": {"keep": "best"}},
        {"retrain": {"batch_size": 64}},
        {"retrain": {"precision": "bf16"}},
        {"retrain": {"optimizer": {"lr": 0.02}}},
        {"retrain": {"optimizer": {"weight_decay": 0}}},
        {"retrain": {"lr_schedule": {"name": "cosine"}}},
        {"retrain": {"lr_schedule": {"warmup_epochs": 0.5}}},
        {"retrain": {"distill": True}},
        {"retrain": {"distill": {"alpha": 0.9}}},
        {"retrain": {"distill": {"temperature": 2}}},
        {"retrain": {"mode": "gradual"}, "independent": True},
        {"retrain": {"mode": "gradual", "epochs": 8}, "independent": True},
        {"retrain": {"mode": "gradual", "epochs": 8, "prune_epochs": 5}, "independent": True},
    ],
    "control": [{"control": {"budget": "one_round"}}],
    "evaluations": [{"evaluations": []}, {"evaluations": [{"name": "accuracy"}]}],
    "limit": [
        {"limit": {"train": 10}},
        {"limit": {"train": 0.5}},
        {"limit": {"test": 10}},
        {"limit": {"stratify": False}},
        {"limit": {"balanced": True}},
    ],
    "keep_zeros": [{"keep_zeros": False}],
    "gates": [{"gates": {"max_error_increase": 0.01}}, {"gates": {"max_delta_excess_error": 0.01}}],
    "shifts": [
        {"shifts": {"knowledge": knowledge}}
        for knowledge in ("unexpected", "partly_modelled", "modelled")
    ],
    "seed": [{"seed": 1}],
}


def test_every_field_changes_the_digest() -> None:
    assert set(CHANGES) == set(Recipe.model_fields), "a new field of the recipe needs a line above"
    recipes = [
        Recipe.model_validate(BASE | change) for changes in CHANGES.values() for change in changes
    ]
    digests = [recipe.digest() for recipe in [Recipe.model_validate(BASE), *recipes]]
    assert len(set(digests)) == len(digests)


def test_defaults_and_order_do_not_change_the_digest() -> None:
    recipe = Recipe.model_validate(BASE)
    assert recipe.digest() == Recipe.model_validate({"targets": {"sparsity": [0.9, 0.5]}}).digest()
    assert (
        recipe.digest()
        == Recipe.model_validate(json.loads(recipe.model_dump_json(exclude={"retrain"}))).digest()
    )
    first = Recipe.model_validate(BASE | {"criterion": {"name": "x", "params": {"a": 1, "b": 2}}})
    second = Recipe.model_validate(BASE | {"criterion": {"name": "x", "params": {"b": 2, "a": 1}}})
    assert first.digest() == second.digest()


def test_the_digest_is_the_same_in_every_version_of_this_code() -> None:
    """It names the stages on disk: where it must change, running jobs start again, and this line
    says so.
    """
    assert Recipe(targets=Targets(sparsity=(0.5,))).digest() == DIGEST
    assert (
        Recipe(targets=Targets(sparsity=(0.5,)), train=Train(epochs=2)).digest() == TRAINED_DIGEST
    )


DIGEST = "1e4b338def8ea343a4df0868b2f3ec1411addf6e2f9e486afd4c6a63e5110ec3"
TRAINED_DIGEST = "2a2d14793eea8a95d443a665ee703ff8fb85590ba8338ae71b44f678810d8097"


def test_two_ways_to_write_a_recipe_have_one_digest() -> None:
    targets, train = Targets(sparsity=(0.5,)), Train(epochs=2)
    magnitude = Method(name="magnitude")
    assert (
        Recipe(targets=targets, criterion=magnitude).digest()
        == Recipe(targets=targets, criterion=(magnitude,)).digest()
    )
    assert (
        Recipe(targets=targets, train=Train(epochs=2, penalty=Penalty(l1=0))).digest()
        == Recipe(targets=targets, train=train).digest()
    )
    early = Recipe(targets=targets, train=train, when="before_training")
    none = Recipe(
        targets=targets, train=train, when="before_training", retrain=Retrain(mode="none")
    )
    assert early.digest() == none.digest()
    digests = {
        Recipe(targets=targets, retrain=Retrain.model_validate({"distill": distill})).digest()
        for distill in (True, {}, {"alpha": 0.5}, {"alpha": 0.5, "temperature": 4})
    }
    assert len(digests) == 1, "distillation and its defaults written out"
    off = Recipe(targets=targets, retrain=Retrain.model_validate({"distill": False})).digest()
    assert {off} == {Recipe(targets=targets).digest()} != digests
    gradual = {
        Recipe(
            targets=targets, retrain=Retrain.model_validate({"mode": "gradual", "epochs": 8} | more)
        ).digest()
        for more in ({}, {"prune_epochs": None}, {"prune_epochs": 6})
    }
    assert len(gradual) == 1, "three quarters of the epochs"


def test_a_stored_job_keeps_its_distillation() -> None:
    for distill in (True, {}, {"temperature": 2}):
        job = JobSpec.model_validate(
            spec(retrain={"mode": "gradual", "epochs": 4, "distill": distill})
        )
        again = JobSpec.model_validate_json(job.model_dump_json(exclude_unset=True))
        assert again.recipe().digest() == job.recipe().digest()
        assert again.recipe().retrain.distillation == job.recipe().retrain.distillation is not None
