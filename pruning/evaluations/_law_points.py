"""The points that the law of a criterion is fitted to, of one run or of replicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.laws.density import DensityLaw, fit_density_law
from pruning.measurement.guessing import guessing_error
from pruning.schemas.recipe import Method
from pruning.schemas.report import Estimate


@dataclass(frozen=True, kw_only=True)
class LawPoints:
    """Errors of one criterion at densities, of one or of several runs: a law is fitted to them."""

    criterion: Method
    densities: Sequence[float]
    errors: Sequence[Estimate]
    unpruned: Sequence[float]
    """The unpruned error of the run of each point."""
    images: int
    """The number of images behind each error."""
    seed: int
    guessing_error: float
    """The error of the best constant answer on the images behind the errors."""
    trial: Sequence[int] | None = None
    """The run of each point; None for a single run."""

    def fit(self) -> DensityLaw:
        """Fit the law; raises one of `REFUSALS`."""
        return fit_density_law(
            self.densities,
            [error.value for error in self.errors],
            self.unpruned,
            guessing_error=self.guessing_error,
            images=self.images,
            trial=self.trial,
            seed=self.seed % 2**32,
        )

    def average(self) -> tuple[list[float], list[float]]:
        """The densities, and the mean error over the runs at each."""
        by_density: dict[float, list[float]] = {}
        for density, error in zip(self.densities, self.errors, strict=True):
            by_density.setdefault(round(density, 9), []).append(error.value)
        return list(by_density), [sum(errors) / len(errors) for errors in by_density.values()]


def list_labels(record: JobRecord) -> list[str]:
    """The criteria of a job by label."""
    return list(dict.fromkeys(row.label for row in record.rounds))


def list_rounds(record: JobRecord, label: str) -> list[RoundRecord]:
    """The rounds of a criterion whose networks are comparable, the densest first: targets alone
    (and what a search tried) where rounds between targets end untrained or half trained.
    """
    unfinished = record.pruned_untrained or record.recipe.retrain.mode == "gradual"
    rounds = (
        row
        for row in record.rounds
        if row.label == label and (row.target is not None or row.is_tried or not unfinished)
    )
    return sorted(rounds, key=lambda row: row.sparsity)


def measure_points(record: JobRecord, label: str) -> LawPoints:
    """The points of a criterion, of one run."""
    rounds = list_rounds(record, label)
    return LawPoints(
        criterion=rounds[0].criterion,
        densities=[row.density for row in rounds],
        errors=[row.measured.document().error for row in rounds],
        unpruned=[float(record.control.measured.wrong.double().mean())] * len(rounds),
        images=len(record.data.test),
        seed=record.seed,
        guessing_error=guessing_error(record.data.test.labels, len(record.data.classes)),
    )
