"""Unstructured pruning: what the criterion scores is removed one by one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pruning.allocations.global_ import Global
from pruning.granularities import granularities
from pruning.masks import count_kept, count_to_keep, list_layer_shapes
from pruning.sparsifiers.top_k import TopK
from pruning.types import Budget, LooksAtInputs, Masks, Selected, Selection, Sparse


@granularities.register("weight")
@dataclass(frozen=True)
class Weight:
    """Single weights; where a criterion scores filters, whole filters are set to zero and the layer
    keeps its shape.

    >>> import torch
    >>> from pruning.allocations import allocations
    >>> from pruning.sparsifiers import sparsifiers
    >>> layer = torch.nn.Linear(4, 1, bias=False)
    >>> selection = Selection(
    ...     layer,
    ...     {"weight": layer.weight},
    ...     {"weight": torch.tensor([[1.0, 4.0, 2.0, 3.0]])},
    ...     {"weight": torch.ones(1, 4, dtype=torch.bool)},
    ...     0.5,
    ...     allocations.create("global"),
    ...     sparsifiers.create("top_k"),
    ...     torch.Generator(),
    ...     lambda: (1, 1, 4),
    ... )
    >>> Weight().select(selection).masks
    {'weight': tensor([[False,  True, False,  True]])}
    """

    def select(self, selection: Selection) -> Selected:
        """keep = N - round((1 - d) N) weights of N, divided by the allocation, spent by the
        sparsifier.

        Masks stay as they are where no more remain: whole filters of the round before may have left
        fewer.
        """
        sizes = {name: weight.numel() for name, weight in selection.weights.items()}
        budget = Budget(
            count_to_keep(sum(sizes.values()), selection.density),
            sizes,
            list_layer_shapes(selection.model),
            {name: weight.sign() for name, weight in selection.weights.items()},
        )
        if sum(count_kept({name: selection.masks[name] for name in sizes}).values()) <= budget.keep:
            return Selected(selection.masks, dict(selection.weights))
        if isinstance(selection.allocation, Global) and isinstance(
            selection.sparsifier, TopK
        ):  # one ranking does both
            chosen = selection.allocation.masks(selection.scores, budget)
            return Selected(
                selection.masks
                | {name: mask & selection.masks[name] for name, mask in chosen.items()},
                {},
            )
        keeps = budget.spent(selection.allocation.allocate(selection.scores, budget))
        masks: Masks = {}
        weights, laws = {}, {}
        for name, weight in selection.weights.items():
            sparse = _sparsified(selection, name, weight, keeps[name])
            masks[name], weights[name] = sparse.mask & selection.masks[name], sparse.weight
            if sparse.law is not None:
                laws[name] = sparse.law
        return Selected(selection.masks | masks, weights, laws=laws)


def _sparsified(selection: Selection, name: str, weight: Tensor, keep: int) -> Sparse:
    """One layer, seen where the sparsifier looks and there is something to see."""
    given, sparsifier = (
        (weight, selection.scores[name], keep, selection.generator),
        selection.sparsifier,
    )
    if selection.view is not None and isinstance(sparsifier, LooksAtInputs):
        return sparsifier.sparsify_seeing(*given, selection.view(name))
    return sparsifier.sparsify(*given)
