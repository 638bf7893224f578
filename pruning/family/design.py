"""Which member to run next: sequential design, the one whose points narrow the law's band most for
their compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from pruning.family.measurements import FamilyMeasurements, NetworkKey, fit_unpruned_plane
from pruning.family.members import Member, member_densities
from pruning.laws.curves import SEED_SD
from pruning.laws.forms import Floats
from pruning.laws.joint import JointLaw
from pruning.schemas.family import FamilySpec

PRIOR = 1e-6
"""Of the information: what no point has told anything of is not infinitely uncertain."""
Networks = Mapping[NetworkKey, float]
"""Unpruned errors, measured or guessed, by network."""


def choose_first_members(
    every: Sequence[Member], work: Mapping[tuple[float, float], float]
) -> tuple[Member, ...]:
    """The first design: the smallest network, the deepest of its width, and the widest of its
    depth.

    They are the cheapest from which depth and width can be told apart over all of their range; all
    with the largest fraction and the first seed. A family in which depth or width does not vary
    needs fewer.
    """
    fraction, seed = max(one.fraction for one in every), min(one.seed for one in every)
    here = [one for one in every if one.fraction == fraction and one.seed == seed]
    shallow, narrow = min(one.depth for one in here), min(one.width for one in here)
    corners = {
        (shallow, narrow),
        (max(one.depth for one in here), narrow),
        (shallow, max(one.width for one in here)),
    }
    return tuple(
        sorted(
            (one for one in here if (one.depth, one.width) in corners),
            key=lambda one: work[one.depth, one.width],
        )
    )


@dataclass(frozen=True)
class Design:
    """What is known, and what a member would add to it."""

    law: JointLaw
    unpruned: Networks
    test_images: int
    grid: tuple[Floats, Floats, Floats, Floats]
    """Depth, width, density and unpruned error of what the band is wanted of."""

    def gradient(
        self, depth: Floats, width: Floats, density: Floats, unpruned: Floats
    ) -> tuple[Floats, Floats]:
        """d ln error by the free parameters (Q, n) and by ln unpruned (n)."""
        features = np.log([density, depth / self.law.centre[0], width / self.law.centre[1]])
        _, rows = self.law.form.evaluate(
            np.array(self.law.fit.theta)[None], features, np.log(unpruned)
        )
        return rows[0, list(self.law.fit.free)], rows[0, -1]

    def information(self, member: Member, rounds: Sequence[float]) -> Floats:
        """J' V^-1 J of the points of a member: V = noise^2 / weight on the diagonal, and s^2 h h'
        of its unpruned error.
        """
        unpruned = np.full(len(rounds), self.unpruned[member.network])
        depth, width = np.full(len(rounds), member.depth), np.full(len(rounds), member.width)
        jacobian, h = self.gradient(depth, width, np.array(rounds), unpruned)
        error = self.law.curve(depth, width, np.array(rounds), unpruned)
        weight = SEED_SD**2 / (SEED_SD**2 + (1 - error).clip(1e-9) / (self.test_images * error))
        fit = self.law.fit
        covariance = np.diag(fit.noise**2 / weight) + fit.unpruned_sd**2 * np.outer(h, h)
        return np.asarray(jacobian @ np.linalg.solve(covariance, jacobian.T))

    @property
    def known(self) -> Floats:
        """The information of the fitted points, (Q, Q): the inverse of C + sum_k s_k^2 R_k R_k', as
        in the law's band.
        """
        responses = (
            np.array([one.response for one in self.law.networks])
            * np.array(self.law.fit.unpruned_sds)[:, None]
        )
        covariance = np.array(self.law.fit.covariance) + responses.T @ responses
        known = np.linalg.pinv(covariance, hermitian=True)
        return np.asarray(
            known
            + PRIOR * np.eye(len(known)) * max(1.0, float(np.abs(np.diag(known)).max(initial=0.0)))
        )

    def variance(self, information: Floats) -> Floats:
        """Variance of ln error over the grid, for given unpruned errors."""
        jacobian, _ = self.gradient(self.grid[0], self.grid[1], self.grid[2], self.grid[3])
        return np.asarray(np.einsum("qn,qn->n", jacobian, np.linalg.solve(information, jacobian)))

    def band(self, confidence: float) -> float:
        """Mean half-width of the band over the grid, relative to the error: Student's t times the
        standard deviation.
        """
        if not self.law.fit.free:
            return 0.0
        t = float(stdtrit(self.law.fit.degrees_of_freedom, (1 + confidence) / 2))
        return float(np.expm1(t * np.sqrt(self.variance(self.known))).mean())


def find_unvaried(points: FamilyMeasurements, every: Sequence[Member]) -> tuple[int, ...]:
    """Which of depth (0) and width (1) all measured networks share, though the family has
    others.
    """
    return tuple(
        i
        for i in (0, 1)
        if len({one[i] for one in points.networks}) == 1 < len({one.network[i] for one in every})
    )


def find_telling_members(
    left: Sequence[Member], points: FamilyMeasurements, every: Sequence[Member]
) -> list[Member]:
    """The members of another depth or width than all that were measured, where a law cannot tell of
    any other.
    """
    return [
        one
        for one in left
        if any(one.network[i] != points.networks[0][i] for i in find_unvaried(points, every))
    ]


def build_design(
    spec: FamilySpec, law: JointLaw, points: FamilyMeasurements, every: Sequence[Member]
) -> Design:
    """The design over all members and their densities; without the depths or widths that the law
    knows nothing of.
    """
    networks = sorted({one.network for one in every})
    guess = fit_unpruned_plane(points)
    told = {
        key: points.unpruned_of(key) if key in points.networks else guess.at(key)
        for key in networks
    }
    unpruned = {key: min(value, 0.95 * law.plateau) for key, value in told.items()}
    wanted = member_densities(spec, spec.rounds)
    shared = find_unvaried(points, every)
    told_of = [one for one in networks if all(one[i] == points.networks[0][i] for i in shared)]
    rows = [(*one[:2], density, unpruned[one]) for one in told_of for density in wanted]
    return Design(law, unpruned, points.test_images, tuple(np.array(rows).T))


def choose_next_members(
    spec: FamilySpec,
    found: Design,
    *,
    left: Sequence[Member],
    under_way: Sequence[Member],
    work: Mapping[tuple[float, float], float],
    count: int,
) -> tuple[Member, ...]:
    """The next `count` members, greedily: each the largest fall of the mean variance over the grid
    for its compute.

    What is under way counts as known already. A member goes down to the floor or half the rounds,
    as gains more; its compute is its trainings, times images and FLOPs: the rounds, the network
    itself and, but for SynFlow, the dense control.
    """
    information = found.known
    for member in under_way:
        information = information + found.information(member, member_densities(spec, member.rounds))
    chosen: list[Member] = []
    remaining = list(left)
    while remaining and len(chosen) < count:
        before = float(found.variance(information).mean())
        best: tuple[float, Member, Floats] | None = None
        for member in remaining:
            for rounds in sorted(
                {spec.rounds, max(2, spec.rounds // 2)} if spec.rounds > 3 else {spec.rounds}
            ):
                added = information + found.information(member, member_densities(spec, rounds))
                cost = (
                    work[member.depth, member.width]
                    * member.fraction
                    * (rounds + 1 + (spec.method == "imp"))
                )
                gain = (before - float(found.variance(added).mean())) / cost
                if best is None or gain > best[0]:
                    best = (
                        gain,
                        member.model_copy(update={"rounds": rounds, "density": spec.keep**rounds}),
                        added,
                    )
        assert best is not None
        information = best[2]
        chosen.append(best[1])
        remaining = [one for one in remaining if one.key != best[1].key]
    return tuple(chosen)
