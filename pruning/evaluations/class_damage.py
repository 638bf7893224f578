"""Damage by class and group: in which of them pruning loses more than in the others, and which
images are lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pruning import wording
from pruning.analysis.class_damage import (
    CLASS,
    ComparedGroup,
    compare_checkpoints,
    find_clusters,
    find_control,
    list_columns,
)
from pruning.analysis.job_record import JobRecord
from pruning.evaluations import evaluations
from pruning.evaluations._class_findings import describe_column
from pruning.evaluations._lost_images import (
    MOST,
    Exemplars,
    LostImages,
    choose_shown,
    collect_exemplars,
    find_lost,
)
from pruning.schemas.class_damage import LABELS, SECTION
from pruning.schemas.report import Section, Unit

TITLE = "Damage by class and group"
UNITS: dict[str, Unit] = {
    "detectable_increase": "points",
    "confidence": "fraction",
    "confidence_of_control": "fraction",
    "target_sparsity": "share",
}


@evaluations.register(SECTION)
@dataclass(frozen=True)
class DamageByClass:
    """Each checkpoint beside its dense control by class and by group of the same test images.

    McNemar's exact test in every class, and a test against the other classes; all p-values are
    adjusted together (Holm). A class is named only where both tests are significant; else the
    section says which damage would have been found. The images that pruning loses are listed.
    """

    version: ClassVar[int] = 2
    by_default: ClassVar[bool] = True

    def evaluate(self, record: JobRecord) -> Section:
        """Return tables `classes`, `groups` where the dataset has columns, `lost_images` and
        `exemplars`, a sentence for every finding, and a picture of lost images.
        """
        targets = [row for row in record.rounds if row.target is not None]
        if not targets:
            note = "No checkpoint: there is nothing to compare."
            return Section(title=TITLE, version=self.version, notes=(note,))
        columns = list_columns(record)
        clusters, cluster_note = find_clusters(record)
        rows = compare_checkpoints(
            {row.id: (row.measured.wrong, find_control(record, row).wrong) for row in targets},
            columns,
            clusters,
        )
        sentences = []
        for column in columns:
            sentences += describe_column([row for row in rows if row.column == column.name])
        lost = [find_lost(record, row) for row in targets]
        shown = choose_shown(record, lost)
        exemplars = collect_exemplars(record, targets)
        return Section(
            title=TITLE,
            version=self.version,
            notes=(
                *sentences,
                _describe_lost(lost),
                *_describe_exemplars(exemplars),
                _describe_method(len(rows)),
                cluster_note,
            ),
            details=_collect_tables(record, rows, lost, exemplars),
            units=UNITS,
            labels=LABELS,
            pictures={} if shown is None else {"lost_images": shown.draw(record)},
        )


def _collect_tables(
    record: JobRecord,
    rows: Sequence[ComparedGroup],
    lost: Sequence[LostImages],
    exemplars: Sequence[Exemplars],
) -> dict[str, list[dict[str, Any]]]:
    """The tables that have rows, by name."""
    ordered = _order_rows(rows)
    tables = {
        "classes": [_describe_row(row) for row in ordered if row.column == CLASS],
        "groups": [_describe_row(row) for row in ordered if row.column != CLASS],
        "lost_images": [entry for images in lost for entry in images.list_rows(record)],
        "exemplars": [entry for population in exemplars for entry in population.list_rows(record)],
    }
    return {name: entries for name, entries in tables.items() if entries}


def _order_rows(rows: Sequence[ComparedGroup]) -> list[ComparedGroup]:
    """The rows by checkpoint and column, the surest loss first."""
    checkpoints = list(dict.fromkeys(row.damage.checkpoint for row in rows))
    columns = list(dict.fromkeys(row.column for row in rows))

    def rank(row: ComparedGroup) -> tuple[int, int, float]:
        place = checkpoints.index(row.damage.checkpoint)
        return place, columns.index(row.column), -row.increase

    return sorted(rows, key=rank)


def _describe_row(row: ComparedGroup) -> dict[str, Any]:
    """The row of a table: its checkpoint, its class or group, and the numbers."""
    values = row.damage.model_dump(mode="json")
    place = {"class": row.value}
    if row.column != CLASS:
        place = {"column": row.column, "group": row.value}
    return {"checkpoint": values.pop("checkpoint")} | place | values


def _describe_lost(lost: Sequence[LostImages]) -> str:
    """The number of images that each checkpoint loses."""
    losing = [images for images in lost if len(images.places)]
    if not losing:
        return "No checkpoint loses a test image that the control gets right."
    counts = [f"{images.row.id} {wording.count(len(images.places))}" for images in losing]
    return (
        "Test images that the control gets right and the checkpoint wrong: "
        f"{', '.join(counts)}. The table lists the {MOST} of each that are lost most confidently."
    )


def _describe_exemplars(exemplars: Sequence[Exemplars]) -> list[str]:
    """The number of exemplars of each target, and what they are not."""
    if not exemplars:
        return []
    counts = [
        f"{len(population.find_places())} at {wording.short_percent(population.target)} "
        f"({len(population.pruned)} checkpoints)"
        for population in exemplars
    ]
    return [
        "Images on which the most frequent answer of a target's checkpoints, or each of them where "
        "several are as frequent, is another than the control's: "
        f"{', '.join(counts)}. They are found as the pruning-identified exemplars of Hooker et al. "
        "(2019), which are of many networks pruned alike and many dense ones; here the checkpoints "
        "are those of different criteria, and the control is one network: the images are those "
        "that the criteria have in common, not those that another run would lose again."
    ]


def _describe_method(tests: int) -> str:
    return (
        "Each checkpoint is compared with its dense control on the same test images. A class or "
        "group is said to lose where McNemar's exact test finds it, and to stand out where it also "
        f"loses more than the others. The p-values of both tests of all {tests} rows are adjusted "
        "together (Holm): the probability that any of these statements is false is at most 5 %; "
        "the intervals of the increases hold together, too (Bonferroni), those of the errors each "
        "by itself. This covers the sampling of test images, not the spread between training runs: "
        "two networks trained from other seeds differ by class, too."
    )
