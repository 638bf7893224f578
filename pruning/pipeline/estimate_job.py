"""What a job will do, told before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pruning.analysis.applicability import check_task
from pruning.analysis.job_size import JobSize
from pruning.data.builtin import describe_dataset
from pruning.data.shifted import check_alike, count_shifted
from pruning.errors import DataError
from pruning.evaluations import evaluations
from pruning.masks import find_prunable
from pruning.measurement.costs import dense_costs
from pruning.networks.loading import build_outline, check_fits, read_parameters, resolve
from pruning.pipeline.evaluation_costs import estimate_evaluation_units
from pruning.rounds.costs import count_split_images, estimate_costs, list_warnings
from pruning.rounds.rehearsal import LARGEST, rehearse
from pruning.schemas.job import JobSpec
from pruning.types import Architecture, Shape


def estimate_job(
    document: Mapping[str, Any],
    model: Mapping[str, Any] | None,
    dataset: Mapping[str, Any] | None,
    shifted: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What a job will do, and whether model, data and targets fit each other.

    `document` is the job as submitted; `model`, `dataset` and `shifted` are what the store knows of
    its uploads. Raises a `SecateurError` with a pointer to the field that does not fit.
    """
    spec = JobSpec.model_validate(document)
    dataset = describe_dataset(spec.dataset.builtin, dataset)
    segmentation = dataset["task"] == "segmentation"
    shape: Shape = (int(dataset["shape"][0]), int(dataset["shape"][1]), int(dataset["shape"][2]))
    model = model or {"architecture": spec.model.architecture, "kwargs": spec.model.kwargs}
    architecture = resolve(
        model["architecture"], model["kwargs"], shape=shape, classes=len(dataset["classes"])
    )
    check_fits(architecture, shape, dataset["classes"], dataset["task"])
    _check_shifted_sets(spec, dataset, shifted, shape)
    network, recipe = build_outline(architecture).eval(), spec.recipe()
    parameters = json.dumps(read_parameters(architecture), sort_keys=True)
    forward, kept = dense_costs(model["architecture"], parameters, shape)
    for index, method in enumerate(recipe.evaluations or ()):
        check_task(
            evaluations.get(method.name),
            method.name,
            segmentation=segmentation,
            pointer=f"/evaluations/{index}",
        )
    shifted_sizes = {
        shifted_set.name: count_shifted(known["counts"])
        for shifted_set, known in zip(spec.dataset.shifted, shifted, strict=True)
    }
    scale = JobSize(
        recipe=recipe,
        images=count_split_images(recipe, dataset["counts"]),
        shape=shape,
        macs=max(1, forward // 2),
        shifted=shifted_sizes,
        segmentation=segmentation,
    )
    costs = estimate_costs(
        recipe,
        dataset["counts"],
        parameters=sum(p.numel() for p in network.parameters()),
        prunable=[tuple(w.shape) for w in find_prunable(network, recipe.exclude).values()],
        forward_flops=forward,
        activations=kept,
        classes=len(dataset["classes"]),
        evaluations=estimate_evaluation_units(scale),
    )
    return costs | {
        "warnings": list_warnings(recipe)
        + rehearse(_build_small(architecture, network), recipe, shape)
    }


def _check_shifted_sets(
    spec: JobSpec, dataset: Mapping[str, Any], shifted: Sequence[Mapping[str, Any]], shape: Shape
) -> None:
    """Raise `DataError` for a shifted set whose task, images or classes differ from the
    dataset's.
    """
    for index, (shifted_set, known) in enumerate(zip(spec.dataset.shifted, shifted, strict=True)):
        pointer = f"/dataset/shifted/{index}/id"
        if known["task"] != dataset["task"]:
            raise DataError(
                f"the shifted set {shifted_set.name!r} is for {known['task']}, the dataset for "
                f"{dataset['task']}",
                pointer=pointer,
            )
        check_alike(
            shifted_set.name,
            known["shape"],
            classes=known["classes"],
            counts=known["counts"],
            own_shape=shape,
            own_classes=dataset["classes"],
            pointer=pointer,
        )


def _build_small(architecture: Architecture, outline: nn.Module) -> nn.Module:
    """The network with its numbers where they are few enough to be rehearsed, else the outline."""
    return (
        architecture.build() if sum(p.numel() for p in outline.parameters()) <= LARGEST else outline
    )
