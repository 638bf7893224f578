"""What every evaluation must keep, on a finished job."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.analysis.job_record import JobRecord
from pruning.evaluations import evaluations
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.reporting.labels import name_scalar, read_curve
from pruning.schemas.report import Section
from pruning.schemas.training import Optimizer
from pruning.storage.stages import Stages
from tests.support import cases


@pytest.fixture(scope="session")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], JobRecord]:
    """Finished jobs by their mode, each run once."""
    return cache(lambda mode: finish_trial(mode, tmp_path_factory.mktemp("trial")))


def finish_trial(mode: str, folder: Path) -> JobRecord:
    """A finished job on a tiny network: two targets, one round between, two criteria."""
    fields: dict[str, Any] = {"mode": mode}
    if mode != "none":
        fields |= {"batch_size": 8, "optimizer": Optimizer(lr=0.05)}
    recipe = cases.recipe(
        0.5,
        0.8,
        schedule={"name": "linear", "params": {"rounds": 2}},
        retrain=fields,
        criterion=({"name": "magnitude"}, {"name": "random"}),
        train={"epochs": 3, "batch_size": 8, "optimizer": {"lr": 0.05}},
    )
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(cases.mlp),
        data=cases.make_data(),
        stages=Stages(folder, recipe.digest()),
        watcher=Silent(),
        device=torch.device("cpu"),
    )
    pipeline.run()
    return JobRecord(
        data=pipeline.data,
        dense=pipeline.dense,
        given_measured=pipeline.given_measured,
        controls=pipeline.controls,
        rounds=pipeline.done,
        recipe=pipeline.recipe,
    )


class Silent:
    """Hears nothing."""

    def stage(self, stage: str, name: str) -> None: ...

    def progress(self, done: float, total: float) -> None: ...

    def warn(self, message: str) -> None: ...


CHEAP: dict[str, dict[str, Any]] = {
    "informative_features": {"images": 1},
    "robustness": {"images": 10},
}
"""Fewer images than those of the job."""


ONCE = {"informative_features", "prune_potential", "robustness"}
"""Evaluations that take long, and take networks as they are, whether a job retrains or not."""


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (mode, name)
        for mode in ("fine_tune", "none")
        for name in evaluations.names()
        if mode != "none" or name not in ONCE
    ],
)
def test_evaluation_answers_with_a_section_that_survives_json(
    mode: str, name: str, trials: Callable[[str], JobRecord]
) -> None:
    trial = trials(mode)
    state = torch.get_rng_state()
    evaluation = evaluations.create(name, CHEAP.get(name))
    section = evaluation.evaluate(trial)
    assert section.title
    assert section.version == evaluations.get(name).version
    assert section.scalars or section.curves or section.details
    assert Section.model_validate_json(section.model_dump_json()) == section
    assert evaluation.evaluate(trial) == section
    assert torch.equal(torch.get_rng_state(), state)
    # The criteria of the job have no underscore in their names.
    names = [name_scalar(key, section.labels) for key in section.scalars]
    names += [read_curve(key, section.labels) for key in section.curves]
    assert not [text for text in names if "_" in text or "/" in text]
