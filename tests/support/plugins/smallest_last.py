"""A criterion that keeps the smallest weights."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.criteria import criteria
from pruning.evidence import Evidence
from pruning.types import Scores


@criteria.register("smallest_last")
@dataclass(frozen=True)
class SmallestLast:
    """Score -|w|: the largest weights go first."""

    def score(self, evidence: Evidence) -> Scores:
        """s = -|w|, shape of the weight."""
        return {name: -weight.detach().abs() for name, weight in evidence.weights.items()}
