"""The smallest network of all that was run whose error is proven to be at most the tolerated one.

The smallest of many that measured at most the tolerated error is the luckiest of them: its true
error is mostly above. Here validation images set the order in which test images prove one network
after the other, so that the chance of one false proof is 5 %, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pruning.family.confirmation import CONFIDENCE, limit_error, p_value_at_most
from pruning.family.measurements import choose_images
from pruning.family.members import Member, Run, compute_sparsity, list_densities
from pruning.schemas.family import FamilySpec
from pruning.schemas.family_report import MeasuredNetwork


@dataclass(frozen=True)
class _Tried:
    """A measured network, its p-value on the test images, and its place in the order."""

    network: MeasuredNetwork
    p_value: float
    order: tuple[float, float] | None
    """The p-value and the error on the validation images; None where there are none."""


def find_smallest_run(
    spec: FamilySpec, runs: Sequence[Run], error: float
) -> MeasuredNetwork | None:
    """Find, in all members and answers, the fewest parameters with an error proven to be at most
    `error`.

    With validation errors of all, only those matter that no smaller network beats there: they are
    tested from the largest on, each at 5 %, up to the first that does not pass. Without, each of m
    is tested at 5 % / m. Answers that a law of test errors chose are left out: the test images had
    a part in their choice.
    """
    if choose_images(runs) == "test":
        runs = [run for run in runs if run.member.role == "member"]
    tried = [row for run in runs for row in _list_tried(spec, run, error)]
    alpha = 1 - CONFIDENCE
    if any(row.order is None for row in tried):
        proven = [row.network for row in tried if row.p_value <= alpha / len(tried)]
        return min(proven, key=_order_by_size, default=None)
    smallest = None
    for row in reversed(_select_unbeaten(tried)):
        if row.p_value > alpha:
            break
        smallest = row.network
    return smallest


def _order_by_size(network: MeasuredNetwork) -> tuple[int, float]:
    return network.parameters, network.error


def _select_unbeaten(tried: Sequence[_Tried]) -> list[_Tried]:
    """The networks that err less on the validation images than every smaller one, by size."""
    unbeaten: list[_Tried] = []
    for row in sorted(tried, key=lambda row: (row.network.parameters, row.order)):
        if not unbeaten or (row.order or ()) < (unbeaten[-1].order or ()):
            unbeaten.append(row)
    return unbeaten


def _list_tried(spec: FamilySpec, run: Run, limit: float) -> list[_Tried]:
    """The networks of one run at all densities that it measured."""
    curve = run.curve
    if curve is None or run.status != "succeeded":
        return []
    rows = []
    for i, (density, measured) in enumerate(zip(curve.densities, curve.errors, strict=True)):
        network = MeasuredNetwork(
            job=run.job,
            depth=run.member.depth,
            width=run.member.width,
            fraction=run.member.fraction,
            seed=run.member.seed,
            density=density,
            sparsity=_find_target(spec, run.member, density),
            error=measured,
            high=limit_error(measured, curve.test_images)[1],
            parameters=round(curve.parameters - (1 - density) * curve.prunable),
        )
        order = None
        if curve.val_errors:
            chosen = curve.val_errors[i]
            order = (p_value_at_most(chosen, curve.val_images, limit), chosen)
        p_value = p_value_at_most(measured, curve.test_images, limit)
        rows.append(_Tried(network, p_value, order))
    return rows


def _find_target(spec: FamilySpec, member: Member, density: float) -> float:
    """The target sparsity of the round that ended within a weight of `density`."""

    def distance(target: float) -> float:
        return abs(math.log(target / density)) if density > 0 else target

    targets = (*list_densities(spec, member.rounds - 1), member.density)
    return compute_sparsity(min(targets, key=distance))
