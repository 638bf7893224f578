"""The loss changes of a job's rounds, for the evaluation `loss_model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.loss_changes import (
    LossChange,
    StagePoint,
    list_stage_points,
    loss_change_since_start,
    mean_loss_change,
)


@dataclass(frozen=True)
class RoundLoss:
    """A round with its loss changes."""

    round: RoundRecord
    change: LossChange
    """The change by the round's pruning."""
    total: LossChange
    """The change since the network before the first round."""
    stages: list[StagePoint]

    @staticmethod
    def from_record(record: JobRecord) -> list[RoundLoss]:
        """The rounds of a job."""
        return [
            RoundLoss(
                round=row,
                change=mean_loss_change(row),
                total=loss_change_since_start(record.rounds, row),
                stages=list_stage_points(row.stages),
            )
            for row in record.rounds
        ]

    @property
    def factor(self) -> float | None:
        """The predicted over the measured change of the round; None where either is unknown or the
        measured one is 0.
        """
        if not self.stages:
            return None
        last = self.stages[-1]
        if last.predicted_sum is None or not last.measured_sum:
            return None
        return last.predicted_sum / last.measured_sum

    def row(self) -> dict[str, Any]:
        """The row of the table of rounds."""
        last = self.stages[-1] if self.stages else None
        return {
            "criterion": self.round.label,
            "round": self.round.round,
            "target": self.round.target is not None,
            "sparsity": self.round.sparsity,
            "loss_change": self.change.document(),
            "loss_change_since_start": self.total.document(),
            "stages": len(self.stages) or None,
            "predicted": last.predicted_sum if last else None,
            "measured": last.measured_sum if last else None,
            "predicted_over_measured_factor": self.factor,
        }

    def stage_rows(self) -> list[dict[str, Any]]:
        """The rows of the table of stages."""
        return [
            {
                "criterion": self.round.label,
                "round": self.round.round,
                "stage": stage.number,
                "sparsity": stage.sparsity,
                "predicted": stage.predicted,
                "measured": stage.measured,
                "predicted_minus_measured": _subtract(stage.predicted, stage.measured),
                "predicted_over_measured_factor": stage.factor,
                "images": stage.images,
            }
            for stage in self.stages
        ]


def _subtract(predicted: float | None, measured: float | None) -> float | None:
    if predicted is None or measured is None:
        return None
    return predicted - measured
