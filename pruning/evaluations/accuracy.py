"""Error against sparsity with exact binomial intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pruning import wording as q
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.evaluations import evaluations
from pruning.measurement.intervals import binomial_interval
from pruning.measurement.iou import compute_whole_ious
from pruning.measurement.measure import estimate_increase
from pruning.schemas.report import Curve, Estimate, Section
from pruning.seeding import generator

WORST = 8
"""Of so many checkpoints the notes name the class that loses most."""


@evaluations.register("accuracy")
@dataclass(frozen=True)
class Accuracy:
    """Test error of every round against sparsity, before and after retraining, with exact binomial
    intervals.

    error = wrong / n with its Clopper-Pearson interval; the increase over the dense control is
    paired on the same images; errors by class show where pruning hurts most. For segmentation the
    error is the mean over images of 1 - mean IoU, and the mean IoU over the classes of the whole
    test set stands beside it.
    """

    version: ClassVar[int] = 1
    of_pixels: ClassVar[bool] = True

    def evaluate(self, trial: JobRecord) -> Section:
        """Curves `error/<criterion>`, `error_before_retraining/<criterion>`,
        `increase/<criterion>`; errors by class.

        For segmentation also `mean_iou/<criterion>`, and IoU by class in the place of errors.
        """
        curves: dict[str, Curve] = {}
        for label in dict.fromkeys(one.label for one in trial.rounds):
            rounds = [one for one in trial.rounds if one.label == label]
            shipped = [
                one for one in rounds if one.retrained is not None or _never_retrained(rounds)
            ]
            curves[f"error/{label}"] = _curve(
                shipped, [one.measured.document().error for one in shipped], "test error"
            )
            if any(one.retrained is not None for one in rounds):
                curves[f"error_before_retraining/{label}"] = _curve(
                    rounds,
                    [one.pruned.document().error for one in rounds],
                    "test error right after pruning",
                )
            curves[f"increase/{label}"] = _curve(
                shipped,
                [
                    estimate_increase(one.measured.wrong, trial.control_measured.wrong)
                    for one in shipped
                ],
                "test error above the dense control's",
            )
        scalars = {
            "error/given": trial.given_measured.document().error,
            "error/control": trial.control_measured.document().error,
        }
        targets = [one for one in trial.rounds if one.target is not None]
        if trial.data.segmentation:
            return _of_pixels(trial, targets, curves, scalars, self.version)
        networks = {"given": trial.given_measured.wrong, "control": trial.control_measured.wrong}
        networks |= {one.id: one.measured.wrong for one in targets}
        by_class = {
            name: _by_class(wrong, trial.data.test.labels.cpu(), trial.data.classes)
            for name, wrong in networks.items()
        }
        return Section(
            title="Accuracy",
            version=self.version,
            curves=curves,
            scalars=scalars,
            notes=(
                "Intervals are exact binomial (Clopper-Pearson), 95 %, and cover the sampling of "
                "test images, not the "
                "spread between training runs.",
                *_worst_classes(by_class),
            ),
            details={
                "error_by_class": {
                    name: {label: estimate.model_dump() for label, estimate in row.items()}
                    for name, row in by_class.items()
                }
            },
        )


PIXEL_NOTES = (
    "The error of an image is 1 - its mean IoU (intersection over union) over the classes that "
    "its truth or the prediction "
    "has; the error of a network is the mean over images, with Student's 95 % interval. Pixels "
    "of value 255 count nowhere.",
    "The mean IoU of the test set is over all classes, each from intersections and unions summed "
    "over all images; its "
    "intervals are 95 % bootstrap intervals over images. They cover the sampling of test images, "
    "not the spread between "
    "training runs.",
)


def _of_pixels(
    trial: JobRecord,
    targets: Sequence[RoundRecord],
    curves: dict[str, Curve],
    scalars: dict[str, Estimate],
    version: int,
) -> Section:
    """The section for segmentation: IoU where classification has errors by class."""
    measured = {"given": trial.given_measured, "control": trial.control_measured} | {
        one.id: one.measured for one in targets
    }
    found = {
        name: compute_whole_ious(one.overlaps, generator(trial.seed, "accuracy"))
        for name, one in measured.items()
        if one.overlaps is not None
    }
    scalars = scalars | {f"mean_iou/{name}": found[name][0] for name in ("given", "control")}
    for label in dict.fromkeys(one.label for one in targets):
        mine = [one for one in targets if one.label == label]
        curves[f"mean_iou/{label}"] = _curve(
            mine, [found[one.id][0] for one in mine], "mean IoU of the test set"
        )
    rows = [
        {"network": name, "class": label, "iou": value.model_dump()}
        for name, (_, each) in found.items()
        for label, value in zip(trial.data.classes, each, strict=True)
        if value is not None
    ]
    return Section(
        title="Accuracy",
        version=version,
        curves=curves,
        scalars=scalars,
        notes=PIXEL_NOTES,
        details={"iou_by_class": rows},
    )


def _never_retrained(rounds: Sequence[RoundRecord]) -> bool:
    return all(one.retrained is None for one in rounds)


def _curve(rounds: Sequence[RoundRecord], values: list[Estimate], y_label: str) -> Curve:
    return Curve(
        x=tuple(one.sparsity for one in rounds),
        y=tuple(values),
        x_label="sparsity",
        y_label=y_label,
    )


def _by_class(wrong: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, Estimate]:
    return {
        name: binomial_interval(int(wrong[labels == index].sum()), int((labels == index).sum()))
        for index, name in enumerate(classes)
        if bool((labels == index).any())
    }


def _worst_classes(by_class: dict[str, dict[str, Any]]) -> list[str]:
    """The class that each checkpoint loses most in, of the checkpoints that lose most."""
    found: list[tuple[float, str, str]] = []
    for name, row in by_class.items():
        if name not in ("given", "control"):
            gaps = {
                label: estimate.value - by_class["control"][label].value
                for label, estimate in row.items()
            }
            worst = max(gaps, key=gaps.__getitem__)
            if gaps[worst] > 0:
                found.append((gaps[worst], name, worst))
    most = sorted(found, key=lambda item: -item[0])[:WORST]
    notes = [
        f"{name}: the class that loses most against the dense control is {worst!r} "
        f"({q.points_with_interval(Estimate(value=gap))} on "
        f"{q.count_of(by_class[name][worst].n or 0, 'test image')}: "
        f"{q.percent_with_interval(by_class[name][worst])} wrong)."
        for gap, name, worst in found
        if (gap, name, worst) in most
    ]
    left = len(found) - len(most)
    return notes + (
        [
            f"{q.count_of(left, 'other checkpoint')} of which no class loses more: see the "
            "errors by class."
        ]
        if left
        else []
    )
