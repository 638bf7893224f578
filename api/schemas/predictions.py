"""Questions to a fitted scaling law, and its answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Predicted(BaseModel):
    """An error with the band of the law's curve, and the number of points behind the law."""

    value: float
    low: float | None
    high: float | None
    n: int | None


class Question(BaseModel):
    """Either densities, whose errors are wanted, or the largest error, whose smallest density
    is.
    """

    model_config = ConfigDict(extra="forbid")

    densities: (
        Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=1000)]
        | None
    ) = None
    """Fractions of the prunable weights that remain."""
    max_error: Annotated[float, Field(gt=0, le=1)] | None = None
    """The test error that is tolerated."""
    depth: Annotated[float, Field(gt=0)] | None = None
    """Of a family: only its networks of this depth."""
    width: Annotated[float, Field(gt=0)] | None = None
    """Of a family: only its networks of this width."""
    criterion: str | None = None
    """Of a job with several criteria, whose law is asked, by its label in the report."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    """With which the bands cover the law's curve."""

    @model_validator(mode="after")
    def _one_question(self) -> Question:
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
    """Of a family: the exponent of depth in the invariant depth^phi width^psi density, of which p
    is a value.
    """
    psi: float | None = None
    """Of a family: the exponent of width."""
    networks: int | None = None
    """Of a family: how many the law was fitted to."""
    points: int
    sigma: float
    """Relative standard deviation of one run about the law, on endlessly many test images."""
    fit_range: tuple[float, float]
    """The sparsest and the densest density that was run."""
    warnings: list[str]


class Prediction(BaseModel):
    """One density, and what the law says of it."""

    density: float
    sparsity: float
    error: Predicted | None
    """With its band, of one more run in a family's answer to `max_error`; `null` where the law does
    not tell.
    """
    depth: float | None = None
    width: float | None = None
    unpruned_error: float | None = None
    """Of a family: the network's own, or what those of the others say of one that was not run."""
    parameters: float | None = None
    """Of a family: those that remain."""
    extrapolated: bool | None
    remark: str
    """What to know, or why the law does not tell."""


class Foreseen(Prediction):
    """What the law of an earlier job says of a target, before anything is computed."""

    criterion: str
    job: str
    """The job whose law it is."""


class Predictions(BaseModel):
    """The answers, in the order of the densities; to `max_error` a single one, of a family one a
    network, best first.
    """

    criterion: str
    """The criterion whose law answered, by its label; `family` for the joint law of a family."""
    confidence: float
    law: FittedLaw
    predictions: list[Prediction]
