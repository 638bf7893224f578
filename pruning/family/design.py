"""The choice of the next members: sequential design, the points that narrow the band most for their
compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from pruning.family.measurements import FamilyMeasurements, NetworkKey, fit_unpruned_plane
from pruning.family.members import Member, list_densities
from pruning.laws.curves import SEED_SD
from pruning.laws.forms import Floats
from pruning.laws.joint import JointLaw
from pruning.schemas.family import FamilySpec

PRIOR = 1e-6
"""Fraction of the information that is added, as no parameter is infinitely uncertain."""
UnprunedErrors = Mapping[NetworkKey, float]
"""Unpruned errors, measured or predicted, by network."""
Work = Mapping[tuple[float, float], float]
"""FLOPs of one image by depth and width."""


def choose_first_members(members: Sequence[Member], work: Work) -> tuple[Member, ...]:
    """Choose the smallest network, the deepest of its width, and the widest of its depth.

    They are the cheapest from which the exponents of depth and width can be distinguished over all
    of their range; all with the largest fraction and the first seed. A family in which depth or
    width does not vary needs fewer.
    """
    fraction = max(member.fraction for member in members)
    seed = min(member.seed for member in members)
    full = [member for member in members if member.fraction == fraction and member.seed == seed]
    depths = [member.depth for member in full]
    widths = [member.width for member in full]
    corners = {
        (min(depths), min(widths)),
        (max(depths), min(widths)),
        (min(depths), max(widths)),
    }
    first = [member for member in full if (member.depth, member.width) in corners]
    return tuple(sorted(first, key=lambda member: work[member.depth, member.width]))


@dataclass(frozen=True)
class Design:
    """The present knowledge of the law, and what a member would add to it."""

    law: JointLaw
    unpruned: UnprunedErrors
    images: int
    """The number of images that a member is measured on."""
    grid: tuple[Floats, Floats, Floats, Floats]
    """Depth, width, density and unpruned error of the points whose band is to be narrow, (n,)."""

    def compute_gradient(
        self, depth: Floats, width: Floats, density: Floats, unpruned: Floats
    ) -> tuple[Floats, Floats]:
        """The gradient of ln error by the free parameters (Q, n) and by ln unpruned (n,)."""
        features = np.log([density, depth / self.law.centre[0], width / self.law.centre[1]])
        theta = np.array(self.law.fit.theta)[None]
        _, gradient = self.law.form.evaluate(theta, features, np.log(unpruned))
        return gradient[0, list(self.law.fit.free)], gradient[0, -1]

    def compute_information(self, member: Member, densities: Sequence[float]) -> Floats:
        """The information of the points of a member, J' V^-1 J, (Q, Q).

        V = noise^2 / weight on the diagonal, and s^2 h h' of its unpruned error.
        """
        n = len(densities)
        density = np.array(densities)
        depth, width = np.full(n, member.depth), np.full(n, member.width)
        unpruned = np.full(n, self.unpruned[member.network])
        jacobian, h = self.compute_gradient(depth, width, density, unpruned)
        error = self.law.curve(depth, width, density, unpruned)
        sampling = (1 - error).clip(1e-9) / (self.images * error)
        weight = SEED_SD**2 / (SEED_SD**2 + sampling)
        fit = self.law.fit
        covariance = np.diag(fit.noise**2 / weight) + fit.unpruned_sd**2 * np.outer(h, h)
        return np.asarray(jacobian @ np.linalg.solve(covariance, jacobian.T))

    @property
    def known_information(self) -> Floats:
        """The information of the fitted points, (Q, Q).

        It is the inverse of C + sum_k s_k^2 R_k R_k', the covariance in the law's band.
        """
        responses = np.array([network.response for network in self.law.networks])
        scaled = responses * np.array(self.law.fit.unpruned_sds)[:, None]
        covariance = np.array(self.law.fit.covariance) + scaled.T @ scaled
        information = np.linalg.pinv(covariance, hermitian=True)
        largest = max(1.0, float(np.abs(np.diag(information)).max(initial=0.0)))
        return np.asarray(information + PRIOR * np.eye(len(information)) * largest)

    def compute_variance(self, information: Floats) -> Floats:
        """Variance of ln error over the grid, at fixed unpruned errors, (n,)."""
        depth, width, density, unpruned = self.grid
        jacobian, _ = self.compute_gradient(depth, width, density, unpruned)
        return np.asarray(np.einsum("qn,qn->n", jacobian, np.linalg.solve(information, jacobian)))

    def compute_band(self, confidence: float) -> float:
        """Mean half-width of the band over the grid, relative to the error.

        The half-width of ln error is Student's t times the standard deviation.
        """
        if not self.law.fit.free:
            return 0.0
        t = float(stdtrit(self.law.fit.degrees_of_freedom, (1 + confidence) / 2))
        sd = np.sqrt(self.compute_variance(self.known_information))
        return float(np.expm1(t * sd).mean())


def find_unvaried(points: FamilyMeasurements, members: Sequence[Member]) -> tuple[int, ...]:
    """The axes, depth (0) and width (1), that vary in the family but not in what was measured."""
    unvaried = []
    for axis in (0, 1):
        measured = {network[axis] for network in points.networks}
        planned = {member.network[axis] for member in members}
        if len(measured) == 1 < len(planned):
            unvaried.append(axis)
    return tuple(unvaried)


def find_telling_members(
    left: Sequence[Member], points: FamilyMeasurements, members: Sequence[Member]
) -> list[Member]:
    """The members of `left` with another depth or width, where all measured networks share one.

    Without such a member the law does not predict any other depth or width.
    """
    unvaried = find_unvaried(points, members)
    measured = points.networks[0]
    return [
        member
        for member in left
        if any(member.network[axis] != measured[axis] for axis in unvaried)
    ]


def build_design(
    spec: FamilySpec, law: JointLaw, points: FamilyMeasurements, members: Sequence[Member]
) -> Design:
    """Build the design over all members and their densities, without the depths or widths that the
    law does not predict.
    """
    plane = fit_unpruned_plane(points)
    unpruned = {}
    for network in sorted({member.network for member in members}):
        if network in points.networks:
            error = points.average_unpruned(network)
        else:
            error = plane.predict(network)
        unpruned[network] = min(error, 0.95 * law.plateau)
    unvaried = find_unvaried(points, members)
    measured = points.networks[0]
    rows = [
        (network[0], network[1], density, error)
        for network, error in unpruned.items()
        if all(network[axis] == measured[axis] for axis in unvaried)
        for density in list_densities(spec, spec.rounds)
    ]
    depth, width, density, unpruned_error = np.array(rows).T
    grid = (depth, width, density, unpruned_error)
    return Design(law, unpruned, int(points.images.max()), grid)


def choose_next_members(
    spec: FamilySpec,
    design: Design,
    *,
    left: Sequence[Member],
    under_way: Sequence[Member],
    work: Work,
    count: int,
) -> tuple[Member, ...]:
    """Choose `count` members greedily, each the largest fall of the mean variance for its compute.

    The variance is over the grid of the design, and members under way count as known. A member goes
    down to the floor or half the rounds, whichever gains more.
    """
    information = design.known_information
    for member in under_way:
        densities = list_densities(spec, member.rounds)
        information = information + design.compute_information(member, densities)
    chosen: list[Member] = []
    remaining = list(left)
    while remaining and len(chosen) < count:
        member, information = _choose_next_member(spec, design, information, remaining, work)
        chosen.append(member)
        remaining = [other for other in remaining if other.key != member.key]
    return tuple(chosen)


def _choose_next_member(
    spec: FamilySpec, design: Design, information: Floats, remaining: Sequence[Member], work: Work
) -> tuple[Member, Floats]:
    """The best member with its rounds, and the information once it has been run."""
    lengths = {spec.rounds}
    if spec.rounds > 3:
        lengths.add(max(2, spec.rounds // 2))
    before = float(design.compute_variance(information).mean())
    best_gain = -np.inf
    best: tuple[Member, Floats] | None = None
    for member in remaining:
        for rounds in sorted(lengths):
            densities = list_densities(spec, rounds)
            added = information + design.compute_information(member, densities)
            fall = before - float(design.compute_variance(added).mean())
            gain = fall / _count_work(spec, member, rounds, work)
            if best is None or gain > best_gain:
                shortened = {"rounds": rounds, "density": spec.keep**rounds}
                best_gain, best = gain, (member.model_copy(update=shortened), added)
    assert best is not None
    return best


def _count_work(spec: FamilySpec, member: Member, rounds: int, work: Work) -> float:
    """The compute of a member: its trainings, times images and FLOPs.

    It trains in every round, once without pruning and, but for SynFlow, as the dense control.
    """
    trainings = rounds + 1 + (spec.method == "imp")
    return work[member.depth, member.width] * member.fraction * trainings
