"""Named jobs, completed with the hyper-parameters of a paper's experiment; imports no torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from pruning.schemas.gates import EVALUATION_OF_GATE
from pruning.schemas.preset_table import PRESETS as PRESETS
from pruning.schemas.preset_table import Preset

STRUCTURED = ("filter_norm", "pfp")
"""The criteria that the code of Lost in Pruning applies to each layer by itself."""
EVALUATIONS: Mapping[str, Mapping[str, Any]] = {
    "robustness": {"against": "given"},
    "prune_potential": {
        "against": "given",
        "margin": 0.005,
        "noise": [round(0.05 * step, 2) for step in range(1, 15)],
        "noise_unit": "paper",
        "noise_draws": 100,
    },
    "noise_similarity": {
        "levels": [round(0.05 * step, 2) for step in range(15)],
        "noise_unit": "paper",
        "draws": 100,
        "separate": True,
    },
    "informative_features": {"separate": True},
}
"""The parameters of evaluations as Lost in Pruning has them."""
EVALUATIONS_OF_PAPER: Mapping[str, tuple[str, ...]] = {
    "Lost in Pruning": ("accuracy", "robustness", "prune_potential"),
    "Revisiting loss modelling": ("accuracy", "comparison", "loss_model"),
}
"""The evaluations of a job that leaves them open: what the paper asks of each of its networks."""


def expand_preset(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job with a `preset`, completed by the preset where the job leaves something open;
    the job itself is not changed.

    Filled in are `model` (architecture, kwargs and `train`, key by key; only `train`, and only
    where it is given, for an uploaded model; no kwargs for another architecture), `targets`,
    `retrain` (key by key where it has the preset's mode or none, left alone otherwise) and
    `batchnorm`; the last two not with `when: before_training`. Robust runs fill in `shifts`,
    comparisons of criteria `criterion`; `evaluations` are those of the paper and those that the
    job's gates read. With Lost in Pruning, `filter_norm` and `pfp` prune each
    layer by itself where the job names no `granularity`, and evaluations by name
    have the paper's parameters (`EVALUATIONS`). Expanding twice is expanding once. Raises
    `ValueError` for an unknown name or a scale outside (0, 1].

    >>> job = expand_preset(
    ...     {
    ...         "type": "prune",
    ...         "preset": "resnet20",
    ...         "epochs_scale": 0.1,
    ...         "dataset": {"builtin": "digits"},
    ...     }
    ... )
    >>> (
    ...     job["model"]["kwargs"],
    ...     job["model"]["train"]["epochs"],
    ...     job["retrain"],
    ...     job["targets"]["sparsity"][0],
    ... )
    ({'depth': 20, 'shortcut': 'B'}, 18, {'mode': 'lr_rewind'}, 0.150874)
    >>> expand_preset({"preset": "resnet21"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: preset: unknown preset 'resnet21'; known: resnet20, resnet56, resnet110, ...
    """
    name, scale = job.get("preset"), job.get("epochs_scale", 1.0)
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"preset: unknown preset {name!r}; known: {', '.join(PRESETS)}")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 1:
        raise ValueError(f"epochs_scale: {scale!r} is not a number above 0 and at most 1")
    preset = PRESETS[name]
    expanded = {key: _copy_plainly(value) for key, value in job.items()}
    _fill_model(expanded, preset, preset.training(preset.epochs, scale))
    if expanded.get("targets") is None:
        expanded["targets"] = {"sparsity": preset.sparsities}
    if preset.criteria and expanded.get("criterion") is None:
        expanded["criterion"] = _copy_plainly(preset.criteria)
    if preset.corrupt and expanded.get("shifts") is None:
        expanded["shifts"] = {"knowledge": "partly_modelled"}
    if expanded.get("evaluations") is None:
        _fill_evaluations(expanded, EVALUATIONS_OF_PAPER[preset.paper])
    if preset.paper == "Lost in Pruning":
        _fill_methods(expanded)
    if expanded.get("when") != "before_training":
        _fill_retrain(expanded, preset, scale)
        if expanded.get("batchnorm") is None:
            expanded["batchnorm"] = "keep"
    return expanded


def _fill_model(job: dict[str, Any], preset: Preset, train: dict[str, Any]) -> None:
    model = {} if job.get("model") is None else job["model"]
    if not isinstance(model, dict):
        return  # anything but an object is refused where the job is read
    is_uploaded = model.get("id") is not None
    if not is_uploaded and model.get("architecture") in (None, preset.architecture):
        model = {
            **model,
            "architecture": preset.architecture,
            "kwargs": _merge(dict(preset.kwargs), model.get("kwargs")),
        }
    if not is_uploaded or model.get("train") is not None:
        model = {**model, "train": _merge_training(train, model.get("train"))}
    job["model"] = model


def _fill_retrain(job: dict[str, Any], preset: Preset, scale: float) -> None:
    """Fill in learning-rate rewinding; a retraining that repeats only the first part of the
    schedule is fine-tuning with that part as a schedule of its own.
    """
    schedule = preset.training(preset.retrain_epochs or preset.epochs, scale)
    trains = isinstance(job["model"], dict) and job["model"].get("train") is not None
    retrain: dict[str, Any] = {"mode": "lr_rewind"}
    if preset.retrain_epochs is not None:
        retrain = {"mode": "fine_tune", **schedule}
    elif not trains:
        # a job that trains the network rewinds to that schedule, which it must not repeat
        retrain |= schedule
    requested = job.get("retrain")
    if requested is None:
        job["retrain"] = retrain
    elif isinstance(requested, dict) and requested.get("mode") in (None, retrain["mode"]):
        job["retrain"] = _merge_training(retrain, requested)


def _fill_evaluations(job: dict[str, Any], names: Sequence[str]) -> None:
    """Name the evaluations of the paper, and those that the gates of the job read."""
    gates = job.get("gates")
    requested = gates if isinstance(gates, dict) else {}
    read = [
        EVALUATION_OF_GATE[gate]
        for gate in EVALUATION_OF_GATE
        if requested.get(gate) not in (None, {})
    ]
    job["evaluations"] = [{"name": name} for name in dict.fromkeys((*names, *read))]


def _fill_methods(job: dict[str, Any]) -> None:
    """Fill in the parameters of criteria and evaluations as Lost in Pruning has them."""
    if job.get("granularity") is None:
        separate = {name: {"coupling": "layer"} for name in STRUCTURED}
        criterion = job.get("criterion")
        if isinstance(criterion, list):
            job["criterion"] = [_fill_params(method, separate) for method in criterion]
        elif criterion is not None:
            job["criterion"] = _fill_params(criterion, separate)
    if isinstance(job.get("evaluations"), list):
        paper = dict(EVALUATIONS)
        gates = job.get("gates")
        if isinstance(gates, dict) and gates.get("max_delta_excess_error") is not None:
            del paper["robustness"]  # the gate compares with the dense control
        job["evaluations"] = [_fill_params(method, paper) for method in job["evaluations"]]


def _fill_params(method: Any, params: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a method with the parameters of its name under its own."""
    if not isinstance(method, dict) or not isinstance(method.get("name"), str):
        return method  # refused where the job is read
    if method["name"] not in params:
        return method
    filled = _copy_plainly(params[method["name"]])
    return {**method, "params": _merge(filled, method.get("params"))}


def _merge_training(preset: dict[str, Any], requested: Any) -> Any:
    """The training of a preset with what the job says of it; the sizes of scaled crops are left out
    where the job asks for another augmentation.
    """
    merged = _merge(preset, requested)
    if isinstance(requested, dict) and requested.get("augment", "scaled_crop") != "scaled_crop":
        merged = {name: value for name, value in merged.items() if name != "scaled_crop"}
        if "scaled_crop" in requested:
            merged["scaled_crop"] = requested["scaled_crop"]
    return merged


def _merge(filled: dict[str, Any], requested: Any) -> Any:
    """Return the job's own keys on top of those filled in; anything but an object stays as it is,
    to be refused where the job is read.
    """
    if requested is None:
        return filled
    return filled | requested if isinstance(requested, dict) else requested


def _copy_plainly(value: Any) -> Any:
    """Return a copy of a value, a document as the fields that were set."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_copy_plainly(part) for part in value]
    return copy.deepcopy(value)
