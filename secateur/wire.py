"""The answers of the service as frozen objects; fields that a newer service adds are kept."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from pruning.schemas import family_report, layers, report, verdicts
from pruning.schemas.job import TERMINAL
from pruning.schemas.report import Report
from pruning.schemas.verdicts import Outcome, RecommendationVerdict
from secateur import display
from secateur.answers import Answer, KeptAnswer


class MemberCount(Answer):
    """The numbers of a family's members that have ended, that are paused, and of all."""

    ended: int
    paused: int = 0
    total: int


class Progress(Answer):
    """The progress of a job: steps done of steps in total, and the seconds it should still take."""

    done: float = 0
    total: float | None = None
    eta_s: float | None = None
    members: MemberCount | None = None
    """The members of a family, or the replicates of a job; `None` for other jobs."""


class FamilyMember(Answer):
    """The place of a job in its family, or among the replicates of a job, which have a seed
    alone.
    """

    role: str
    """`member`, `answer` for a network that the family's law chose, or `replicate`."""
    depth: float | None = None
    width: float | None = None
    fraction: float | None = None
    seed: int
    rounds: int | None = None
    density: float | None = None
    """The density at which its pruning ends."""
    max_error: float | None = None
    """The error that is tolerated, for an answer."""


class JobError(Answer):
    """The reason why a job failed."""

    code: str
    message: str = ""
    stage: str | None = None
    retryable: bool | None = None
    attempt: int | None = None


class Job(Answer):
    """A job as the service records it."""

    shown: ClassVar[tuple[str, ...]] = ("id", "type", "status", "stage")
    id: str
    type: str | None = None
    status: str
    terminal: bool
    stage: str | None = None
    progress: Progress | None = None
    attempt: int | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    parent: str | None = None
    """The family that the job is a member of, or the job that it is a replicate of."""
    member: FamilyMember | None = None
    spec: dict[str, Any] = {}
    error: JobError | None = None
    links: dict[str, Any] = {}


class Event(Answer):
    """A row of a job's history."""

    shown: ClassVar[tuple[str, ...]] = ("seq", "type", "at")
    seq: int
    type: str
    at: str | None = None
    data: dict[str, Any] = {}

    @property
    def terminal(self) -> bool:
        """Whether this row reports that the job ended."""
        return self.type == "status" and self.data.get("status") in TERMINAL


class Model(Answer):
    """An uploaded network."""

    shown: ClassVar[tuple[str, ...]] = ("id", "name", "architecture", "state")
    id: str
    state: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    architecture: str | None = None
    name: str | None = None
    parameters: int | None = None
    warnings: list[str] = []
    """Remarks on how the file was read, and guesses."""
    created_at: str | None = None


class LayerTable(layers.LayerTable, Answer):
    """The parameters of a network in its order, and the groups of its channels."""

    model_config = ConfigDict(frozen=True, extra="allow")
    shown: ClassVar[tuple[str, ...]] = ("note",)


class Dataset(Answer):
    """An uploaded dataset."""

    shown: ClassVar[tuple[str, ...]] = ("id", "name", "task", "state")
    id: str
    state: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    name: str | None = None
    task: str | None = None
    """`classification`, or `segmentation` where the labels are masks."""
    notes: list[str] = []
    """Remarks on how the dataset was read."""
    source: dict[str, Any] | None = None
    """The URL that it is fetched from, and the tries so far; null for an upload."""
    error: dict[str, Any] | None = None
    """The failure of the last try to fetch it: `code`, `message`, `retryable`."""
    groups: dict[str, dict[str, int]] = {}
    """Test images by column of groups and by group."""
    created_at: str | None = None


class Measured(Answer):
    """A measured value with its 95 % confidence interval and the number of samples behind it."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


class CheckpointResult(Answer):
    """A pruned network of a job: its error, its size and its files."""

    shown: ClassVar[tuple[str, ...]] = ("id", "sparsity", "error")
    id: str
    job: str | None = None
    """The job whose checkpoint it is: of a family a member, of several replicates one of them."""
    criterion: Any = None
    requested_sparsity: float | None = None
    requested: dict[str, Any] | None = None
    sparsity: float | None = None
    density: float | None = None
    error: Measured | None = None
    size_bytes: dict[str, int] = {}
    sha256: dict[str, str] = {}
    formats: tuple[str, ...] = ()
    links: dict[str, Any] = {}

    def row(self) -> dict[str, Any]:
        """Return the numbers of the checkpoint as a row of a table."""
        criterion = self.criterion.get("name") if isinstance(self.criterion, dict) else None
        row: dict[str, Any] = {
            "checkpoint": self.id,
            "criterion": criterion,
            "requested_sparsity": self.requested_sparsity,
            "sparsity": self.sparsity,
            "error": None,
            "error_low": None,
            "error_high": None,
            "images": None,
            "sparse_bytes": self.size_bytes.get("sparse"),
        }
        if self.error is not None:
            row["error"], row["images"] = self.error.value, self.error.n
            row["error_low"], row["error_high"] = self.error.low, self.error.high
        return row


class Recommendation(report.Recommendation, Answer):
    """The checkpoint that was chosen, and whether to ship it."""

    shown: ClassVar[tuple[str, ...]] = ("verdict", "checkpoint", "sparsity", "margin")


class FamilyRecommendation(family_report.FamilyRecommendation, Answer):
    """The network of a family that was chosen, and whether to ship it."""

    shown: ClassVar[tuple[str, ...]] = ("verdict", "job", "checkpoint")


class Gate(verdicts.GateResult, Answer):
    """A gate held against the recommended checkpoint."""

    shown: ClassVar[tuple[str, ...]] = ("name", "subject", "outcome", "value", "limit")


class FamilyGate(family_report.FamilyGate, Answer):
    """A tolerated error held against the network that was trained for it."""

    shown: ClassVar[tuple[str, ...]] = ("name", "outcome", "value", "limit")


class JointStatement(verdicts.JointStatement, Answer):
    """A statement of what holds of the recommended checkpoint together, and what is undecided."""

    def __repr__(self) -> str:
        fields: dict[str, Any] = {"confidence": self.confidence}
        for claim in self.claims:
            fields[claim.outcome] = fields.get(claim.outcome, 0) + 1
        return display.format_repr("JointStatement", fields)

    def _repr_html_(self) -> str:
        return display.format_html(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return the claims as rows of a table."""
        names = ("text", "outcome", "p_value", "needed")
        return [{name: getattr(claim, name) for name in names} for claim in self.claims]


class Results(KeptAnswer):
    """The results of a finished job; `report` is the document as sent, `parsed_report()` the same
    with types.
    """

    job: Job
    report: dict[str, Any] | None = None
    checkpoints: tuple[CheckpointResult, ...] = ()
    recommendation: Recommendation | FamilyRecommendation | None = None
    gates: tuple[Gate | FamilyGate, ...] = ()
    joint: JointStatement | None = None
    """The statement of what holds of the recommended checkpoint together."""

    def __repr__(self) -> str:
        fields = {
            "job": self.job.id,
            "status": self.job.status,
            "checkpoints": len(self.checkpoints),
            "recommended": self.recommended,
        }
        return display.format_repr("Results", fields)

    def _repr_html_(self) -> str:
        return display.format_html(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return the checkpoints as rows of a table, with what each loses where the report says.

        `over_control` and `over_given` are the increases of the test error over the dense control
        of equal training and the network as given.
        """
        rows = []
        for checkpoint in self.checkpoints:
            increase = self._find_reported(checkpoint.id).get("error_increase", {})
            losses = {
                f"over_{name}": (increase.get(name) or {}).get("value")
                for name in ("control", "given")
            }
            rows.append(checkpoint.row() | losses)
        return rows

    def gate_rows(self) -> list[dict[str, Any]]:
        """Return the gates as rows of a table."""
        names = ("name", "subject", "outcome", "value", "low", "high", "limit", "needed", "message")
        return [{name: getattr(gate, name, None) for name in names} for gate in self.gates]

    def to_dataframe(self, of: Literal["checkpoints", "gates"] = "checkpoints") -> Any:
        """Return the rows of the checkpoints, or of the gates, as a `pandas.DataFrame`; raises
        `ImportError` where pandas is missing.
        """
        return display.build_dataframe(self.gate_rows() if of == "gates" else self.rows())

    def plot(self, axes: Any = None) -> Any:
        """Draw the error of each criterion against sparsity and return the matplotlib axes.

        Raises `ImportError` where matplotlib is missing.
        """
        return display.plot_errors(self.rows(), axes)

    def parsed_report(self) -> Report:
        """Return the report as `pruning.schemas.report.Report`; raises
        `pydantic.ValidationError` on a family's report or a newer schema.
        """
        return Report.model_validate(self.report)

    def load_snippet(self, checkpoint: str | None = None) -> str:
        """Return lines of PyTorch that load a checkpoint, the recommended one unless its id is
        given, and measure its error as the report does.

        Raises `LookupError` where the report has none.
        """
        wanted = checkpoint or self.recommended
        snippet = self._find_reported(wanted or "").get("load_snippet")
        if not snippet:
            raise LookupError(f"the report has no lines that load {wanted or 'a checkpoint'}")
        return str(snippet)

    def _find_reported(self, id: str) -> dict[str, Any]:
        """Return a checkpoint as the report has it; empty where it has none of this id."""
        for checkpoint in (self.report or {}).get("checkpoints", ()):
            if checkpoint["id"] == id:
                return dict(checkpoint)
        return {}

    @property
    def of_family(self) -> bool:
        """Whether the report is that of a family."""
        return (self.report or {}).get("type") == "family"

    @property
    def gates_passed(self) -> bool:
        """Whether every gate passed."""
        return self.gates_outcome == "passed"

    @property
    def gates_outcome(self) -> Outcome:
        """`failed` where a gate failed, or the job says not to ship and has no checkpoint that
        gates could be held against; else `undecided` where one is undecided, else `passed`.
        """
        outcomes = {gate.outcome for gate in self.gates}
        unevaluated = any(isinstance(gate, Gate) and gate.checkpoint is None for gate in self.gates)
        if "failed" in outcomes or (unevaluated and self.verdict == "do_not_ship"):
            return "failed"
        return "undecided" if "undecided" in outcomes else "passed"

    @property
    def verdict(self) -> RecommendationVerdict | None:
        """`ship`, `undecided` or `do_not_ship`; `None` from services of earlier versions."""
        return None if self.recommendation is None else self.recommendation.verdict

    @property
    def recommended(self) -> str | None:
        """The id of the checkpoint that was chosen, if there is one; `verdict` says whether to ship
        it.
        """
        return None if self.recommendation is None else self.recommendation.checkpoint


class Page(Answer):
    """A page of a listing."""

    data: tuple[dict[str, Any], ...]
    has_more: bool = False
    next_cursor: str | None = None
