"""A pruning method as a recipe describes it: criterion, allocation, sparsifier and granularity
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pruning.allocations import allocations
from pruning.criteria import criteria
from pruning.errors import ParameterError
from pruning.evidence.criterion import (
    Criterion,
    PredictsLossChange,
    ScoresInStages,
    moves_weights,
)
from pruning.granularities import granularities
from pruning.rounds.overrides import LayerOverrides
from pruning.schedules import space_densities
from pruning.schemas.recipe import Method, Recipe
from pruning.sparsifiers import sparsifiers
from pruning.types import Allocation, DividesByLosses, Granularity, Selected, Selection, Sparsifier

TRUST = 0.5
"""The largest fraction of the remaining weights that a stage may remove before a local loss model
is not trusted with it.
"""


@dataclass(frozen=True)
class PruningMethod:
    """The criterion, allocation, sparsifier and granularity of a pruning method."""

    criterion: Criterion
    allocation: Allocation
    sparsifier: Sparsifier
    granularity: Granularity
    overrides: LayerOverrides = field(default_factory=LayerOverrides)
    reestimates: bool = False
    """Whether BatchNorm statistics are estimated again after a pruning, before it is judged."""

    @staticmethod
    def of(recipe: Recipe, method: Method) -> PruningMethod:
        """The four choices of a recipe for one of its criteria; where the recipe leaves one open,
        the granularity's or the criterion's own is taken.
        """
        criterion = criteria.create(method.name, method.params)
        chosen = recipe.granularity or Method(name=getattr(criterion, "granularity", "weight"))
        granularity = granularities.create(chosen.name, chosen.params)
        own_allocation = getattr(criterion, "allocation", "global")
        own_allocation = getattr(granularity, "allocation", own_allocation)
        allocation = recipe.allocation or Method(name=own_allocation)
        own_sparsifier = getattr(criterion, "sparsifier", "top_k")
        if not isinstance(own_sparsifier, Method):
            own_sparsifier = Method(name=own_sparsifier)
        sparsifier = recipe.sparsifier or own_sparsifier
        return PruningMethod(
            criterion=criterion,
            allocation=allocations.create(allocation.name, allocation.params),
            sparsifier=sparsifiers.create(sparsifier.name, sparsifier.params),
            granularity=granularity,
            overrides=LayerOverrides(recipe.overrides, recipe.targets.sparsity or ()),
            reestimates=recipe.batchnorm == "reestimate" and recipe.when == "after_training",
        )

    def select(self, selection: Selection) -> Selected:
        """Select the masks at the density of a selection, the layers with a sparsity of their own
        at that.
        """
        return self.overrides.select(selection, self.granularity)

    @property
    def compacts(self) -> bool:
        """Whether the network becomes smaller, because channels are removed as a whole."""
        return getattr(self.granularity, "compacts", False)

    def stages(self, start: float, target: float) -> Sequence[float]:
        """The densities of the stages of one round from density `start` to `target`: those of the
        criterion, or, where it has a single one, those in which the allocation measures losses.
        """
        if target >= start:
            return [target]
        stages: Sequence[float] = [target]
        if isinstance(self.criterion, ScoresInStages):
            stages = self.criterion.stage_densities(start, target)
        if len(stages) == 1 and isinstance(self.allocation, DividesByLosses):
            stages = space_densities(start, target, self.allocation.steps, "exponential")
        return stages

    def list_cautions(self, start: float, target: float, retraining: str) -> list[str]:
        """The cautions to a user about a round from density `start` to `target` whose retraining
        has the mode `retraining`.
        """
        cautions = []
        if self._oversteps_trust(start, target):
            penalty = ", or a larger lambda," if hasattr(self.criterion, "lambda_") else ""
            cautions.append(
                f"a single stage removes more than {100 * TRUST:.0f} % of the weights that remain "
                f"(pi = {len(self.stages(start, target))}): a local model of the loss is not to be "
                "trusted that far; exponential stages with pi of log2(density before / density "
                f"after) or more{penalty} help"
            )
        if moves_weights(self.criterion) and retraining == "weight_rewind":
            cautions.append(
                "rewinding the weights undoes what the criterion changed in those that remain; "
                "only its choice of weights counts"
            )
        return cautions

    def _oversteps_trust(self, start: float, target: float) -> bool:
        """Whether a local loss model is used in a stage too far from where it was made."""
        if not isinstance(self.criterion, PredictsLossChange):
            return False
        stages = self.stages(start, target)
        steps = zip([start, *stages], stages, strict=False)
        return max(1 - after / before for before, after in steps) > TRUST


def refuse_repeated(recipe: Recipe) -> None:
    """Raise `ParameterError` where two criteria are the same, defaults written in."""
    if not recipe.prunes:
        return
    earlier: list[Criterion] = []
    for method in recipe.criteria:
        criterion = criteria.create(method.name, method.params)
        if criterion in earlier:
            raise ParameterError(
                f"{method.name} is listed twice with the same parameters, defaults included",
                pointer="/criterion",
            )
        earlier.append(criterion)
