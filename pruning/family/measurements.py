"""The measured points of a family, the joint law through them, and the test of its invariant on
networks that were left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pruning.family.members import MemberCurve, Run
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
ENOUGH_VALIDATION = 200
"""The number of validation images at the largest fraction from which on the law is of validation
errors; with fewer it is of test errors.
"""
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
    guessing_error: float
    """The error of the best constant answer on the test images, or else 1 - 1/classes."""
    images: Floats
    """The number of images behind each error."""
    on: Literal["val", "test"] = "test"
    """The images that were looked at: `val` leaves the test images to confirm what was chosen."""
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
            guessing_error=self.guessing_error,
            images=self.images[rows],
            on=self.on,
        )

    def mask_networks(self, keep: Callable[[NetworkKey], bool]) -> Flags:
        """The mask of the rows whose network `keep` accepts, (n,)."""
        return np.array([keep(network) for network in self.network], bool)


def is_usable(curve: MemberCurve) -> bool:
    """Whether a law can describe the network: it errs, and less than one that learned nothing."""
    return 0 < curve.unpruned_error < UNTRAINED * curve.chance


def choose_images(runs: Sequence[Run]) -> Literal["val", "test"]:
    """Choose whose errors the law is fitted to: `val`, so that what it chooses is confirmed on
    images that chose nothing, unless the members have too few validation images.
    """
    curves = [(run.member.fraction, run.curve) for run in _list_succeeded(runs)]
    largest = max((fraction for fraction, _ in curves), default=1.0)
    enough = bool(curves)
    for fraction, curve in curves:
        assert curve is not None
        enough = enough and len(curve.val_errors) == len(curve.errors)
        if fraction == largest:
            enough = enough and curve.val_images >= ENOUGH_VALIDATION
    return "val" if enough else "test"


def _look_at(curve: MemberCurve, on: Literal["val", "test"]) -> MemberCurve:
    """The curve with the errors on these images as its errors."""
    if on == "test" or curve.unpruned_val_error is None:
        return curve
    update = {
        "unpruned_error": curve.unpruned_val_error,
        "errors": curve.val_errors,
        "test_images": curve.val_images,
    }
    return curve.model_copy(update=update)


def _list_succeeded(runs: Sequence[Run]) -> list[Run]:
    """The members, no answers, that have succeeded with a curve."""
    return [
        run
        for run in runs
        if run.curve is not None and run.status == "succeeded" and run.member.role == "member"
    ]


def gather_measurements(runs: Sequence[Run]) -> FamilyMeasurements | None:
    """Gather the points of the members that succeeded; None where there are none.

    Errors of 0 and far above chance are left out, and members that learned nothing or never err, of
    which one would refuse the law to all. A warning counts both.
    """
    on = choose_images(runs)
    usable, unusable = _select_usable(runs, on)
    if not usable:
        return None
    rows, dropped = [], 0
    for run, curve in usable:
        for density, error in zip(curve.densities, curve.errors, strict=True):
            if 0 < error <= TOO_HIGH * curve.chance:
                rows.append((run.member, density, error, curve))
            else:
                dropped += 1
    if not rows:
        return None
    members = [member for member, _, _, _ in rows]
    _, last = usable[-1]
    return FamilyMeasurements(
        depth=np.array([member.depth for member in members], float),
        width=np.array([member.width for member in members], float),
        density=np.array([density for _, density, _, _ in rows], float),
        error=np.array([error for _, _, error, _ in rows], float),
        unpruned=np.array([curve.unpruned_error for _, _, _, curve in rows], float),
        network=tuple(member.network for member in members),
        trial=tuple(member.seed for member in members),
        guessing_error=last.chance,
        images=np.array([curve.test_images for _, _, _, curve in rows], float),
        on=on,
        warnings=_list_warnings(on, dropped, unusable, usable[-1][0]),
    )


def _list_warnings(
    on: Literal["val", "test"], dropped: int, unusable: int, last: Run
) -> tuple[str, ...]:
    warnings = []
    if dropped:
        warnings.append(
            f"{dropped} points are left out: an error of 0, or far above chance, is on no curve"
        )
    if unusable:
        warnings.append(
            f"members left out: {unusable}, whose unpruned error is 0, or at least "
            f"{100 * UNTRAINED:.0f} % of chance"
        )
    if on == "test":
        assert last.curve is not None
        warnings.append(
            f"the law is fitted to test errors, as {last.curve.val_images} validation images are "
            f"fewer than {ENOUGH_VALIDATION}: what it chooses is measured on images that had a "
            "part in the choice, which proves nothing of it"
        )
    return tuple(warnings)


def _select_usable(
    runs: Sequence[Run], on: Literal["val", "test"]
) -> tuple[list[tuple[Run, MemberCurve]], int]:
    """The members that succeeded with their usable curves, and the number of unusable ones."""
    usable, unusable = [], 0
    for run in _list_succeeded(runs):
        assert run.curve is not None
        curve = _look_at(run.curve, on)
        if is_usable(curve):
            usable.append((run, curve))
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
        guessing_error=points.guessing_error,
        images=points.images,
        network=list(points.network),
        trial=label_trials(points),
        refits=refits,
    )


def label_trials(points: FamilyMeasurements) -> list[int] | None:
    """The seed of every point; None where all have the same."""
    return list(points.trial) if len(set(points.trial)) > 1 else None


def fit_unpruned_errors(runs: Sequence[Run]) -> DenseLaw:
    """Fit the law of the unpruned errors by parameters and training images, trials averaged.

    Raises as `fit_dense_law` does.
    """
    trials: dict[NetworkKey, list[tuple[int, int, float]]] = {}
    usable, _ = _select_usable(runs, choose_images(runs))
    for run, curve in usable:
        trial = (curve.parameters, curve.images, curve.unpruned_error)
        trials.setdefault(run.member.network, []).append(trial)
    chance = usable[-1][1].chance if usable else 1.0
    rows = [np.mean(trials[network], axis=0) for network in sorted(trials)]
    parameters, images, errors = np.array(rows).T if rows else np.zeros((3, 0))
    return fit_dense_law(parameters, images, errors, guessing_error=chance)


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
    limits = (0.5 * float(errors.min()), 0.8 * points.guessing_error)
    return Plane(axes, centre, slopes, limits, deviation)
