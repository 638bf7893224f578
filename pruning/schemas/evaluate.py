"""The request for judging networks that were pruned elsewhere, as POSTed to `/v1/jobs`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pruning.schemas.base import Document
from pruning.schemas.job import DatasetRef, Identifier, JobFields, JobSpec
from pruning.schemas.outputs import Exports, LatencyRequest, Outputs
from pruning.schemas.preprocessing import GivenPreprocessing
from pruning.schemas.recipe import UPLOADED, Evaluations, Gates, Method, Recipe, Retrain, Shifts
from pruning.schemas.targets import Quantity, Targets

MOST_PRUNED = 32
RESERVED = re.compile(r"given|report|control(-\d+)?")
"""The names that reports and stored files have for something else."""


class NothingRemoved(Targets):
    """The targets of a job that prunes nothing: one round, which removes nothing."""

    @model_validator(mode="after")
    def _one_quantity(self) -> NothingRemoved:
        return self

    @property
    def quantity(self) -> Quantity:
        """The quantity that sparsities are told in."""
        return "sparsity"

    @property
    def values(self) -> tuple[float, ...]:
        """The part that the only round removes."""
        return (0.0,)


class JudgedRecipe(Recipe):
    """The recipe of a job that judges networks which were pruned elsewhere.

    Each network stands where a criterion does, with its name and the id of its model.
    """

    targets: NothingRemoved = NothingRemoved()

    @property
    def prunes(self) -> bool:
        """Whether the job prunes; this one does not."""
        return False


class DenseModel(Document):
    """The uploaded dense original, which the pruned networks are compared with."""

    id: Identifier
    preprocessing: GivenPreprocessing | None = None
    """The preprocessing of images for all networks of the job. What is given here goes before what
    the job's dataset says, then what came with the uploads of the dense model and of the dataset.
    """


class PrunedModel(Document):
    """An uploaded network that was pruned elsewhere, and the name that the report has for it."""

    id: Identifier
    name: (
        Annotated[
            str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$", examples=["torch-pruning-0.5"])
        ]
        | None
    ) = None
    """The id of its checkpoint; `null`: `pruned-1` for the first, `pruned-2` for the second."""

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str | None) -> str | None:
        if name is not None and RESERVED.fullmatch(name.lower()):
            raise ValueError(f"{name!r} is what reports call something else; take another name")
        return name


class EvaluateSpec(JobFields):
    """A job that judges networks which were pruned elsewhere, beside their dense original: nothing
    is pruned or trained.

    The exact zeros of a pruned network are its masks. It may have smaller shapes: another
    architecture or other arguments, or an `arch.json` of its upload. The reference of increases is
    the dense original as given, which the report also has as its control.
    """

    type: Literal["evaluate"]
    model: DenseModel
    pruned: Annotated[tuple[PrunedModel, ...], Field(min_length=1, max_length=MOST_PRUNED)]
    dataset: DatasetRef
    evaluations: Evaluations = None
    """`null`: as in a pruning job. Those that ask how networks were pruned (`bounds`,
    `loss_model`, `scaling_law`) are left out, with a warning where they are listed.
    """
    gates: Gates = Gates()
    shifts: Shifts | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The seed of the draw of images, and of what evaluations draw."""
    export: Exports = ()
    """File formats of the checkpoints beside `sparse`, `dense` and `masks`, as in a pruning job."""
    latency: LatencyRequest = LatencyRequest()

    @model_validator(mode="after")
    def _consistent(self) -> EvaluateSpec:
        names = [name.lower() for name in self.names]
        if len(set(names)) < len(names):
            raise ValueError(f"pruned: two networks have one name: {', '.join(self.names)}")
        ids = [pruned.id for pruned in self.pruned]
        if len(set(ids)) < len(ids):
            raise ValueError("pruned: a network is listed twice")
        self.recipe()
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each pruned network."""
        return tuple(
            pruned.name or f"pruned-{number}" for number, pruned in enumerate(self.pruned, 1)
        )

    @property
    def outputs(self) -> Outputs:
        """The files and latencies that the job is asked for beyond its packed checkpoints."""
        return Outputs(export=self.export, latency=self.latency)

    def recipe(self) -> JudgedRecipe:
        """Return the science of this job, without its references."""
        networks = zip(self.names, self.pruned, strict=True)
        return JudgedRecipe(
            criterion=tuple(
                Method(name=UPLOADED, params={"name": name, "model": pruned.id})
                for name, pruned in networks
            ),
            retrain=Retrain(mode="none"),
            batchnorm="keep",
            keep_zeros=False,
            limit=self.dataset.limit,
            evaluations=self.evaluations,
            gates=self.gates,
            shifts=self.shifts,
            seed=self.seed,
        )


SingleSpec = JobSpec | EvaluateSpec
"""A job that one process runs."""


def read_single_spec(document: Mapping[str, Any]) -> SingleSpec:
    """Return the spec of a job that one process runs, by its `type`."""
    if document.get("type") == "evaluate":
        return EvaluateSpec.model_validate(document)
    return JobSpec.model_validate(document)


def list_pruned_ids(spec: Mapping[str, Any]) -> list[str]:
    """Return the ids of the pruned models in a job's spec, in its order; empty for other jobs."""
    return [pruned["id"] for pruned in spec.get("pruned") or ()]
