"""Error against sparsity with exact binomial intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.evaluations import evaluations
from pruning.measurement.intervals import binomial_interval
from pruning.measurement.iou import compute_whole_ious
from pruning.measurement.measure import estimate_increase
from pruning.schemas.report import Curve, Estimate, Section, Unit
from pruning.seeding import generator

LABELS = {
    "error": "test error",
    "error_before_retraining": "test error right after pruning",
    "increase": "increase of the error over the dense control's",
    "mean_iou": "mean IoU",
}
"""The words of the names of scalars and curves."""
NOTE = (
    "Intervals are at 95 %: exact binomial (Clopper and Pearson) of errors, adjusted Wald for "
    "pairs (Bonett and Price) of increases over the control. They cover the sampling of test "
    "images, not the spread between training runs."
)
PIXEL_NOTES = (
    "The error of an image is 1 - its mean IoU (intersection over union) over the classes that "
    "its truth or the prediction has; the error of a network is the mean over images, with "
    "Student's 95 % interval. Pixels of value 255 count nowhere.",
    "The mean IoU of the test set is over all classes, each from intersections and unions summed "
    "over all images; its intervals are 95 % bootstrap intervals over images. They cover the "
    "sampling of test images, not the spread between training runs.",
)


@evaluations.register("accuracy")
@dataclass(frozen=True)
class Accuracy:
    """Test error of every round against sparsity, before and after retraining, with intervals.

    error = wrong / n with its exact binomial (Clopper-Pearson) interval; the increase over the
    dense control is paired on the same images; errors by class are compared in `class_damage`. For
    segmentation the error is the mean over images of 1 - mean IoU, and the mean IoU over the
    classes of the whole test set stands beside it.
    """

    version: ClassVar[int] = 3
    by_default: ClassVar[bool] = True
    supports_segmentation: ClassVar[bool] = True

    def evaluate(self, record: JobRecord) -> Section:
        """Return curves `error/<criterion>`, `error_before_retraining/<criterion>` and
        `increase/<criterion>`, and errors by class.

        For segmentation there are also `mean_iou/<criterion>`, and IoU by class instead of errors.
        """
        curves: dict[str, Curve] = {}
        for label in dict.fromkeys(row.label for row in record.rounds):
            rounds = [row for row in record.rounds if row.label == label]
            curves |= _draw_error_curves(label, rounds, record)
        scalars = {
            "error/given": record.given_measured.document().error,
            **{
                f"error/{control.name}": control.measured.document().error
                for control in record.controls
            },
        }
        targets = [row for row in record.rounds if row.target is not None]
        if record.data.segmentation:
            return _summarise_pixels(record, targets, curves, scalars, version=self.version)
        networks = {"given": record.given_measured.wrong}
        networks |= {control.name: control.measured.wrong for control in record.controls}
        networks |= {row.id: row.measured.wrong for row in targets}
        labels = record.data.test.labels.cpu()
        by_class = {
            name: _estimate_by_class(wrong, labels, record.data.classes)
            for name, wrong in networks.items()
        }
        return Section(
            title="Accuracy",
            version=self.version,
            curves=curves,
            scalars=scalars,
            labels=LABELS,
            notes=(NOTE,),
            details={
                "error_by_class": {
                    name: {label: estimate.model_dump() for label, estimate in row.items()}
                    for name, row in by_class.items()
                }
            },
        )


def _draw_error_curves(
    label: str, rounds: Sequence[RoundRecord], record: JobRecord
) -> dict[str, Curve]:
    """The curves of one criterion, from its rounds."""
    never_retrained = all(row.retrained is None for row in rounds)
    # Where the job retrains, a round that was not retrained is no network that would be shipped.
    shipped = [row for row in rounds if row.retrained is not None or never_retrained]
    errors = [row.measured.document().error for row in shipped]
    curves = {f"error/{label}": _draw_curve(shipped, errors, "test error", "fraction")}
    if not never_retrained:
        curves[f"error_before_retraining/{label}"] = _draw_curve(
            rounds,
            [row.pruned.document().error for row in rounds],
            "test error right after pruning",
            "fraction",
        )
    pairs = [(row, record.find_control(row)) for row in shipped]
    compared = [(row, control.measured) for row, control in pairs if control is not None]
    curves[f"increase/{label}"] = _draw_curve(
        [row for row, _ in compared],
        [estimate_increase(row.measured.wrong, control.wrong) for row, control in compared],
        "test error above the dense control's",
        "points",
    )
    return curves


def _summarise_pixels(
    record: JobRecord,
    targets: Sequence[RoundRecord],
    curves: dict[str, Curve],
    scalars: dict[str, Estimate],
    *,
    version: int,
) -> Section:
    """The section for segmentation: IoU where classification has errors by class."""
    networks = {"given": record.given_measured}
    networks |= {control.name: control.measured for control in record.controls}
    networks |= {row.id: row.measured for row in targets}
    ious = {
        name: compute_whole_ious(measured.overlaps, generator(record.seed, "accuracy"))
        for name, measured in networks.items()
        if measured.overlaps is not None
    }
    scalar_names = ["given", *(control.name for control in record.controls)]
    scalars = scalars | {f"mean_iou/{name}": ious[name][0] for name in scalar_names}
    for label in dict.fromkeys(row.label for row in targets):
        rounds = [row for row in targets if row.label == label]
        curves[f"mean_iou/{label}"] = _draw_curve(
            rounds, [ious[row.id][0] for row in rounds], "mean IoU of the test set", "fraction"
        )
    rows = [
        {"network": name, "class": class_name, "iou": iou.model_dump()}
        for name, (_, by_class) in ious.items()
        for class_name, iou in zip(record.data.classes, by_class, strict=True)
        if iou is not None
    ]
    return Section(
        title="Accuracy",
        version=version,
        curves=curves,
        scalars=scalars,
        labels=LABELS,
        notes=PIXEL_NOTES,
        details={"iou_by_class": rows},
    )


def _draw_curve(
    rounds: Sequence[RoundRecord], values: list[Estimate], y_label: str, y_unit: Unit
) -> Curve:
    sparsities = [row.sparsity for row in rounds]
    return Curve.over_sparsity(sparsities, values, y_label=y_label, y_unit=y_unit)


def _estimate_by_class(
    wrong: Tensor, labels: Tensor, classes: tuple[str, ...]
) -> dict[str, Estimate]:
    """The error of a network on each class that has test images."""
    return {
        name: binomial_interval(int(wrong[labels == index].sum()), int((labels == index).sum()))
        for index, name in enumerate(classes)
        if bool((labels == index).any())
    }
