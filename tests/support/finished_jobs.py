"""Jobs that have run and exported their checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from pruning.analysis.job_record import RoundRecord
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.results import Origin, Results
from pruning.schemas.outputs import Outputs
from pruning.schemas.recipe import Recipe
from pruning.storage.stages import Stages
from tests.support import cases
from tests.support.pipelines import CPU, Listener, pretrained

ORIGIN = Origin(
    job_id="job_00000000",
    spec={"type": "prune"},
    architecture="mlp",
    kwargs={"hidden": [6]},
    model_sha256=None,
    dataset_name="random",
    dataset_sha256="",
)


def run_and_export(pipeline: Pipeline, results: Results) -> None:
    """Run a job that exports each target's network when it is finished."""

    def export(record: RoundRecord) -> None:
        results.export(record)

    pipeline.target_done = export
    pipeline.run()


def finish_and_export(
    recipe: Recipe,
    folder: Path,
    net: Callable[[], nn.Module] = cases.mlp,
    *,
    outputs: Outputs = Outputs(),
) -> tuple[Results, list[tuple[str, str, Path]]]:
    """Run a job; returns its results and its exported files (checkpoint, format, path)."""
    files: list[tuple[str, str, Path]] = []
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(net, None if recipe.train else pretrained()[0]),
        data=cases.make_data(),
        stages=Stages(folder / "stages", recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    results = Results(
        pipeline,
        ORIGIN,
        folder / "files",
        lambda checkpoint, format, path: files.append((checkpoint, format, path)),
        outputs=outputs,
    )
    run_and_export(pipeline, results)
    return results, files
