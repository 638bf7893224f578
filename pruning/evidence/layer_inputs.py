"""What sparsifiers may see of a network: how many outputs a layer has, and its inputs on images no
criterion scored.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from pruning.evidence.evidence import Batches, Evidence
from pruning.evidence.sensitivities import count_output_positions
from pruning.networks.layers import extract_patches, record_uses
from pruning.networks.modes import evaluate_mode
from pruning.types import LayerView

HELD_OUT = 128
"""Images at the end of the calibration draw, though not more than a third, that criteria which say
so do not look at.
"""


def count_held_out(images: int) -> int:
    """How many of so many calibration images are held out.

    >>> count_held_out(1000), count_held_out(9), count_held_out(1)
    (128, 3, 1)
    """
    return max(1, min(HELD_OUT, images // 3))


def take_last(given: Batches, images: int) -> Batches:
    """The last so many images of the batches.

    >>> [len(labels) for _, labels in take_last([(torch.zeros(4, 1), torch.zeros(4))] * 2, 6)]
    [2, 4]
    """
    found: list[tuple[Tensor, Tensor]] = []
    for inputs, labels in reversed(given):
        if images <= 0:
            break
        found.append((inputs[-images:], labels[-images:]))
        images -= len(labels)
    return found[::-1]


class LayerInputs:
    """By weight name, a view of the layer at the evidence's point.

    >>> net = torch.nn.Conv2d(1, 2, 3)
    >>> view = LayerInputs(Evidence(net, batches=[(torch.ones(5, 1, 4, 4), torch.zeros(5))]))(
    ...     "weight"
    ... )
    >>> view.positions, view.patches().shape
    (4, torch.Size([1, 1, 9, 4]))
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence

    def __call__(self, name: str) -> LayerView:
        return LayerView(self._positions[name], lambda: self._patches(name))

    @cached_property
    def _positions(self) -> dict[str, int]:
        weight = next(iter(self.evidence.weights.values()))
        image = torch.zeros(1, *self.evidence.shape, dtype=weight.dtype, device=weight.device)
        return count_output_positions(self.evidence.model, list(self.evidence.weights), image)

    def _patches(self, name: str) -> Tensor:
        model, batches = self.evidence.model, self.evidence.batches
        seen: list[Tensor] = []
        for inputs, _ in take_last(
            batches, count_held_out(sum(len(labels) for _, labels in batches))
        ):
            with torch.no_grad(), evaluate_mode(model), record_uses(model, [name]) as uses:
                model(inputs)
            seen += [extract_patches(use.layer, use.inputs) for use in uses[name]]
        if not seen:  # its layer is never called
            return self.evidence.weights[name].flatten(1)[:0].T[None, None]
        if len({one.shape[1:] for one in seen}) > 1:  # called with inputs of several sizes
            seen = [one.permute(1, 2, 0, 3).flatten(2)[None] for one in seen]
            return torch.cat(seen, 3)
        return torch.cat(seen)
