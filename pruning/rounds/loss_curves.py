"""The change of the loss of each layer, or group of channels, pruned alone: measured for an
allocation that divides the budget by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pruning.errors import EvidenceError, ParameterError
from pruning.evidence.calibration import take_first
from pruning.evidence.criterion import Criterion
from pruning.evidence.evidence import Evidence
from pruning.graphs.prefixes import Prefixes
from pruning.rounds.single_units import PrunedUnit, SingleUnits, measure_changes
from pruning.types import DividesByLosses, Granularity, LossCurve, Selection


def measure_allocation(
    selection: Selection,
    granularity: Granularity,
    criterion: Criterion,
    evidence: Evidence,
    *,
    batch_statistics: bool = False,
    advance: Callable[[int], None] = lambda images: None,
) -> Selection:
    """Return the selection with an allocation that knows its curves, where it divides by them.

    They are of the first calibration images; with `batch_statistics` every BatchNorm normalises by
    batches of them. Raises `EvidenceError` without images,
    `ParameterError` where a sampler draws channels.
    """
    allocation = selection.allocation
    if not isinstance(allocation, DividesByLosses):
        return selection
    single = SingleUnits(
        selection=selection, granularity=granularity, criterion=criterion, evidence=evidence
    )
    if single.draws_channels:
        raise ParameterError(
            "an allocation by measured losses needs channels that are chosen, and this sparsifier "
            "draws them: take top_k, or another allocation",
            pointer="/allocation",
        )
    changes: list[PrunedUnit] = []
    for unit in single.units:
        # The last level leaves a single weight or channel, or as little as goes together.
        levels = sorted({*allocation.levels, 1.0 - 1.0 / max(1, unit.alive)})
        for level in levels:
            pruned = single.prune(unit, 1.0 - unit.alive * (1.0 - level) / unit.size)
            if isinstance(pruned, PrunedUnit) and pruned.kept < unit.alive:
                changes.append(pruned)
    try:
        batches = take_first(evidence.batches, allocation.images)
    except EvidenceError:
        raise EvidenceError(
            "an allocation by measured losses needs data: pass batches of (inputs, labels)"
        ) from None
    several = [batch for batch in batches if len(batch[1]) > 1]
    # A single image may have no variance to normalise by.
    by_batch = batch_statistics and bool(several)
    batches = several if by_batch else batches
    prefixes = Prefixes(selection.model, batch_statistics=by_batch)
    losses = measure_changes(prefixes, batches, changes, advance)
    means = (losses.changed_losses.double() - losses.losses.double()).mean(1).tolist()
    curves: dict[str, dict[float, float]] = {}
    for pruned, change in zip(changes, means, strict=True):
        curves.setdefault(pruned.unit.name, {})[pruned.kept / pruned.unit.alive] = change
    known = {
        name: LossCurve(tuple(points), tuple(points.values())) for name, points in curves.items()
    }
    return replace(selection, allocation=allocation.use_curves(known))


def count_curve_units(allocation: object, layers: int, images: int) -> int:
    """Count the work of measuring the curves of so many layers, in forward passes; `images` is the
    number of training images.
    """
    if not isinstance(allocation, DividesByLosses):
        return 0
    measured = min(allocation.images, images)
    # What lies before a layer is computed once: half of the network for each on average.
    return measured + layers * (len(set(allocation.levels)) + 1) * measured // 2
