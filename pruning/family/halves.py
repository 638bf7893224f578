"""The test of a family's invariant on networks that were left out, and beside the density alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pruning import wording
from pruning.errors import SecateurError
from pruning.family.measurements import (
    FamilyMeasurements,
    NetworkKey,
    fit_family_law,
    label_trials,
)
from pruning.laws.forms import Floats
from pruning.laws.joint import fit_joint_law


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
            f"a half of {wording.count_of(len(fitted), 'network')} does not determine the exponent "
            "of "
            f"{' and '.join(constant)}: its own do not differ"
        )
    chosen = points.mask_networks(set(fitted).__contains__)
    try:
        law = fit_family_law(points.select_rows(chosen), refits=0)
    except SecateurError as refusal:
        return None, (
            f"a half of {wording.count_of(len(fitted), 'network')} has no law: {refusal.message}"
        )
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
            guessing_error=points.guessing_error,
            images=points.images,
            network=list(points.network),
            refits=0,
            trial=label_trials(points),
        )
    except SecateurError:
        return None
    return law.fit.residual_sd
