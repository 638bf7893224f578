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
from pruning.pipeline.results import Origin, Results
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Section
from pruning.storage.stages import Stages
from tests.support import cases
from tests.support.pipelines import CPU, Listener, pretrained

ORIGIN = Origin("job_00000000", {"type": "prune"}, "mlp", {"hidden": [6]}, None, "random", "")


def finished(
    recipe: Recipe, folder: Path, net: Callable[[], nn.Module] = cases.mlp, data: Data | None = None
) -> Results:
    state = None if recipe.train else pretrained()[0]
    pipeline = Pipeline(
        recipe,
        Networks(net, state),
        data or cases.make_data(),
        Stages(folder / "stages", recipe.digest()),
        Listener(),
        CPU,
    )
    pipeline.run()
    return Results(pipeline, ORIGIN, folder / "files")


def evaluated(results: Results) -> dict[str, Section]:
    sections, failures = results.evaluate()
    assert failures == []
    for section in sections.values():
        json.dumps(section.model_dump(mode="json"), allow_nan=False)
        assert Section.model_validate_json(section.model_dump_json()) == section
    return sections


def trial_of(results: Results, **fields: Any) -> JobRecord:
    pipeline = results.pipeline
    return JobRecord(
        pipeline.data,
        pipeline.dense,
        pipeline.control,
        pipeline.given_measured,
        pipeline.control_measured,
        pipeline.done,
        pipeline.recipe,
        **fields,
    )
