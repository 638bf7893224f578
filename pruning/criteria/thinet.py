"""ThiNet: the input channels that the next layer's outputs miss least are removed, and the others
scaled to make up for them.

Source: Luo, Wu and Lin, ThiNet: a filter level pruning method for deep neural network compression,
ICCV 2017; number of outputs and rounds as in the code of Lost in Pruning, which keeps what the
greedy search picks: here, as in the paper, it is removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.criteria import criteria
from pruning.errors import ScoreError
from pruning.evidence.cached import once_per_evidence
from pruning.evidence.evidence import Evidence
from pruning.networks.layers import (
    Layer,
    Use,
    count_groups,
    record_uses,
    require_one_input_per_image,
)
from pruning.networks.modes import evaluate_mode
from pruning.types import Calibration, Masks, Scores


@criteria.register("thinet")
@dataclass(frozen=True)
class ThiNet:
    """Greedy choice of the input channels without which a layer's sampled outputs change least.

    With `update`, what reads a channel that remains is multiplied by a factor of its own, so that
    the sampled outputs are nearest to what they were, by least squares as in the paper. That takes
    more samples than channels remain: the paper has 10 images of each class at 10 positions.

    One output w x with contributions 3, -2 and 1: without the third it changes by 1, then by -1
    without the second too.

    >>> from torch import nn, tensor
    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = layer.weight.data.copy_(tensor([[3.0, -2.0, 1.0]]))
    >>> ThiNet().score(Evidence(layer, batches=[(torch.ones(1, 3), tensor([0]))]))
    {'weight': tensor([[1.0000, 0.6667, 0.3333]], dtype=torch.float64)}

    Without the second, 3 a + b = 2 is met by the factors nearest to 1:

    >>> evidence = Evidence(layer, batches=[(torch.ones(1, 3), tensor([0]))])
    >>> mask = {"weight": tensor([[True, False, True]])}
    >>> ThiNet(update=True).compensate(evidence, mask)
    {'weight': tensor([[1.2000, 0.0000, 0.8000]])}
    """

    allocation: ClassVar[str] = "uniform"
    granularity: ClassVar[str] = "channel"
    samples: Annotated[int, Field(ge=1, le=100_000)] = 100
    """The number of outputs of each layer that are looked at."""
    update: Annotated[
        bool, Field(description="scale the channels that remain by least squares")
    ] = False

    def calibration(self, classes: int) -> Calibration:
        """Ask for one image for each sampled output."""
        return Calibration(self.samples)

    def units(self, classes: int) -> int:
        """Count one forward pass."""
        return self.samples

    def score(self, evidence: Evidence) -> Scores:
        """Compute the place (1 ... C) / C in the order of removal, float64.

        Shape (1, in, 1, 1) or (1, in). x_jc is what input channel c contributes to the sampled
        output j (an image, a filter, a position), w * x over the kernel. In ceil(sqrt(C)) rounds,
        the channels c with the least sum_j (sum_{t in T} x_jt + x_jc)^2 join the removed set T, up
        to sqrt(C) at a time. In a grouped convolution, c is the same position of every group.
        Raises `EvidenceError` without data and for inputs that are not a batch of images,
        `ScoreError` where they are not finite.
        """
        scores = {}
        for name, gram in _compute_grams(evidence, self.samples).items():
            further_axes = [1] * (evidence.weights[name].dim() - 2)
            scores[name] = order_channels(gram).reshape(1, -1, *further_axes)
        return scores

    def compensate(self, evidence: Evidence, masks: Masks) -> Scores:
        """Compute f_c w_c with f_K = argmin sum_j (y_j - sum_{c in K} f_c x_jc)^2, x_jc as above.

        K are the channels of which `masks` keep anything, y_j = sum_c x_jc; zero where `masks`
        prune. Of several such factors they are those nearest to 1; without `update` all are 1.
        """
        if not self.update:
            return {
                name: weight.masked_fill(~masks[name], 0.0)
                for name, weight in evidence.weights.items()
            }
        weights = {}
        for name, gram in _compute_grams(evidence, self.samples).items():
            weight, mask = evidence.weights[name], masks[name]
            keep = mask.transpose(0, 1).flatten(1).any(1)
            factors = solve_factors(gram, keep).reshape(1, -1, *[1] * (weight.dim() - 2))
            scaled = (weight.double() * factors).to(weight.dtype)
            weights[name] = scaled.masked_fill(~mask, 0.0)
        return weights


@once_per_evidence
def _compute_grams(evidence: Evidence, samples: int) -> Scores:
    """Compute sum_j x_jc x_jd of the contributions to `samples` outputs, (C, C) by weight name.

    Raises `ScoreError` where they are not finite.
    """
    images = sum(len(labels) for _, labels in evidence.batches)
    count = min(samples, images)
    sampled = torch.randperm(images, generator=evidence.generator)[:count].sort().values
    draws = {
        name: torch.rand(3, count, generator=evidence.generator, dtype=torch.float64)
        for name in evidence.weights
    }
    grams = {
        name: weight.new_zeros(2 * (weight.shape[1],), dtype=torch.float64)
        for name, weight in evidence.weights.items()
    }
    start = 0
    for inputs, labels in evidence.batches:
        in_batch = (sampled >= start) & (sampled < start + len(labels))
        numbers = in_batch.nonzero().flatten()
        images_of_batch = sampled[numbers] - start
        start += len(labels)
        if len(numbers):
            batch_draws = {name: draw[:, numbers] for name, draw in draws.items()}
            chosen_inputs = inputs[images_of_batch.to(inputs.device)]
            _add_contributions_(grams, evidence, chosen_inputs, batch_draws)
    for name, gram in grams.items():
        if not bool(torch.isfinite(gram).all()):
            raise ScoreError(f"{name}: what its layer's inputs contribute is not finite")
    return grams


def _add_contributions_(
    grams: dict[str, Tensor], evidence: Evidence, inputs: Tensor, draws: Mapping[str, Tensor]
) -> None:
    """Add X^T X to the Gram matrix of each layer, in place.

    X (images, C) holds what each input channel contributes to one sampled output of each image. The
    rows of a layer's draws (3, images) choose call, filter and position of that output.
    """
    with (
        record_uses(evidence.model, evidence.weights) as uses,
        evaluate_mode(evidence.model),
        torch.no_grad(),
    ):
        evidence.model(inputs)  # for the inputs of the layers that it records
    for name, weight in evidence.weights.items():
        for use in uses[name]:
            require_one_input_per_image(name, use, len(inputs))
        if not uses[name]:
            evidence.refuse_hidden(name)
        for contributions in _compute_contributions(weight, uses[name], draws[name]):
            grams[name] += contributions.T @ contributions


def _compute_contributions(weight: Tensor, uses: list[Use], draw: Tensor) -> list[Tensor]:
    """Compute what each input channel contributes to one output of each image, (images, C).

    Split by the call of the layer. The rows of `draw` (3, images), uniform on [0, 1), choose the
    call, the filter and the position.
    """
    contributions = []
    call = (draw[0] * len(uses)).long()
    for number, use in enumerate(uses):
        image = (call == number).nonzero().flatten()
        filters = (draw[1, image] * len(weight)).long()
        group = filters // (len(weight) // count_groups(use.layer))
        windows = sample_windows(
            use.layer, use.inputs, image=image, place=draw[2, image], group=group
        )
        kernels = weight.reshape(*weight.shape[:2], -1)[filters.to(weight.device)]
        contributions.append((windows.double() * kernels.double()).sum(2))
    return contributions


def sample_windows(
    layer: Layer, inputs: Tensor, *, image: Tensor, place: Tensor, group: Tensor
) -> Tensor:
    """Return what a layer sees of these images at one output position of each, (n, C, kernel).

    C are the channels of the group. `place` in [0, 1) chooses among the positions; `image`, `place`
    and `group` are on the CPU.

    >>> layer = nn.Conv2d(1, 1, 2)
    >>> zero = torch.zeros(1, dtype=torch.long)
    >>> inputs = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> sample_windows(layer, inputs, image=zero, place=torch.tensor([0.99]), group=zero)
    tensor([[[4., 5., 7., 8.]]])
    """
    if isinstance(layer, nn.Linear):
        flat = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        position = (place * flat.shape[1]).long()
        return flat[image.to(inputs.device), position.to(inputs.device)][..., None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    row_steps, column_steps = (
        layer.dilation[axis] * torch.arange(layer.kernel_size[axis]) for axis in (0, 1)
    )
    rows = _count_positions(padded.shape[2], int(row_steps[-1]), layer.stride[0])
    columns = _count_positions(padded.shape[3], int(column_steps[-1]), layer.stride[1])
    position = (place * (rows * columns)).long()
    top = position // columns * layer.stride[0]
    left = position % columns * layer.stride[1]
    width = layer.in_channels // layer.groups
    channels = group[:, None] * width + torch.arange(width)
    # The four indices broadcast to (n, C, kernel rows, kernel columns).
    index = (
        image[:, None, None, None],
        channels[:, :, None, None],
        top[:, None, None, None] + row_steps[:, None],
        left[:, None, None, None] + column_steps,
    )
    return padded[tuple(axis.to(inputs.device) for axis in index)].flatten(2)


def _count_positions(size: int, reach: int, stride: int) -> int:
    """Count the output positions along an axis; a kernel reaches `reach` beyond its first entry."""
    return (size - 1 - reach) // stride + 1


def order_channels(gram: Tensor) -> Tensor:
    """Compute the place in which each channel is removed, (1 ... C) / C.

    `gram` is the Gram matrix of the contributions, (C, C).
    """
    channels = len(gram)
    place = torch.zeros(channels, dtype=torch.float64, device=gram.device)
    removed = torch.zeros_like(place)
    at_once = math.isqrt(channels - 1) + 1  # sqrt(C), rounded up
    for start in range(0, channels, at_once):
        # By how much the squared change of the outputs grows with each channel that may join.
        increase = 2 * (gram @ removed) + gram.diagonal()
        order = increase.masked_fill(removed > 0, math.inf).argsort(stable=True)
        best = order[: min(at_once, channels - start)]
        removed[best] = 1.0
        numbers = torch.arange(
            start + 1, start + len(best) + 1, dtype=torch.float64, device=gram.device
        )
        place[best] = numbers / channels
    return place


def solve_factors(gram: Tensor, keep: Tensor) -> Tensor:
    """Compute the factors of the channels `keep` that make up for the others best, float64 (C,).

    f_K = 1 + G_KK^+ G_KQ 1, the least squares solution nearest to 1; 1 for the others. `gram` is
    the Gram matrix G of the contributions, (C, C).
    """
    factors = torch.ones(len(gram), dtype=torch.float64, device=gram.device)
    missed = gram[keep][:, ~keep].sum(1)
    inverse = torch.linalg.pinv(gram[keep][:, keep], hermitian=True)
    factors[keep] += inverse @ missed
    return factors
