"""The parts of a report that describe a job's network, data, rounds and environment."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning.analysis.job_record import RoundRecord
from pruning.data.tensors import Data
from pruning.masks import count_parameters, explain_dense, find_prunable
from pruning.measurement.guessing import guessing_error
from pruning.measurement.measure import EVAL_BATCH
from pruning.pipeline.exports import Origin
from pruning.rounds.overrides import resolve_overrides
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import (
    BatchNorm,
    DataInfo,
    Environment,
    Layer,
    ModelInfo,
    Round,
)
from pruning.schemas.targets import (
    Requested,
    RequestedBudget,
    RequestedIncrease,
    Targets,
    TargetsOfNetwork,
)
from pruning.types import Masks


def describe_model(model: nn.Module, origin: Origin, data: Data, recipe: Recipe) -> ModelInfo:
    """The dense network: its architecture, its parameters, and how its inputs are normalised."""
    return ModelInfo(
        architecture=origin.architecture,
        kwargs=origin.kwargs,
        sha256=origin.model_sha256,
        parameters=count_parameters(model),
        prunable=sum(
            weight.numel()
            for weight in find_prunable(model, recipe.exclude, recipe.include).values()
        ),
        normalize={"mean": data.mean, "std": data.std},
        preprocessing=data.preprocessing,
    )


def describe_data(data: Data, origin: Origin) -> DataInfo:
    """The dataset: its classes, the shape of its images, and how many each split has."""
    return DataInfo(
        name=origin.dataset_name,
        sha256=origin.dataset_sha256,
        classes=data.classes,
        shape=data.shape,
        fit=len(data.fit),
        val=len(data.val),
        test=len(data.test),
        task="segmentation" if data.segmentation else "classification",
        guessing_error=guessing_error(data.test.labels, len(data.classes)),
    )


def describe_round(record: RoundRecord) -> Round:
    """A round: how sparse its network is, and how wrong before and after retraining."""
    return Round(
        criterion=record.criterion,
        round=record.round,
        sparsity=record.sparsity,
        density=record.density,
        target=record.target is not None,
        pruned=record.pruned.document(),
        retrained=record.retrained.document() if record.retrained is not None else None,
        batchnorm=describe_batchnorm(record),
    )


def describe_budget(
    record: RoundRecord, targets: Targets, costs: Mapping[str, Any], parameters: int
) -> Requested | None:
    """The budget of a target and what its checkpoint has, by its costs as the report has them, or
    the limit on its error and what the search found; None where a sparsity was asked for.
    """
    if record.budget is None or record.target is None:
        return None
    quantity = record.budget.quantity
    if quantity == "max_error_increase":
        assert record.finding is not None
        return RequestedIncrease(
            quantity=quantity,
            value=record.budget.value,
            reached=record.finding.increase,
            removal=record.target,
            next_sparsity=record.finding.next_sparsity,
            tried=record.finding.tried,
        )
    assert isinstance(targets, TargetsOfNetwork)
    assert quantity != "sparsity"
    reached = {
        "flops": costs["flops"],
        "parameters": parameters,
        "size_bytes": costs["size_bytes"]["sparse"],
    }[quantity]
    return RequestedBudget(
        quantity=quantity,
        value=record.budget.value,
        limit=targets.limit(1.0 - record.target),
        reached=reached,
        dense=targets.dense,
    )


def describe_batchnorm(record: RoundRecord) -> BatchNorm | None:
    """The effect of re-estimating BatchNorm in a round; None where it was not re-estimated."""
    estimated = record.batchnorm
    if estimated is None:
        return None
    return BatchNorm(
        loss_before=estimated["before"],
        loss_after=estimated["after"],
        kept=bool(estimated["kept"]),
    )


def describe_layers(model: nn.Module, masks: Masks, recipe: Recipe) -> tuple[Layer, ...]:
    """Every parameter: how many weights remain, or why it was left dense."""
    layers = []
    prunable = find_prunable(model, recipe.exclude, recipe.include)
    asked = resolve_overrides(recipe.overrides, prunable)
    for name, parameter in model.named_parameters():
        pruned = name in masks
        layers.append(
            Layer(
                name=name,
                shape=tuple(parameter.shape),
                total=parameter.numel(),
                kept=int(masks[name].sum()) if pruned else parameter.numel(),
                reason=None
                if pruned
                else explain_dense(model, name, recipe.exclude, recipe.include),
                asked=recipe.overrides[asked[name]] if name in asked else None,
            )
        )
    return tuple(layers)


def describe_environment(
    device: torch.device, batch: int = EVAL_BATCH, precision: str | None = None
) -> Environment:
    """The machine on which the numbers are measured, with batches of `batch` images, and the
    precision of retraining.
    """
    if device.type == "cuda":
        device_name = torch.cuda.get_device_name(device)
    else:
        device_name = platform.processor() or platform.machine()
    return Environment(
        device=device.type,
        device_name=device_name,
        threads=torch.get_num_threads(),
        eval_batch=batch,
        torch=torch.__version__,
        python=platform.python_version(),
        secateur=importlib.metadata.version("secateur"),
        platform=platform.platform(),
        precision=precision,
    )


def measure_zeros(weights: Iterable[Tensor]) -> float:
    """The fraction of the weights that are exactly zero.

    In a network that was trained with an L1 penalty many are, before any pruning.
    """
    counts = [(int((weight == 0).sum()), weight.numel()) for weight in weights]
    return sum(zeros for zeros, _ in counts) / sum(total for _, total in counts)
