"""Which classes or groups lose more than the others, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pruning import wording
from pruning.analysis.class_damage import CLASS, ComparedGroup

MOST = 8
"""The number of checkpoints that the sentences of a column name at most."""
LISTED = 5
"""The number of classes that a sentence names at most."""


def describe_column(rows: Sequence[ComparedGroup]) -> list[str]:
    """Return sentences on all rows of one column: which checkpoint loses most in which class, and
    where no class stands out, the damage that would have been found.
    """
    checkpoints = list(dict.fromkeys(row.damage.checkpoint for row in rows))
    by_checkpoint = {
        name: [row for row in rows if row.damage.checkpoint == name] for name in checkpoints
    }
    sentences = []
    losing_alike: dict[str, int] = {}
    undamaged = []
    for name, own in by_checkpoint.items():
        worst = [row for row in own if row.damage.finding == "loses more than the others"]
        losing = [row for row in own if row.damage.finding == "loses"]
        if worst:
            sentences.append(_describe_worst(name, worst, others=len(losing)))
        elif losing:
            losing_alike[name] = len(losing)
        else:
            undamaged.append(name)
    if len(sentences) > MOST:
        noun = _name_kind(rows[0])[1]
        left = wording.count_of(len(sentences) - MOST, "other checkpoint")
        sentences[MOST:] = [f"{left} with {noun} that stand out: see the table."]
    if losing_alike:
        sentences.append(_describe_losing(losing_alike, rows))
    if undamaged:
        detectable = [row for row in rows if row.damage.checkpoint in undamaged]
        sentences.append(_describe_undamaged(undamaged, detectable))
    return sentences


def _name_kind(row: ComparedGroup) -> tuple[str, str]:
    """The nouns for the subject of a row and for several: a class, or a group of a column."""
    if row.column == CLASS:
        return "class", "classes"
    return f"group of {row.column}", f"groups of {row.column}"


def _describe_worst(name: str, rows: list[ComparedGroup], others: int) -> str:
    """The classes that stand out at a checkpoint."""
    ordered = sorted(rows, key=lambda row: -row.increase)
    kind, kinds = _name_kind(ordered[0])
    worst = ordered[0].damage
    text = (
        f"{name}: the {kind} {ordered[0].value!r} stands out. Its error rose by "
        f"{wording.points_with_interval(worst.increase)}, beyond noise and more than that of the "
        f"other {kinds}: {wording.percent(worst.error_pruned.value)} against the control's "
        f"{wording.percent(worst.error_control.value)}, on "
        f"{wording.count_of(worst.n, 'test image')}."
    )
    further = [f"{row.value!r}" for row in ordered[1:]]
    if further:
        listed = ", ".join(further[:LISTED])
        if len(further) > LISTED:
            listed += f" and {len(further) - LISTED} more"
        verb = "do" if len(further) > 1 else "does"
        text += f" So {verb} {listed}."
    if others:
        text += (
            f" The error of {others} more rose beyond noise, but not beyond noise more than that "
            "of the others."
        )
    return text


def _describe_losing(losing: Mapping[str, int], rows: Sequence[ComparedGroup]) -> str:
    """The checkpoints, with the number of classes that lose, where none loses more than others."""
    kind, kinds = _name_kind(rows[0])
    total = len({row.value for row in rows})
    counts = [f"{name} ({count} of {total})" for name, count in losing.items()]
    return (
        f"The error rose beyond noise in some {kinds}, in no {kind} more than in the others "
        f"beyond noise: {_list_first(counts)}."
    )


def _describe_undamaged(names: list[str], rows: Sequence[ComparedGroup]) -> str:
    """The damage that would have been found where none was."""
    kind, _ = _name_kind(rows[0])
    text = f"No {kind} stands out at {_list_first(names)} at this number of images. "
    smallest = min(row.damage.n for row in rows)
    largest = max(row.damage.n for row in rows)
    if smallest == largest:
        return f"{text}{_describe_detectable(f'a {kind}', smallest, rows)}."
    small = _describe_detectable(f"the smallest {kind}", smallest, rows)
    large = _describe_detectable(f"the largest {kind}", largest, rows)
    return f"{text}{small}. {large}."


def _describe_detectable(place: str, n: int, rows: Sequence[ComparedGroup]) -> str:
    """The damage that would have been found at every checkpoint in a class of this size."""
    sizes = [row.damage.detectable_increase for row in rows if row.damage.n == n]
    where = f"{place} ({wording.count_of(n, 'test image')})"
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return f"In {where} no loss would have been found with a probability of 80 %"
    loss = wording.percentage_points(max(known), 1)
    return f"In {where} a loss of {loss} would have been found with a probability of 80 %"


def _list_first(names: Sequence[str]) -> str:
    """The first names, and the number of those beyond the limit."""
    shown = ", ".join(names[:MOST])
    if len(names) > MOST:
        shown += f" and {wording.count_of(len(names) - MOST, 'other checkpoint')}"
    return shown
