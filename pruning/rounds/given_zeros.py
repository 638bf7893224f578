"""The zeros that a network comes with: its mask, and the targets that are beyond it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.granularities.weight import Weight
from pruning.masks import build_full_masks, count_to_keep, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.schemas.recipe import Recipe
from pruning.types import Masks

NOTABLE = 0.005
"""From this fraction of zeros on, a user is notified of what becomes of them."""


@dataclass(frozen=True)
class GivenZeros:
    """The exact zeros among the prunable weights of the network that a job was given."""

    masks: Masks
    """False where a weight is zero, by the name of the weight; empty where no weights were
    given.
    """

    @staticmethod
    def find(
        build: Callable[[], nn.Module], state: Mapping[str, Tensor] | None, recipe: Recipe
    ) -> GivenZeros:
        """Find the zeros of a state dict of the network that `build` builds; None has none."""
        if state is None:
            return GivenZeros({})
        with torch.device("meta"):
            names = find_prunable(build(), recipe.exclude, recipe.include)
        return GivenZeros({name: state[name] != 0 for name in names})

    @property
    def count(self) -> int:
        """The number of zeros."""
        return sum(int((~mask).sum()) for mask in self.masks.values())

    @property
    def density(self) -> float:
        """The fraction of the prunable weights that are not zero."""
        total = sum(mask.numel() for mask in self.masks.values())
        return 1.0 - self.count / total if total else 1.0

    def kept_by(self, recipe: Recipe) -> GivenZeros:
        """The zeros that count as pruned in a job: these or none."""
        return self if keeps_zeros(recipe) else GivenZeros({})

    def build_masks(self, weights: Mapping[str, Tensor]) -> Masks:
        """The masks of the weights before the first pruning, on the device of each weight."""
        if not self.masks:
            return build_full_masks(weights)
        return {name: self.masks[name].to(weight.device) for name, weight in weights.items()}

    def describe(self, recipe: Recipe) -> str | None:
        """A sentence on what becomes of the zeros in a job; None where they are few.

        A job that trains the network itself, or prunes nothing, says nothing of them.
        """
        if not recipe.prunes or recipe.train is not None or 1.0 - self.density < NOTABLE:
            return None
        zeros = f"{100 * (1 - self.density):.2f} %"
        start = f"the network comes with {zeros} of its prunable weights at zero: "
        if keeps_zeros(recipe):
            return (
                f"{start}they count as pruned and stay zero through retraining (model.keep_zeros "
                "set to false trains and prunes them like other weights)"
            )
        if not recipe.keep_zeros:
            return f"{start}they are trained and pruned like other weights, as the job says"
        return (
            f"{start}they are trained like other weights and sparsities count only what is removed "
            "as a whole, because zeros are kept only where single weights are pruned"
        )


def keeps_zeros(recipe: Recipe) -> bool:
    """Whether a job keeps the zeros of the network it is given.

    It does not where it prunes nothing, where it trains that network itself, whose zeros may be an
    initialisation, or where a criterion removes more than single weights at a time: what is removed
    together is chosen, cut out and trained as a whole.
    """
    single = (
        isinstance(PruningMethod.of(recipe, criterion).granularity, Weight)
        for criterion in recipe.criteria
    )
    return recipe.prunes and recipe.keep_zeros and recipe.train is None and all(single)


def list_reached_targets(recipe: Recipe, zeros: int, total: int) -> list[str]:
    """A warning for each target that is no sparser than a network that comes with `zeros` among its
    `total` prunable weights, so that nothing is removed for it.
    """
    return [
        f"the network comes with {100 * zeros / total:.2f} % of its prunable weights at zero, "
        f"which count as pruned: for the target {100 * sparsity:.2f} %, which is no sparser, "
        "nothing is removed, and "
        "its checkpoint has the zeros of the network; set model.keep_zeros to false to train and "
        "prune the zeros like other weights"
        for sparsity in recipe.targets.sparsity or ()
        if zeros and count_to_keep(total, 1.0 - sparsity) >= total - zeros
    ]
