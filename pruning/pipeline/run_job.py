"""A whole job as a plain function: from a folder with the model and the data to files of results,
with a watcher that is notified of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from pruning.analysis.job_record import RoundRecord, find_control
from pruning.analysis.job_size import JobSize
from pruning.data.arrays import Arrays
from pruning.data.builtin import datasets
from pruning.data.memory_budget import MemoryBudget, Placement
from pruning.data.preprocessing import choose_job_preprocessing
from pruning.data.shifted import describe_numbering, split_distributions
from pruning.data.tensors import Data, ShiftedSplits, prepare
from pruning.errors import ParameterError
from pruning.family.members import read_member_curve
from pruning.masks import find_prunable
from pruning.measurement.costs import count_flops
from pruning.measurement.image_errors import (
    ImageErrors,
    collect_small_images,
    find_disagreements,
)
from pruning.networks import check_fits, load_state_, read_state, resolve
from pruning.networks.backbone import FROM_SCRATCH, take_backbone
from pruning.networks.device import pick_device
from pruning.networks.loading import (
    build_network,
    build_outline,
    load_weights_,
    read_parameters,
)
from pruning.networks.published import add_published_sizes
from pruning.pipeline.clock import Clock
from pruning.pipeline.estimate_job import starts_from_scratch
from pruning.pipeline.evaluation_costs import estimate_evaluation_units
from pruning.pipeline.exports import describe_origin
from pruning.pipeline.judging import Judging, PrunedNetwork, leave_out_unfit
from pruning.pipeline.ledger import Watcher
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.pruned_networks import find_pruned_network
from pruning.pipeline.results import Origin, Results
from pruning.pipeline.searching import Searching
from pruning.reporting.files import write_report
from pruning.rounds.budgets import Gauge
from pruning.rounds.costs import count_split_images
from pruning.schemas.environment import Timing
from pruning.schemas.evaluate import EvaluateSpec, SingleSpec, read_single_spec
from pruning.schemas.job import JobSpec
from pruning.schemas.preprocessing import describe_guess
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Report
from pruning.storage.stages import Stages
from pruning.storage.tensor_cache import TensorCache
from pruning.types import Architecture


class JobWatcher(Watcher, Protocol):
    """An observer that is notified of a job's stages, files and results."""

    def saved(self, name: str, path: Path) -> None:
        """A stage file was saved."""

    def dropped(self, name: str) -> None:
        """A stage file is no longer needed."""

    def file(self, checkpoint: str, format: str, path: Path) -> None:
        """A file of a checkpoint, or of the report, was written."""

    def checkpoint(self, id: str, sparsity: float, error: float) -> None:
        """A target was reached."""

    def summary(self, summary: Mapping[str, Any]) -> None:
        """The recommendation, the gates and the error curve of the newest report."""


def run_job(folder: Path, job: Mapping[str, Any], watcher: JobWatcher) -> None:
    """Run the job of a working folder to its report.

    `job` is the document that the store keeps of a job: `id`, `spec`, `model`, `dataset`,
    `threads`, `cache` and `checkpoint_steps`, `most_data_bytes` where the memory for images is
    limited, `pruned` where networks that were pruned elsewhere are judged, and `keeps_pictures`
    where images are wanted for a pooled report. The folder holds `model.safetensors` and
    `rewind.safetensors` or `backbone.safetensors` where the job has them,
    `pruned-<number>.safetensors` for each network that was pruned elsewhere, `data.safetensors` for
    an uploaded dataset, `shifted-<number>.safetensors` for each shifted set, and `stages/` with
    what an earlier attempt saved. Files of results are written to `files/`. Raises a
    `SecateurError` for what cannot be run.
    """
    clock = Clock(is_resumed=any((folder / "stages").glob("*")))
    torch.set_num_threads(job["threads"])
    torch.use_deterministic_algorithms(True, warn_only=True)
    spec = read_single_spec(job["spec"])
    if isinstance(spec, JobSpec) and spec.replicates > 1:
        raise ParameterError(
            f"replicates: {spec.replicates} of them are as many jobs; this runs one",
            pointer="/replicates",
        )
    recipe, left_out = leave_out_unfit(spec.recipe())
    device = pick_device(spec.device)
    arrays, data = _load_data(folder, job, spec, recipe)
    data = data.to(device)
    model = job["model"]
    architecture = resolve(
        model["architecture"], model["kwargs"], shape=data.shape, classes=len(data.classes)
    )
    check_fits(architecture, data.shape, data.classes, arrays.task)
    origin = Origin(
        job_id=job["id"],
        spec=job["spec"],
        architecture=model["architecture"],
        kwargs=read_parameters(architecture),
        model_sha256=model["sha256"],
        dataset_name=job["dataset"]["name"],
        dataset_sha256=job["dataset"]["sha256"],
    )
    pipeline = _build_pipeline(
        folder,
        job,
        architecture=architecture,
        data=data,
        recipe=recipe,
        watcher=watcher,
        device=device,
        file_info=describe_origin(origin, data),
    )
    results = Results(pipeline, origin, folder / "files", watcher.file, outputs=spec.outputs)
    for warning in left_out:
        pipeline.ledger.warn(warning)
    for note in (*arrays.notes, *data.notes):
        pipeline.ledger.warn(f"dataset: {note}")
    guess = describe_guess(data.source) if spec.model.id is not None else None
    if guess is not None:
        pipeline.ledger.warn(guess)
    if starts_from_scratch(spec, architecture):
        pipeline.ledger.warn(FROM_SCRATCH)
    publisher = _Publisher(results, folder / "files", watcher)
    pipeline.target_done = publisher.finish_target
    pipeline.run()
    sections, failures = results.evaluate()
    publisher.write_images(pipeline, with_pictures=job.get("keeps_pictures", False))
    report = results.report(sections, failures)
    publisher.publish(report, clock.read(report.environment, pipeline))


def _load_data(
    folder: Path, job: Mapping[str, Any], spec: SingleSpec, recipe: Recipe
) -> tuple[Arrays, Data]:
    """The dataset as it was uploaded, and as tensors with its shifted sets."""
    path = folder / "data.safetensors"
    if spec.dataset.builtin is None:
        arrays = Arrays.load(path, in_memory=False)
    else:
        arrays = datasets.create(spec.dataset.builtin).load()
    known = job["dataset"] | _describe(arrays)
    model = job["model"] if spec.model.id is not None else add_published_sizes(job["model"])
    preprocessing = choose_job_preprocessing(spec, model, known)
    budget = MemoryBudget(job.get("most_data_bytes"))
    images = count_split_images(recipe, arrays.counts)
    placement = Placement(in_memory=True, decodes_evaluated=True)
    if spec.dataset.builtin is None:
        placement = budget.place_dataset(known, images, preprocessing)
        if placement.in_memory:
            arrays = Arrays.load(path)
    data = prepare(
        arrays,
        limit=recipe.limit,
        seed=recipe.image_seed,
        normalize=preprocessing.constants,
        classes=job["model"]["classes"],
        source=preprocessing.source,
        resizing=preprocessing.resizing,
        size_source=preprocessing.size_source,
        decodes_evaluated=placement.decodes_evaluated,
    )
    shifted_splits: dict[str, ShiftedSplits] = {}
    notes = [*data.notes, *budget.describe("it", placement)]
    if spec.model.id is not None and preprocessing.note is not None:
        notes.append(preprocessing.note)
    for number, shifted_set in enumerate(spec.dataset.shifted):
        name = shifted_set.name
        path = folder / f"shifted-{number}.safetensors"
        uploaded = Arrays.load(path, in_memory=False)
        placement = budget.place_shifted(_describe(uploaded), data.shape, data.resizing)
        if placement.in_memory:
            uploaded = Arrays.load(path)
        shifted_splits |= split_distributions(
            name,
            uploaded,
            data,
            seed=recipe.image_seed,
            decodes=placement.decodes_evaluated,
        )
        own_notes = (*uploaded.notes, *budget.describe("it", placement))
        notes += [f"shifted set {name!r}: {note}" for note in own_notes]
        notes += describe_numbering(name, uploaded.classes, data.classes)
    return arrays, replace(data, shifted=shifted_splits, notes=tuple(notes))


def _describe(arrays: Arrays) -> dict[str, Any]:
    """The facts of a dataset that are known before its images are read."""
    return {
        "shape": arrays.shape,
        "counts": arrays.counts,
        "task": arrays.task,
        "sizes": arrays.describe_sizes(),
    }


def _build_pipeline(  # noqa: PLR0913 (the parts of a job are by keyword)
    folder: Path,
    job: Mapping[str, Any],
    *,
    architecture: Architecture,
    data: Data,
    recipe: Recipe,
    watcher: JobWatcher,
    device: torch.device,
    file_info: Mapping[str, Any],
) -> Pipeline:
    """The pipeline of a job, with what an earlier attempt saved in the folder."""

    def load_network(name: str) -> dict[str, torch.Tensor] | None:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            return None
        network = build_network(architecture)
        load_state_(network, read_state(path))
        return network.state_dict()

    stages = Stages(folder / "stages", recipe.digest(), watcher.saved, watcher.dropped)
    with torch.device("meta"):
        outline = build_network(architecture)
        image_flops = count_flops(outline, data.shape)
    gauge = Gauge.of(recipe, outline, data.shape, file_info)
    if gauge is not None:
        recipe = gauge.settle(recipe)
    job_size = JobSize(
        recipe=recipe,
        images=data.sizes,
        shape=data.shape,
        macs=max(1, image_flops // 2),
        shifted={name: (len(split.val), len(split.test)) for name, split in data.shifted.items()},
        segmentation=data.segmentation,
        classes=len(data.classes),
        layers=len(find_prunable(outline, recipe.exclude, recipe.include)),
    )
    networks = Networks(
        build=_start_from_backbone(architecture, folder / "backbone.safetensors"),
        initial=load_network("model"),
        rewind=load_network("rewind"),
    )
    cache = job["cache"]
    make: Callable[..., Pipeline] = Searching if recipe.targets.are_searched else Pipeline
    if not recipe.prunes:
        make = partial(Judging, pruned=_find_pruned(folder, job, architecture, data))
    return make(
        recipe=recipe,
        networks=networks,
        data=data,
        stages=stages,
        watcher=watcher,
        device=device,
        checkpoint_steps=job["checkpoint_steps"],
        evaluations=estimate_evaluation_units(job_size),
        cache=TensorCache(Path(cache["folder"]), cache["bytes"]) if cache["bytes"] else None,
        file_info=file_info,
        image_flops=image_flops,
    )


def _find_pruned(
    folder: Path, job: Mapping[str, Any], dense: Architecture, data: Data
) -> tuple[PrunedNetwork, ...]:
    """The networks that were pruned elsewhere, in the order of the job."""
    names = EvaluateSpec.model_validate(job["spec"]).names
    return tuple(
        find_pruned_network(
            name,
            described,
            dense,
            shape=data.shape,
            classes=data.classes,
            path=folder / f"pruned-{number}.safetensors",
        )
        for number, (name, described) in enumerate(zip(names, job["pruned"], strict=True))
    )


def _start_from_backbone(architecture: Architecture, path: Path) -> Callable[[], nn.Module]:
    """A function that builds the network, with the weights of its backbone where they are given."""
    if not path.exists():
        return partial(build_network, architecture)
    wanted = build_outline(architecture).state_dict()
    weights = take_backbone(architecture, wanted, read_state(path))

    def build() -> nn.Module:
        network = build_network(architecture)
        load_weights_(network, weights)
        return network

    return build


@dataclass
class _Publisher:
    """Writes a report after every target, so that a job that is cancelled has one of the targets it
    reached.
    """

    results: Results
    folder: Path
    watcher: JobWatcher

    def finish_target(self, record: RoundRecord) -> None:
        """Export the checkpoint of a target, and publish it with a partial report."""
        if not self.results.export(record):
            return
        report = self.results.report(partial=True)
        self.publish(report)
        checkpoint = report.checkpoints[-1]
        self.watcher.checkpoint(checkpoint.id, checkpoint.sparsity, checkpoint.error.value)

    def write_images(self, pipeline: Pipeline, *, with_pictures: bool) -> None:
        """Write the errors of every network on each image, by which jobs are compared and
        replicates pooled; `with_pictures` the images to which networks answer otherwise.
        """
        networks = {"given": pipeline.given_measured}
        networks |= {control.name: control.measured for control in pipeline.controls}
        networks |= {row.id: row.measured for row in pipeline.done if row.target is not None}
        answers = {
            name: measured.answers.classes
            for name, measured in networks.items()
            if measured.answers is not None
        }
        references = {
            row.id: control.name
            for row in pipeline.done
            if row.target is not None
            and (control := find_control(pipeline.controls, row)) is not None
        }
        test = pipeline.data.test
        pictured = find_disagreements(answers, references if with_pictures else {})
        path = self.folder / "report.images.safetensors"
        ImageErrors.collect(
            networks,
            test.dataset_indices,
            test.labels,
            pictured=pictured,
            pictures=collect_small_images(test.pixels, pictured),
        ).save(path)
        self.watcher.file("report", "images", path)

    def publish(self, report: Report, timing: Timing | None = None) -> None:
        """Write the report in every format, after its summary; `timing` is that of a job that has
        ended.
        """
        # The summary goes first: a job that is cancelled between two messages then has one for
        # every report it stored.
        document = report.model_dump(mode="json")
        prunes = self.results.pipeline.recipe.prunes
        curve = read_member_curve(document) if prunes else None
        summary = {
            "recommendation": document["recommendation"],
            "gates": document["gates"],
            "curve": None if curve is None else curve.model_dump(mode="json"),
        }
        if timing is not None:
            summary["timing"] = timing.model_dump(mode="json")
        self.watcher.summary(summary)
        write_report(report, self.folder, self.watcher.file)
