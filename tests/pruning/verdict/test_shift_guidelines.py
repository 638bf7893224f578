"""The recommendation under shift, and training on corrupted images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Generator

from pruning.data.corrupted import corrupt, corrupt_epoch
from pruning.data.corruptions import corruptions
from pruning.data.tensors import Data, Split
from pruning.errors import UnknownNameError
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.results import Results
from pruning.schemas.recipe import Method, Recipe, Shifts
from pruning.schemas.report import Estimate, Recommendation, Report, Section
from pruning.schemas.training import MIX1, Corrupt, Training
from pruning.storage.stages import Stages
from pruning.training.loop import train_
from pruning.verdict.shift_guidelines import VALIDATION, apply_guideline
from tests.support import cases
from tests.support.finished_jobs import ORIGIN, run_and_export
from tests.support.pipelines import CPU, Listener
from tests.support.reports import checkpoint


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 40) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 8, 8), generator=seeded(), dtype=torch.uint8)


def test_the_corruptions_that_are_trained_on_by_default_are_registered() -> None:
    assert set(MIX1) < set(corruptions.names())
    assert len(MIX1) == 9


def test_every_image_of_an_epoch_has_a_corruption_of_its_own() -> None:
    clean, spec = images(300), Corrupt(names=("brightness", "contrast"), severities=(0, 3))
    corrupted = corrupt_epoch(clean, spec, 5, "train", 2)
    options = [clean, corrupt(clean, "brightness", 3), corrupt(clean, "contrast", 3)]
    which = torch.stack([(corrupted == option).flatten(1).all(1) for option in options])
    assert bool(which.any(0).all())
    assert 100 < int(which[0].sum()) < 200
    assert min(int(which[1].sum()), int(which[2].sum())) > 40
    assert torch.equal(corrupted, corrupt_epoch(clean, spec, 5, "train", 2))
    assert not torch.equal(corrupted, corrupt_epoch(clean, spec, 5, "train", 3))
    assert torch.equal(clean, images(300)), "the images themselves stay as they are"
    assert corrupt_epoch(clean, None, 5) is clean


def robust(data: Data, corrupt: Corrupt | None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    train_(
        model,
        data,
        Training(epochs=2, batch_size=10, augment="none", corrupt=corrupt),
        seed=0,
        name="train",
    )
    return model.state_dict()


def test_a_training_on_corrupted_images_sees_them() -> None:
    split = Split(images(), torch.arange(40) % 3)
    data = Data(
        fit=split, val=split, test=split, classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    plain, clean = robust(data, None), robust(data, Corrupt(severities=(0,)))
    assert all(torch.equal(plain[name], clean[name]) for name in plain)
    dark = Split(torch.cat([corrupt(images(), "contrast", 5)]), split.labels)
    always = robust(data, Corrupt(names=("contrast",), severities=(5,)))
    instead = robust(
        Data(fit=dark, val=split, test=split, classes=data.classes, mean=data.mean, std=data.std),
        None,
    )
    assert all(torch.equal(always[name], instead[name]) for name in always)


@pytest.mark.parametrize(
    "fields",
    [
        {"names": []},
        {"severities": [6]},
        {"severities": []},
        {"names": ["fog", "fog"]},
        {"level": 3},
    ],
)
def test_what_cannot_be_trained_on_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Corrupt(**fields)


def test_an_unknown_corruption_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown corruption 'fogg'; did you mean 'fog'"):
        corrupt_epoch(images(), Corrupt(names=("fogg",)), 0, "train", 0)


def test_a_job_without_shifts_or_corruptions_keeps_its_digest() -> None:
    plain = cases.recipe(0.5)
    assert plain.digest() == cases.recipe(0.5, shifts=None).digest()
    assert plain.digest() != cases.recipe(0.5, shifts={"knowledge": "modelled"}).digest()
    assert plain.digest() != cases.recipe(0.5, retrain={"corrupt": {}}).digest()


NOMINAL = Recommendation(checkpoint="magnitude-0.8", sparsity=0.8, margin=0.005, reason="Ship it.")


def report(tmp_path: Path, knowledge: str | None, **fields: Any) -> Report:
    recipe = Recipe.model_validate(
        {
            "targets": {"sparsity": [0.3, 0.8]},
            "retrain": {"mode": "fine_tune", "epochs": 1, "batch_size": 8},
            "shifts": knowledge and {"knowledge": knowledge},
            "evaluations": [
                {
                    "name": "prune_potential",
                    "params": {
                        "corruptions": ["brightness", "contrast"],
                        "margin": 0.3,
                        "noise": [],
                    },
                }
            ],
        }
        | fields
    )
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(cases.mlp),
        data=cases.make_data(),
        stages=Stages(tmp_path / "stages", recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    results = Results(pipeline, ORIGIN, tmp_path / "files")
    run_and_export(pipeline, results)
    sections, failures = results.evaluate()
    assert failures == []
    made = results.report(sections, failures)
    json.dumps(made.model_dump(mode="json"), allow_nan=False)
    return made


TRAIN = {"train": {"epochs": 3, "batch_size": 8, "optimizer": {"lr": 0.05}}}


def test_unexpected_shifts_mean_no_pruning(tmp_path: Path) -> None:
    recommendation = report(tmp_path, "unexpected", **TRAIN).recommendation
    assert (recommendation.checkpoint, recommendation.sparsity) == (None, None)
    assert recommendation.reason.startswith(
        "Ship the dense network: shifts of the data are unexpected"
    )
    assert recommendation.shifts is not None
    assert recommendation.shifts.nominal_potential is not None


def test_partly_modelled_shifts_allow_what_the_worst_of_them_allows(tmp_path: Path) -> None:
    made = report(tmp_path, "partly_modelled", **TRAIN)
    rows = made.sections["prune_potential"].details[VALIDATION]
    worst = min(
        (row for row in rows if row["held_out"]), key=lambda row: (row["safe"], row["potential"])
    )
    assert {row["distribution"] for row in rows if not row["held_out"]} == {"nominal"}
    within = [
        candidate
        for candidate in made.checkpoints
        if candidate.prune_ratio <= worst["safe"] + 1e-9
        and candidate.val_error_increase.value <= made.recommendation.margin
    ]
    best = max(within, key=lambda candidate: candidate.prune_ratio, default=None)
    assert made.recommendation.checkpoint == (best and best.id)
    assert made.recommendation.shifts is not None
    assert made.recommendation.shifts.shifted_potential == worst["potential"]
    assert made.recommendation.shifts.safe_potential == worst["safe"]


def test_modelled_shifts_allow_what_the_nominal_data_allow(tmp_path: Path) -> None:
    plain = report(tmp_path / "a", None, **TRAIN).recommendation
    modelled = report(tmp_path / "b", "modelled", **TRAIN).recommendation
    assert (modelled.checkpoint, modelled.sparsity) == (plain.checkpoint, plain.sparsity)
    assert modelled.reason.startswith(plain.reason)
    assert plain.shifts is None


@pytest.mark.parametrize(
    ("row", "reference"),
    [({}, "the dense control"), ({"against": "given"}, "the network as given")],
)
def test_the_reason_names_what_potentials_are_measured_against(
    row: dict[str, Any], reference: str
) -> None:
    common = {"method": "magnitude", "potential": 0.0, "safe": 0.0, "images": 50, **row}
    rows = [
        {**common, "distribution": "nominal", "held_out": False},
        {**common, "distribution": "fog 3", "held_out": True},
    ]
    details = {VALIDATION: rows, "margin": 0.0125}
    section = Section(title="", version=1, details=details)
    recommendation = apply_guideline(NOMINAL, [], Shifts(knowledge="partly_modelled"), section)
    assert (
        "no checkpoint that keeps the recommendation's margin of 0.50 pp on nominal images is "
        f"shown to stay within the margin of prune_potential, 1.25 pp above {reference} on 50"
    ) in recommendation.reason


def test_without_potentials_partly_modelled_shifts_mean_no_pruning() -> None:
    for section in (None, Section(title="", version=1)):
        recommendation = apply_guideline(NOMINAL, [], Shifts(knowledge="partly_modelled"), section)
        assert recommendation.checkpoint is None
        assert "prune_potential" in recommendation.reason
    assert apply_guideline(NOMINAL, [], None, None) is NOMINAL


def list_potentials(safe: dict[str, float]) -> Section:
    """A section of one method whose estimates allow everything."""
    rows = [
        {
            "method": "magnitude",
            "distribution": name,
            "potential": 0.8,
            "safe": limit,
            "images": 1000,
            "held_out": name != "nominal",
        }
        for name, limit in safe.items()
    ]
    return Section(title="", version=2, details={VALIDATION: rows})


def test_what_ships_under_shift_is_within_the_safe_limit_and_not_the_estimate() -> None:
    checkpoints = [
        checkpoint(
            Method(name="magnitude"),
            ratio,
            0.07,
            None,
            prune_ratio=ratio,
            val_error_increase=Estimate(value=0.0),
        )
        for ratio in (0.3, 0.5, 0.8)
    ]
    shifts = Shifts(knowledge="partly_modelled")
    section = list_potentials({"nominal": 0.8, "fog 3": 0.5, "snow 3": 0.8})
    made = apply_guideline(NOMINAL, checkpoints, shifts, section)
    assert made.checkpoint == "magnitude-0.5"
    assert made.shifts is not None
    assert (made.shifts.safe_potential, made.shifts.shifted_potential) == (0.5, 0.8)
    assert made.shifts.worst_shift == "fog 3"
    section = list_potentials({"nominal": 0.8, "fog 3": 0.0, "snow 3": 0.8})
    made = apply_guideline(NOMINAL, checkpoints, shifts, section)
    assert made.checkpoint is None
    assert "By the estimate under fog 3, 80.0 % of the parameters" in made.reason
    assert "more validation images would tell" in made.reason
    section.details[VALIDATION] = [
        {name: value for name, value in row.items() if name != "safe"}
        for row in section.details[VALIDATION]
    ]
    assert apply_guideline(NOMINAL, checkpoints, shifts, section).checkpoint is None
