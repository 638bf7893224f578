"""The results of a job on the wire."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel

from api.schemas.jobs import JobView
from pruning.schemas.described import DescribedBy
from pruning.schemas.estimates import Estimate
from pruning.schemas.family_report import FamilyGate, FamilyRecommendation, FamilyReport
from pruning.schemas.recipe import Method
from pruning.schemas.report import Recommendation, Report
from pruning.schemas.targets import Requested
from pruning.schemas.verdicts import GateResult, JointStatement


class CheckpointView(BaseModel):
    """A pruned network to download.

    Its measurements are `null` until the job has reported them.
    """

    id: str
    job: str
    """The job whose checkpoint it is; for a family, one of its members."""
    criterion: Annotated[dict[str, Any] | None, DescribedBy(Method | None)]
    requested_sparsity: float | None
    requested: Annotated[dict[str, Any] | None, DescribedBy(Requested | None)] = None
    """The budget that was asked for and what was reached, where no sparsity was asked for."""
    sparsity: float | None
    density: float | None
    error: Annotated[dict[str, Any] | None, DescribedBy(Estimate | None)]
    """The test error with its interval."""
    formats: list[str]
    size_bytes: dict[str, int]
    sha256: dict[str, str]
    links: dict[str, str]
    partial: bool
    """The job has not reached all its targets, or ended before them; the checkpoint itself is
    whole.
    """


class CheckpointList(BaseModel):
    """The checkpoints that a job has finished, those of a criterion from the densest on."""

    data: list[CheckpointView]


class Results(BaseModel):
    """The results of a finished job."""

    job: JobView
    report: Annotated[dict[str, Any] | None, DescribedBy(Report | FamilyReport | None)]
    """The JSON report; `null` when the job ended before it was written."""
    checkpoints: list[CheckpointView]
    recommendation: Recommendation | FamilyRecommendation | None
    gates: list[GateResult | FamilyGate]
    """The gates with their outcomes: `passed`, `failed` or `undecided`."""
    joint: JointStatement | None = None
    """The statement of what holds of the recommended checkpoint together, and what would decide the
    rest.
    """
