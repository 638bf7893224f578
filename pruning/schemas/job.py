"""The request for a pruning job, as POSTed to `/v1/jobs`: a recipe, a model and a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from pruning.schemas.base import Document
from pruning.schemas.layer_patterns import LayerPatterns, Overrides
from pruning.schemas.outputs import Exports, LatencyRequest, Outputs
from pruning.schemas.preprocessing import GivenPreprocessing
from pruning.schemas.presets import PRESETS, expand_preset
from pruning.schemas.recipe import (
    Control,
    Evaluations,
    Gates,
    Limit,
    Method,
    Name,
    Recipe,
    Retrain,
    Shifts,
    Targets,
)
from pruning.schemas.training import Train

Identifier = Annotated[str, Field(pattern=r"^[a-z]{3}_[0-9a-z]{8,40}$")]
Status = Literal[
    "queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"
]
Stage = Literal["baseline", "prune", "retrain", "evaluate", "predict", "export"]
if TYPE_CHECKING:
    PresetName = str
else:
    PresetName = Literal[tuple(PRESETS)]
NOMINAL = "nominal"
"""The name that reports give the test images of the dataset itself."""
MOST_REPLICATES = 32
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


class ModelRef(Document):
    """An uploaded model (`id`) or a registered architecture, optionally trained by the job
    first.
    """

    id: Identifier | None = None
    architecture: Name | None = None
    kwargs: dict[str, Any] = {}
    train: Train | None = None
    backbone: Identifier | None = None
    """With an architecture that has a backbone (DeepLabV3, FCN, LR-ASPP): the uploaded classifier
    whose weights the backbone starts from, as one that was trained on ImageNet. Without it the
    backbone starts from random weights.
    """
    preprocessing: GivenPreprocessing | None = None
    """The preprocessing of images for this network. What is given here goes before what the job's
    dataset says, then what came with the uploads of the model and of the dataset.
    """
    keep_zeros: bool = True
    """The exact zeros among the prunable weights of an uploaded network count as pruned and stay
    zero through retraining; with `false` they are trained and pruned like other weights.
    """

    @model_validator(mode="after")
    def _one_source(self) -> ModelRef:
        if (self.id is None) == (self.architecture is None):
            raise ValueError("give either 'id' (an uploaded model) or 'architecture'")
        if self.id is not None and self.kwargs:
            raise ValueError("kwargs come with the uploaded model; leave them out")
        if self.id is not None and self.backbone is not None:
            raise ValueError("backbone has no effect with an uploaded network, which has its own")
        if self.architecture is not None and self.train is None:
            raise ValueError("an architecture without weights needs 'train'")
        if self.train is not None and "keep_zeros" in self.model_fields_set:
            raise ValueError(
                "keep_zeros has no effect with 'train': zeros before a training are no mask"
            )
        return self


class ShiftedSet(Document):
    """Test images of a shifted distribution, under the name that the report has for it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$", examples=["night"])]
    id: Identifier

    @field_validator("name")
    @classmethod
    def _not_nominal(cls, name: str) -> str:
        if name == NOMINAL:
            raise ValueError(
                f"{NOMINAL!r} is what reports call the test images of the dataset itself"
            )
        return name


class DatasetRef(Document):
    """An uploaded dataset (`id`) or a bundled one (`builtin`).

    Uploaded datasets in `shifted` count as distributions in the evaluations under shift: their
    `test` images report, and `val` decides, half of `test` where they bring no `val`. Their classes
    are among those of the dataset, by name; labels that are numbers without names count in the
    order of the dataset's classes. A set with a column `shift` is one distribution for each of its
    groups, called `<name>.<group>`.
    """

    id: Identifier | None = None
    builtin: Name | None = None
    limit: Limit = Limit()
    preprocessing: GivenPreprocessing | None = None
    """The preprocessing of the images of this job. Without it photos that differ in size are
    resized and cropped as the network's published weights want it.
    """
    shifted: Annotated[tuple[ShiftedSet, ...], Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _one_source(self) -> DatasetRef:
        if (self.id is None) == (self.builtin is None):
            raise ValueError("give either 'id' (an uploaded dataset) or 'builtin'")
        names = [shifted.name for shifted in self.shifted]
        if len(set(names)) < len(names):
            raise ValueError(f"shifted: two sets have one name: {', '.join(names)}")
        return self


class RewindModel(Document):
    """The model whose weights a job rewinds to when it did not train the network itself."""

    model: Annotated[dict[Literal["id"], Identifier], Field(min_length=1)]


class RetrainSpec(Retrain):
    """The retraining of a job, with the weights to rewind to."""

    rewind: RewindModel | None = None

    @model_validator(mode="after")
    def _rewind_belongs(self) -> RetrainSpec:
        if self.rewind is not None and self.mode != "weight_rewind":
            raise ValueError(f"rewind has no effect with mode {self.mode!r}")
        return self


def _relax_required_fields(schema: dict[str, Any]) -> None:
    """Allow `model` and `targets` to be left out of a job with a preset."""
    schema["required"] = [name for name in schema["required"] if name not in ("model", "targets")]
    schema["anyOf"] = [
        {"required": ["model", "targets"]},
        {"required": ["preset"], "properties": {"preset": {"type": "string"}}},
    ]


class JobFields(Document):
    """The fields that jobs of every type carry beside their science."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    labels: Annotated[
        dict[
            Annotated[str, Field(max_length=63, pattern=r"^[^=]+$")],
            Annotated[str, Field(max_length=255)],
        ],
        Field(max_length=16),
    ] = {}
    priority: Annotated[int, Field(ge=0, le=9)] = 4
    """The rank of the job among those that wait: the highest number is taken first."""
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    """Longest time from submission to the end; past it the job fails with `deadline_exceeded`."""


class JobSpec(JobFields):
    """A pruning job. Everything but `type`, `model`, `dataset` and `targets` has a default that
    gives a good result.

    With a `preset`, `model` and `targets` have defaults too.
    """

    model_config = ConfigDict(json_schema_extra=_relax_required_fields)

    type: Literal["prune"]
    preset: PresetName | None = None
    """An experiment of a paper (`GET /v1/presets`): fills in `model`, `targets`, `retrain` and
    `batchnorm` where the job leaves them open, and parameters as the paper has them.

    The targets of Lost in Pruning are its prune ratios, of all parameters, as sparsities of the
    prunable weights of its network. How often a paper repeats each training is
    said in `GET /v1/presets` (`runs`); `replicates` does it.
    """
    epochs_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With a preset: the fraction of its epochs, milestones and warm-up; at least one epoch."""
    model: ModelRef
    dataset: DatasetRef
    targets: Targets
    criterion: Method | Annotated[tuple[Method, ...], Field(min_length=1, max_length=100)] = Method(
        name="magnitude"
    )
    allocation: Method | None = None
    granularity: Method | None = None
    sparsifier: Method | None = None
    schedule: Method = Method(name="targets_only")
    when: Literal["after_training", "before_training"] = "after_training"
    independent: bool = False
    include: LayerPatterns = ()
    """The weights that are prunable: names of weights or layers, glob patterns over them
    (`layer3.*`), or kinds of layers (`{"kind": "Conv2d"}`, as `GET /v1/models/{id}/layers` has
    them); none: all.
    """
    exclude: LayerPatterns = ()
    """Weights left dense, written like `include`; they do not count as prunable."""
    overrides: Overrides = {}
    """The sparsity at every target of the layers that a glob pattern names: `{"layer3.*": 0.5}`.

    It is the share of each layer's own weights that is removed, and with the granularities
    `channel` and `filter` the share of its channels. The allocation divides what remains of the
    target over the other layers. No two patterns may name the same layer. Rounds before the first
    target lead there in proportion.
    """
    retrain: RetrainSpec | None = None
    """Default: `fine_tune` for one epoch; `none` with `when: before_training`."""
    control: Control = Control()
    batchnorm: Literal["reestimate", "keep"] = "reestimate"
    evaluations: Evaluations = None
    """The evaluations to run, by name. `null`: those that a person decides by (`accuracy`,
    `class_damage`, `comparison`, `scaling_law`), those that the gates read, and with `shifts` or
    `dataset.shifted` those about shifts. `all`: every one that applies to the job.
    `validate_only` tells what each costs.
    """
    gates: Gates = Gates()
    shifts: Shifts | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    replicates: Annotated[int, Field(ge=1, le=MOST_REPLICATES)] = 1
    """Runs under the seeds `seed ... seed + replicates - 1`, each a job of its own, pooled in one
    report. All see the same images in the same splits: the draw of images is that of `seed`, or of
    `dataset.limit.seed`.
    """
    export: Exports = ()
    """File formats of the checkpoints beside `sparse`, `dense` and `masks`: `compressed` (the
    smallest file; `{"format": "compressed", "values": "bfloat16"}` rounds the weights), `onnx`
    (checked in onnxruntime), `pth`, `semi_structured` (for the granularity `n_m` with 2 of 4),
    `huggingface` (a zip of the folder that transformers loads, for networks that were uploaded as
    one).
    """
    latency: LatencyRequest = LatencyRequest()

    @model_validator(mode="before")
    @classmethod
    def _preset_is_expanded(cls, job: Any) -> Any:
        if isinstance(job, dict) and job.get("preset") is not None:
            return expand_preset(job)
        return job

    @model_validator(mode="after")
    def _recipe_is_consistent(self) -> JobSpec:
        if self.preset is None and "epochs_scale" in self.model_fields_set:
            raise ValueError(
                "epochs_scale: has no effect without a preset; set the epochs themselves"
            )
        if self.replicates > 1 and self.targets.are_searched:
            raise ValueError(
                "replicates: under a limit on the error each would end at another network; search "
                "with one run, then repeat the sparsity that it finds (targets.sparsity)"
            )
        if self.seed + self.replicates > 2**63:
            raise ValueError("replicates: their seeds exceed 2^63 - 1; take a smaller seed")
        retrain = self.retrain
        if retrain is not None and retrain.mode == "weight_rewind":
            if self.model.train is None and retrain.rewind is None:
                raise ValueError(
                    "retrain: weight rewinding needs the weights to rewind to: train the network "
                    "here (model.train) or give retrain.rewind.model.id"
                )
            if self.model.train is not None and retrain.rewind is not None:
                raise ValueError(
                    "retrain: model.train keeps the weights to rewind to; leave retrain.rewind out"
                )
        if "semi_structured" in self.export:
            granularity = self.granularity
            if granularity is None or granularity.name != "n_m":
                raise ValueError(
                    "export: semi_structured holds 2 of every 4 weights; it needs the granularity "
                    "n_m"
                )
        self.recipe()
        return self

    @property
    def outputs(self) -> Outputs:
        """The files and latencies that the job is asked for beyond its packed checkpoints."""
        return Outputs(export=self.export, latency=self.latency)

    def recipe(self) -> Recipe:
        """Return the science of this job, without its references."""
        fields: dict[str, Any] = {
            name: getattr(self, name)
            for name in Recipe.model_fields
            if name not in ("train", "retrain", "limit", "keep_zeros")
            and name in self.model_fields_set
        }
        fields |= {
            "train": self.model.train,
            "limit": self.dataset.limit,
            "keep_zeros": self.model.keep_zeros,
        }
        if self.retrain is not None:
            settings = {
                name: getattr(self.retrain, name)
                for name in self.retrain.model_fields_set - {"rewind"}
            }
            fields["retrain"] = Retrain(**settings)
        elif self.when == "before_training":
            fields["retrain"] = Retrain(mode="none")
        return Recipe(**fields)


def runs_by_members(spec: Mapping[str, Any]) -> bool:
    """Return whether a job of this spec is run by other jobs, its members: a family, or a pruning
    job with replicates.
    """
    return spec.get("type") == "family" or (spec.get("replicates") or 1) > 1


def list_shifted_ids(spec: Mapping[str, Any]) -> list[str]:
    """Return the ids of the datasets of shifted images in a job's spec, in its order."""
    return [reference["id"] for reference in spec["dataset"].get("shifted", ())]
