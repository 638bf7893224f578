"""Seeded draws of images: plain, in proportion to the classes, or equally many of each class."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

ClassMix = Literal["plain", "proportional", "balanced"]
"""The regard of a draw for classes: none, in proportion to their images, or all alike."""


def draw_subset(
    labels: Tensor,
    size: int,
    mix: ClassMix,
    rng: Generator,
    *,
    covers: bool = False,
    spares: bool = False,
) -> tuple[Tensor, Tensor]:
    """The indices of a random subset and of the rest, each in ascending order.

    `proportional` takes of each class its share of the `size`, rounded by largest remainders;
    `balanced` takes equally many of each class, and all of a class that has fewer. With `covers` a
    proportional subset has every class where its size allows; with `spares` at least half of each
    class stays in the rest where the size allows. Masks are drawn plainly: an image has many
    classes.
    """
    order = torch.randperm(len(labels), generator=rng)
    if mix != "plain" and labels.dim() == 1 and len(labels):
        _, members, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        most = counts // 2 if spares else counts
        if int(most.sum()) < size:
            most = counts
        rank = torch.empty(len(labels), dtype=torch.int64)
        rank[order] = torch.arange(len(labels))
        turn = _count_turns(members[order], counts)[rank]
        if mix == "proportional":
            least = torch.minimum(most, torch.ones_like(most))
            if not covers or int(least.sum()) > size:
                least = torch.zeros_like(most)
            shares = divide_in_proportion(counts, size, least=least, most=most, rng=rng)
            # First the shares of all classes, then the others.
            turn = (turn >= shares[members]).long()
        else:
            # In every turn one image of each class, in random order; what is spared comes last.
            turn = torch.where(turn < most[members], turn, turn + len(labels))
        order = (turn * len(labels) + rank).argsort()
    return order[:size].sort().values, order[size:].sort().values


def divide_in_proportion(
    counts: Tensor, size: int, *, least: Tensor, most: Tensor, rng: Generator
) -> Tensor:
    """Divide `size` in proportion to the counts, within limits, by largest remainders; int64 (n,).

    The quota of class c is q_c = size counts_c / sum(counts). Each class gets floor(q_c) within its
    limits; what is missing goes one by one to the classes furthest below their quota, and what is
    too much is taken from those furthest above it. Equal remainders are ordered at random.

    >>> counts = torch.tensor([195, 195, 195, 15])
    >>> none = torch.zeros_like(counts)
    >>> divide_in_proportion(counts, 61, least=none, most=counts, rng=Generator()).tolist()
    [20, 20, 20, 1]
    """
    if not int(least.sum()) <= size <= int(most.sum()):
        raise ValueError(f"{size} do not lie within the limits {least.tolist()}, {most.tolist()}")
    quotas = counts.double() * size / int(counts.sum())
    # A quota that is a whole number may be rounded a little below it.
    shares = torch.minimum(torch.maximum((quotas + 1e-9).floor().long(), least), most)
    ties = torch.rand(len(counts), generator=rng, dtype=torch.float64)
    while missing := size - int(shares.sum()):
        step = 1 if missing > 0 else -1
        may_change = shares < most if step > 0 else shares > least
        distance = torch.where(may_change, step * (quotas - shares), -torch.inf)
        by_tie = ties.argsort()
        order = by_tie[(-(distance[by_tie] * 1e9).round()).argsort(stable=True)]
        shares[order[: min(abs(missing), int(may_change.sum()))]] += step
    return shares


def _count_turns(members: Tensor, counts: Tensor) -> Tensor:
    """The number of earlier images of the same class before each image, int64 (N,)."""
    by_class = members.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    turns = torch.empty_like(members)
    turns[by_class] = torch.arange(len(members)) - starts[members[by_class]]
    return turns
