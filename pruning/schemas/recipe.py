"""What is to be done: the recipe of a pruning job, every default written in."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pruning.schemas.base import Document
from pruning.schemas.training import Train, Training

Sparsity = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class Method(Document):
    """A registered method by name, with its parameters (see `GET /v1/methods`)."""

    name: Name
    params: dict[str, Any] = {}


class Targets(Document):
    """The sparsities to reach: fractions of the prunable weights that are zero."""

    sparsity: Annotated[tuple[Sparsity, ...], Field(min_length=1, max_length=64)]

    @field_validator("sparsity")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a sparsity is listed twice")
        return tuple(sorted(value))


class Retrain(Training):
    """What follows every pruning round.

    `none`: nothing. `fine_tune`: train on with this schedule. `weight_rewind`: the surviving weights return to those of
    `rewind_epoch` and the schedule resumes there. `lr_rewind`: the weights stay, the schedule resumes at `rewind_epoch`.
    Where the job trains the dense network itself (`model.train`), both rewindings replay that schedule.
    """

    mode: Literal["none", "fine_tune", "weight_rewind", "lr_rewind"] = "fine_tune"
    rewind_epoch: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Retrain:
        extra = self.model_fields_set - {"mode"}
        if self.mode == "none" and extra:
            raise ValueError(f"{', '.join(sorted(extra))} has no effect with mode 'none'")
        if self.mode == "fine_tune" and self.rewind_epoch:
            raise ValueError("rewind_epoch has no effect with mode 'fine_tune'")
        if self.rewind_epoch >= self.epochs:
            raise ValueError(f"rewind_epoch {self.rewind_epoch} must lie before the last of {self.epochs} epochs")
        return self


class Limit(Document):
    """At most so many images of each split, balanced over the classes unless `stratify` is false."""

    train: Annotated[int, Field(ge=1)] | None = None
    test: Annotated[int, Field(ge=1)] | None = None
    stratify: bool = True


class Gates(Document):
    """What a pipeline may demand of the recommended checkpoint."""

    max_error_increase: Annotated[float, Field(ge=0, le=1)] | None = None
    """Largest test error above that of the dense control."""


class Recipe(Document):
    """The science of a job: which criterion, how much, in which steps, retrained how, evaluated on what."""

    criterion: Method | Annotated[tuple[Method, ...], Field(min_length=1, max_length=32)] = Method(name="magnitude")
    allocation: Method = Method(name="global")
    sparsifier: Method = Method(name="top_k")
    schedule: Method = Method(name="targets_only")
    when: Literal["after_training", "before_training"] = "after_training"
    independent: bool = False
    """Restart every target from the dense network instead of continuing one cascade."""
    targets: Targets
    exclude: tuple[str, ...] = ()
    """Parameters left dense, by name; they do not count as prunable."""
    train: Train | None = None
    """Train the network first; without it the weights are taken as they come."""
    retrain: Retrain = Retrain()
    evaluations: tuple[Method, ...] | None = None
    """`null`: every registered evaluation that the data allow, at its quick setting."""
    limit: Limit = Limit()
    gates: Gates = Gates()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def criteria(self) -> tuple[Method, ...]:
        """The criteria to compare, one or several."""
        return (self.criterion,) if isinstance(self.criterion, Method) else self.criterion

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if len(set(map(repr, self.criteria))) != len(self.criteria):
            raise ValueError("criterion: a criterion is listed twice with the same parameters")
        names = [method.name for method in self.evaluations or ()]
        if len(set(names)) != len(names):
            raise ValueError("evaluations: an evaluation is listed twice")
        if self.when == "before_training":
            if self.train is None:
                raise ValueError("when: 'before_training' prunes at initialisation and needs model.train")
            if self.retrain.mode != "none" and "retrain" in self.model_fields_set:
                raise ValueError("retrain: with when 'before_training' the pruned network is trained by model.train; "
                                 "leave retrain out")
        elif self.train is not None and self.retrain.mode in ("weight_rewind", "lr_rewind"):
            ignored = self.retrain.model_fields_set - {"mode"}
            if ignored:
                raise ValueError(f"retrain: {', '.join(sorted(ignored))} come from model.train when the job trains "
                                 f"the network and the mode is {self.retrain.mode!r}")
        return self

    def digest(self) -> str:
        """SHA-256 of the recipe with every default written in, as canonical JSON (hex).

        Two ways to write one recipe have one digest: a criterion or a list of one; any `retrain` before training.
        """
        document = self.model_dump(mode="json") | {"criterion": [one.model_dump(mode="json") for one in self.criteria]}
        if self.when == "before_training":
            del document["retrain"]
        return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
