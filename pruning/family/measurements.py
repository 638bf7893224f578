"""The measured points of a family, the joint law through them, and whether its invariant holds for
networks unseen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pruning.errors import SecateurError
from pruning.family.members import MemberCurve, Run
from pruning.laws.curves import SEED_SD
from pruning.laws.dense import DenseLaw, fit_dense_law
from pruning.laws.forms import Flags, Floats
from pruning.laws.joint import JointLaw, fit_joint_law

NetworkKey = tuple[float, float, float]
"""Depth, width, fraction of the training images."""
TOO_HIGH = 1.1
"""An error this many times chance is no error of the network's."""
UNTRAINED = 0.9
"""A network whose unpruned error is this much of chance has learned next to nothing: pruning has
nothing to lose.
"""
MANY_TRIALS = 10
"""Degrees of freedom from which on the trials tell what a seed does."""
TINY = 1e-6
"""Where a network has all the say in its own fit, it cannot be left out."""


@dataclass(frozen=True, kw_only=True)
class FamilyMeasurements:
    """Columns, one row a measured density of a member. Members that differ in the seed alone are
    trials of a network.
    """

    depth: Floats
    width: Floats
    density: Floats
    error: Floats
    unpruned: Floats
    network: tuple[NetworkKey, ...]
    trial: tuple[int, ...]
    classes: int
    test_images: int
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.density)

    @property
    def networks(self) -> tuple[NetworkKey, ...]:
        """Each once, sorted."""
        return tuple(sorted(set(self.network)))

    def unpruned_of(self, network: NetworkKey) -> float:
        """The unpruned error of a network, averaged over its trials."""
        found = {
            trial: error
            for one, trial, error in zip(self.network, self.trial, self.unpruned, strict=True)
            if one == network
        }
        return float(np.mean(list(found.values())))

    @property
    def seed_sd(self) -> float:
        """Relative standard deviation of an unpruned error between seeds: the paper's 3.4 %, or
        pooled from many trials.

        sqrt(sum_k sum_t (ln e_kt - mean_k)^2 / sum_k (T_k - 1)) where the trials leave ten degrees
        of freedom.
        """
        found = {
            (one, trial): error
            for one, trial, error in zip(self.network, self.trial, self.unpruned, strict=True)
        }
        trials = [
            [math.log(error) for (one, _), error in found.items() if one == network]
            for network in self.networks
        ]
        dof = sum(len(one) - 1 for one in trials)
        if dof < MANY_TRIALS:
            return SEED_SD
        return math.sqrt(sum(float(np.var(one)) * len(one) for one in trials) / dof)

    def trials_of(self, network: NetworkKey) -> int:
        """How many seeds of a network were measured."""
        return len(
            {trial for one, trial in zip(self.network, self.trial, strict=True) if one == network}
        )

    def only(self, chosen: Flags) -> FamilyMeasurements:
        """Some of the rows, by a mask."""
        rows = np.flatnonzero(chosen)
        return FamilyMeasurements(
            depth=self.depth[rows],
            width=self.width[rows],
            density=self.density[rows],
            error=self.error[rows],
            unpruned=self.unpruned[rows],
            network=tuple(self.network[i] for i in rows),
            trial=tuple(self.trial[i] for i in rows),
            classes=self.classes,
            test_images=self.test_images,
        )

    def of(self, keep: Callable[[NetworkKey], bool]) -> Flags:
        """The mask of the networks that `keep` takes."""
        return np.array([keep(one) for one in self.network], bool)


def is_usable(curve: MemberCurve) -> bool:
    """Whether a law can be of the network: it errs, and by less than one that has learned
    nothing.
    """
    return 0 < curve.unpruned_error < UNTRAINED * (1 - 1 / curve.classes)


def gather_measurements(runs: Sequence[Run]) -> FamilyMeasurements | None:
    """What the members that succeeded have measured; errors of 0 and far above chance are left out,
    and said so.

    So are members that learned nothing or err nowhere: one of them would refuse the law to all.
    """
    rows, dropped, odd, classes, images = [], 0, 0, 0, 0
    for run in runs:
        curve, member = run.curve, run.member
        if curve is None or run.status != "succeeded" or member.role != "member":
            continue
        if not is_usable(curve):
            odd += 1
            continue
        classes, images = curve.classes, curve.test_images
        for kept, wrong in zip(curve.densities, curve.errors, strict=True):
            if 0 < wrong <= TOO_HIGH * (1 - 1 / classes):
                rows.append(
                    (
                        member.depth,
                        member.width,
                        kept,
                        wrong,
                        curve.unpruned_error,
                        member.network,
                        member.seed,
                    )
                )
            else:
                dropped += 1
    if not rows:
        return None
    depth, width, density, error, unpruned = (
        np.array([row[i] for row in rows], float) for i in range(5)
    )
    warnings: tuple[str, ...] = ()
    if dropped:
        warnings += (
            f"{dropped} points are left out: an error of 0, or far above chance, is on no curve",
        )
    if odd:
        warnings += (
            f"members left out: {odd}, whose unpruned error is 0, or at least {UNTRAINED:.0%} of "
            "chance",
        )
    return FamilyMeasurements(
        depth=depth,
        width=width,
        density=density,
        error=error,
        unpruned=unpruned,
        network=tuple(row[5] for row in rows),
        trial=tuple(row[6] for row in rows),
        classes=classes,
        test_images=images,
        warnings=warnings,
    )


def fit_family_law(points: FamilyMeasurements, *, refits: int | None = None) -> JointLaw:
    """The joint law of the points; raises as `fit_joint_law` does."""
    trials = list(points.trial) if len(set(points.trial)) > 1 else None
    return fit_joint_law(
        points.depth,
        points.width,
        points.density,
        points.error,
        points.unpruned,
        classes=points.classes,
        images=points.test_images,
        network=list(points.network),
        trial=trials,
        refits=refits,
    )


def fit_unpruned_errors(runs: Sequence[Run]) -> DenseLaw:
    """The law of the unpruned errors by parameters and training images, trials averaged; raises as
    `fit_dense_law` does.
    """
    found: dict[NetworkKey, list[tuple[int, int, float]]] = {}
    classes = 2
    for run in runs:
        if (
            run.curve is not None
            and run.status == "succeeded"
            and run.member.role == "member"
            and is_usable(run.curve)
        ):
            classes = run.curve.classes
            found.setdefault(run.member.network, []).append(
                (run.curve.parameters, run.curve.images, run.curve.unpruned_error)
            )
    rows = [np.mean(trials, axis=0) for _, trials in sorted(found.items())]
    parameters, images, errors = np.array(rows).T if rows else np.zeros((3, 0))
    return fit_dense_law(parameters, images, errors, classes=classes)


@dataclass(frozen=True)
class Plane:
    """ln unpruned error, linear in ln depth, ln width and ln fraction, as far as they vary: least
    squares over networks.
    """

    axes: tuple[int, ...]
    centre: Floats
    slopes: Floats
    limits: tuple[float, float]
    deviation: float | None
    """Root mean square of what it misses of networks left out; `None` where they are too few to
    leave one out.
    """

    def at(self, network: NetworkKey) -> float:
        """The unpruned error of a network, within half the least measured and four fifths of
        chance.
        """
        told = float(
            np.exp(
                np.dot(
                    self.slopes, [1.0, *(np.log(network[i]) - self.centre[i] for i in self.axes)]
                )
            )
        )
        return min(max(told, self.limits[0]), self.limits[1])


def fit_unpruned_plane(points: FamilyMeasurements) -> Plane:
    """The plane through the unpruned errors of the networks."""
    logs = np.log(np.array(points.networks, float))
    errors = np.array([points.unpruned_of(one) for one in points.networks])
    axes = tuple(i for i in range(3) if np.ptp(logs[:, i]) > 0)
    centre = logs.mean(0)
    design = np.column_stack([np.ones(len(logs)), *(logs[:, i] - centre[i] for i in axes)])
    hat = design @ np.linalg.pinv(design)
    slopes = np.linalg.pinv(design) @ np.log(errors)
    left = 1 - np.diag(hat)
    deviation = None
    if (left > TINY).all():
        deviation = float(np.sqrt(np.mean(((np.log(errors) - design @ slopes) / left) ** 2)))
    return Plane(
        axes, centre, slopes, (0.5 * float(errors.min()), 0.8 * (1 - 1 / points.classes)), deviation
    )


@dataclass(frozen=True, kw_only=True)
class Half:
    """The law of one half of the networks, and what it says of the other's points."""

    fitted: tuple[NetworkKey, ...]
    phi: float
    psi: float
    measured: Floats
    predicted: Floats
    networks: tuple[NetworkKey, ...]
    """Of every predicted point."""

    @property
    def deviation(self) -> Floats:
        """predicted / measured - 1."""
        return np.asarray(self.predicted / self.measured - 1)


def _chessboard(networks: Sequence[NetworkKey]) -> dict[NetworkKey, int]:
    """0 or 1 for every network: over sizes alone where both colours tell of depth and width as all
    networks do.
    """
    axes = [sorted({one[i] for one in networks}) for i in range(3)]
    colours = [
        {one: sum(axes[i].index(one[i]) for i in range(count)) % 2 for one in networks}
        for count in (2, 3)
    ]

    def rank(some: Sequence[NetworkKey]) -> int:
        return (
            int(
                np.linalg.matrix_rank(
                    [[1.0, np.log(one[0]), np.log(one[1])] for one in some], tol=1e-6
                )
            )
            if some
            else 0
        )

    tells = all(
        rank([one for one in networks if colours[0][one] == side]) == rank(networks)
        for side in (0, 1)
    )
    return colours[0] if tells else colours[1]


def predict_other_half(points: FamilyMeasurements) -> tuple[list[Half], list[str]]:
    """Fit each half of the networks and predict the other half's points from their own unpruned
    errors.

    The halves are the two colours of a chessboard over depths and widths, so that no size is in
    both; where such halves do not tell of depth and width, over fractions, too. What cannot be
    fitted is said instead.
    """
    colour = _chessboard(points.networks)
    found, why = [], []
    for side in (0, 1):
        mine = points.of(lambda one, side=side: colour[one] == side)  # type: ignore[misc]
        if mine.all() or not mine.any():
            return [], ["one network alone has no other half"]
        other = points.only(~mine)
        half = [one for one in points.networks if colour[one] == side]
        same = [
            axis
            for axis, i in (("depth", 0), ("width", 1))
            if len({one[i] for one in half}) == 1 < len({one[i] for one in points.networks})
        ]
        if same:
            why.append(
                f"a half of {len(half)} networks tells nothing of the {' and '.join(same)}: its "
                "own do not differ"
            )
            continue
        try:
            law = fit_family_law(points.only(mine), refits=0)
        except SecateurError as short:
            why.append(f"a half of {len(half)} networks has no law: {short.message}")
            continue
        predicted = law.curve(
            other.depth, other.width, other.density, np.minimum(other.unpruned, law.plateau)
        )
        found.append(
            Half(
                fitted=tuple(half),
                phi=law.phi,
                psi=law.psi,
                measured=other.error,
                predicted=predicted,
                networks=other.network,
            )
        )
    return found, why


def fit_density_alone(points: FamilyMeasurements) -> float | None:
    """How far the points are from a law of the density alone, phi = psi = 0: what the invariant is
    to be compared with.

    The standard deviation of error(law) / error - 1; `None` where there is no such law.
    """
    try:
        law = fit_joint_law(
            1.0,
            1.0,
            points.density,
            points.error,
            points.unpruned,
            classes=points.classes,
            images=points.test_images,
            network=list(points.network),
            refits=0,
            trial=list(points.trial) if len(set(points.trial)) > 1 else None,
        )
    except SecateurError:
        return None
    return law.fit.residual_sd
