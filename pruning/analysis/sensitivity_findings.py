"""The findings of a sensitivity study in words: the units that lose first, and what the others may
lose at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from pruning import wording
from pruning.analysis.sensitivity import Cell

LISTED = 3
"""The number of units that a sentence names before it counts the others."""


def describe_sensitivity(cells: Sequence[Cell], label: str, images: int) -> list[str]:
    """Return what the paired tests over all cells support about one criterion, in words.

    That a unit loses is said only where its p-value, corrected over all cells, is at most 5 %; what
    was not measured is named with its reason, and is in no comparison.
    """
    measured = [cell for cell in cells if cell.increase is not None]
    sentences = []
    if measured:
        worse = [cell for cell in measured if cell.is_worse]
        sentences.append(
            f"{label}: {len(worse)} of {wording.count_of(len(measured), 'pruning')} of one unit "
            f"alone {'raises' if len(worse) == 1 else 'raise'} the error on "
            f"{wording.count_of(images, 'validation image')} (exact paired tests, Holm's "
            "correction over all prunings of this section, 5 %)."
        )
        sentences += [*_describe_least(worse, label), *_describe_most(measured, label)]
    return sentences + _describe_unmeasured(cells, label)


def _describe_least(worse: Sequence[Cell], label: str) -> list[str]:
    """The unit that loses first, among those that are shown to lose."""
    if not worse:
        return [f"{label}: no unit is shown to lose at a level that was measured."]
    first = min(_get_level(cell) for cell in worse)
    at_first = [cell for cell in worse if cell.level == first]
    weakest = max(at_first, key=_get_increase)
    assert weakest.increase is not None
    others = len(at_first) - 1
    also = f"; {wording.count_of(others, 'other unit')} lose there too" if others else ""
    if others == 1:
        also = "; 1 other unit loses there too"
    return [
        f"{label}: {weakest.unit} loses at the lowest level where a loss is shown: with "
        f"{wording.short_percent(first)} of it removed alone, the error changes by "
        f"{wording.points_with_interval(weakest.increase)}{also}."
    ]


def _describe_most(measured: Sequence[Cell], label: str) -> list[str]:
    """The unit that loses least at the highest level, among several that reach it."""
    last = max(_get_level(cell) for cell in measured)
    at_last = [cell for cell in measured if cell.level == last]
    if len(at_last) < 2:
        return []
    best = min(at_last, key=_get_upper_limit)
    assert best.increase is not None
    not_reached = len({cell.unit for cell in measured} - {cell.unit for cell in at_last})
    besides = (
        f" ({wording.count_of(not_reached, 'unit')} cannot be pruned so far)" if not_reached else ""
    )
    return [
        f"{label}: {best.unit} has the smallest upper limit of "
        f"{wording.count_of(len(at_last), 'unit')} with {wording.short_percent(last)} removed "
        f"alone: the error changes by {wording.points_with_interval(best.increase)}{besides}."
    ]


def _describe_unmeasured(cells: Sequence[Cell], label: str) -> list[str]:
    """The units of which nothing was removed at one level or at any, with their reasons."""
    missing = [cell for cell in cells if cell.reason is not None]
    if not missing:
        return []
    shown = []
    for cell in missing[:LISTED]:
        level = f" at {wording.short_percent(cell.level)}" if cell.level is not None else ""
        shown.append(f"{cell.unit}{level} ({cell.reason})")
    more = f", and {len(missing) - LISTED} more in the table" if len(missing) > LISTED else ""
    return [
        f"{label}: nothing was removed of {', '.join(shown)}{more}; that says nothing about what "
        "they would bear."
    ]


def _get_level(cell: Cell) -> float:
    assert cell.level is not None
    return cell.level


def _get_increase(cell: Cell) -> float:
    assert cell.increase is not None
    return cell.increase.value


def _get_upper_limit(cell: Cell) -> float:
    assert cell.increase is not None
    return cell.increase.value if cell.increase.high is None else cell.increase.high
