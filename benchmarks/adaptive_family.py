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

import sys
from collections.abc import Callable, Sequence

import numpy as np

from pruning.family import design
from pruning.family.measurements import fit_family_law, gather_measurements
from pruning.family.members import Member, MemberCurve, Run, list_members, list_densities
from pruning.family.sizes import Size
from pruning.laws.fitting import FEW_NETWORKS
from pruning.laws.forms import evaluate_pruned_error
from pruning.schemas.family import FamilySpec

BAND, NOISE, FAMILIES, OF_RANDOM, OF_WHOLE = 0.008, 0.03, 12, 0.75, 0.2
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


def sizes() -> dict[tuple[float, float], Size]:
    """Perceptrons on 784 values."""
    found = {}
    for depth in SPEC.members.depths:
        for width in SPEC.members.widths:
            weights = int(784 * width + (depth - 1) * width**2 + 10 * width)
            found[depth, width] = Size(
                depth=depth,
                width=width,
                kwargs={},
                parameters=weights,
                prunable=weights,
                flops=2 * weights,
            )
    return found


SIZES = sizes()
WORK = {key: float(one.flops) for key, one in SIZES.items()}


def unpruned(member: Member) -> float:
    """The truth."""
    return float(
        0.05
        * (SIZES[member.depth, member.width].parameters / 30_000) ** -0.2
        * member.fraction**-0.3
    )


def clean(member: Member, kept: Sequence[float]) -> np.ndarray:
    """The true errors."""
    invariant = member.depth ** TRUTH["phi"] * member.width ** TRUTH["psi"] * np.array(kept)
    return evaluate_pruned_error(
        invariant, unpruned(member), TRUTH["gamma"], TRUTH["p"], TRUTH["plateau"]
    )


def run(member: Member, rng: np.random.Generator) -> Run:
    """What the member measures."""
    kept = list_densities(SPEC, member.rounds)
    errors = np.minimum(
        clean(member, kept) * np.exp(NOISE * rng.standard_normal(len(kept))), TRUTH["plateau"]
    )
    error = unpruned(member) * float(np.exp(0.7 * NOISE * rng.standard_normal()))
    size = SIZES[member.depth, member.width]
    return Run(
        job="job_00000000",
        member=member,
        status="succeeded",
        curve=MemberCurve(
            unpruned_error=error,
            densities=kept,
            errors=tuple(errors),
            images=int(10_000 * member.fraction),
            test_images=10_000,
            classes=10,
            parameters=size.parameters,
            prunable=size.prunable,
        ),
    )


def cost(member: Member) -> float:
    """FLOPs of all its trainings."""
    return WORK[member.depth, member.width] * member.fraction * (member.rounds + 2)


def grow(choose: Choose, seed: int) -> tuple[float, float, int]:
    """Run members until the band is narrow: compute, mean relative deviation from the truth,
    members.
    """
    every, rng = list_members(SPEC), np.random.default_rng(seed)
    runs = [run(one, rng) for one in design.choose_first_members(every, WORK)]
    while True:
        points = gather_measurements(runs)
        assert points is not None
        law = fit_family_law(points, refits=0)
        found = design.build_design(SPEC, law, points, every)
        taken = {one.member.key for one in runs}
        left = [one for one in every if one.key not in taken]
        if not left or (
            found.compute_band(SPEC.confidence) <= BAND and len(points.networks) >= FEW_NETWORKS
        ):
            break
        runs.append(run(choose(found, left), rng))
    kept = list_densities(SPEC, SPEC.rounds)
    missed = [
        np.abs(
            law.curve(one.depth, one.width, np.array(kept), unpruned(one)) / clean(one, kept) - 1
        ).mean()
        for one in every
    ]
    return sum(cost(one.member) for one in runs), float(np.mean(missed)), len(runs)


def main() -> int:
    """Print the figures; 1 when a limit is not kept."""
    whole = sum(cost(one) for one in list_members(SPEC))
    rng = np.random.default_rng(99)
    adaptive = [
        grow(
            lambda found, left: design.choose_next_members(
                SPEC, found, left=left, under_way=[], work=WORK, count=1
            )[0],
            seed,
        )
        for seed in range(FAMILIES)
    ]
    random = [
        grow(lambda found, left: left[int(rng.integers(len(left)))], seed)
        for seed in range(FAMILIES)
    ]
    for name, rows in (("adaptive", adaptive), ("random", random)):
        compute, missed, count = (np.array(column) for column in zip(*rows, strict=True))
        print(
            f"{name:9} {count.mean():5.1f} of {len(list_members(SPEC))} members, "
            f"{compute.mean() / whole:6.1%} of the family's "
            f"compute; law off by {missed.mean():.1%} from the truth (worst {missed.max():.1%})"
        )
    compute = float(np.mean([one[0] for one in adaptive]))
    of_random, of_whole = compute / float(np.mean([one[0] for one in random])), compute / whole
    missed = float(np.mean([one[1] for one in adaptive]))
    print(
        f"compute of adaptive families: {of_random:.2f} of random ones' (limit {OF_RANDOM}), "
        f"{of_whole:.2f} of the whole "
        f"(limit {OF_WHOLE}); law off by {missed:.1%} (limit {BAND:.1%})"
    )
    return int(of_random > OF_RANDOM or of_whole > OF_WHOLE or missed > BAND)


if __name__ == "__main__":
    sys.exit(main())
