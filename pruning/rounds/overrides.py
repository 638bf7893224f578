"""Sparsities of single layers, which a job sets whatever the allocation would give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from pruning.allocations.global_ import Global
from pruning.errors import BudgetError, ParameterError
from pruning.masks import build_unmatched_error, count_kept, count_to_keep
from pruning.schemas.layer_patterns import matches, name_pointer
from pruning.schemas.recipe import Recipe
from pruning.types import DrawLaw, Granularity, Masks, Override, Selected, Selection

SAME = 1e-9
"""The largest difference between two densities that are meant to be the same."""


def resolve_overrides(patterns: Mapping[str, float], names: Iterable[str]) -> dict[str, str]:
    """Find the pattern that means each of the prunable weights, by name of the weight.

    Raises `ParameterError` for a pattern that means none of them, and for two that mean one.

    >>> resolve_overrides({"a*": 0.5}, ["a1.weight", "b.weight"])
    {'a1.weight': 'a*'}
    """
    names = list(names)
    pattern_of: dict[str, str] = {}
    for pattern in patterns:
        pointer = name_pointer("overrides", pattern)
        meant = [name for name in names if matches(pattern, name)]
        if not meant:
            raise build_unmatched_error(pointer, pattern, dict.fromkeys(names, ""))
        for name in meant:
            if name in pattern_of:
                raise ParameterError(
                    f"overrides: {name} is meant by {pattern_of[name]!r} and by {pattern!r}; only "
                    "one pattern may set the sparsity of a layer",
                    pointer=pointer,
                )
            pattern_of[name] = pattern
    return pattern_of


def check_overrides(
    recipe: Recipe, weights: Mapping[str, Tensor], zeros: Mapping[str, int]
) -> None:
    """Check the overrides of a job by the sizes of its prunable weights, and their zeros that count
    as pruned.

    Raises `ParameterError` for patterns as `resolve_overrides` does, `BudgetError` for a layer that
    comes sparser than it should become, and where a target is no sparser than the network.
    """
    patterns = resolve_overrides(recipe.overrides, weights)
    for name, pattern in patterns.items():
        size = weights[name].numel()
        override = Override(recipe.overrides[pattern], 1.0, name_pointer("overrides", pattern))
        last = override.count(size, size)
        if zeros.get(name, 0) > size - last:
            raise BudgetError(
                f"overrides: {name} comes with {zeros[name]} of {size} weights at zero, "
                f"which count as pruned; sparsity {override.sparsity:g} is less (model.keep_zeros "
                "set to false trains and prunes them like other weights)",
                pointer=override.pointer,
            )
    total = sum(weight.numel() for weight in weights.values())
    given = sum(zeros.values())
    for sparsity in (recipe.targets.sparsity or ()) if patterns and given else ():
        if count_to_keep(total, 1.0 - sparsity) >= total - given:
            raise BudgetError(
                f"overrides: nothing is removed for the target {sparsity:g}, for the network comes "
                f"with {given} of {total} prunable weights at zero; set a sparser target, or "
                "model.keep_zeros to false",
                pointer="/targets/sparsity",
            )


@dataclass(frozen=True)
class LayerOverrides:
    """The sparsities of layers by pattern, and the targets at which the layers have them."""

    patterns: Mapping[str, float] = field(default_factory=dict)
    targets: Sequence[float] = ()
    """The sparsities of the network, ascending."""

    def select(self, selection: Selection, granularity: Granularity) -> Selected:
        """Select masks with which each of these layers has its own sparsity, and the network that
        of the selection.

        Before a target they lead there in proportion to the weights that are removed of the whole
        network: of a layer that has k weights now and K at the target, with n, m and M of the
        network now, after this selection and at the target, k - floor((k - K) (n - m) / (n - M))
        remain. The allocation divides what is left of the budget over the other layers. Raises
        `BudgetError` where these cannot take it up, with the sparsities that can be reached.
        """
        if not self.patterns:
            return granularity.select(selection)
        overrides = self._list_overrides(selection)
        if getattr(granularity, "overrides", False):
            return granularity.select(replace(selection, overrides=overrides))
        parts: list[Selected] = []
        sizes = {name: weight.numel() for name, weight in selection.weights.items()}
        alive = count_kept({name: selection.masks[name] for name in sizes})
        counts = {
            name: override.count(sizes[name], alive[name]) for name, override in overrides.items()
        }
        others = [name for name in sizes if name not in overrides]
        keep = count_to_keep(sum(sizes.values()), selection.density)
        most = sum(alive[name] for name in others)
        _check_reach(
            self._find_target(selection),
            sum(sizes.values()),
            most,
            own=[
                replace(override, progress=1.0).count(sizes[name], alive[name])
                for name, override in overrides.items()
            ],
        )
        for name, count in counts.items():
            if count < alive[name]:
                parts.append(_select_layer(selection, granularity, name, count, overrides[name]))
        realised = counts | {
            name: int(mask.count_nonzero())
            for part in parts
            for name, mask in part.masks.items()
            if name in counts
        }
        left = keep - sum(realised.values())
        if others and left < most:
            density = left / sum(sizes[name] for name in others)
            parts.append(granularity.select(restrict(selection, others, density)))
        masks: Masks = dict(selection.masks)
        weights: dict[str, Tensor] = {}
        left_dense: dict[str, str] = {}
        laws: dict[str, DrawLaw] = {}
        for part in parts:
            masks |= part.masks
            weights |= part.weights
            left_dense |= part.left_dense
            laws |= part.laws
        return Selected(masks, weights, left_dense, laws)

    def _list_overrides(self, selection: Selection) -> dict[str, Override]:
        """The overrides of a selection, by weight name."""
        patterns = resolve_overrides(self.patterns, selection.weights)
        total = sum(weight.numel() for weight in selection.weights.values())
        now = sum(count_kept({name: selection.masks[name] for name in selection.weights}).values())
        after = count_to_keep(total, selection.density)
        last = count_to_keep(total, self._find_target(selection))
        progress = 1.0 if after <= last or now <= last else max(0, now - after) / (now - last)
        return {
            name: Override(self.patterns[pattern], progress, name_pointer("overrides", pattern))
            for name, pattern in patterns.items()
        }

    def _find_target(self, selection: Selection) -> float:
        """The density of the next target on the way of a selection; past all of them its own."""
        density = selection.density
        ends = [1.0 - sparsity for sparsity in self.targets if 1.0 - sparsity <= density + SAME]
        return max(ends, default=density)


def restrict(selection: Selection, names: Sequence[str], density: float) -> Selection:
    """The selection of some of its layers alone, at a density of their own."""
    return replace(
        selection,
        weights={name: selection.weights[name] for name in names},
        scores={name: selection.scores[name] for name in names},
        masks={name: selection.masks[name] for name in names},
        density=density,
    )


def _select_layer(
    selection: Selection, granularity: Granularity, name: str, count: int, override: Override
) -> Selected:
    """Select the mask of one layer, of which so many weights remain."""
    part = restrict(selection, [name], count / selection.weights[name].numel())
    try:
        return granularity.select(replace(part, allocation=Global()))
    except BudgetError as error:
        raise BudgetError(
            f"overrides: sparsity {override.sparsity:g} of {name}: {error.message}",
            pointer=override.pointer,
        ) from None


def _check_reach(density: float, total: int, most: int, own: Sequence[int]) -> None:
    """Raise `BudgetError` where a target cannot be reached with `own` weights of the layers with
    overrides and from one to `most` of the others.
    """
    least = min(1, most)
    fixed = sum(own)
    if least <= count_to_keep(total, density) - fixed <= most:
        return
    densest, sparsest = 1.0 - (fixed + most) / total, 1.0 - (fixed + least) / total
    reachable = f"a sparsity from {densest:.6g} to {sparsest:.6g} can be reached"
    if not most:
        reachable = f"they leave no other layer, and the sparsity is {densest:.6g}"
    raise BudgetError(
        f"sparsity {1.0 - density:.6g} cannot be reached with the overrides, which keep {fixed} of "
        f"{total} weights: {reachable}",
        pointer="/targets/sparsity",
    )
