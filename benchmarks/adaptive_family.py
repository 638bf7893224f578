"""The law with the least compute: how much of a family an adaptive job trains until its band is as
narrow as asked for.

Simulated families of 32 members (4 depths x 4 widths x 2 fractions of the images, 12 densities, 3 %
noise) whose truth is known. The same rule to stop (mean half-width of the 90 % band at most 0.8 %),
the same first design; then the next member is the one that narrows the band most for its compute,
or any. Compute is FLOPs times images times trainings. Printed: what adaptive families take of the
whole family's compute, and of that of families whose next member is any; and how far the law ends
from the truth. Limits: a fifth of the whole, three quarters of the random ones', and a band's width
from the truth.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence

import numpy as np

from pruning.family import design
from pruning.family.measurements import fit_family_law, gather_measurements
from pruning.family.members import Member, MemberCurve, Run, list_densities, list_members
from pruning.family.sizes import Size
from pruning.laws.fitting import ENOUGH_NETWORKS
from pruning.laws.forms import evaluate_pruned_error
from pruning.schemas.family import FamilySpec

BAND = 0.008
NOISE = 0.03
FAMILIES = 12
OF_RANDOM = 0.75
OF_WHOLE = 0.2
"""The most compute, as a fraction of that of random choice and of the whole family."""
TRUTH = {"phi": 0.8, "psi": 1.4, "gamma": 0.6, "p": 0.15, "plateau": 0.9}
SPEC = FamilySpec.model_validate(
    {
        "type": "family",
        "model": {"architecture": "mlp", "train": {"epochs": 1}},
        "dataset": {"builtin": "digits"},
        "members": {"depths": [1, 2, 3, 4], "widths": [8, 16, 32, 64], "fractions": [0.25, 1.0]},
        "keep": 0.7,
        "floor_density": 0.013,
        "adaptive": {"band": BAND},
    }
)
Choose = Callable[[design.Design, Sequence[Member]], Member]


def build_sizes() -> dict[tuple[float, float], Size]:
    """Perceptrons on 784 values, by depth and width."""
    sizes: dict[tuple[float, float], Size] = {}
    for depth, width in itertools.product(SPEC.members.depths, SPEC.members.widths):
        weights = int(784 * width + (depth - 1) * width**2 + 10 * width)
        sizes[depth, width] = Size(
            depth=depth,
            width=width,
            kwargs={},
            parameters=weights,
            prunable=weights,
            flops=2 * weights,
        )
    return sizes


SIZES = build_sizes()
WORK = {key: float(size.flops) for key, size in SIZES.items()}


def compute_unpruned(member: Member) -> float:
    """The true unpruned error."""
    parameters = SIZES[member.depth, member.width].parameters
    return float(0.05 * (parameters / 30_000) ** -0.2 * member.fraction**-0.3)


def compute_errors(member: Member, densities: Sequence[float]) -> np.ndarray:
    """The true errors at densities."""
    size = member.depth ** TRUTH["phi"] * member.width ** TRUTH["psi"]
    return evaluate_pruned_error(
        size * np.array(densities),
        compute_unpruned(member),
        TRUTH["gamma"],
        TRUTH["p"],
        TRUTH["plateau"],
    )


def run_member(member: Member, rng: np.random.Generator) -> Run:
    """The job of a member with its noisy measurements."""
    densities = list_densities(SPEC, member.rounds)
    noise = np.exp(NOISE * rng.standard_normal(len(densities)))
    errors = np.minimum(compute_errors(member, densities) * noise, TRUTH["plateau"])
    unpruned = compute_unpruned(member) * float(np.exp(0.7 * NOISE * rng.standard_normal()))
    size = SIZES[member.depth, member.width]
    return Run(
        job="job_00000000",
        member=member,
        status="succeeded",
        curve=MemberCurve(
            unpruned_error=unpruned,
            densities=densities,
            errors=tuple(errors),
            images=int(10_000 * member.fraction),
            test_images=10_000,
            classes=10,
            parameters=size.parameters,
            prunable=size.prunable,
        ),
    )


def count_work(member: Member) -> float:
    """FLOPs of all trainings of a member, for one image forward."""
    return WORK[member.depth, member.width] * member.fraction * (member.rounds + 2)


def grow_family(choose: Choose, seed: int) -> tuple[float, float, int]:
    """Run members until the band is narrow: compute, mean relative deviation from the truth,
    members.
    """
    members = list_members(SPEC)
    rng = np.random.default_rng(seed)
    runs = [run_member(member, rng) for member in design.choose_first_members(members, WORK)]
    while True:
        points = gather_measurements(runs)
        assert points is not None
        law = fit_family_law(points, refits=0)
        current = design.build_design(SPEC, law, points, members)
        taken = {run.member.key for run in runs}
        left = [member for member in members if member.key not in taken]
        narrow = current.compute_band(SPEC.confidence) <= BAND
        if not left or (narrow and len(points.networks) >= ENOUGH_NETWORKS):
            break
        runs.append(run_member(choose(current, left), rng))
    densities = list_densities(SPEC, SPEC.rounds)
    missed = []
    for member in members:
        truth = compute_errors(member, densities)
        predicted = law.curve(
            member.depth, member.width, np.array(densities), compute_unpruned(member)
        )
        missed.append(np.abs(predicted / truth - 1).mean())
    return sum(count_work(run.member) for run in runs), float(np.mean(missed)), len(runs)


def choose_adaptively(current: design.Design, left: Sequence[Member]) -> Member:
    """The member that narrows the band most for its compute."""
    (member,) = design.choose_next_members(
        SPEC, current, left=left, under_way=[], work=WORK, count=1
    )
    return member


def main() -> int:
    """Print the figures; 1 when a limit is not kept."""
    whole = sum(count_work(member) for member in list_members(SPEC))
    rng = np.random.default_rng(99)

    def choose_randomly(current: design.Design, left: Sequence[Member]) -> Member:
        return left[int(rng.integers(len(left)))]

    results = {
        "adaptive": [grow_family(choose_adaptively, seed) for seed in range(FAMILIES)],
        "random": [grow_family(choose_randomly, seed) for seed in range(FAMILIES)],
    }
    work = {}
    for name, rows in results.items():
        compute, missed, count = (np.array(column) for column in zip(*rows, strict=True))
        work[name] = float(np.mean(compute))
        print(
            f"{name:9} {count.mean():5.1f} of {len(list_members(SPEC))} members, "
            f"{compute.mean() / whole:6.1%} of the family's compute; law off by "
            f"{missed.mean():.1%} from the truth (worst {missed.max():.1%})"
        )
    of_random = work["adaptive"] / work["random"]
    of_whole = work["adaptive"] / whole
    mean_missed = float(np.mean([deviation for _, deviation, _ in results["adaptive"]]))
    print(
        f"compute of adaptive families: {of_random:.2f} of random ones' (limit {OF_RANDOM}), "
        f"{of_whole:.2f} of the whole (limit {OF_WHOLE}); law off by {mean_missed:.1%} (limit "
        f"{BAND:.1%})"
    )
    return int(of_random > OF_RANDOM or of_whole > OF_WHOLE or mean_missed > BAND)


if __name__ == "__main__":
    sys.exit(main())
