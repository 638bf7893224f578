"""Draws of images by class: shares, limits, seeds."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from pruning.data.subsets import divide_in_proportion, draw_subset


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def draw(counts: list[int], size: int, mix: str, seed: int = 0, **limits: bool) -> list[int]:
    """Count the images of each class in a draw."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    chosen, rest = draw_subset(labels, size, mix, rng(seed), **limits)  # type: ignore[arg-type]
    assert sorted([*chosen.tolist(), *rest.tolist()]) == list(range(len(labels)))
    assert len(chosen) == min(size, len(labels))
    return torch.bincount(labels[chosen], minlength=len(counts)).tolist()


def long_tail(classes: int = 100, most: int = 500, factor: float = 100) -> list[int]:
    """Count the images of each class of long-tailed CIFAR-100."""
    return [int(most * factor ** (-index / (classes - 1))) for index in range(classes)]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    size=st.integers(0, 120),
    seed=st.integers(0, 5),
)
def test_shares_are_quotas_rounded_up_or_down(counts: list[int], size: int, seed: int) -> None:
    size = min(size, sum(counts))
    drawn = draw(counts, size, "proportional", seed)
    for count, share in zip(counts, drawn, strict=True):
        assert abs(share - size * count / sum(counts)) < 1
    assert drawn == draw(counts, size, "proportional", seed)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    size=st.integers(0, 60),
    extra=st.booleans(),
)
def test_limits_hold_and_shares_are_as_near_as_they_allow(
    counts: list[int], size: int, extra: bool
) -> None:
    most = [count // 2 for count in counts]
    least = [min(1, limit) if extra else 0 for limit in most]
    size = min(max(size, sum(least)), sum(most))
    shares = divide(counts, size, least, most)
    assert sum(shares) == size
    assert all(low <= share <= high for low, share, high in zip(least, shares, most, strict=True))


def divide(counts: list[int], size: int, least: list[int], most: list[int]) -> list[int]:
    def column(values: list[int]) -> Tensor:
        return torch.tensor(values)

    divided = divide_in_proportion(
        column(counts), size, least=column(least), most=column(most), rng=rng()
    )
    return [int(share) for share in divided]


def test_largest_remainders_by_hand() -> None:
    # quotas 4.7, 3.2, 2.1: one is missing after 4 + 3 + 2, and 4.7 is nearest to the next
    assert divide([47, 32, 21], 10, [0] * 3, [99] * 3) == [5, 3, 2]
    assert divide([47, 32, 21], 10, [0] * 3, [4, 99, 99]) == [4, 4, 2]
    assert divide([98, 1, 1], 10, [1] * 3, [98, 1, 1]) == [8, 1, 1]


def test_equal_remainders_are_drawn_by_lot() -> None:
    winners = {tuple(draw([5, 5, 5, 5], 1, "proportional", seed)) for seed in range(40)}
    assert len(winners) == 4


def test_a_validation_split_of_a_long_tail_leaves_every_class() -> None:
    counts = long_tail()
    size = round(0.1 * sum(counts))
    for mix in ("proportional", "balanced"):
        drawn = draw(counts, size, mix, spares=True)
        assert all(2 * taken <= count for taken, count in zip(drawn, counts, strict=True))
    balanced = draw(counts, size, "balanced", spares=True)
    assert max(balanced) - min(balanced[:50]) <= 1


def test_a_small_subset_covers_every_class_where_it_can() -> None:
    counts = long_tail()
    assert min(draw(counts, 120, "proportional", covers=True)) == 1
    assert min(draw(counts, 120, "proportional")) == 0
    assert sum(draw(counts, 60, "proportional", covers=True)) == 60


def test_what_cannot_be_spared_is_drawn_all_the_same() -> None:
    assert sum(draw([1, 1, 1], 1, "proportional", spares=True)) == 1
    assert sum(draw([1, 1, 1], 2, "balanced", spares=True)) == 2


def test_balanced_draws_take_turns() -> None:
    assert draw([80, 10, 10], 40, "balanced") == [20, 10, 10]
    assert sorted(draw([80, 10, 10], 20, "balanced")) == [6, 7, 7]


def test_masks_are_drawn_plainly() -> None:
    masks = torch.zeros(9, 4, 4, dtype=torch.uint8)
    plain, _ = draw_subset(masks, 4, "plain", rng())
    assert draw_subset(masks, 4, "proportional", rng())[0].tolist() == plain.tolist()
