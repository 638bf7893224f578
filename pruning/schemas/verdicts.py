"""The verdicts of a report: gates, what would decide what is open, and what holds together."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from pruning.schemas.base import Document
from pruning.schemas.estimates import Estimate, Unit

Outcome = Literal["passed", "failed", "undecided"]
RecommendationVerdict = Literal["ship", "undecided", "do_not_ship"]
GateName = Literal[
    "max_error_increase",
    "max_delta_excess_error",
    "max_class_increase",
    "min_prune_potential",
    "min_certified_accuracy",
    "max_size_bytes",
    "max_flops",
    "max_latency_ratio",
]
Images = Literal["test", "validation"]


class PairedCounts(Document):
    """The images that only one of two networks gets wrong, of the same `n` images."""

    only_checkpoint: int
    only_reference: int
    n: int


class CrossedVariance(Document):
    """The variance of a mean over replicates of a job and over the images that all of them see, by
    its two sources.
    """

    by_images: float
    """The variance that other images would bring."""
    by_replicates: float
    """The variance that other seeds would bring."""
    images: int
    replicates: int
    error: float | None = None
    """The mean error that the increase led to: seeds move an error by a factor, so that they move a
    larger one by more. `null` where the variance is taken as the same at every value.
    """


class NeededImages(Document):
    """The number of images that would decide what is undecided."""

    what: str
    """`margin` for the margin of the recommendation, else the name of a gate."""
    images: Images
    at_hand: int | None
    """The images that were looked at."""
    needed: int
    """Images in all with which the test decides in four of five jobs, were the increase and the
    discordant rates those at hand.
    """


class GateResult(Document):
    """A gate held against the recommended checkpoint."""

    name: GateName
    limit: float
    checkpoint: str | None
    measured: Estimate | None
    passed: bool
    """Whether the outcome is `passed`."""
    message: str
    outcome: Outcome = "undecided"
    """`passed`: proven to keep the limit. `failed`: beyond the limit by more than noise explains.
    `undecided`: the images tell neither, or the quantity was not measured, or no checkpoint is
    recommended that the gate could be held against.
    """
    subject: str | None = None
    """The distribution that the gate is about, where its name does not say so."""
    unit: Unit = "points"
    """The unit of `value`, `low`, `high` and `limit`."""
    value: float | None = None
    low: float | None = None
    """The lower limit of the value, one-sided at `confidence`; `null` for what has no noise."""
    high: float | None = None
    """The upper limit of the value, one-sided at `confidence`."""
    confidence: float | None = None
    """The confidence of each limit. Where several gates are tested together it is that of Holm's
    procedure for this gate: all gates that pass hold together at the confidence the job asked for.
    """
    p_value: float | None = None
    """The p-value against "the limit is not kept", adjusted over the gates of the job by Holm."""
    needed: int | None = None
    """Images in all that would decide, with a power of 80 %; `null` where it is decided, or no
    number of images is known to decide.
    """

    @model_validator(mode="before")
    @classmethod
    def _fill_outcome(cls, gate: Any) -> Any:
        """Take the outcome from `passed` in reports of earlier versions."""
        if isinstance(gate, dict) and "outcome" not in gate and "passed" in gate:
            return {**gate, "outcome": "passed" if gate["passed"] else "failed"}
        return gate

    @model_validator(mode="after")
    def _agree(self) -> GateResult:
        if self.passed != (self.outcome == "passed"):
            raise ValueError(f"passed: {self.passed} contradicts the outcome {self.outcome!r}")
        return self


class Claim(Document):
    """A statement about the recommended checkpoint, and whether it holds."""

    text: str
    outcome: Outcome
    """`passed`: it holds. `failed`: it does not. `undecided`: the images tell neither."""
    p_value: float | None = None
    """Adjusted over the claims that were tested together (Holm); `null` for one that was not tested
    with the others.
    """
    needed: int | None = None
    """Images in all that would decide."""


class JointStatement(Document):
    """A statement of what holds of the recommended checkpoint at one confidence together, what does
    not, and what is undecided.
    """

    confidence: float
    sentence: str
    claims: tuple[Claim, ...] = ()
