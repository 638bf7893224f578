"""Views of layers for sparsifiers: the number of a layer's output positions, and its inputs on
images that no criterion scored.
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
"""Images at the end of the calibration draw (though not more than a third of it) that are left to
sparsifiers: criteria that say so do not look at them.
"""


def count_held_out(images: int) -> int:
    """Count the images that are held out of `images` calibration images.

    >>> count_held_out(1000), count_held_out(9), count_held_out(1)
    (128, 3, 1)
    """
    return max(1, min(HELD_OUT, images // 3))


def take_last(batches: Batches, images: int) -> Batches:
    """Return the last `images` images of the batches.

    >>> [len(labels) for _, labels in take_last([(torch.zeros(4, 1), torch.zeros(4))] * 2, 6)]
    [2, 4]
    """
    last: list[tuple[Tensor, Tensor]] = []
    for inputs, labels in reversed(batches):
        if images <= 0:
            break
        last.append((inputs[-images:], labels[-images:]))
        images -= len(labels)
    return last[::-1]


class LayerInputs:
    """A function from a weight's name to a view of its layer at the evidence's point.

    >>> net = torch.nn.Conv2d(1, 2, 3)
    >>> layer_inputs = LayerInputs(
    ...     Evidence(net, batches=[(torch.ones(5, 1, 4, 4), torch.zeros(5))])
    ... )
    >>> view = layer_inputs("weight")
    >>> view.positions, view.patches().shape
    (4, torch.Size([1, 1, 9, 4]))
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence

    def __call__(self, name: str) -> LayerView:
        return LayerView(self._positions[name], lambda: self._extract_patches(name))

    @cached_property
    def _positions(self) -> dict[str, int]:
        weight = next(iter(self.evidence.weights.values()))
        image = torch.zeros(1, *self.evidence.shape, dtype=weight.dtype, device=weight.device)
        return count_output_positions(self.evidence.model, list(self.evidence.weights), image)

    def _extract_patches(self, name: str) -> Tensor:
        model = self.evidence.model
        batches = self.evidence.batches
        held_out = count_held_out(sum(len(labels) for _, labels in batches))
        by_use: list[Tensor] = []
        for inputs, _ in take_last(batches, held_out):
            with torch.no_grad(), evaluate_mode(model), record_uses(model, [name]) as uses:
                model(inputs)
            by_use += [extract_patches(use.layer, use.inputs) for use in uses[name]]
        if not by_use:  # its layer is never called
            return self.evidence.weights[name].flatten(1)[:0].T[None, None]
        if len({patches.shape[1:] for patches in by_use}) > 1:
            # Called with inputs of several sizes: all positions as those of one image.
            flat = [patches.permute(1, 2, 0, 3).flatten(2)[None] for patches in by_use]
            return torch.cat(flat, 3)
        return torch.cat(by_use)
