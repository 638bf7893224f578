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
    """One network of a family and how far it is pruned; as an `answer`, one that a law has
    chosen.
    """

    role: Literal["member", "answer"] = "member"
    depth: float
    width: float
    fraction: float
    seed: int
    rounds: int
    density: float
    """Where the pruning ends."""
    max_error: float | None = None
    """Of an answer: the error that is tolerated."""

    @property
    def key(self) -> str:
        """What tells it apart within its family; no two jobs are made for one key."""
        if self.role == "answer":
            return f"answer-{self.max_error!r}"
        return f"depth{self.depth!r}-width{self.width!r}-fraction{self.fraction!r}-seed{self.seed}"

    @property
    def network(self) -> tuple[float, float, float]:
        """Depth, width and fraction: members that share them are trials of one network."""
        return self.depth, self.width, self.fraction


class Run(Document):
    """A member's job as it stands, and what it measured once it has succeeded."""

    job: str
    member: Member
    status: MemberStatus
    error: str = ""
    """Why it failed."""
    curve: MemberCurve | None = None

    @property
    def ended(self) -> bool:
        """Whether it will not change any more by itself."""
        return self.status in TERMINAL


class MemberCurve(Document):
    """What a prune job measured that a law is fitted to."""

    unpruned_error: float
    densities: tuple[float, ...]
    errors: tuple[float, ...]
    images: int
    """Training images."""
    test_images: int
    classes: int
    parameters: int
    prunable: int
    final: dict[str, Any] | None = None
    """Of the sparsest checkpoint: `id`, `error` with its interval, `parameters`."""


def read_member_curve(report: Mapping[str, Any]) -> MemberCurve | None:
    """The curve of a prune job's report; `None` where it has several criteria or no round.

    The unpruned error is the mean over the trainings of the whole network that the job has: as
    first trained, and the dense control, trained again from the rewind point, where there is one.
    """
    rounds = report["rounds"]
    if not rounds or len({str(one["criterion"]) for one in rounds}) > 1:
        return None
    rows = sorted(
        ((one["density"], (one["retrained"] or one["pruned"])["error"]["value"]) for one in rounds),
        reverse=True,
    )
    final = min(report["checkpoints"], key=lambda one: float(one["density"]), default=None)
    kept = (
        None
        if final is None
        else {name: final[name] for name in ("id", "error", "parameters", "density")}
    )
    whole = [report[name]["error"]["value"] for name in ("baseline", "control")]
    unpruned = sum(whole) / 2 if report["control"]["retrain_epochs"] else whole[1]
    return MemberCurve(
        unpruned_error=unpruned,
        densities=tuple(d for d, _ in rows),
        errors=tuple(e for _, e in rows),
        images=report["data"]["fit"],
        test_images=report["data"]["test"],
        classes=len(report["data"]["classes"]),
        parameters=report["model"]["parameters"],
        prunable=report["model"]["prunable"],
        final=kept,
    )


def list_members(spec: FamilySpec) -> tuple[Member, ...]:
    """Every member, the cheapest first in depth and width."""
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


def member_densities(spec: FamilySpec, rounds: int) -> tuple[float, ...]:
    """keep^i, i = 1 ... rounds."""
    return tuple(spec.keep**i for i in range(1, rounds + 1))


def build_member_job(spec: FamilySpec, member: Member, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The prune job of a member, as a client might submit it; `kwargs` are its architecture's.

    The limit draws without regard to class. IMP: magnitude, all layers ranked together, weights
    rewound after every round, BatchNorm with them. SynFlow: at initialisation, every density by
    itself.
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
    if spec.exclude:
        job["exclude"] = list(spec.exclude)
    if spec.method == "imp":
        job |= {
            "criterion": {"name": "magnitude"},
            "retrain": {"mode": "weight_rewind"},
            "batchnorm": "keep",
            "schedule": {"name": "geometric", "params": {"fraction": 1 - spec.keep}},
            "targets": {"sparsity": [sparsity_of(member.density)]},
        }
    else:
        wanted = (
            [sparsity_of(member.density)]
            if member.role == "answer"
            else [sparsity_of(d) for d in member_densities(spec, member.rounds)]
        )
        job |= {
            "criterion": {"name": "synflow"},
            "when": "before_training",
            "independent": True,
            "targets": {"sparsity": wanted},
        }
    return job


def sparsity_of(density: float) -> float:
    """1 - density without the digits that the subtraction invents: a target, which names a
    checkpoint.
    """
    return round(1 - density, 12)


Run.model_rebuild()
