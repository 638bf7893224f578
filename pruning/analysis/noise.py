"""Noise on normalised images, drawn by the index of each image in the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from pruning.data.corruptions import SMALL_SIDE
from pruning.data.keyed_random import Draws
from pruning.data.tensors import Data, Split
from pruning.measurement.measure import EVAL_BATCH

AT_ONCE = 256
"""The number of images that get noise at a time."""
NoiseUnit: TypeAlias = Literal["data", "paper"]
"""The unit of a level of noise: standard deviations of the job's data, or those that the paper
normalises with.
"""
PAPER_STD_SMALL = (0.2023, 0.1994, 0.2010)
"""The standard deviations of the paper's code for CIFAR, in pixel values from 0 to 1."""
PAPER_STD_LARGE = (0.229, 0.224, 0.225)
"""The standard deviations of the paper's code for ImageNet and VOC."""


def scale_noise(data: Data, unit: NoiseUnit) -> Tensor:
    """The standard deviations that a level of noise counts, by those of the data: (C, 1, 1).

    1 where levels count standard deviations of the data; for the paper those of its code, for
    CIFAR or, with images whose shorter side is above 64 pixels, for ImageNet. Grey images take the
    mean of the three.
    """
    own = torch.tensor(data.std)
    if unit == "data":
        return torch.ones(len(own), 1, 1)
    small = min(data.shape[1:]) <= SMALL_SIDE
    paper = torch.tensor(PAPER_STD_SMALL if small else PAPER_STD_LARGE)
    if len(own) != len(paper):
        paper = paper.mean().expand(len(own))
    return (paper / own)[:, None, None]


def key_noise(split: Split, level: float, seed: int, *names: str | int) -> Draws:
    """The draws of noise of a level for the images of a split, by their index in the dataset."""
    return Draws.from_key(seed, *names, repr(float(level)), indices=split.dataset_indices)


def add_noise(inputs: Tensor, level: float | Tensor, draws: Draws) -> Tensor:
    """x + level U[-1, 1), of the shape of `inputs`, by the draws of each image: the same on every
    device, whatever images are beside it.

    A level is one number, or one for each channel (C, 1, 1).

    >>> draws = Draws.from_key(0, "noise", indices=torch.tensor([4, 9, 2]))
    >>> noisy = add_noise(torch.zeros(3, 2), 0.5, draws)
    >>> bool(noisy.abs().max() <= 0.5)
    True
    >>> bool((add_noise(torch.zeros(1, 2), 0.5, draws[1:2]) == noisy[1:2]).all())
    True
    """
    size = torch.as_tensor(level, dtype=inputs.dtype, device=inputs.device)
    noisy = torch.empty_like(inputs)
    for start in range(0, len(inputs), AT_ONCE):  # bounds the memory of the draws
        part = slice(start, start + AT_ONCE)
        noisy[part] = inputs[part] + size * draws[part].signed(*inputs.shape[1:])
    return noisy


def iterate_noisy(data: Data, split: Split, level: float, draws: Draws) -> Iterator[Tensor]:
    """Normalised batches of the images of a split, in order, with noise where `level` is not 0;
    memory holds one batch of a large split at a time.
    """
    start = 0
    for inputs, _ in data.batches(split, EVAL_BATCH):
        stop = start + len(inputs)
        yield add_noise(inputs, level, draws[start:stop]) if level else inputs
        start = stop
