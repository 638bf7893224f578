"""Named jobs: what they fill in, what they leave alone, and that it is the paper's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import torch
from pydantic import ValidationError

from api.errors import Problem
from api.http.pointers import parse
from pruning.masks import count_parameters, find_prunable
from pruning.networks.loading import resolve
from pruning.pipeline.ledger import Silent
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.rounds.costs import estimate_costs
from pruning.rounds.plan import plan_rounds
from pruning.schemas.job import JobSpec
from pruning.schemas.presets import PRESETS, expand_preset
from pruning.schemas.recipe import Recipe
from pruning.storage.stages import Stages
from pruning.training.optimizer import learning_rate_factor
from tests.support import cases

every_preset = pytest.mark.parametrize("name", PRESETS)
MODEL, DATA = {"id": "mdl_00000000"}, {"id": "dst_00000000"}


def job(name: str, **changes: Any) -> dict[str, Any]:
    return {"type": "prune", "preset": name, "dataset": DATA, **changes}


def spec(name: str, **changes: Any) -> JobSpec:
    return JobSpec.model_validate(job(name, **changes))


def recipe(name: str, **changes: Any) -> Recipe:
    return spec(name, **changes).recipe()


@every_preset
def test_the_counts_are_those_of_the_networks(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        network = resolve(preset.architecture, preset.kwargs, classes=preset.classes).build()
    assert preset.parameters == count_parameters(network)
    assert preset.prunable == sum(weight.numel() for weight in find_prunable(network).values())


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "optimizer", "schedule", "ratios"),
    [
        ("resnet20", 182, 128, (0.1, 1e-4, False), ((91, 136), 0.1, 5), (23, 15, 22.4, 98)),
        ("resnet56", 182, 128, (0.1, 1e-4, False), ((91, 136), 0.1, 5), (20, 15, 30.2, 98)),
        ("resnet110", 182, 128, (0.1, 1e-4, False), ((91, 136), 0.1, 5), (20, 15, 30.2, 98)),
        (
            "vgg16",
            300,
            256,
            (0.05, 5e-4, False),
            ((30, 60, 90, 120, 150, 180, 210, 240, 270), 0.5, 10),
            (20, 15, 30.2, 98),
        ),
        ("densenet22", 300, 64, (0.1, 1e-4, True), ((150, 225), 0.1, 10), (22, 15, 24.1, 95.3)),
        ("wrn16_8", 200, 128, (0.1, 5e-4, True), ((60, 120, 160), 0.2, 5), (23, 15, 24.1, 98)),
        ("resnet18", 90, 256, (0.1, 1e-4, False), ((30, 60, 80), 0.1, 5), (18, 10, 17.4, 90)),
        ("resnet101", 90, 256, (0.1, 1e-4, False), ((30, 60, 80), 0.1, 5), (16, 10, 17.4, 81.6)),
        ("deeplabv3_resnet50", 45, 16, (0.02, 1e-4, False), ((), 0.1, 0), (15, 20, 36.5, 97)),
    ],
)
def test_hyper_parameters_are_the_papers(
    name: str,
    epochs: int,
    batch: int,
    optimizer: tuple[float, float, bool],
    schedule: tuple[tuple[int, ...], float, int],
    ratios: tuple[int, float, float, float],
) -> None:
    expanded = recipe(name)
    train = expanded.train
    assert train is not None
    augment = {
        "resnet18": "random_resized_crop",
        "resnet101": "random_resized_crop",
        "deeplabv3_resnet50": "scaled_crop",
    }.get(name, "crop_flip")
    assert (train.epochs, train.batch_size, train.augment, train.rewind_epoch) == (
        epochs,
        batch,
        augment,
        0,
    )
    assert (train.optimizer.name, train.optimizer.momentum) == ("sgd", 0.9)
    assert (train.optimizer.lr, train.optimizer.weight_decay, train.optimizer.nesterov) == optimizer
    assert (
        train.lr_schedule.milestones,
        train.lr_schedule.gamma,
        train.lr_schedule.warmup_epochs,
    ) == schedule
    assert train.lr_schedule.name == ("step" if train.lr_schedule.milestones else "poly")
    assert expanded.batchnorm == "keep"
    preset, targets = PRESETS[name], expanded.targets.values
    back = [100 * sparsity * preset.prunable / preset.parameters for sparsity in targets]
    assert (
        len(back),
        *(pytest.approx(ratio, abs=1e-3) for ratio in (back[0], back[1], back[-1])),
    ) == ratios
    assert all(
        planned.epochs == (0, 150 if name == "vgg16" else epochs)
        for planned in plan_rounds(expanded)
    )


def test_half_a_schedule_is_its_first_half() -> None:
    """Of VGG16 the first 150 of 300 epochs are replayed: the same learning rate at every moment of
    them.
    """
    expanded = recipe("vgg16")
    assert expanded.train is not None
    assert (expanded.retrain.mode, expanded.retrain.epochs, expanded.retrain.optimizer) == (
        "fine_tune",
        150,
        expanded.train.optimizer,
    )
    assert (expanded.retrain.batch_size, expanded.retrain.augment) == (256, "crop_flip")
    for tenth in range(1500):
        epoch = tenth / 10
        assert learning_rate_factor(
            expanded.retrain.lr_schedule, epoch, 150
        ) == learning_rate_factor(expanded.train.lr_schedule, epoch, 300)


@every_preset
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.1, 0.013, 1e-4])
def test_a_shortened_schedule_takes_the_same_course(name: str, scale: float) -> None:
    whole, short = recipe(name).train, recipe(name, epochs_scale=scale).train
    assert whole is not None
    assert short is not None
    assert short.epochs == max(1, round(scale * whole.epochs))
    for step in range(997):  # no milestone is at such a fraction
        part = (step + 0.5) / 997
        assert learning_rate_factor(
            short.lr_schedule, part * short.epochs, short.epochs
        ) == pytest.approx(
            learning_rate_factor(whole.lr_schedule, part * whole.epochs, whole.epochs), abs=1e-3
        )
    retrained = {planned.epochs for planned in plan_rounds(recipe(name, epochs_scale=scale))}
    retrain_epochs = PRESETS[name].retrain_epochs or whole.epochs
    assert retrained == {(0, max(1, round(scale * retrain_epochs)))}


@every_preset
def test_what_is_expanded_is_written_out_and_stays(name: str) -> None:
    expanded = spec(name, epochs_scale=0.1)
    document = expanded.model_dump(mode="json", exclude_unset=True)
    assert document["preset"] == name
    assert {"model", "targets", "retrain", "batchnorm"} <= set(document)
    assert JobSpec.model_validate(document) == expanded
    again = JobSpec.model_validate_json(expanded.model_dump_json(exclude_unset=True))
    assert again.recipe().digest() == expanded.recipe().digest()
    without = {
        key: value for key, value in document.items() if key not in ("preset", "epochs_scale")
    }
    assert JobSpec.model_validate(without).recipe() == expanded.recipe()


@every_preset
def test_the_whole_cascade_can_be_planned(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        network = resolve(preset.architecture, preset.kwargs, classes=preset.classes).build()
    shapes = [tuple(weight.shape) for weight in find_prunable(network).values()]
    costs = estimate_costs(
        recipe(name),
        {"train": 50_000, "test": 10_000},
        prunable=shapes,
        forward_flops=1,
        activations=1,
        parameters=preset.parameters,
        classes=preset.classes,
    )
    rounds = len(preset.prune_ratios) * max(1, len(preset.criteria))
    retrainings = rounds + len(preset.prune_ratios)  # with those of the dense controls
    assert costs["rounds"] == costs["checkpoints"] == rounds
    assert costs["steps"] == -(-45_000 // preset.batch_size) * (
        preset.epochs + retrainings * (preset.retrain_epochs or preset.epochs)
    )


def test_what_the_job_says_stays() -> None:
    expanded = spec(
        "resnet20",
        targets={"sparsity": [0.9]},
        retrain={"mode": "none"},
        batchnorm="reestimate",
        seed=3,
        criterion={"name": "sipp"},
        schedule={"name": "geometric"},
        dataset=DATA | {"limit": {"train": 500}},
        model={
            "kwargs": {"width": 0.5, "shortcut": "A"},
            "train": {"epochs": 150, "batch_size": 32},
        },
    )
    assert expanded.targets.sparsity == (0.9,)
    assert expanded.model.kwargs == {"depth": 20, "width": 0.5, "shortcut": "A"}
    assert expanded.model.train is not None
    assert (
        expanded.model.train.epochs,
        expanded.model.train.batch_size,
        expanded.model.train.optimizer.lr,
    ) == (150, 32, 0.1)
    assert expanded.recipe().retrain.mode == "none"
    assert (expanded.batchnorm, expanded.seed, expanded.dataset.limit.train) == (
        "reestimate",
        3,
        500,
    )


def test_another_architecture_takes_the_schedule_alone() -> None:
    expanded = spec("resnet20", model={"architecture": "mlp"})
    assert (expanded.model.architecture, expanded.model.kwargs) == ("mlp", {})
    assert expanded.model.train is not None
    assert expanded.model.train.epochs == 182


def test_an_uploaded_network_is_not_trained_but_retrained() -> None:
    expanded = spec("densenet22", model=MODEL, epochs_scale=0.1)
    assert expanded.model.train is None
    retrain = expanded.recipe().retrain
    assert (retrain.mode, retrain.epochs, retrain.batch_size, retrain.optimizer.nesterov) == (
        "lr_rewind",
        30,
        64,
        True,
    )
    trained = spec("densenet22", model=MODEL | {"train": {"rewind_epoch": 2}})
    assert trained.model.train is not None
    assert (trained.model.train.epochs, trained.model.train.rewind_epoch) == (300, 2)


@pytest.mark.parametrize(
    ("given", "mode", "distilled"),
    [
        ({"distill": True}, "lr_rewind", True),
        ({"mode": "lr_rewind"}, "lr_rewind", False),
        ({"mode": "weight_rewind"}, "weight_rewind", False),
        ({"mode": "fine_tune", "epochs": 2}, "fine_tune", False),
    ],
)
def test_retraining_is_completed_or_replaced(
    given: dict[str, Any], mode: str, distilled: bool
) -> None:
    retrain = recipe("resnet20", retrain=given).retrain
    assert (retrain.mode, retrain.distillation is not None) == (mode, distilled)
    assert retrain.epochs == given.get(
        "epochs", 1
    )  # with rewinding, the schedule is the training's


def test_before_training_nothing_is_retrained() -> None:
    expanded = recipe("resnet20", when="before_training", epochs_scale=0.1)
    assert expanded.retrain.mode == "none"
    assert [planned.epochs for planned in plan_rounds(expanded)][-1] == (0, 18)


def test_a_job_in_python_may_hold_documents() -> None:
    plain = spec("vgg16", model={"kwargs": {"width": 0.5}}, retrain={"epochs": 140})
    again = JobSpec.model_validate(
        job("vgg16", model=plain.model, retrain=plain.retrain, dataset=plain.dataset)
    )
    assert again == plain


def test_the_given_job_is_not_changed() -> None:
    given = job("resnet20", model={"kwargs": {"width": 2}})
    expand_preset(given)
    assert given == job("resnet20", model={"kwargs": {"width": 2}})


@pytest.mark.parametrize(
    ("changes", "at", "message"),
    [
        (
            {"preset": "resnet19"},
            "/preset",
            "known: resnet20, resnet56, resnet110, vgg16, densenet22, wrn16_8",
        ),
        ({"preset": 7}, "/preset", "unknown preset 7"),
        ({"epochs_scale": 0}, "/epochs_scale", "above 0 and at most 1"),
        ({"epochs_scale": 1.1}, "/epochs_scale", "above 0 and at most 1"),
        ({"epochs_scale": "0.5"}, "/epochs_scale", "'0.5' is not a number"),
        ({"epochs_scale": True}, "/epochs_scale", "True is not a number"),
        ({"epochs_scale": float("nan")}, "/epochs_scale", "nan is not a number"),
        (
            {"preset": None, "model": MODEL, "targets": {"sparsity": [0.5]}, "epochs_scale": 0.5},
            "/epochs_scale",
            "no effect without a preset",
        ),
        ({"preset": None}, "/model", "Field required"),
        ({"model": 3}, "/model", "dictionary"),
        ({"model": {"train": 3}}, "/model/train", "dictionary"),
        ({"model": {"kwargs": 3}}, "/model/kwargs", "dictionary"),
        ({"retrain": 3}, "/retrain", "dictionary"),
        ({"targets": 3}, "/targets", "dictionary"),
        ({"model": {"train": {"epochs": 90}}}, "", "milestone or warm-up beyond the 90 epochs"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], at: str, message: str) -> None:
    with pytest.raises(Problem) as caught:
        parse(JobSpec, job("resnet20") | changes)
    assert caught.value.status == 422
    faults = [fault for fault in caught.value.errors if message in fault.message]
    assert faults, caught.value.errors
    assert at in {fault.pointer for fault in faults} or not at


def test_the_schema_takes_what_the_service_takes() -> None:
    schema = JobSpec.model_json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    names = next(option for option in schema["properties"]["preset"]["anyOf"] if "enum" in option)[
        "enum"
    ]
    assert (
        names
        == list(PRESETS)
        == list(get_args(get_args(JobSpec.model_fields["preset"].annotation)[0]))
    )
    assert validator.is_valid(job("resnet20"))
    assert validator.is_valid(
        {"type": "prune", "model": MODEL, "dataset": DATA, "targets": {"sparsity": [0.5]}}
    )
    for least in (
        {"type": "prune", "dataset": DATA},
        {"type": "prune", "dataset": DATA, "model": MODEL},
        {"type": "prune", "dataset": DATA, "preset": None},
    ):
        assert not validator.is_valid(least)
        with pytest.raises(ValidationError):
            JobSpec.model_validate(least)


def test_a_job_may_augment_otherwise_than_the_preset() -> None:
    def expand(**train: Any) -> dict[str, Any]:
        job = expand_preset(
            {
                "type": "prune",
                "preset": "deeplabv3_resnet50",
                "dataset": {"id": "ds_00000000"},
                "model": {"train": train},
            }
        )
        return dict(job["model"]["train"])

    assert expand()["scaled_crop"] == {"sides": [256, 1024], "crop": 513}
    assert "scaled_crop" not in expand(augment="crop_flip")
    small = {"sides": [20, 40], "crop": 33}
    assert expand(scaled_crop=small)["scaled_crop"] == small


def test_a_preset_runs(tmp_path: Path) -> None:
    """Two rounds of the cascade on a sliver of the network, with five epochs each."""
    train = {"batch_size": 6, "augment": "none", "optimizer": {"lr": 0.03}}
    job = spec(
        "resnet20",
        epochs_scale=0.03,
        model={"kwargs": {"depth": 8, "width": 0.3}, "train": train},
        targets={"sparsity": [0.15, 0.3]},
        criterion={"name": "pfp"},
        evaluations=[],
    )
    data = cases.make_data(shape=(3, 4, 4), fit=48, val=6, test=30)
    recipe = job.recipe()
    torch.manual_seed(0)
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(
            resolve("cifar_resnet", job.model.kwargs, shape=data.shape, classes=3).build
        ),
        data=data,
        stages=Stages(tmp_path, recipe.digest()),
        watcher=Silent(),
        device=torch.device("cpu"),
    )
    pipeline.run()
    assert [done.target for done in pipeline.done] == [0.15, 0.3]
    for done in pipeline.done:
        mask = done.masks()["layer1.0.conv1.weight"]
        assert mask.shape[:2] == (5, 5), "the network keeps its shape"
        assert abs(done.sparsity - (done.target or 0)) < 0.05
