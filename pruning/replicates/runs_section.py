"""The section on the replicates themselves: what each measured, their mean, and the band of one
further run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pruning import wording
from pruning.measurement.replicated import RUN_CONFIDENCE, predict_run
from pruning.replicates.finished import Finished
from pruning.schemas.estimates import Estimate, Unit
from pruning.schemas.report import Checkpoint, Curve, Section

UNITS: dict[str, Unit] = {
    "target_sparsity": "share",
    "target_removed": "share",
    "error": "fraction",
    "val_error": "fraction",
    "spread_over_seeds": "points",
}
NOTES = (
    "Means are over replicates, which differ in their seed and see the same images. Intervals are "
    "95 % for other seeds and other images of the same kind: both are samples, and are crossed. "
    "Gates and the recommendation test the mean increase over the dense controls of the "
    "replicates.",
    f"The band of a further run holds the error of one more run of the job, under another seed and "
    f"on the same test images, with a probability of {wording.percent(RUN_CONFIDENCE, 0)}, by "
    "Student's t with as many degrees of freedom as replicates less one: with two or three "
    "replicates it is wide because little is known of how far runs lie apart.",
    "The replicates share their images, their splits and the network they are given. Their seeds "
    "move the initialisation and training of a network that the job trains, the order and the "
    "augmentation of images in retraining, the training images that criteria look at, random "
    "choices of methods, and the noise and corruptions of evaluations under shift.",
    "Sizes, FLOPs and latencies are the largest of any replicate, the weights that remain in a "
    "layer are means. Networks to download are those of the replicates.",
)


def build_runs_section(finished: Sequence[Finished], checkpoints: Sequence[Checkpoint]) -> Section:
    """Build the section, with curves `error/<criterion>` and `band/<criterion>` over sparsity."""
    rows = [_tabulate(checkpoint, finished) for checkpoint in checkpoints]
    labels = list(dict.fromkeys(checkpoint.label for checkpoint in checkpoints))
    curves: dict[str, Curve] = {}
    for label in labels:
        own = [checkpoint for checkpoint in checkpoints if checkpoint.label == label]
        own.sort(key=lambda checkpoint: checkpoint.sparsity)
        curves |= _draw(label, own, finished)
    return Section(
        title="Replicates",
        version=1,
        curves=curves,
        details={
            "checkpoints": rows,
            "runs": [row for replicate in finished for row in _list_runs(replicate)],
        },
        units=UNITS,
        labels={"band": "runs, and the band of a further run", "mean": "mean over the runs"},
        notes=(*_describe_spread(finished, checkpoints), *NOTES),
    )


def _list_owners(checkpoint: Checkpoint, finished: Sequence[Finished]) -> list[Finished]:
    """The replicates that have the checkpoint."""
    return [replicate for replicate in finished if checkpoint.id in replicate.checkpoints]


def _collect_errors(checkpoint: Checkpoint, finished: Sequence[Finished]) -> list[float]:
    """The test error of the checkpoint in every replicate that has it."""
    owners = _list_owners(checkpoint, finished)
    return [replicate.checkpoints[checkpoint.id].error.value for replicate in owners]


def _predict(checkpoint: Checkpoint, finished: Sequence[Finished]) -> Estimate:
    """The band of a further run."""
    images = len(finished[0].images.indices)
    return predict_run(_collect_errors(checkpoint, finished), images)


def _measure_spread(errors: Sequence[float]) -> float:
    """The standard deviation over replicates."""
    mean = sum(errors) / len(errors)
    return math.sqrt(sum((error - mean) ** 2 for error in errors) / (len(errors) - 1))


def _tabulate(checkpoint: Checkpoint, finished: Sequence[Finished]) -> dict[str, Any]:
    """The row of a checkpoint."""
    errors = _collect_errors(checkpoint, finished)
    return {
        "checkpoint": checkpoint.id,
        _name_target(checkpoint): checkpoint.removal,
        "replicates": len(errors),
        "mean_error": checkpoint.error.model_dump(),
        "increase_over_control": checkpoint.error_increase.control.model_dump(),
        "spread_over_seeds": _measure_spread(errors),
        "further_run": _predict(checkpoint, finished).model_dump(),
    }


def _name_target(checkpoint: Checkpoint) -> str:
    """The name of what a target asks to remove: a sparsity, or a share of what is counted."""
    return "target_sparsity" if checkpoint.requested is None else "target_removed"


def _list_runs(replicate: Finished) -> list[dict[str, Any]]:
    """The rows of a replicate, one for each checkpoint."""
    return [
        {
            "seed": replicate.seed,
            "job": replicate.run.job,
            "checkpoint": checkpoint.id,
            "error": checkpoint.error.value,
            "val_error": checkpoint.val_error.value,
            "increase_over_control": checkpoint.error_increase.control.model_dump(),
        }
        for checkpoint in replicate.report.checkpoints
    ]


def _draw(
    label: str, checkpoints: Sequence[Checkpoint], finished: Sequence[Finished]
) -> dict[str, Curve]:
    """The mean with its interval, the band of a further run, and every run as a point."""
    sparsities = [checkpoint.sparsity for checkpoint in checkpoints]
    y_label = f"test error, {label}"
    points = [
        (replicate.checkpoints[checkpoint.id].sparsity, error)
        for checkpoint in checkpoints
        for replicate, error in zip(
            _list_owners(checkpoint, finished),
            _collect_errors(checkpoint, finished),
            strict=True,
        )
    ]
    return {
        f"band/{label}/further run": Curve.over_sparsity(
            sparsities,
            [_predict(checkpoint, finished) for checkpoint in checkpoints],
            y_label=y_label,
            y_unit="fraction",
            drawn="band",
        ),
        f"band/{label}/runs": Curve.over_sparsity(
            [x for x, _ in points],
            [Estimate(value=error, unit="fraction") for _, error in points],
            y_label=y_label,
            y_unit="fraction",
            drawn="points",
        ),
        f"mean/{label}": Curve.over_sparsity(
            sparsities,
            [checkpoint.error for checkpoint in checkpoints],
            y_label=f"mean test error, {label}",
            y_unit="fraction",
        ),
    }


def _describe_spread(finished: Sequence[Finished], checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The mean error and its spread of every checkpoint, in words."""
    lines = []
    for checkpoint in checkpoints:
        errors = _collect_errors(checkpoint, finished)
        band = _predict(checkpoint, finished)
        mean = wording.percent_with_interval(checkpoint.error, 2)
        lines.append(
            f"{checkpoint.id}: mean error {mean} over "
            f"{wording.count_of(len(errors), 'replicate')}, from {wording.percent(min(errors), 2)} "
            f"to {wording.percent(max(errors), 2)}; the band of a further run at "
            f"{wording.percent(RUN_CONFIDENCE, 0)} is from "
            f"{wording.percent(band.low or 0.0, 2)} to {wording.percent(band.high or 1.0, 2)}."
        )
    return lines
