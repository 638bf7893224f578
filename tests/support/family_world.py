"""A family without training: sizes of small perceptrons, and members whose errors follow a joint
law with noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning.family.members import Member, MemberCurve, Run, list_densities
from pruning.family.report import build_report
from pruning.family.sizes import Size
from pruning.family.turn import State, take_turn
from pruning.laws.forms import evaluate_pruned_error
from pruning.schemas.family import FamilySpec
from pruning.schemas.family_report import FamilyReport, MemberStatus

FAMILY = "job_00000000"
INPUTS, CLASSES, IMAGES, TEST = 64, 10, 1000, 2000


def spec(**changes: Any) -> FamilySpec:
    """Nine perceptrons at two fractions of the images."""
    fields: dict[str, Any] = {
        "type": "family",
        "model": {"architecture": "mlp", "train": {"epochs": 2}},
        "dataset": {"builtin": "digits"},
        "members": {"depths": [1, 2, 3], "widths": [8, 16, 32], "fractions": [0.25, 1.0]},
        "keep": 0.7,
        "floor_density": 0.02,
        "max_error": [0.12],
    }
    return FamilySpec.model_validate(fields | changes)


def sizes(family: FamilySpec) -> tuple[Size, ...]:
    """Perceptrons of `depth` hidden layers of `width` units, counted by hand: weights are prunable,
    biases are not.
    """
    grids = [family.members, *([family.candidates] if family.candidates is not None else [])]
    wanted = sorted(
        {(float(d), float(w)) for grid in grids for d in grid.depths for w in grid.widths}
    )
    network_sizes = []
    for depth, width in wanted:
        units = int(width)
        weights = INPUTS * units + (int(depth) - 1) * units**2 + units * CLASSES
        network_sizes.append(
            Size(
                depth=depth,
                width=width,
                kwargs={"hidden": [units] * int(depth)},
                prunable=weights,
                parameters=weights + int(depth) * units + CLASSES,
                flops=2 * weights,
            )
        )
    return tuple(network_sizes)


@dataclass(frozen=True)
class World:
    """What the members of a family would measure: a joint law, with relative noise of its errors
    and unpruned errors.
    """

    seed: int = 0
    noise: float = 0.03
    unpruned_noise: float = 0.02
    phi: float = 0.8
    psi: float = 1.4
    gamma: float = 0.6
    p: float = 0.15
    plateau: float = 0.9
    test_images: int = TEST
    """Test images that the members say they were measured on."""
    val_images: int = 0
    """Validation images, whose errors have noise of their own; 0 as in members of old versions."""

    def unpruned(self, size: Size, fraction: float) -> float:
        """The unpruned error without noise."""
        return float(0.05 * (size.parameters / 3000) ** -0.3 * fraction**-0.3)

    def run(
        self, family: FamilySpec, member: Member, job: str, status: MemberStatus = "succeeded"
    ) -> Run:
        """The member's job once it has ended; its noise is that of the seed, the job and nothing
        else.
        """
        if status != "succeeded":
            return Run(
                job=job,
                member=member,
                status=status,
                error="out of memory" if status == "failed" else "",
            )
        (size,) = [
            size
            for size in sizes(family)
            if (size.depth, size.width) == (member.depth, member.width)
        ]
        random = np.random.default_rng([self.seed, *job.encode()])
        unpruned = self.unpruned(size, member.fraction) * float(
            np.exp(self.unpruned_noise * random.standard_normal())
        )
        kept = (
            list_densities(family, member.rounds) if member.role == "member" else (member.density,)
        )
        invariant = member.depth**self.phi * member.width**self.psi * np.array(kept)
        law = evaluate_pruned_error(invariant, unpruned, self.gamma, self.p, self.plateau)
        errors = np.minimum(
            law * np.exp(self.noise * random.standard_normal(len(kept))), self.plateau
        )
        validation: dict[str, Any] = {}
        if self.val_images:
            own = np.exp(self.noise * random.standard_normal(len(kept) + 1))
            validation = {
                "unpruned_val_error": unpruned * float(own[0]),
                "val_errors": tuple(float(e) for e in np.minimum(law * own[1:], self.plateau)),
                "val_images": self.val_images,
            }
        last, half = float(errors[-1]), 1.96 * float(np.sqrt(errors[-1] * (1 - errors[-1]) / TEST))
        return Run(
            job=job,
            member=member,
            status="succeeded",
            curve=MemberCurve(
                unpruned_error=unpruned,
                densities=kept,
                errors=tuple(float(error) for error in errors),
                images=int(IMAGES * member.fraction),
                test_images=self.test_images,
                classes=CLASSES,
                parameters=size.parameters,
                prunable=size.prunable,
                **validation,
                final={
                    "id": f"magnitude-{1 - kept[-1]:.4g}",
                    "density": kept[-1],
                    "parameters": round(size.parameters - size.prunable * (1 - kept[-1])),
                    "error": {
                        "value": last,
                        "low": max(last - half, 0.0),
                        "high": min(last + half, 1.0),
                        "n": TEST,
                    },
                },
            ),
        )


def succeed(member: Member) -> MemberStatus:
    """Tell that the job of a member succeeds."""
    return "succeeded"


LIVED: dict[tuple[str, World, int], State] = {}
"""The families that have lived without a failure; a test that wants one to live anew clears it."""


def live(
    family: FamilySpec,
    world: World | None = None,
    *,
    turns: int = 100,
    ends: Callable[[Member], MemberStatus] = succeed,
) -> State:
    """The family after so many turns, or its end; `ends` tells how a member's job ends."""
    world = world or World()
    if ends is not succeed:
        return _live(family, world, turns, ends)
    key = family.model_dump_json(), world, turns
    if key not in LIVED:
        LIVED[key] = _live(family, world, turns, ends)
    return LIVED[key]


def _live(
    family: FamilySpec, world: World, turns: int, ends: Callable[[Member], MemberStatus]
) -> State:
    network_sizes = sizes(family)
    runs: list[Run] = []
    state = take_turn(family, network_sizes, runs)
    for _ in range(turns):
        if state.finished:
            break
        runs += [
            world.run(family, member, f"job_{len(runs) + i + 1:08d}", ends(member))
            for i, member in enumerate(state.start)
        ]
        state = take_turn(family, network_sizes, runs)
    return state


def reported(
    family: FamilySpec | None = None, world: World | None = None, **how: Any
) -> FamilyReport:
    """The report of a family that has lived, as `live` says."""
    family = family or spec()
    return build_report(
        live(family, world, **how),
        FAMILY,
        family.model_dump(mode="json", exclude_unset=True),
        "digits",
    )


def jobs(state: State) -> Sequence[str]:
    """The ids of its members' jobs."""
    return [run.job for run in state.runs]
