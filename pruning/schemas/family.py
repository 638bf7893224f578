"""The request for a family of networks, as POSTed to `/v1/jobs`: its members, how they are pruned,
and the errors to reach.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pruning.schemas.base import Document
from pruning.schemas.job import DatasetRef, JobFields
from pruning.schemas.layer_patterns import LayerPatterns
from pruning.schemas.recipe import Limit, Name
from pruning.schemas.training import Train

MOST_MEMBERS = 512
MOST_ROUNDS = 64
MOST_SIZES = 128
Error = Annotated[float, Field(gt=0, lt=1)]
Size = Annotated[float, Field(gt=0, le=100_000)]
Depth = Annotated[int, Field(ge=1, le=1_300)]
Depths = Annotated[tuple[Depth, ...], Field(min_length=1, max_length=32)]
Widths = Annotated[tuple[Size, ...], Field(min_length=1, max_length=32)]


class FamilyModel(Document):
    """An architecture that takes a depth and a width, and how every member is trained."""

    architecture: Name
    kwargs: dict[str, Any] = {}
    """The arguments that all members share, beside depth and width."""
    train: Train


def _ascending(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(value)) != len(value):
        raise ValueError("a value is listed twice")
    return tuple(sorted(value))


class Grid(Document):
    """Every depth with every width: what they mean is the architecture's own (`GET
    /v1/methods`).
    """

    depths: Depths
    widths: Widths

    @field_validator("depths", "widths")
    @classmethod
    def _sorted(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return _ascending(value)


class Members(Grid):
    """The members of the family: every depth with every width, fraction of the training images, and
    seed.
    """

    fractions: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1, max_length=16)
    ] = (1.0,)
    """Fractions of the training images (after `dataset.limit`), drawn without regard to class, as
    the paper does.
    """
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**62)], ...], Field(min_length=1, max_length=16)
    ] = (0,)
    """Members that differ in their seed alone are trials of one network."""

    @field_validator("fractions", "seeds")
    @classmethod
    def _sorted_too(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return _ascending(value)

    @model_validator(mode="after")
    def _not_too_many(self) -> Members:
        count = len(self.depths) * len(self.widths) * len(self.fractions) * len(self.seeds)
        if count > MOST_MEMBERS:
            raise ValueError(f"{count} members; at most {MOST_MEMBERS}")
        return self


class Adaptive(Document):
    """Do not run every member: after a first design, the one next that narrows the law's band most
    for its compute.

    The gain of a member is what the delta method expects of its points, G = J' V^-1 J with V the
    covariance of their noise and of the member's own unpruned error: the fall of the mean variance
    of ln error over the members and densities of the family when G is added to the information that
    there is. A member may be taken down to the floor density or half the rounds to it, whichever
    gains more for its cost.
    """

    band: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Stop where the mean half-width of the law's band, for given unpruned errors and relative to
    the error, is at most this, but not before five networks were measured: with fewer, the law is
    not held against networks it has not seen.
    """
    at_once: Annotated[int, Field(ge=1, le=64)] = 2
    """Members under way at a time, beyond the first design."""
    max_members: Annotated[int, Field(ge=1)] | None = None


class FamilySpec(JobFields):
    """A family of networks, pruned one by one in jobs of their own, under one law of depth, width
    and density.

    `imp`: iterative magnitude pruning with weight rewinding, keeping `keep` of what remains each
    round, all layers ranked together, down to the last density that is not below `floor_density`.
    `synflow`: SynFlow at initialisation at the same densities, each trained from there. The joint
    law is fitted as members finish. It answers, for every error in `max_error`, which network
    pruned how far has the fewest parameters; that network is then trained and pruned for real,
    under a seed that no member has.
    """

    type: Literal["family"]
    model: FamilyModel
    dataset: DatasetRef
    members: Members
    method: Literal["imp", "synflow"] = "imp"
    keep: Annotated[float, Field(ge=0.05, le=0.99)] = 0.8
    floor_density: Annotated[float, Field(gt=0, lt=1)] = 0.02
    include: LayerPatterns = ()
    """The weights that are prunable, by name, glob pattern or kind of layer; none: all."""
    exclude: LayerPatterns = ()
    """Weights that are never pruned, by name, glob pattern or kind of layer; every network of the
    family has some that match.
    """
    max_error: Annotated[tuple[Error, ...], Field(max_length=8)] = ()
    """Test errors tolerated, below that of guessing; none: 1.25 times the least unpruned error that
    was measured.
    """
    candidates: Grid | None = None
    """Networks that may be the answer; default: the members. The unpruned error of others is the
    dense law's, or where there is none that of a regression on the measured ones.
    """
    confirm: bool = True
    """Train and prune the answers for real."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    adaptive: Adaptive | None = None

    @model_validator(mode="before")
    @classmethod
    def _seeds_are_members(cls, family: Any) -> Any:
        if isinstance(family, dict) and "replicates" in family:
            raise ValueError(
                "replicates: only pruning jobs have them; list the seeds of a family in "
                "members.seeds"
            )
        if isinstance(family, dict) and "overrides" in family:
            raise ValueError(
                "overrides: only pruning jobs have them; the law of a family is of networks whose "
                "layers are ranked together, for which include and exclude choose the weights"
            )
        return family

    @field_validator("dataset")
    @classmethod
    def _no_shifts(cls, value: DatasetRef) -> DatasetRef:
        if value.shifted:
            raise ValueError("shifted: a family is measured on the test images alone; leave it out")
        stratify = "stratify" in value.limit.model_fields_set and value.limit.stratify
        if stratify or value.limit.balanced:
            raise ValueError(
                "limit: a family draws its training images without regard to class; leave "
                "stratify and balanced out"
            )
        return value

    @field_validator("max_error")
    @classmethod
    def _sorted(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return _ascending(value)

    @model_validator(mode="after")
    def _rounds_fit(self) -> FamilySpec:
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise ValueError(
                f"floor_density: keeping {self.keep:g} each round, {self.rounds} rounds lead to "
                f"a density of {self.floor_density:g}; from 1 to {MOST_ROUNDS}"
            )
        if self.method == "synflow" and self.model.train.rewind_epoch:
            raise ValueError(
                "model: train.rewind_epoch has no effect with method 'synflow', which prunes at "
                "initialisation"
            )
        return self

    @model_validator(mode="after")
    def _enough_for_a_law(self) -> FamilySpec:
        grids: list[Grid] = [self.members]
        if self.candidates is not None:
            grids.append(self.candidates)
        sizes = sum(len(grid.depths) * len(grid.widths) for grid in grids)
        if sizes > MOST_SIZES:
            raise ValueError(
                f"members and candidates: {sizes} depths with widths; at most {MOST_SIZES}"
            )
        varied = sum(len(values) > 1 for values in (self.members.depths, self.members.widths))
        networks = len(self.members.depths) * len(self.members.widths) * len(self.members.fractions)
        if self.adaptive is not None and self.adaptive.max_members is not None:
            networks = min(networks, self.adaptive.max_members)
        if networks * self.rounds < 2 * (2 + varied) or networks < 1 + varied:
            raise ValueError(
                f"members: {networks} networks with {self.rounds} densities each are too few for "
                f"a law of depth, width and density; here it needs {1 + varied} networks "
                f"and {2 * (2 + varied)} points"
            )
        return self

    @property
    def rounds(self) -> int:
        """The number of rounds to the last density that is not below the floor:
        floor(ln(floor_density) / ln(keep)).
        """
        return math.floor(math.log(self.floor_density) / math.log(self.keep) + 1e-9)

    def limit(self, fraction: float) -> Limit:
        """Return the limit of images of a member that trains on this fraction of them."""
        base = self.dataset.limit
        train = base.train
        if fraction < 1:
            if isinstance(train, int):
                train = max(1, round(fraction * train))
            else:
                train = fraction * (train or 1.0)
        return Limit(train=train, test=base.test, stratify=False, seed=base.seed)
