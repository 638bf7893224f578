"""Questions to a fitted scaling law, and its answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Of = Literal["run", "curve"]
"""The quantity that a band is of."""


class Predicted(BaseModel):
    """An error with its band, and the number of points behind the law."""

    value: float
    low: float | None
    high: float | None
    n: int | None


class Question(BaseModel):
    """A question to a law: either the errors at densities, or the smallest density of an error."""

    model_config = ConfigDict(extra="forbid")

    densities: (
        Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=1000)]
        | None
    ) = None
    """Fractions of the prunable weights that remain."""
    max_error: Annotated[float, Field(gt=0, le=1)] | None = None
    """The test error that is tolerated."""
    depth: Annotated[float, Field(gt=0)] | None = None
    """Answer for a family's networks of this depth only."""
    width: Annotated[float, Field(gt=0)] | None = None
    """Answer for a family's networks of this width only."""
    criterion: str | None = None
    """The criterion whose law answers, by its label in the report; needed if there are several."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    """The confidence with which the bands cover."""
    of: Of = "run"
    """`run`: bands of one more run under another seed; `curve`: of the mean of many runs."""

    @model_validator(mode="after")
    def _check_question(self) -> Question:
        if (self.densities is None) == (self.max_error is None):
            raise ValueError("give either 'densities' or 'max_error'")
        return self


class FittedLaw(BaseModel):
    """The law that answers."""

    unpruned_error: float | None
    """`null` for a family: every network has its own."""
    gamma: float
    p: float
    plateau: float
    phi: float | None = None
    """The exponent of depth in a family's invariant depth^phi width^psi density.

    `p` is a value of the invariant.
    """
    psi: float | None = None
    """The exponent of width in a family's invariant."""
    networks: int | None = None
    """The number of networks that the law of a family was fitted to."""
    points: int
    sigma: float
    """Relative standard deviation of one run about the law, with infinitely many test images."""
    seed_sd: float | None = None
    """Relative standard deviation by which another seed moves a whole curve, which bands of one
    more run hold.
    """
    seed_sd_from: Literal["paper", "trials"] | None = None
    """`trials`: pooled from the runs under other seeds; `paper`: the paper's, as these are too few
    to show it.
    """
    fit_range: tuple[float, float]
    """The sparsest and the densest density that was run."""
    warnings: list[str]


class Prediction(BaseModel):
    """A density, and what the law says of it."""

    density: float
    sparsity: float
    error: Predicted | None
    """The error with its band; `null` where the law does not tell."""
    law: str | None = None
    """The law that answers: `pruning`, or between the measured densities `broken` or `power` where
    that one predicts left-out densities better; `joint` for a family; `null` for a measured error.
    """
    depth: float | None = None
    width: float | None = None
    unpruned_error: float | None = None
    """The unpruned error of a family's network; predicted from the others where it was not run."""
    parameters: float | None = None
    """The number of parameters that remain of a family's network."""
    extrapolated: bool | None
    remark: str
    """The forecast, or why the law does not support one."""


class Foreseen(Prediction):
    """A forecast of a target by the law of an earlier job, before anything is computed."""

    criterion: str
    job: str
    """The job whose law it is."""


class Predictions(BaseModel):
    """The answers, in the order of the densities.

    To `max_error` there is a single answer, or one for each network of a family, best first.
    """

    criterion: str
    """The criterion whose law answered, by its label; `family` for the joint law of a family."""
    confidence: float
    of: Of = "run"
    """The quantity that the bands are of."""
    law: FittedLaw
    predictions: list[Prediction]
