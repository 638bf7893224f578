"""A pruning method as a recipe describes it: criterion, allocation, sparsifier and granularity
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.allocations import allocations
from pruning.criteria import criteria
from pruning.errors import ParameterError
from pruning.evidence.criterion import (
    CompensatesRemoval,
    Criterion,
    PredictsLossChange,
    ScoresInStages,
)
from pruning.granularities import granularities
from pruning.schemas.recipe import Method, Recipe
from pruning.sparsifiers import sparsifiers
from pruning.types import Allocation, Granularity, Sparsifier

TRUST = 0.5
"""A local loss model is not trusted with a stage that removes more than this fraction of the
weights that remain.
"""


@dataclass(frozen=True)
class PruningMethod:
    """The four choices that make a pruning method, and what it removes together."""

    criterion: Criterion
    allocation: Allocation
    sparsifier: Sparsifier
    granularity: Granularity

    @staticmethod
    def of(recipe: Recipe, method: Method) -> PruningMethod:
        """Those of a recipe for one of its criteria; what it leaves open is the criterion's own."""
        criterion = criteria.create(method.name, method.params)
        chosen = recipe.granularity or Method(name=getattr(criterion, "granularity", "weight"))
        granularity = granularities.create(chosen.name, chosen.params)
        own = getattr(granularity, "allocation", getattr(criterion, "allocation", "global"))
        allocation = recipe.allocation or Method(name=own)
        drawn = getattr(criterion, "sparsifier", "top_k")
        sparsifier = recipe.sparsifier or (
            drawn if isinstance(drawn, Method) else Method(name=drawn)
        )
        return PruningMethod(
            criterion,
            allocations.create(allocation.name, allocation.params),
            sparsifiers.create(sparsifier.name, sparsifier.params),
            granularity,
        )

    @property
    def compacts(self) -> bool:
        """Whether the network becomes smaller: channels are removed as a whole."""
        return getattr(self.granularity, "compacts", False)

    def stages(self, start: float, target: float) -> Sequence[float]:
        """The densities of the stages of one round from density `start` to `target`."""
        if not isinstance(self.criterion, ScoresInStages) or target >= start:
            return [target]
        return self.criterion.stage_densities(start, target)

    def cautions(self, start: float, target: float, retraining: str) -> list[str]:
        """What a user should know of this pruning before it is retrained so."""
        lost = isinstance(self.criterion, CompensatesRemoval) and retraining == "weight_rewind"
        found = [
            self._locality(start, target),
            "rewinding the weights undoes what the criterion changed in those that "
            "remain; only its choice of weights counts"
            if lost
            else None,
        ]
        return [caution for caution in found if caution is not None]

    def _locality(self, start: float, target: float) -> str | None:
        """A local loss model used far from where it was made."""
        if not isinstance(self.criterion, PredictsLossChange):
            return None
        stages = self.stages(start, target)
        removed = max(
            1 - after / before for before, after in zip([start, *stages], stages, strict=False)
        )
        if removed <= TRUST:
            return None
        penalty = ", or a larger lambda," if hasattr(self.criterion, "lambda_") else ""
        return (
            f"a single stage removes more than {TRUST:.0%} of the weights that remain (pi = "
            f"{len(stages)}): a local "
            "model of the loss is not to be trusted that far; exponential stages with pi of "
            "log2(density before / "
            f"density after) or more{penalty} help"
        )


def refuse_repeated(recipe: Recipe) -> None:
    """Raise `ParameterError` where two criteria are the same, defaults written in."""
    found: list[Criterion] = []
    for method in recipe.criteria:
        criterion = criteria.create(method.name, method.params)
        if criterion in found:
            raise ParameterError(
                f"{method.name} is listed twice with the same parameters, defaults included",
                pointer="/criterion",
            )
        found.append(criterion)
