"""The members of a family, and the pruning job of each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal

from pruning.schemas.base import Document
from pruning.schemas.family import FamilySpec
from pruning.schemas.family_report import MemberStatus
from pruning.schemas.job import TERMINAL


class Member(Document):
    """A network of a family and how far it is pruned; an `answer` was chosen by a law."""

    role: Literal["member", "answer"] = "member"
    depth: float
    width: float
    fraction: float
    seed: int
    rounds: int
    density: float
    """The density at which the pruning ends."""
    max_error: float | None = None
    """The tolerated error of an answer."""

    @property
    def key(self) -> str:
        """The identity of the member within its family; no two jobs are made for one key."""
        if self.role == "answer":
            return f"answer-{self.max_error!r}"
        return f"depth{self.depth!r}-width{self.width!r}-fraction{self.fraction!r}-seed{self.seed}"

    @property
    def network(self) -> tuple[float, float, float]:
        """Depth, width and fraction: members with equal ones are trials of one network."""
        return self.depth, self.width, self.fraction


class Run(Document):
    """A member's job as it stands, and its curve once it has succeeded."""

    job: str
    member: Member
    status: MemberStatus
    error: str = ""
    """The reason of a failure."""
    curve: MemberCurve | None = None

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more by itself."""
        return self.status in TERMINAL


class MemberCurve(Document):
    """The results of a prune job that a law is fitted to."""

    unpruned_error: float
    densities: tuple[float, ...]
    errors: tuple[float, ...]
    images: int
    """The number of training images."""
    test_images: int
    classes: int
    guessing_error: float | None = None
    """The error of the best constant answer on the test images; `null` in members of earlier
    versions.
    """
    parameters: int
    prunable: int
    unpruned_val_error: float | None = None
    """The unpruned error on the validation images; `null` in members of earlier versions."""
    val_errors: tuple[float, ...] = ()
    val_images: int = 0
    """The number of validation images."""
    final: dict[str, Any] | None = None
    """The sparsest checkpoint: `id`, `error` with its interval, `parameters`, `density`."""

    @property
    def chance(self) -> float:
        """The error of guessing; 1 - 1/classes where the labels were not looked at."""
        return self.guessing_error or 1 - 1 / self.classes


def read_member_curve(report: Mapping[str, Any]) -> MemberCurve | None:
    """Read the curve of a prune job's report; `None` where it has several criteria or no round.

    The unpruned error is the mean over the trainings of the whole network in the job: as first
    trained, and the dense control, trained again from the rewind point, if it is.
    """
    rounds = report["rounds"]
    if not rounds or len({str(row["criterion"]) for row in rounds}) > 1:
        return None
    points = []
    for row in rounds:
        network = row["retrained"] or row["pruned"]
        points.append((row["density"], network["error"]["value"], network["val_error"]["value"]))
    points.sort(reverse=True)
    sparsest = min(report["checkpoints"], key=lambda row: float(row["density"]), default=None)
    final = None
    if sparsest is not None:
        final = {name: sparsest[name] for name in ("id", "error", "parameters", "density")}
    return MemberCurve(
        unpruned_error=_average_unpruned(report, "error"),
        densities=tuple(density for density, _, _ in points),
        errors=tuple(error for _, error, _ in points),
        images=report["data"]["fit"],
        test_images=report["data"]["test"],
        classes=len(report["data"]["classes"]),
        guessing_error=report["data"].get("guessing_error"),
        parameters=report["model"]["parameters"],
        prunable=report["model"]["prunable"],
        unpruned_val_error=_average_unpruned(report, "val_error"),
        val_errors=tuple(error for _, _, error in points),
        val_images=report["data"]["val"],
        final=final,
    )


def _average_unpruned(report: Mapping[str, Any], name: str) -> float:
    """The mean over the trainings of the whole network in a job."""
    unpruned = float(report["control"][name]["value"])
    if report["control"]["retrain_epochs"]:
        return (float(report["baseline"][name]["value"]) + unpruned) / 2
    return unpruned


def list_members(spec: FamilySpec) -> tuple[Member, ...]:
    """Every member, sorted by seed, fraction, depth and width as the spec lists them."""
    grid, rounds = spec.members, spec.rounds
    return tuple(
        Member(
            depth=depth,
            width=width,
            fraction=fraction,
            seed=seed,
            rounds=rounds,
            density=spec.keep**rounds,
        )
        for seed, fraction, depth, width in itertools.product(
            grid.seeds, grid.fractions, grid.depths, grid.widths
        )
    )


def list_densities(spec: FamilySpec, rounds: int) -> tuple[float, ...]:
    """The densities after each round, keep^i, i = 1 ... rounds."""
    return tuple(spec.keep**i for i in range(1, rounds + 1))


def build_member_job(spec: FamilySpec, member: Member, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Build the prune job of a member, as a client might submit it.

    `kwargs` are the architecture's. The limit draws images without regard to class. IMP: magnitude,
    all layers ranked together, weights rewound after every round, BatchNorm with them. SynFlow: at
    initialisation, every density separately.
    """
    model = {
        "architecture": spec.model.architecture,
        "kwargs": dict(kwargs),
        "train": spec.model.train.model_dump(mode="json", exclude_unset=True),
    }
    limit = spec.limit(member.fraction).model_dump(mode="json", exclude_none=True)
    dataset = spec.dataset.model_dump(mode="json", exclude_unset=True) | {"limit": limit}
    job: dict[str, Any] = {
        "type": "prune",
        "model": model,
        "dataset": dataset,
        "evaluations": [{"name": "scaling_law"}],
        "seed": member.seed,
        "allocation": {"name": "global"},
        "device": spec.device,
        "priority": spec.priority,
        "labels": dict(spec.labels),
    }
    job |= spec.model_dump(mode="json", include={"include", "exclude"}, exclude_defaults=True)
    if spec.method == "imp":
        job |= {
            "criterion": {"name": "magnitude"},
            "retrain": {"mode": "weight_rewind"},
            "batchnorm": "keep",
            "schedule": {"name": "geometric", "params": {"fraction": 1 - spec.keep}},
            "targets": {"sparsity": [compute_sparsity(member.density)]},
        }
    else:
        densities = list_densities(spec, member.rounds)
        if member.role == "answer":
            densities = (member.density,)
        job |= {
            "criterion": {"name": "synflow"},
            "when": "before_training",
            "independent": True,
            "targets": {"sparsity": [compute_sparsity(density) for density in densities]},
        }
    return job


def compute_sparsity(density: float) -> float:
    """1 - density as a target, rounded: it names a checkpoint, and the last digits are noise."""
    return round(1 - density, 12)


Run.model_rebuild()
