"""The layers, or coupled groups of channels, that bear pruning: each is pruned alone at several
levels, and nothing is retrained.

Source: LM, QM and OBD as in Laurent et al., Revisiting loss modelling for unstructured pruning,
2020; pruning one layer at a time as in Li et al., Pruning filters for efficient ConvNets, ICLR
2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from pruning import wording
from pruning.analysis.job_record import JobRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.sensitivity import (
    Cell,
    SensitivityStudy,
    adjust_p_values,
    count_sensitivity_units,
)
from pruning.analysis.sensitivity_findings import describe_sensitivity
from pruning.analysis.shifts import draw_sample
from pruning.evaluations import evaluations
from pruning.evidence.criterion import ScoresInStages
from pruning.reporting.pictures import draw_heatmap
from pruning.rounds.method import PruningMethod
from pruning.schemas.criterion_labels import label_criteria
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Estimate, Picture, Section, Unit

LABELS = {"dense_error": "validation error of the dense network"}
"""The words of the names of scalars."""
UNITS: dict[str, Unit] = {
    "level": "share",
    "predicted_lm": "nats_difference",
    "predicted_qm": "nats_difference",
    "predicted_obd": "nats_difference",
}
NOTES = (
    "A unit is a layer where weights are removed (kept and total count its weights), and a coupled "
    "group of channels, named by the first layer that writes them, where channels are (kept and "
    "total count channels). Each is pruned alone in the dense network as given; nothing is "
    "retrained and BatchNorm statistics are not estimated again, so that what a unit bears before "
    "retraining is shown, not what it bears after. Each is tested against the dense network, and "
    "not against other units.",
    "Loss changes are in nats, on the same validation images as the errors, paired by image. "
    "Predictions are local models of that change around the dense network on these images: LM "
    "-g w, QM -g w + D w^2 / 2 and OBD D w^2 / 2, summed over the weights that go.",
)


@evaluations.register("sensitivity")
@dataclass(frozen=True)
class Sensitivity:
    """Error and loss with one layer or channel group pruned alone, at several levels.

    For each criterion of the job, scores of the dense network choose what goes of a unit; errors
    and losses on validation images are measured from the first layer on that changes. A unit is
    said to lose where McNemar's exact test, with Holm's correction over all units, levels and
    criteria, supports it. What cannot be removed is listed with its reason and without a number.
    """

    version: ClassVar[int] = 1
    levels: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...],
        Field(min_length=1, max_length=20, description="sparsities of the unit that is pruned"),
    ] = (0.5, 0.7, 0.9, 0.95)
    images: Annotated[int, Field(ge=1, description="validation images")] = 500

    def units(self, size: JobSize) -> int:
        """Return the work of scoring once and of measuring every layer at every level."""
        return count_sensitivity_units(
            size.recipe,
            layers=size.layers,
            levels=len(self._sorted_levels),
            images=min(self.images, size.images["val"]),
            fit=size.images["fit"],
            classes=size.classes,
        )

    def evaluate(self, record: JobRecord) -> Section:
        """Return the table `sensitivity`, a heat map for each criterion and the findings."""
        split = draw_sample(record, self.images, validation=True)
        study = SensitivityStudy(record, split, self._sorted_levels)
        labels = label_criteria(record.recipe)
        notes: list[str] = []
        cells: list[Cell] = []
        dense: Estimate | None = None
        for label, method in zip(labels, record.recipe.criteria, strict=True):
            measured = study.measure(method, label)
            cells += measured.cells
            notes += measured.notes
            dense = measured.dense_error or dense
        cells = adjust_p_values(cells)
        by_label = {label: [cell for cell in cells if cell.criterion == label] for label in labels}
        findings = [
            sentence
            for label, own in by_label.items()
            for sentence in describe_sensitivity(own, label, len(split))
        ]
        pictures = {
            f"heatmap/{label}": self._draw(own, label, dense)
            for label, own in by_label.items()
            if dense is not None and any(cell.error for cell in own)
        }
        if not study.prefixes.traced:
            notes.append(
                "The network cannot be traced as a graph: every pruning was measured by whole "
                "passes, with the same results."
            )
        return Section(
            title="Sensitivity of single layers",
            version=self.version,
            scalars={} if dense is None else {"dense_error": dense},
            details={"sensitivity": [cell.row() for cell in cells]},
            units=UNITS,
            labels=LABELS,
            pictures=pictures,
            notes=(*findings, *notes, *_describe_stages(record.recipe, labels), *NOTES),
        )

    @property
    def _sorted_levels(self) -> tuple[float, ...]:
        """The levels, each once, the least first."""
        return tuple(sorted(set(self.levels)))

    def _draw(self, cells: Sequence[Cell], label: str, dense: Estimate) -> Picture:
        """The errors by unit and level; a unit that was not pruned has no number."""
        errors = {
            (cell.unit, cell.level): cell.error.value for cell in cells if cell.error is not None
        }
        names = list(dict.fromkeys(cell.unit for cell in cells))
        return draw_heatmap(
            [[errors.get((name, level)) for level in self._sorted_levels] for name in names],
            names,
            [wording.short_percent(level) for level in self._sorted_levels],
            ("pruned alone", "removed of it"),
            f"Error in percent, {label}, where the dense network's is "
            f"{wording.percent(dense.value)}; –: nothing was removed",
        )


def _describe_stages(recipe: Recipe, labels: Sequence[str]) -> list[str]:
    """The criteria that the job has score in stages, and that score once here."""
    staged = [
        label
        for label, method in zip(labels, recipe.criteria, strict=True)
        if isinstance(PruningMethod.of(recipe, method).criterion, ScoresInStages)
    ]
    if not staged:
        return []
    return [
        f"In a job {', '.join(staged)} can score again in stages of one pruning; here the dense "
        "network is scored once."
    ]
