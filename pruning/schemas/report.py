"""The report of a pruning job. Every number measured on samples carries its interval."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pruning.schemas.base import Document
from pruning.schemas.described import DescribedBy
from pruning.schemas.environment import Environment as Environment
from pruning.schemas.estimates import Estimate as Estimate
from pruning.schemas.estimates import Unit as Unit
from pruning.schemas.evaluate import SingleSpec
from pruning.schemas.job_inputs import DataInfo as DataInfo
from pruning.schemas.job_inputs import ModelInfo as ModelInfo
from pruning.schemas.outputs import Latency as Latency
from pruning.schemas.outputs import OnnxCheck, RoundedCheck
from pruning.schemas.recipe import Method
from pruning.schemas.replicates import ReplicateRow
from pruning.schemas.targets import Requested
from pruning.schemas.verdicts import CrossedVariance, JointStatement, NeededImages, PairedCounts
from pruning.schemas.verdicts import GateResult as GateResult
from pruning.schemas.verdicts import RecommendationVerdict as RecommendationVerdict

Scale = Literal["linear", "log", "sparsity"]
"""The spacing of an axis: `sparsity` is spaced by compression, as far from 90 to 95 % as from 95 to
97.5 %.
"""
Drawn = Literal["points", "line", "band"]


class Curve(Document):
    """Points of one quantity against another, e.g. error against sparsity."""

    x: tuple[float, ...]
    y: tuple[Estimate, ...]
    x_label: str
    y_label: str
    x_unit: Unit = "number"
    y_unit: Unit = "number"
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    """A `linear` axis is drawn logarithmic where its values span many orders of magnitude."""
    x_names: tuple[str, ...] | None = None
    """The names of the points, where `x` only numbers them: drawn as bars."""
    drawn: Drawn | None = None
    """Markers alone, a line alone, or a line in its band of intervals; `null`: markers with their
    intervals on a line.
    """

    @staticmethod
    def over_sparsity(
        sparsities: Iterable[float],
        values: Iterable[Estimate],
        *,
        y_label: str,
        y_unit: Unit,
        drawn: Drawn | None = None,
    ) -> Curve:
        """Points of a quantity against sparsity, on an axis that is spaced by compression."""
        return Curve(
            x=tuple(sparsities),
            y=tuple(values),
            x_label="sparsity",
            x_unit="share",
            x_scale="sparsity",
            y_label=y_label,
            y_unit=y_unit,
            drawn=drawn,
        )

    @model_validator(mode="after")
    def _named(self) -> Curve:
        if self.x_names is not None and len(self.x_names) != len(self.x):
            raise ValueError(f"x_names: {len(self.x_names)} names of {len(self.x)} points")
        return self


class Picture(Document):
    """A picture for the page, PNG in base64, and what it shows."""

    caption: str
    png: str


class Section(Document):
    """The result of one evaluation: named scalars and named curves; a new evaluation changes no
    schema.
    """

    title: str
    version: int
    scalars: dict[str, Estimate] = {}
    curves: dict[str, Curve] = {}
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = {}
    """Tables and other values by name. A table is a list of flat records."""
    units: dict[str, Unit] = {}
    """The units of plain numbers in the tables, by the name of their column."""
    hidden: tuple[str, ...] = ()
    """The names of details that are for programs: no page shows them."""
    labels: dict[str, str] = {}
    """Words for names of columns and for the parts between the slashes of names of scalars and
    curves; empty where these are words already, and in reports of earlier versions.
    """
    pictures: dict[str, Picture] = {}


class Failure(Document):
    """An evaluation, or one criterion of several, that could not be completed; the checkpoints
    survive it.
    """

    name: str
    code: str
    message: str


class Evaluated(Document):
    """A network measured on the test split, in plain fp32."""

    error: Estimate
    loss: Estimate
    val_error: Estimate
    non_finite_outputs: int = 0
    """Test images for which an output is NaN or infinite; each counts as a wrong answer."""


class Network(Evaluated):
    """A network of the report: its errors and its costs."""

    sparsity: float
    """Fraction of the prunable weights that are zero; for the network as given and the control, of
    those that are zero without any pruning.
    """
    density: float
    prune_ratio: float
    """Fraction of all parameters (biases and BatchNorm included) that are zero by pruning."""
    parameters: int
    """Parameters that remain: all of them less the pruned ones."""
    flops: int
    """Multiply-adds of one forward pass times two, pruned weights not counted (what a sparse kernel
    would need).
    """
    size_bytes: dict[str, int]
    """File size by format: `sparse`, `dense`, `masks`, `sparse_gzip`, `dense_gzip`."""
    latency_ms: tuple[Latency, ...]
    retrain_epochs: int = 0
    """Epochs of retraining received in all: a late checkpoint of a cascade has had those of every
    round before it.
    """


class ControlNetwork(Network):
    """A dense control: the dense network, retrained as checkpoints of the job are."""

    name: str = "control"
    """`control` for the one with the fewest retrainings, `control-5` for one with five."""
    costs_of: str | None = None
    """The control whose FLOPs, file sizes and latency these are, where this one's were not
    measured: dense controls differ in their values alone. `null` where they were, and in reports of
    earlier versions.
    """
    retrainings: int
    """Retrainings received in all; 0 where nothing is retrained, and it is the network as given."""


class Layer(Document):
    """A parameter tensor: how many weights remain, or why it was left dense."""

    name: str
    shape: tuple[int, ...]
    total: int
    kept: int
    reason: str | None = None
    """The reason why the tensor was not pruned; `null` for a pruned one."""
    asked: float | None = None
    """The sparsity that `overrides` asks of it, of its weights or of the channels that it writes;
    `null` where the allocation gave it its share.
    """


class Increase(Document):
    """Error of the checkpoint minus error of a reference, paired on the same test images."""

    given: Estimate
    control: Estimate
    given_counts: PairedCounts | None = None
    """The images behind `given`; `null` for segmentation, and in reports of earlier versions."""
    control_counts: PairedCounts | None = None
    """The same behind `control`."""
    given_variance: CrossedVariance | None = None
    control_variance: CrossedVariance | None = None
    """The variance of `control` over replicates and images; `null` for a single run."""


class BatchNorm(Document):
    """The effect of re-estimating BatchNorm's statistics right after pruning on the loss on other
    training images.
    """

    loss_before: float
    """Mean cross-entropy with the previous statistics."""
    loss_after: float
    """Mean cross-entropy with the new ones."""
    kept: bool
    """Whether the network has the new ones: only where the loss fell."""


class Checkpoint(Network):
    """A pruned network at one target."""

    id: str
    label: str = ""
    """The criterion as the report names it, unique within the job; empty in reports of earlier
    versions.
    """
    criterion: Method
    round: int
    requested_sparsity: float | None
    """`null` where the target is a budget, and for a network that was pruned elsewhere."""
    requested: Requested | None = None
    partial: bool = False
    """The job ended before all its targets; this checkpoint is whole."""
    pruned: Evaluated
    """The network right after pruning, before retraining."""
    retrained: Evaluated | None
    """The network after retraining; `null` where the recipe does not retrain."""
    batchnorm: BatchNorm | None = None
    """`null` where nothing was re-estimated: there is no BatchNorm, or the recipe keeps it or
    prunes before training.
    """
    control: str = "control"
    """The name of the dense control that was retrained as often as the checkpoint, and that it is
    compared with.
    """
    error_increase: Increase
    val_error_increase: Estimate
    """Error on the validation split minus that of the dense control, paired: what the
    recommendation reads.
    """
    guesses: bool = False
    """On the validation images nothing shows that the network does better than one constant answer:
    it is never recommended.
    """
    val_counts: PairedCounts | None = None
    """The validation images behind it; `null` for segmentation, and in reports of earlier
    versions.
    """
    val_variance: CrossedVariance | None = None
    """The variance of `val_error_increase` over replicates and images; `null` for one run."""
    layers: tuple[Layer, ...]
    onnx: OnnxCheck | None = None
    """The check of the ONNX file; `null` where none was asked for or none could be made."""
    rounded: RoundedCheck | None = None
    """The check of the compressed file where its values are rounded; `null` for others."""
    load_snippet: str = ""
    """Lines of PyTorch that load the file of the format `dense` and measure its error on uint8
    images as this report does.
    """
    warnings: tuple[str, ...] = ()

    @property
    def removal(self) -> float:
        """The part that the target asks to remove: the sparsity, or a share of what is counted; of
        a network that was pruned elsewhere its sparsity to a percent.
        """
        if self.requested is not None:
            return self.requested.removal
        if self.requested_sparsity is not None:
            return self.requested_sparsity
        return round(self.sparsity, 2)


class Round(Document):
    """A prune-and-retrain round, target or not: a point on the curve."""

    criterion: Method
    round: int
    sparsity: float
    density: float
    target: bool
    pruned: Evaluated
    retrained: Evaluated | None
    batchnorm: BatchNorm | None = None
    """The same as in a checkpoint."""


class ShiftAdvice(Document):
    """The guideline of Lost in Pruning for what is known of shifts; potentials are those on
    validation images, and `safe_potential` decides.
    """

    knowledge: Literal["unexpected", "partly_modelled", "modelled"]
    guideline: str
    nominal_potential: float | None = None
    """Largest prune ratio, of all parameters, within the margin of the dense network that the
    evaluation `prune_potential` compares with.
    """
    shifted_potential: float | None = None
    """The smallest over the shifts that are not trained on."""
    worst_shift: str | None = None
    safe_potential: float | None = None
    """The prune ratio that is shown, at 95 % over all criteria together, to stay within the margin
    under every shift that is not trained on; `null` in reports of earlier versions.
    """


class Recommendation(Document):
    """The checkpoint to ship and why: chosen on the validation split, judged on the test split."""

    checkpoint: str | None
    """The sparsest checkpoint within the margin on the validation images, whatever the verdict."""
    job: str | None = None
    """The replicate whose network of it has the smallest validation error; `null` for one run."""
    sparsity: float | None
    margin: float
    reason: str
    verdict: RecommendationVerdict | None = None
    """`ship`: the test images prove that the loss is below the margin, and every gate passed.
    `do_not_ship`: no checkpoint is within the margin, or a gate failed, or the loss is beyond the
    margin by more than noise explains. `undecided`: the images tell neither. `null` in reports of
    earlier versions.
    """
    needed: tuple[NeededImages, ...] = ()
    """The images that would decide, for each thing that is undecided."""
    confidence: float | None = None
    """The one-sided confidence at which `ship` is said."""
    shifts: ShiftAdvice | None = None
    """`null` where the job declares nothing about shifts."""


class Report(Document):
    """Everything that a job measured."""

    schema_version: Literal[1] = 1
    job_id: str
    spec: Annotated[dict[str, Any], DescribedBy(SingleSpec)]
    """The job as it was submitted."""
    recipe_digest: str
    model: ModelInfo
    data: DataInfo
    environment: Environment
    baseline: Network
    """The network as given (or as trained by the job), before any pruning."""
    control: Network
    """The dense control with the fewest retrainings: the dense network, retrained with the same
    data and schedule as the checkpoints that are compared with it.
    """
    controls: tuple[ControlNetwork, ...] = ()
    """Every dense control, those with fewer retrainings first; empty in reports of earlier
    versions, which have one.
    """
    checkpoints: tuple[Checkpoint, ...]
    rounds: tuple[Round, ...]
    sections: dict[str, Section]
    recommendation: Recommendation
    gates: tuple[GateResult, ...]
    joint: JointStatement | None = None
    """The statement of what holds together, and what is undecided; `null` in reports of earlier
    versions.
    """
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    partial: bool = False
    replicates: tuple[ReplicateRow, ...] = ()
    """The replicates of a job that has several; empty for a single run. The numbers are then means
    over them, with intervals for other seeds and images; sizes, FLOPs and latencies the largest.
    """
    usage: Annotated[
        dict[str, float], Field(description="Seconds by stage, of the attempt that finished it.")
    ] = {}
