"""The report of a family: its members, its law, and the networks it recommends, predicted beside
measured.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pruning.schemas.base import Document
from pruning.schemas.described import DescribedBy
from pruning.schemas.family import FamilySpec
from pruning.schemas.report import Estimate, Failure, Section

MemberStatus = Literal[
    "planned",
    "queued",
    "running",
    "pausing",
    "paused",
    "cancelling",
    "succeeded",
    "failed",
    "cancelled",
]


ErrorOutcome = Literal["passed", "failed", "undecided"]
"""The standing of an error to the tolerated one."""


class MemberRow(Document):
    """A member: a job of its own, and the curve it measured."""

    job: str | None
    """`null` where it was not run: an adaptive family stopped before."""
    status: MemberStatus
    depth: float
    width: float
    fraction: float
    seed: int
    rounds: int
    images: int | None = None
    """Training images, the validation split not counted."""
    parameters: int | None = None
    prunable: int | None = None
    unpruned_error: float | None = None
    densities: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    remark: str = ""


class CandidateRow(Document):
    """A network of the family that may be an answer, with the unpruned error that the law starts
    from.
    """

    depth: float
    width: float
    unpruned_error: float
    parameters: int
    prunable: int
    kwargs: dict[str, Any] = {}
    """The arguments of the architecture."""
    unpruned_sd: float | None = None
    """Relative standard deviation of an unpruned error that was not measured; `null` for a measured
    one.
    """
    seed_sd: float = 0.0
    """Relative standard deviation by which one more training, under another seed, lies off as a
    whole.
    """
    sparsest: float | None = None
    """The smallest density at which the network was measured."""


class MeasuredNetwork(Document):
    """A network of a family at one of the densities at which its job measured it."""

    job: str
    depth: float
    width: float
    fraction: float
    seed: int
    density: float
    sparsity: float
    """The target of that round: a job with the spec of `job` and this target makes the network
    again, on the same device and number of threads.
    """
    parameters: int
    """The parameters that remain."""
    error: float
    """The error on the test images."""
    high: float | None = None
    """The upper limit of that error, one-sided at 95 %."""


class FamilyAnswer(Document):
    """The network with the fewest parameters at a tolerated error, by the law; measured where it
    was trained for real.
    """

    max_error: float
    depth: float | None = None
    width: float | None = None
    density: float | None = None
    rounds: int | None = None
    parameters: float | None = None
    """The parameters that remain."""
    unpruned_parameters: int | None = None
    predicted: Estimate | None = None
    """The error by the law, with the band of one more run."""
    extrapolated: bool | None = None
    notes: tuple[str, ...] = ()
    refused: str = ""
    """The reason why there is no answer."""
    job: str | None = None
    """The job that trains the network for real."""
    status: MemberStatus | None = None
    measured: Estimate | None = None
    """Its test error, with the interval of its test images."""
    measured_parameters: int | None = None
    within_band: bool | None = None
    meets: bool | None = None
    """Whether the measured error is at most the tolerated one."""
    chosen_on: Literal["val", "test"] | None = None
    """The images whose errors the law that chose the network was fitted to. Test images that had a
    part in the choice prove nothing of what was chosen. `null` in reports of earlier versions.
    """
    outcome: ErrorOutcome | None = None
    """`passed`: the test images, which had no part in the choice, prove an error of at most the
    tolerated one, at 95 % for all answers together; `failed`: it measured above; `undecided`: at
    most that, but not proven. `null` where nothing was measured.
    """
    needed: int | None = None
    """The test images in all that would prove it with a probability of 80 %, where undecided; where
    `chosen_on` is `test`, images that had no part in the choice.
    """
    checkpoint: str | None = None
    smallest_run: MeasuredNetwork | None = None
    """The fewest parameters with an error proven to be at most the tolerated one, among all that
    was run at all its densities, at 95 % for all of them together.
    """


class FamilyRecommendation(Document):
    """The network to ship, and why."""

    job: str | None
    checkpoint: str | None
    reason: str
    verdict: Literal["ship", "undecided", "do_not_ship"] | None = None
    """`null` in reports of earlier versions."""


class FamilyGate(Document):
    """A tolerated error held against the network that was trained for it."""

    name: Literal["max_error"] = "max_error"
    outcome: ErrorOutcome
    passed: bool
    limit: float
    value: float | None = None
    low: float | None = None
    """The lower limit of the error, one-sided at 95 %; `null` where the test images had a part in
    the choice of the network.
    """
    high: float | None = None
    """The upper limit of the error, likewise."""
    needed: int | None = None
    """The test images in all that would prove it with a probability of 80 %; see `FamilyAnswer`."""
    job: str | None = None
    checkpoint: str | None = None
    message: str


class FamilyReport(Document):
    """Everything that is known of a family."""

    schema_version: Literal[1] = 1
    type: Literal["family"] = "family"
    job_id: str
    spec: Annotated[dict[str, Any], DescribedBy(FamilySpec)]
    """The family as it was submitted."""
    architecture: str
    data: str
    classes: int | None
    members: tuple[MemberRow, ...]
    law: dict[str, Any] | None
    """The joint law as a document; `null` while there are too few points."""
    dense_law: dict[str, Any] | None
    """The law of the unpruned errors as a document; `null` where there is none."""
    candidates: tuple[CandidateRow, ...] = ()
    """The networks that may be an answer, all at the largest fraction of the training images."""
    answers: tuple[FamilyAnswer, ...]
    sections: dict[str, Section]
    recommendation: FamilyRecommendation
    gates: tuple[FamilyGate, ...] = ()
    """One for each answer that was refused or trained."""
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    partial: bool = False
    """Members are still under way, or the job ended before them."""
    secateur: str = ""
