"""The estimate of a job, made before anything is computed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from pruning.analysis.applicability import check_task
from pruning.analysis.job_size import JobSize
from pruning.analysis.shift_parameters import ShiftParameters
from pruning.data.builtin import describe_dataset
from pruning.data.memory_budget import MemoryBudget
from pruning.data.preprocessing import (
    ChosenPreprocessing,
    choose_job_preprocessing,
    preprocessed_shape,
)
from pruning.data.shifted import check_alike, count_shifted, describe_numbering
from pruning.errors import DataError, ParameterError
from pruning.evaluations import evaluations
from pruning.masks import find_prunable
from pruning.measurement.costs import dense_costs
from pruning.networks.backbone import FROM_SCRATCH, find_prefix, take_backbone
from pruning.networks.loading import (
    build_network,
    build_outline,
    check_fits,
    read_parameters,
    resolve,
)
from pruning.networks.published import add_published_sizes
from pruning.pipeline.evaluation_costs import estimate_evaluation_units
from pruning.pipeline.evaluation_traits import list_pixel_evaluations, reads_losses
from pruning.pipeline.huggingface_export import explain_no_folder
from pruning.pipeline.judging import leave_out_unfit
from pruning.pipeline.pruned_networks import check_pruned_networks
from pruning.rounds.budgets import Gauge
from pruning.rounds.costs import count_split_images, estimate_costs, list_warnings
from pruning.rounds.given_zeros import keeps_zeros, list_reached_targets
from pruning.rounds.method import PruningMethod
from pruning.rounds.overrides import check_overrides
from pruning.rounds.reach import measure_reach
from pruning.rounds.rehearsal import LARGEST, rehearse
from pruning.schemas.evaluate import EvaluateSpec, SingleSpec, read_single_spec
from pruning.schemas.gates import EVALUATION_OF_GATE
from pruning.schemas.job import NOMINAL, JobSpec
from pruning.schemas.preprocessing import describe_guess
from pruning.schemas.recipe import Recipe
from pruning.storage.onnx_files import explain_missing, list_missing_packages
from pruning.training.batchnorm import has_running_statistics
from pruning.types import Architecture
from pruning.verdict.modelled_shifts import list_shift_warnings

POTENTIAL = EVALUATION_OF_GATE["min_prune_potential"]
"""The evaluation that says what can be pruned under each distribution."""


def estimate_job(
    document: Mapping[str, Any],
    model: Mapping[str, Any] | None,
    dataset: Mapping[str, Any] | None,
    shifted: Sequence[Mapping[str, Any]],
    backbone: Mapping[str, Any] | None = None,
    *,
    pruned: Sequence[Mapping[str, Any]] = (),
    most_data_bytes: int | None = None,
) -> dict[str, Any]:
    """The costs and warnings of a job, once model, data and targets are known to fit each other.

    `document` is the job as submitted; `model`, `dataset`, `shifted`, `backbone` and `pruned` are
    what the store knows of its uploads; `most_data_bytes` limits the images in memory, and what is
    more is read from the disk. Raises a `SecateurError` with a pointer to the field that does not
    fit.
    """
    spec = read_single_spec(document)
    _check_outputs(spec)
    dataset = describe_dataset(spec.dataset.builtin, dataset)
    segmentation = dataset["task"] == "segmentation"
    if model is None:
        model = _describe_untrained(spec, backbone)
    preprocessing = choose_job_preprocessing(spec, model, dataset)
    shape = preprocessing.shape
    architecture = resolve(
        model["architecture"], model["kwargs"], shape=shape, classes=len(dataset["classes"])
    )
    check_fits(architecture, shape, dataset["classes"], dataset["task"])
    _check_shifted_sets(spec, dataset, shifted, preprocessing)
    outline = build_outline(architecture).eval()
    if backbone is not None:
        source = resolve(backbone["architecture"], backbone["kwargs"])
        take_backbone(architecture, outline.state_dict(), build_outline(source).state_dict())
    recipe, left_out = leave_out_unfit(spec.recipe())
    if isinstance(spec, EvaluateSpec):
        check_pruned_networks(
            spec,
            pruned,
            model,
            preprocessing=preprocessing,
            classes=model.get("classes") or dataset["classes"],
            task=dataset["task"],
        )
    file_info = {
        "architecture": model["architecture"],
        "kwargs": read_parameters(architecture),
        "classes": dataset["classes"],
        "preprocessing": preprocessing.document().model_dump(mode="json"),
    }
    gauge = Gauge.of(recipe, outline, shape, file_info)
    if gauge is not None:
        recipe = gauge.settle(recipe)
    for name in (model["architecture"], *(described["architecture"] for described in pruned)):
        _check_folder(spec, recipe, name)
    images = count_split_images(recipe, dataset["counts"])
    budget = MemoryBudget(most_data_bytes)
    notes: list[str] = []
    if spec.dataset.builtin is None:
        placement = budget.place_dataset(dataset, images, preprocessing)
        notes += budget.describe("the dataset", placement)
    for shifted_set, known in zip(spec.dataset.shifted, shifted, strict=True):
        placement = budget.place_shifted(known, shape, preprocessing.resizing)
        notes += budget.describe(f"the shifted set {shifted_set.name!r}", placement)
    parameters = json.dumps(read_parameters(architecture), sort_keys=True)
    forward_flops, activations = dense_costs(model["architecture"], parameters, shape)
    _check_evaluations(spec, segmentation=segmentation)
    shifted_counts = _count_shifted_sets(spec, shifted)
    _check_distributions(recipe, list(shifted_counts))
    weights = find_prunable(outline, recipe.exclude, recipe.include)
    job_size = JobSize(
        recipe=recipe,
        images=images,
        shape=shape,
        macs=max(1, forward_flops // 2),
        shifted=shifted_counts,
        segmentation=segmentation,
        classes=len(dataset["classes"]),
        layers=len(weights),
    )
    prunable = [tuple(weight.shape) for weight in weights.values()]
    kept_zeros = _list_kept_zeros(recipe, model, weights)
    zeros = sum(kept_zeros.values())
    check_overrides(recipe, weights, kept_zeros)
    costs = estimate_costs(
        recipe,
        dataset["counts"],
        parameters=_count_all_parameters(outline),
        prunable=prunable,
        forward_flops=forward_flops,
        activations=activations,
        classes=len(dataset["classes"]),
        evaluations=estimate_evaluation_units(job_size),
        zeros=zeros,
        reads_losses=reads_losses(recipe),
        has_batchnorm=has_running_statistics(outline),
    )
    warnings = [
        *left_out,
        *notes,
        *list_warnings(recipe),
        *list_shift_warnings(recipe),
        *_list_model_warnings(spec, preprocessing),
        *_list_numberings(spec, shifted, dataset["classes"]),
        *([FROM_SCRATCH] if starts_from_scratch(spec, architecture) else []),
        *list_reached_targets(recipe, zeros, sum(map(math.prod, prunable))),
    ]
    network = _build_small(architecture, outline)
    reach = None
    if gauge is None and recipe.prunes:
        warnings += rehearse(network, recipe, shape)
    elif gauge is not None:
        rows, left_dense = measure_reach(network, recipe, gauge)
        warnings += left_dense
        reach = {"quantity": gauge.quantity, "dense": gauge.dense, "criteria": rows}
    return costs | {
        "warnings": warnings,
        "reach": reach,
        "preprocessing": preprocessing.document().model_dump(mode="json"),
        "data_bytes": budget.taken,
    }


def _describe_untrained(spec: SingleSpec, backbone: Mapping[str, Any] | None) -> dict[str, Any]:
    """A network that the job trains, which sees images as the backbone did that it starts from."""
    assert isinstance(spec, JobSpec)
    described = {"architecture": spec.model.architecture, "kwargs": spec.model.kwargs}
    if backbone is None:
        return add_published_sizes(described)
    return described | {name: backbone.get(name) for name in ("normalize", "source")}


def _check_outputs(spec: SingleSpec) -> None:
    """Raise `ParameterError` for a job that needs packages which are not installed here."""
    missing = list_missing_packages() if spec.outputs.needs_onnx else ()
    if missing:
        pointer = "/export" if "onnx" in spec.outputs.formats else "/latency/runtimes"
        raise ParameterError(explain_missing(missing), pointer=pointer)


def _check_folder(spec: SingleSpec, recipe: Recipe, architecture: str) -> None:
    """Raise `ParameterError` where a Hugging Face folder is asked for that cannot be written."""
    if "huggingface" not in spec.outputs.formats:
        return
    compacts = recipe.prunes and any(
        PruningMethod.of(recipe, method).compacts for method in recipe.criteria
    )
    reason = explain_no_folder(architecture, compacts=compacts)
    if reason is not None:
        raise ParameterError(f"export: {reason}", pointer="/export")


def starts_from_scratch(spec: SingleSpec, architecture: Architecture) -> bool:
    """Whether the job trains a network from scratch that has a backbone to start from."""
    if isinstance(spec, EvaluateSpec) or find_prefix(architecture) is None:
        return False
    return spec.model.id is None and spec.model.backbone is None


def _list_kept_zeros(
    recipe: Recipe, model: Mapping[str, Any], names: Iterable[str]
) -> dict[str, int]:
    """The zeros of an uploaded network that count as pruned, by layer as its upload found them."""
    if not keeps_zeros(recipe):
        return {}
    zeros: Mapping[str, int] = model.get("zeros") or {}
    return {name: zeros[name] for name in names if name in zeros}


def _list_model_warnings(spec: SingleSpec, preprocessing: ChosenPreprocessing) -> list[str]:
    """Warnings where the preprocessing of an uploaded network is guessed."""
    if spec.model.id is None:
        return []
    guess = describe_guess(preprocessing.source)
    return [text for text in (guess, preprocessing.note) if text is not None]


def _check_evaluations(spec: SingleSpec, *, segmentation: bool) -> None:
    """Raise `ParameterError` for an evaluation that does not fit the task."""
    for index, method in enumerate(spec.recipe().named_evaluations):
        check_task(
            evaluations.get(method.name),
            method.name,
            segmentation=segmentation,
            alternatives=list_pixel_evaluations(),
            pointer=f"/evaluations/{index}",
        )


def _check_distributions(recipe: Recipe, shifted_sets: Sequence[str]) -> None:
    """Raise `ParameterError` for a gate on the prune potential under a distribution that the
    evaluation `prune_potential` of the job does not look at.
    """
    methods = [method for method in recipe.named_evaluations if method.name == POTENTIAL]
    params = methods[0].params if methods else {}
    evaluation = evaluations.create(POTENTIAL, params)
    assert isinstance(evaluation, ShiftParameters)
    accepted = [NOMINAL, *(shift.name for shift in evaluation.list_shifts(shifted_sets))]
    for distribution in recipe.gates.min_prune_potential:
        if distribution not in accepted:
            escaped = distribution.replace("~", "~0").replace("/", "~1")
            raise ParameterError(
                f"the evaluation {POTENTIAL!r} of this job looks at no distribution "
                f"{distribution!r}; there are {', '.join(accepted)}",
                pointer=f"/gates/min_prune_potential/{escaped}",
            )


def _check_shifted_sets(
    spec: SingleSpec,
    dataset: Mapping[str, Any],
    shifted: Sequence[Mapping[str, Any]],
    preprocessing: ChosenPreprocessing,
) -> None:
    """Raise `DataError` for a shifted set with another task, images or classes than the dataset."""
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
            preprocessed_shape(known["shape"], preprocessing.resizing),
            classes=known["classes"],
            counts=known["counts"],
            own_shape=preprocessing.shape,
            own_classes=dataset["classes"],
            pointer=pointer,
        )


def _count_shifted_sets(
    spec: SingleSpec, shifted: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[int, int]]:
    """Validation and test images of each distribution of the shifted sets, by its name."""
    counts: dict[str, tuple[int, int]] = {}
    for shifted_set, known in zip(spec.dataset.shifted, shifted, strict=True):
        counts |= count_shifted(shifted_set.name, known["counts"], known.get("groups") or {})
    return counts


def _list_numberings(
    spec: SingleSpec, shifted: Sequence[Mapping[str, Any]], own_classes: Sequence[str]
) -> list[str]:
    """A warning for each shifted set whose labels count by number."""
    return [
        sentence
        for shifted_set, known in zip(spec.dataset.shifted, shifted, strict=True)
        for sentence in describe_numbering(shifted_set.name, known["classes"], own_classes)
    ]


def _build_small(architecture: Architecture, outline: nn.Module) -> nn.Module:
    """The network with weights where they are few enough to be rehearsed, else the outline."""
    return build_network(architecture) if _count_all_parameters(outline) <= LARGEST else outline


def _count_all_parameters(network: nn.Module) -> int:
    """The number of parameters in training, with those of auxiliary heads."""
    return sum(parameter.numel() for parameter in network.parameters())
