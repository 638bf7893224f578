"""Finished jobs as evaluations see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from pruning.analysis.job_record import JobRecord
from pruning.data.tensors import Data
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.results import Results
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Section
from pruning.storage.stages import Stages
from tests.support import cases
from tests.support.finished_jobs import ORIGIN
from tests.support.pipelines import CPU, Listener, pretrained


def finish_job(
    recipe: Recipe,
    folder: Path,
    net: Callable[[], nn.Module] = cases.mlp,
    data: Data | None = None,
) -> Results:
    """Run a job; nothing is exported."""
    state = None if recipe.train else pretrained()[0]
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(net, state),
        data=data or cases.make_data(),
        stages=Stages(folder / "stages", recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    pipeline.run()
    return Results(pipeline, ORIGIN, folder / "files")


def evaluate_job(results: Results) -> dict[str, Section]:
    """The sections of a job; none may fail, and JSON keeps every one of them."""
    sections, failures = results.evaluate()
    assert failures == []
    for section in sections.values():
        json.dumps(section.model_dump(mode="json"), allow_nan=False)
        assert Section.model_validate_json(section.model_dump_json()) == section
    return sections


def make_record(results: Results, **fields: Any) -> JobRecord:
    """The record of a job, with further fields."""
    pipeline = results.pipeline
    return JobRecord(
        data=pipeline.data,
        dense=pipeline.dense,
        given_measured=pipeline.given_measured,
        controls=pipeline.controls,
        rounds=pipeline.done,
        recipe=pipeline.recipe,
        **fields,
    )
