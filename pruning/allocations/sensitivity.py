"""Allocation by measured sensitivity: the layers lose what costs the loss least, each as measured
when it is pruned alone.

Source: a knapsack of multiple choices whose lower convex envelopes are filled by slope, which is
optimal on them: Sinha and Zoltners, The multiple-choice knapsack problem, Operations Research 27
(1979); Shoham and Gersho, Efficient bit allocation for an arbitrary set of quantizers, IEEE
Transactions on Acoustics, Speech and Signal Processing 36 (1988).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from pruning.allocations import allocations
from pruning.allocations._shares import LayerCapacities, share_proportionally
from pruning.allocations.global_ import Global
from pruning.types import Allocation, Budget, Keeps, LossCurve, Scores

LARGEST_CHANGE = 1e6
"""The change of a loss, in nats, beyond which changes are not told from each other."""
Point = tuple[float, float]
"""A number of weights that a layer keeps, and the change of the loss with it."""


@allocations.register("sensitivity")
@dataclass(frozen=True)
class Sensitivity:
    """Each layer loses what costs the loss least, by curves measured with one layer pruned alone.

    minimise sum_l Delta L_l(keep_l) subject to sum_l keep_l = budget, Delta L_l the lower convex
    envelope of the changes measured at `levels`, linear between them. A pruning measures the curves
    on calibration images, in `steps` from the network to the target, with nothing retrained;
    BatchNorm normalises by batches where the job estimates its statistics again. Where nothing is
    measured, as in a rehearsal without images, the scores stand for the loss, and the best of the
    whole network remain. What is least is the loss, not the error: with BatchNorm kept as it is, a
    network pruned very far in one go may lose least by answering alike to every image.

    >>> import torch
    >>> scores = {"a": torch.rand(10), "b": torch.rand(10)}
    >>> curves = {"a": LossCurve((0.5, 0.0), (0.1, 2.0)), "b": LossCurve((0.5, 0.0), (1.0, 3.0))}
    >>> allocation = Sensitivity().use_curves(curves)
    >>> allocation.allocate(scores, Budget(keep=13, sizes={"a": 10, "b": 10}))
    {'a': 5, 'b': 8}
    """

    levels: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...],
        Field(
            min_length=1,
            max_length=20,
            description="fractions of what is alive of a layer that are removed alone",
        ),
    ] = (0.3, 0.5, 0.7, 0.9)
    images: Annotated[int, Field(ge=1, description="calibration images that are measured")] = 250
    steps: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="stages of one pruning: curves are measured, and weights scored, again at "
            "each, for what layers lose together is more than the sum of what each loses alone",
        ),
    ] = 4

    def use_curves(self, curves: Mapping[str, LossCurve]) -> Allocation:
        """Return the allocation that divides by these curves, by name of the layer or group."""
        return MeasuredSensitivity(dict(curves))

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """Allocate to each layer the number of its weights among the best of the network."""
        return Global().allocate(scores, budget)


@dataclass(frozen=True)
class MeasuredSensitivity:
    """The allocation by curves that are known."""

    curves: Mapping[str, LossCurve]

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        """Allocate what minimises the sum of the curves' envelopes, rounded by largest remainder.

        A layer without a curve, because nothing can be removed of it alone, keeps what it has
        as long as the budget allows.
        """
        capacities = LayerCapacities.from_scores(scores, budget)
        envelopes = {
            name: find_envelope(curve, capacities.alive[name])
            for name in scores
            if (curve := self._find_curve(name)) is not None
        }
        without = {name: capacities.alive[name] for name in scores if name not in envelopes}
        fixed = share_proportionally(without, without, min(budget.keep, sum(without.values())))
        left = budget.keep - sum(fixed.values())
        shares = fixed | fill_by_slope(envelopes, left)
        return capacities.round_shares({name: shares[name] for name in scores}, budget.keep)

    def _find_curve(self, name: str) -> LossCurve | None:
        """The curve of a layer, which a granularity names by its weight or by itself."""
        return self.curves.get(name) or self.curves.get(f"{name}.weight")


def find_envelope(curve: LossCurve, alive: int) -> list[Point]:
    """Find the lower convex envelope of a curve over 0 ... `alive` kept weights, from the least
    kept to all, where the change is 0.

    Below the least that was measured it goes on with the slope between the two points before, or
    level where that falls.

    >>> find_envelope(LossCurve((0.5, 0.25), (3.0, 4.0)), 8)
    [(0.0, 5.0), (8.0, 0.0)]
    """
    points = [(float(alive), 0.0)]
    for kept, change in sorted(zip(curve.kept, curve.changes, strict=True), reverse=True):
        limited = LARGEST_CHANGE if math.isnan(change) else min(LARGEST_CHANGE, change)
        points.append((kept * alive, limited))
    (before, change_before), (last, change) = points[-2:] if len(points) > 1 else points * 2
    if last > 0:
        rise = (change - change_before) / (before - last) if before > last else 0.0
        points.append((0.0, change + max(0.0, rise) * last))
    envelope: list[Point] = []
    for point in reversed(points):
        while len(envelope) > 1 and _lies_above(envelope[-2], envelope[-1], point):
            envelope.pop()
        if not envelope or point[0] > envelope[-1][0]:
            envelope.append(point)
    return envelope


def fill_by_slope(envelopes: Mapping[str, Sequence[Point]], keep: float) -> dict[str, float]:
    """Divide `keep` so that the sum of convex curves is least: the steepest pieces come first.

    >>> fill_by_slope({"a": [(0.0, 4.0), (2.0, 0.0)], "b": [(0.0, 1.0), (4.0, 0.0)]}, 3.0)
    {'a': 2.0, 'b': 1.0}
    """
    pieces = [
        ((after[1] - before[1]) / (after[0] - before[0]), name, after[0] - before[0])
        for name, points in envelopes.items()
        for before, after in pairwise(points)
    ]
    shares = dict.fromkeys(envelopes, 0.0)
    # Within a layer the slopes ascend, so that its pieces are filled from the left; the sort is
    # stable, and of equal slopes the layer that comes first in the network is filled first.
    for _, name, length in sorted(pieces, key=lambda piece: piece[0]):
        part = min(length, keep)
        shares[name] += part
        keep -= part
    return shares


def _lies_above(first: Point, middle: Point, last: Point) -> bool:
    """Whether the middle point lies on or above the line through its neighbours."""
    rise = (last[1] - first[1]) * (middle[0] - first[0])
    return (middle[1] - first[1]) * (last[0] - first[0]) >= rise
