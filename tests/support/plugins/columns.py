"""A granularity that removes whole input columns of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from pruning.granularities import granularities
from pruning.types import Masks, Selected, Selection


@granularities.register("columns")
@dataclass(frozen=True)
class Columns:
    """Every layer keeps the same fraction of its input columns, those with the largest sums."""

    def select(self, selection: Selection) -> Selected:
        """The masks with fewer than density K of the K columns of each layer, at least one."""
        masks: Masks = {}
        for name, weight in selection.weights.items():
            scores = selection.scores[name].expand_as(weight).flatten(1).sum(0)
            keep = max(1, ceil(selection.density * scores.numel()) - 1)
            mask = torch.zeros_like(scores, dtype=torch.bool)
            mask[scores.topk(keep).indices] = True
            whole = mask.expand(weight.shape[0], -1).reshape(weight.shape)
            masks[name] = whole & selection.masks[name]
        return Selected(selection.masks | masks, {})
