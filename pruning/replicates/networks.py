"""Networks of replicates pooled into one row of the report: means, with intervals for other seeds
and other images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pruning.measurement.replicated import (
    estimate_with_interval,
    measure_error,
    measure_increase,
    pool_estimates,
)
from pruning.replicates.finished import Finished, stack_errors
from pruning.schemas.estimates import Estimate
from pruning.schemas.report import (
    Checkpoint,
    ControlNetwork,
    Evaluated,
    Increase,
    Latency,
    Layer,
    Network,
    Round,
)
from pruning.schemas.targets import RequestedBudget
from pruning.schemas.verdicts import CrossedVariance

GIVEN = "given"
"""The name of the network as given in the files of the replicates."""


def pool_given(finished: Sequence[Finished]) -> Network:
    """The network as given: one and the same, or trained by each replicate."""
    names = [GIVEN] * len(finished)
    networks = [replicate.report.baseline for replicate in finished]
    return Network(**_pool_fields(finished, names, networks))


def pool_controls(finished: Sequence[Finished]) -> tuple[ControlNetwork, ...]:
    """The dense controls that every replicate has, those with fewer retrainings first."""
    controls = []
    for first in finished[0].report.controls:
        own = [_find_control(replicate, first.name) for replicate in finished]
        networks = [control for control in own if control is not None]
        if len(networks) == len(finished):
            names = [first.name] * len(finished)
            fields = _pool_fields(finished, names, networks)
            controls.append(
                ControlNetwork(
                    **fields,
                    name=first.name,
                    costs_of=first.costs_of,
                    retrainings=first.retrainings,
                )
            )
    return tuple(controls)


def pool_checkpoint(id: str, finished: Sequence[Finished]) -> Checkpoint:
    """A checkpoint of several replicates: its errors, and its increases over the control of each
    replicate and over the network as given.
    """
    own = [replicate.checkpoints[id] for replicate in finished]
    first = own[0]
    names = [id] * len(finished)
    controls = [checkpoint.control for checkpoint in own]
    over_given, given_variance = pool_increase(finished, names, [GIVEN] * len(finished))
    over_control, control_variance = pool_increase(finished, names, controls)
    over_control_on_val, val_variance = pool_increase(finished, names, controls, validation=True)
    retrained = [checkpoint.retrained for checkpoint in own if checkpoint.retrained is not None]
    fields = _pool_fields(finished, names, own)
    return Checkpoint(
        **fields,
        id=id,
        label=first.label,
        criterion=first.criterion,
        round=first.round,
        requested_sparsity=first.requested_sparsity,
        requested=_pool_budget(own),
        pruned=_pool_evaluated([checkpoint.pruned for checkpoint in own]),
        retrained=_pool_evaluated(retrained) if len(retrained) == len(own) else None,
        control=first.control,
        error_increase=Increase(
            given=over_given,
            control=over_control,
            given_variance=given_variance,
            control_variance=control_variance,
        ),
        val_error_increase=over_control_on_val,
        guesses=any(checkpoint.guesses for checkpoint in own),
        val_variance=val_variance,
        layers=tuple(
            _average_layer(rows) for rows in zip(*(item.layers for item in own), strict=True)
        ),
        warnings=_list_warnings(finished, own),
    )


def _pool_budget(own: Sequence[Checkpoint]) -> RequestedBudget | None:
    """The budget of a checkpoint of several replicates, with the most that any of them has."""
    # Limits on the error are refused with replicates.
    budgets = [
        checkpoint.requested
        for checkpoint in own
        if isinstance(checkpoint.requested, RequestedBudget)
    ]
    return max(budgets, key=lambda budget: budget.reached, default=None)


def pool_increase(
    finished: Sequence[Finished],
    names: Sequence[str],
    references: Sequence[str],
    *,
    validation: bool = False,
) -> tuple[Estimate, CrossedVariance]:
    """The mean increase of the error of networks over that of references on the same images, with
    its 95 % interval and its variance.
    """
    first = stack_errors(finished, names, validation=validation)
    second = stack_errors(finished, references, validation=validation)
    value, variance = measure_increase(first, second)
    return estimate_with_interval(value, variance, "points", -1.0, 1.0), variance


def pool_round(rounds: Sequence[Round]) -> Round:
    """A round of several replicates."""
    first = rounds[0]
    retrained = [row.retrained for row in rounds if row.retrained is not None]
    return Round(
        criterion=first.criterion,
        round=first.round,
        sparsity=_average(row.sparsity for row in rounds),
        density=_average(row.density for row in rounds),
        target=first.target,
        pruned=_pool_evaluated([row.pruned for row in rounds]),
        retrained=_pool_evaluated(retrained) if len(retrained) == len(rounds) else None,
    )


def _find_control(replicate: Finished, name: str) -> ControlNetwork | None:
    controls = replicate.report.controls
    return next((control for control in controls if control.name == name), None)


def _pool_fields(
    finished: Sequence[Finished], names: Sequence[str], networks: Sequence[Network]
) -> dict[str, Any]:
    """The fields of `Network`: errors and sparsities are means, costs the largest of any."""
    return {
        "error": measure_error(stack_errors(finished, names)),
        "val_error": measure_error(stack_errors(finished, names, validation=True)),
        "loss": pool_estimates([network.loss for network in networks])[0],
        "non_finite_outputs": max(network.non_finite_outputs for network in networks),
        "sparsity": _average(network.sparsity for network in networks),
        "density": _average(network.density for network in networks),
        "prune_ratio": _average(network.prune_ratio for network in networks),
        "parameters": max(network.parameters for network in networks),
        "flops": max(network.flops for network in networks),
        "size_bytes": _find_largest_sizes(networks),
        "latency_ms": _find_slowest(networks),
        "retrain_epochs": max(network.retrain_epochs for network in networks),
    }


def _pool_evaluated(networks: Sequence[Evaluated]) -> Evaluated:
    """The measurements of networks of which nothing is known by image."""
    return Evaluated(
        error=_clip(pool_estimates([network.error for network in networks])[0]),
        loss=pool_estimates([network.loss for network in networks])[0],
        val_error=_clip(pool_estimates([network.val_error for network in networks])[0]),
        non_finite_outputs=max(network.non_finite_outputs for network in networks),
    )


def _clip(error: Estimate) -> Estimate:
    """An error whose interval lies within 0 and 1."""
    low = 0.0 if error.low is None else max(0.0, error.low)
    high = 1.0 if error.high is None else min(1.0, error.high)
    return error.model_copy(update={"low": low, "high": high})


def _find_largest_sizes(networks: Sequence[Network]) -> dict[str, int]:
    shared = set.intersection(*(set(network.size_bytes) for network in networks))
    names = [name for name in networks[0].size_bytes if name in shared]
    return {name: max(network.size_bytes[name] for network in networks) for name in names}


def _find_slowest(networks: Sequence[Network]) -> tuple[Latency, ...]:
    """The slowest measurement of each runtime, number of threads and batch size, by its ratio to
    the network as given where there is one.
    """
    by_setting: dict[tuple[str, int, int], list[Latency]] = {}
    for network in networks:
        for item in network.latency_ms:
            setting = (item.runtime, item.threads, item.batch)
            by_setting.setdefault(setting, []).append(item)
    return tuple(max(items, key=_rank_latency) for items in by_setting.values())


def _rank_latency(item: Latency) -> tuple[float, float]:
    return item.against_given or 0.0, item.p50


def _average(values: Iterable[float]) -> float:
    numbers = list(values)
    return float(sum(numbers) / len(numbers))


def _average_layer(rows: Sequence[Layer]) -> Layer:
    """A layer with the mean of the weights that remain."""
    kept = round(_average(row.kept for row in rows))
    return rows[0].model_copy(update={"kept": kept})


def _list_warnings(
    finished: Sequence[Finished], checkpoints: Sequence[Checkpoint]
) -> tuple[str, ...]:
    """The warnings of the networks, each with its seed."""
    return tuple(
        f"seed {replicate.seed}: {warning}"
        for replicate, checkpoint in zip(finished, checkpoints, strict=True)
        for warning in checkpoint.warnings
    )
