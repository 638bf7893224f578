"""The measured points of a family, the joint law through them, and the test of its invariant on
networks that were left out.
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
"""An error above this many times chance is not on the curve of a network."""
UNTRAINED = 0.9
"""A network whose unpruned error is at least this fraction of chance has learned next to nothing,
and pruning does not raise its error.
"""
MANY_TRIALS = 10
"""Degrees of freedom from which on the deviation between seeds is taken from the trials."""
TINY = 1e-6
"""A network whose leverage is 1 to within this determines its own fit and cannot be left out."""


@dataclass(frozen=True, kw_only=True)
class FamilyMeasurements:
    """Columns with one row for each measured density of a member.

    Members that differ only in the seed are trials of a network.
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
        """The different networks, sorted."""
        return tuple(sorted(set(self.network)))

    def average_unpruned(self, network: NetworkKey) -> float:
        """The unpruned error of a network, averaged over its trials."""
        return float(np.mean(self._collect_unpruned(network)))

    def count_trials(self, network: NetworkKey) -> int:
        """The number of seeds of a network that were measured."""
        return len(self._collect_unpruned(network))

    def _collect_unpruned(self, network: NetworkKey) -> list[float]:
        """The unpruned error of each trial of a network."""
        rows = zip(self.network, self.trial, self.unpruned, strict=True)
        errors = {trial: error for key, trial, error in rows if key == network}
        return list(errors.values())

    @property
    def seed_sd(self) -> float:
        """Relative standard deviation of an unpruned error between seeds.

        sqrt(sum_k sum_t (ln e_kt - mean_k)^2 / sum_k (T_k - 1)) where the trials leave ten degrees
        of freedom, else the paper's 3.4 %.
        """
        log_errors = [
            [math.log(error) for error in self._collect_unpruned(network)]
            for network in self.networks
        ]
        dof = sum(len(trials) - 1 for trials in log_errors)
        if dof < MANY_TRIALS:
            return SEED_SD
        squares = sum(float(np.var(trials)) * len(trials) for trials in log_errors)
        return math.sqrt(squares / dof)

    def select_rows(self, chosen: Flags) -> FamilyMeasurements:
        """The rows of a mask, (n,)."""
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

    def mask_networks(self, keep: Callable[[NetworkKey], bool]) -> Flags:
        """The mask of the rows whose network `keep` accepts, (n,)."""
        return np.array([keep(network) for network in self.network], bool)


def is_usable(curve: MemberCurve) -> bool:
    """Whether a law can describe the network: it errs, and less than one that learned nothing."""
    return 0 < curve.unpruned_error < UNTRAINED * (1 - 1 / curve.classes)


def gather_measurements(runs: Sequence[Run]) -> FamilyMeasurements | None:
    """Gather the points of the members that succeeded; None where there are none.

    Errors of 0 and far above chance are left out, and members that learned nothing or never err, of
    which one would refuse the law to all. A warning counts both.
    """
    usable, unusable = _select_usable(runs)
    if not usable:
        return None
    rows, dropped = [], 0
    for run, curve in usable:
        member = run.member
        chance = 1 - 1 / curve.classes
        for density, error in zip(curve.densities, curve.errors, strict=True):
            if 0 < error <= TOO_HIGH * chance:
                rows.append((member, density, error, curve.unpruned_error))
            else:
                dropped += 1
    if not rows:
        return None
    warnings = []
    if dropped:
        warnings.append(
            f"{dropped} points are left out: an error of 0, or far above chance, is on no curve"
        )
    if unusable:
        warnings.append(
            f"members left out: {unusable}, whose unpruned error is 0, or at least "
            f"{UNTRAINED:.0%} of chance"
        )
    members = [member for member, _, _, _ in rows]
    _, last = usable[-1]
    return FamilyMeasurements(
        depth=np.array([member.depth for member in members], float),
        width=np.array([member.width for member in members], float),
        density=np.array([density for _, density, _, _ in rows], float),
        error=np.array([error for _, _, error, _ in rows], float),
        unpruned=np.array([unpruned for _, _, _, unpruned in rows], float),
        network=tuple(member.network for member in members),
        trial=tuple(member.seed for member in members),
        classes=last.classes,
        test_images=last.test_images,
        warnings=tuple(warnings),
    )


def _select_usable(runs: Sequence[Run]) -> tuple[list[tuple[Run, MemberCurve]], int]:
    """The members that succeeded with their usable curves, and the number of unusable ones."""
    usable, unusable = [], 0
    for run in runs:
        if run.curve is None or run.status != "succeeded" or run.member.role != "member":
            continue
        if is_usable(run.curve):
            usable.append((run, run.curve))
        else:
            unusable += 1
    return usable, unusable


def fit_family_law(points: FamilyMeasurements, *, refits: int | None = None) -> JointLaw:
    """Fit the joint law of the points; raises as `fit_joint_law` does."""
    return fit_joint_law(
        depth=points.depth,
        width=points.width,
        density=points.density,
        error=points.error,
        unpruned_error=points.unpruned,
        classes=points.classes,
        images=points.test_images,
        network=list(points.network),
        trial=_label_trials(points),
        refits=refits,
    )


def _label_trials(points: FamilyMeasurements) -> list[int] | None:
    """The seed of every point; None where all have the same."""
    return list(points.trial) if len(set(points.trial)) > 1 else None


def fit_unpruned_errors(runs: Sequence[Run]) -> DenseLaw:
    """Fit the law of the unpruned errors by parameters and training images, trials averaged.

    Raises as `fit_dense_law` does.
    """
    trials: dict[NetworkKey, list[tuple[int, int, float]]] = {}
    usable, _ = _select_usable(runs)
    for run, curve in usable:
        trial = (curve.parameters, curve.images, curve.unpruned_error)
        trials.setdefault(run.member.network, []).append(trial)
    classes = usable[-1][1].classes if usable else 2
    rows = [np.mean(trials[network], axis=0) for network in sorted(trials)]
    parameters, images, errors = np.array(rows).T if rows else np.zeros((3, 0))
    return fit_dense_law(parameters, images, errors, classes=classes)


@dataclass(frozen=True)
class Plane:
    """ln unpruned error, linear in ln depth, ln width and ln fraction as far as they vary.

    Least squares over networks.
    """

    axes: tuple[int, ...]
    centre: Floats
    slopes: Floats
    limits: tuple[float, float]
    deviation: float | None
    """Root mean square of the deviation of networks left out; `None` where they are too few to
    leave one out.
    """

    def predict(self, network: NetworkKey) -> float:
        """The unpruned error of a network, within half the least measured and four fifths of
        chance.
        """
        row = [1.0, *(np.log(network[axis]) - self.centre[axis] for axis in self.axes)]
        error = float(np.exp(np.dot(self.slopes, row)))
        lowest, highest = self.limits
        return min(max(error, lowest), highest)


def fit_unpruned_plane(points: FamilyMeasurements) -> Plane:
    """Fit the plane through the unpruned errors of the networks."""
    logs = np.log(np.array(points.networks, float))
    errors = np.array([points.average_unpruned(network) for network in points.networks])
    axes = tuple(i for i in range(3) if np.ptp(logs[:, i]) > 0)
    centre = logs.mean(0)
    design = np.column_stack([np.ones(len(logs)), *(logs[:, i] - centre[i] for i in axes)])
    inverse = np.linalg.pinv(design)
    slopes = inverse @ np.log(errors)
    # The residual of a network left out is its residual over 1 - its leverage.
    remaining = 1 - np.diag(design @ inverse)
    deviation = None
    if (remaining > TINY).all():
        left_out = (np.log(errors) - design @ slopes) / remaining
        deviation = float(np.sqrt(np.mean(left_out**2)))
    limits = (0.5 * float(errors.min()), 0.8 * (1 - 1 / points.classes))
    return Plane(axes, centre, slopes, limits, deviation)


@dataclass(frozen=True, kw_only=True)
class Half:
    """The law of one half of the networks, and its predictions of the other's points."""

    fitted: tuple[NetworkKey, ...]
    phi: float
    psi: float
    measured: Floats
    predicted: Floats
    networks: tuple[NetworkKey, ...]
    """The network of every predicted point."""

    @property
    def deviation(self) -> Floats:
        """The relative deviation of every predicted point, predicted / measured - 1, (n,)."""
        return np.asarray(self.predicted / self.measured - 1)


def _color_chessboard(networks: Sequence[NetworkKey]) -> dict[NetworkKey, int]:
    """The colour, 0 or 1, of every network, alternating with depth and width.

    The fraction of the images counts as a third axis where one colour of a board of sizes alone
    would not determine the exponents of depth and width as all networks do.
    """
    by_size = _color_along(networks, axes=2)
    needed = _rank_sizes(networks)
    for colour in (0, 1):
        half = [network for network in networks if by_size[network] == colour]
        if _rank_sizes(half) != needed:
            return _color_along(networks, axes=3)
    return by_size


def _color_along(networks: Sequence[NetworkKey], axes: int) -> dict[NetworkKey, int]:
    """The parity of the sum of each network's positions along the first axes."""
    values = [sorted({network[axis] for network in networks}) for axis in range(axes)]
    return {
        network: sum(values[axis].index(network[axis]) for axis in range(axes)) % 2
        for network in networks
    }


def _rank_sizes(networks: Sequence[NetworkKey]) -> int:
    """The rank of (1, ln depth, ln width): the number of coefficients that the networks fix."""
    if not networks:
        return 0
    rows = [[1.0, np.log(depth), np.log(width)] for depth, width, _ in networks]
    return int(np.linalg.matrix_rank(rows, tol=1e-6))


def predict_other_half(points: FamilyMeasurements) -> tuple[list[Half], list[str]]:
    """Fit each half of the networks and predict the other half's points from their unpruned errors.

    The halves are the two colours of a chessboard over depths and widths, so that no size is in
    both; where such halves do not determine both exponents, over fractions, too. The second list
    says why a half could not be fitted.
    """
    colours = _color_chessboard(points.networks)
    halves, refusals = [], []
    for colour in (0, 1):
        fitted = [network for network in points.networks if colours[network] == colour]
        if len(fitted) in (0, len(points.networks)):
            return [], ["one network alone has no other half"]
        half, refusal = _predict_from_half(points, fitted)
        if half is not None:
            halves.append(half)
        else:
            refusals.append(refusal)
    return halves, refusals


def _predict_from_half(
    points: FamilyMeasurements, fitted: Sequence[NetworkKey]
) -> tuple[Half | None, str]:
    """The law of some of the networks and its predictions of the others, or why there is none."""
    constant = [
        axis
        for axis, i in (("depth", 0), ("width", 1))
        if len({network[i] for network in fitted}) == 1
        and len({network[i] for network in points.networks}) > 1
    ]
    if constant:
        return None, (
            f"a half of {len(fitted)} networks does not determine the exponent of "
            f"{' and '.join(constant)}: its own do not differ"
        )
    chosen = points.mask_networks(set(fitted).__contains__)
    try:
        law = fit_family_law(points.select_rows(chosen), refits=0)
    except SecateurError as refusal:
        return None, f"a half of {len(fitted)} networks has no law: {refusal.message}"
    others = points.select_rows(~chosen)
    unpruned = np.minimum(others.unpruned, law.plateau)
    half = Half(
        fitted=tuple(fitted),
        phi=law.phi,
        psi=law.psi,
        measured=others.error,
        predicted=law.curve(others.depth, others.width, others.density, unpruned),
        networks=others.network,
    )
    return half, ""


def fit_density_alone(points: FamilyMeasurements) -> float | None:
    """Fit a law of the density alone, phi = psi = 0, with which the invariant is compared.

    Returns the standard deviation of error(law) / error - 1; `None` where there is no such law.
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
            trial=_label_trials(points),
        )
    except SecateurError:
        return None
    return law.fit.residual_sd
