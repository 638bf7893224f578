"""Unstructured pruning: the weights or filters that the criterion scores are removed one by one."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.allocations.global_ import Global
from pruning.granularities import granularities
from pruning.masks import count_kept, count_to_keep, list_layer_shapes
from pruning.sparsifiers.top_k import TopK
from pruning.types import Budget, LooksAtInputs, Masks, Selected, Selection, Sparse


@granularities.register("weight")
@dataclass(frozen=True)
class Weight:
    """Single weights; where a criterion scores filters, whole filters are set to zero.

    The layer keeps its shape.

    >>> import torch
    >>> from pruning.allocations import allocations
    >>> from pruning.sparsifiers import sparsifiers
    >>> layer = torch.nn.Linear(4, 1, bias=False)
    >>> selection = Selection(
    ...     model=layer,
    ...     weights={"weight": layer.weight},
    ...     scores={"weight": torch.tensor([[1.0, 4.0, 2.0, 3.0]])},
    ...     masks={"weight": torch.ones(1, 4, dtype=torch.bool)},
    ...     density=0.5,
    ...     allocation=allocations.create("global"),
    ...     sparsifier=sparsifiers.create("top_k"),
    ...     generator=torch.Generator(),
    ...     shape=lambda: (1, 1, 4),
    ... )
    >>> Weight().select(selection).masks
    {'weight': tensor([[False,  True, False,  True]])}
    """

    def select(self, selection: Selection) -> Selected:
        """Keep N - round((1 - d) N) weights of N, divided by the allocation, spent by the
        sparsifier.

        Masks stay as they are where no more remain: whole filters of the round before may have left
        fewer.
        """
        sizes = {name: weight.numel() for name, weight in selection.weights.items()}
        budget = Budget(
            count_to_keep(sum(sizes.values()), selection.density),
            sizes,
            list_layer_shapes(selection.model),
            selection.weights,
        )
        remaining = count_kept({name: selection.masks[name] for name in sizes})
        if sum(remaining.values()) <= budget.keep:
            return Selected(selection.masks, dict(selection.weights))
        if isinstance(selection.allocation, Global) and isinstance(selection.sparsifier, TopK):
            # One ranking allocates and sparsifies.
            chosen = selection.allocation.select_masks(selection.scores, budget)
            for name, mask in chosen.items():
                chosen[name] = mask & selection.masks[name]
            return Selected(selection.masks | chosen, {})
        keeps = budget.check_keeps(selection.allocation.allocate(selection.scores, budget))
        masks: Masks = {}
        weights = {}
        laws = {}
        for name in selection.weights:
            if isinstance(selection.sparsifier, TopK):  # the weights are those of the mask
                chosen_mask = selection.sparsifier.choose(
                    selection.weights[name], selection.scores[name], keeps[name]
                )
                masks[name] = chosen_mask & selection.masks[name]
                continue
            sparse = _sparsify_layer(selection, name, keeps[name])
            masks[name] = sparse.mask & selection.masks[name]
            weights[name] = sparse.weight
            if sparse.law is not None:
                laws[name] = sparse.law
        return Selected(selection.masks | masks, weights, laws=laws)


def _sparsify_layer(selection: Selection, name: str, keep: int) -> Sparse:
    """Sparsify one layer; a sparsifier that looks at inputs sees them where they are known."""
    sparsifier = selection.sparsifier
    weight = selection.weights[name]
    score = selection.scores[name]
    if selection.view is not None and isinstance(sparsifier, LooksAtInputs):
        return sparsifier.sparsify_seeing(
            weight, score, keep, selection.generator, selection.view(name)
        )
    return sparsifier.sparsify(weight, score, keep, selection.generator)
