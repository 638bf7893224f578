"""Forecasts: the cost of a job before it runs, and the errors that a law predicts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from secateur import display
from secateur.answers import Answer, ReadableByName
from secateur.wire import Measured


class Prediction(Answer):
    """A density, and what a law says of it."""

    shown: ClassVar[tuple[str, ...]] = ("density", "error", "law")
    density: float | None = None
    sparsity: float | None = None
    error: Measured | None = None
    """The error with its band; `None` where the law does not tell."""
    law: str | None = None
    """The law that answers by name; `None` for a measured error."""
    criterion: str | None = None
    """The criterion, of a target that was foreseen by the law of an earlier job."""
    job: str | None = None
    """The job whose law it is, of a target that was foreseen."""
    depth: float | None = None
    width: float | None = None
    unpruned_error: float | None = None
    """The unpruned error of a family's network."""
    parameters: float | None = None
    """The parameters that remain of a family's network."""
    extrapolated: bool | None = None
    remark: str = ""
    """A remark on the forecast, or why there is none."""

    def row(self) -> dict[str, Any]:
        """Return the prediction as a row of a table."""
        error = self.error
        return {
            "criterion": self.criterion,
            "depth": self.depth,
            "width": self.width,
            "density": self.density,
            "sparsity": self.sparsity,
            "parameters": self.parameters,
            "error": None if error is None else error.value,
            "error_low": None if error is None else error.low,
            "error_high": None if error is None else error.high,
            "law": self.law,
            "extrapolated": self.extrapolated,
            "remark": self.remark,
        }


class WallTime(Answer):
    """The time that a job should take on a kind of machine, from jobs that ran there."""

    shown: ClassVar[tuple[str, ...]] = ("device_name", "p50_s", "p90_s", "jobs")
    device: str = ""
    device_name: str = ""
    jobs: int = 0
    same_network: bool = False
    """Whether these jobs had networks of as many FLOPs for each image."""
    p50_s: float = 0.0
    """The median in seconds."""
    p90_s: float | None = None
    """The time that nine in ten jobs like these do not exceed."""


class JobEstimate(Answer):
    """The cost of a job, before it runs."""

    shown: ClassVar[tuple[str, ...]] = ("rounds", "steps", "flops", "memory_bytes")
    rounds: int | None = None
    steps: int | None = None
    flops: float | None = None
    memory_bytes: int | None = None
    units: float | None = None
    """The total of the job's progress, in forward passes of one image."""
    parts: dict[str, float] = {}
    """The units by what they are for."""
    evaluations: dict[str, float] = {}
    """The part of the units that each evaluation takes."""
    wall_times: tuple[WallTime, ...] = ()
    """The time that it should take on each kind of machine that ran jobs here."""
    reach: dict[str, Any] | None = None
    """The range that budgets can reach."""
    warnings: tuple[str, ...] = ()


class Validation(ReadableByName):
    """A job that would be accepted: what it would cost, and how its defaults are filled in."""

    valid: bool | None = None
    estimate: JobEstimate | None = None
    recipe: dict[str, Any] = {}
    """The job with every default written in."""
    spec: dict[str, Any] = {}
    """The job as it would be stored, with the fields that a preset fills in."""
    preprocessing: dict[str, Any] | None = None
    """The change of size and the normalisation that the job's images would have."""
    foreseen: tuple[Prediction, ...] = ()
    """The forecasts of the targets, by the laws of the project's earlier jobs."""

    def _list_shown(self) -> dict[str, Any]:
        cost = {} if self.estimate is None else self.estimate._list_shown()
        warnings = () if self.estimate is None else self.estimate.warnings
        return {
            "valid": self.valid,
            **cost,
            "warnings": len(warnings) or None,
            "foreseen": len(self.foreseen) or None,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return what is foreseen of the targets as rows of a table."""
        return _list_rows(self.foreseen)

    def to_dataframe(self) -> Any:
        """Return these rows as a `pandas.DataFrame`; raises `ImportError` where pandas is
        missing.
        """
        return display.build_dataframe(self.rows())


class FittedLaw(Answer):
    """The law that answers."""

    shown: ClassVar[tuple[str, ...]] = ("gamma", "p", "plateau", "points", "sigma", "seed_sd")
    unpruned_error: float | None = None
    """`None` for a family: every network has its own."""
    gamma: float | None = None
    p: float | None = None
    plateau: float | None = None
    phi: float | None = None
    psi: float | None = None
    networks: int | None = None
    points: int | None = None
    sigma: float | None = None
    """Relative standard deviation of one run about the law, with infinitely many test images."""
    seed_sd: float | None = None
    """Relative standard deviation by which another seed moves a whole curve."""
    seed_sd_from: str | None = None
    """`trials`: pooled from runs under other seeds; `paper`: the paper's, as these are too few."""
    fit_range: tuple[float, float] | None = None
    """The sparsest and the densest density that was run."""
    warnings: tuple[str, ...] = ()


class Predictions(ReadableByName):
    """The answers of a law, in the order of the densities; a family's networks best first."""

    criterion: str | None = None
    confidence: float | None = None
    """The confidence with which the bands cover."""
    of: str | None = None
    """`run`: bands of one more run under another seed; `curve`: of the mean of many."""
    law: FittedLaw | None = None
    predictions: tuple[Prediction, ...] = ()

    def __repr__(self) -> str:
        fields = {name: getattr(self, name) for name in ("criterion", "confidence", "of")}
        return display.format_repr("Predictions", fields | {"predictions": len(self.predictions)})

    def _repr_html_(self) -> str:
        return display.format_html(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return the predictions as rows of a table."""
        return _list_rows(self.predictions)

    def to_dataframe(self) -> Any:
        """Return the predictions as a `pandas.DataFrame`; raises `ImportError` where pandas is
        missing.
        """
        return display.build_dataframe(self.rows())

    def plot(self, axes: Any = None) -> Any:
        """Draw the predicted errors with their bands against sparsity and return the matplotlib
        axes; raises `ImportError` where matplotlib is missing.
        """
        rows = [row | {"criterion": row["criterion"] or self.criterion} for row in self.rows()]
        level = "" if self.confidence is None else f" {100 * self.confidence:g} %"
        return display.plot_errors(rows, axes, f"predicted error, with its{level} band")


def _list_rows(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    return [prediction.row() for prediction in predictions]
