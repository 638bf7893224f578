"""Measured errors, checked and averaged over trials: what every law is fitted to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import CurveError, InsufficientPointsError, ParameterError
from pruning.laws.forms import Floats, Indices

SEED_SD = 0.034
"""Relative standard deviation between seeds in the paper: the part of the noise that no number of
images cures.
"""
RISE = 1.5
"""A law that has seen no error this many times the unpruned one is not extrapolated."""
FALL = 0.05
"""An error that falls by more than this fraction, where the density falls too, is reported."""
AT_CHANCE = 0.97
OVER = 0.10
"""An error may be above chance by this fraction, as one of few images is; then it is reported."""
ILL_CONDITIONED = 1e8
"""Parameters of a larger condition number mean nothing one by one."""
SAME = 1e-6
"""Densities of one network that are relatively this near are trials of one point."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Points of one or several networks, averaged over trials. Arrays of a point are (n,), of a
    network (K,).
    """

    density: Floats
    error: Floats
    network: Indices
    """Which network a point is of, 0 to K - 1."""
    depth: Floats
    width: Floats
    unpruned: Floats
    weight: Floats
    """1 for a single run on endlessly many images, as many runs count more and few images less."""
    cells: Floats
    """The errors by trial, (n, T), nan where there is none; T is 1 where trials are not told apart.
    """
    unpruned_cells: Floats
    """The unpruned errors by trial, (K, T)."""
    unpruned_weight: Floats
    """As `weight`, of the unpruned errors, (K,)."""
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.density)


def gather_curves(
    density: ArrayLike,
    error: ArrayLike,
    unpruned_error: ArrayLike,
    depth: ArrayLike = 1.0,
    width: ArrayLike = 1.0,
    *,
    chance: float = 1.0,
    images: int | None = None,
    network: Sequence[Hashable] | None = None,
    trial: Sequence[Hashable] | None = None,
) -> Curves:
    """Check measured points and average those of one network and density.

    A network is what has one label in `network`, or else one depth, width and (without `trial`)
    unpruned error. `weight` is SEED_SD^2 / (SEED_SD^2 / trials + (1 - e) / (images e)). Raises
    `CurveError` for numbers that no law is of, `InsufficientPointsError` where nothing rises.

    >>> curves = gather_curves([0.5, 0.5, 0.1], [0.10, 0.12, 0.3], 0.1)
    >>> curves.density.tolist(), curves.error.round(6).tolist(), curves.weight.tolist()
    ([0.5, 0.1], [0.11, 0.3], [2.0, 1.0])
    """
    columns = _columns(
        density=density, error=error, unpruned_error=unpruned_error, depth=depth, width=width
    )
    n = len(columns["density"])
    _check(columns, chance)
    if images is not None and images < 1:
        raise ParameterError(f"images: {images}; at least 1, or None where they do not matter")
    for name, labels in (("network", network), ("trial", trial)):
        if labels is not None and len(labels) != n:
            raise CurveError(f"{name}: {len(labels)} labels of {n} points")
    keys: Sequence[Hashable] = (
        network
        if network is not None
        else [
            (a, b) if trial is not None else (a, b, c)
            for a, b, c in zip(
                columns["depth"], columns["width"], columns["unpruned_error"], strict=True
            )
        ]
    )
    trials: Sequence[Hashable] = trial if trial is not None else [0] * n
    return _average(
        columns,
        list(keys),
        trials=list(trials),
        chance=chance,
        images=images,
        told_apart=trial is not None,
    )


def _columns(**given: ArrayLike) -> dict[str, Floats]:
    try:
        arrays = {name: np.atleast_1d(np.asarray(value, float)) for name, value in given.items()}
        shape = np.broadcast_shapes(*(one.shape for one in arrays.values()))
    except (TypeError, ValueError) as error:
        raise CurveError(
            "densities, errors and the rest are numbers, as many of each or one for all: "
            + ", ".join(f"{name} {np.shape(value)}" for name, value in given.items())
        ) from error
    if len(shape) != 1 or shape[0] == 0:
        raise CurveError(f"points are a list of numbers, at least one; got the shape {shape}")
    for name in ("density", "error"):
        if arrays[name].shape != shape:
            raise CurveError(f"{name}: {len(arrays[name])} values of {shape[0]} points")
    return {name: np.broadcast_to(one, shape) for name, one in arrays.items()}


def _check(columns: dict[str, Floats], chance: float) -> None:
    for name, values in columns.items():
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise CurveError(
                f"{name} is {values[wrong[0]]} at point {wrong[0]} ({len(wrong)} such); leave "
                "out what was not "
                "measured"
            )
    limits = {
        "density": (1.0, "a density is above 0 and at most 1"),
        "depth": (np.inf, "a depth is above 0"),
        "width": (np.inf, "a width is above 0"),
    }
    for name, (most, rule) in limits.items():
        wrong = np.flatnonzero((columns[name] <= 0) | (columns[name] > most * (1 + 1e-9)))
        if len(wrong):
            raise CurveError(f"{name} {columns[name][wrong[0]]:g} at point {wrong[0]}: {rule}")
    for name in ("error", "unpruned_error"):
        values = columns[name]
        if (values <= 0).any():
            at = int(np.flatnonzero(values <= 0)[0])
            raise CurveError(
                f"{name} {values[at]:g} at point {at}: a law is of relative deviations, which an "
                "error of 0 "
                "does not have; measure on more images or leave it out"
            )
        if (values > (min(1.0, (1 + OVER) * chance) if name == "error" else chance)).any():
            at = int(np.argmax(values))
            raise CurveError(
                f"{name} {values[at]:g} at point {at} is above chance, {chance:g}; errors are "
                "fractions, and "
                "`classes` says how many classes there are"
            )


def _average(
    columns: dict[str, Floats],
    keys: list[Hashable],
    *,
    trials: list[Hashable],
    chance: float,
    images: int | None,
    told_apart: bool,
) -> Curves:
    names, labels = list(dict.fromkeys(keys)), list(dict.fromkeys(trials))
    which, column = (
        np.array([{name: i for i, name in enumerate(known)}[one] for one in given])
        for known, given in ((names, keys), (labels, trials))
    )
    order = np.lexsort((-columns["density"], which))
    starts: list[int] = []  # of a point, in the order
    for at, i in enumerate(order):
        first = order[starts[-1]] if starts else None
        if (
            first is None
            or which[i] != which[first]
            or columns["density"][i] < columns["density"][first] * (1 - SAME)
        ):
            starts.append(at)
    groups = np.split(order, starts[1:])
    cells = np.full((len(groups), len(labels)), np.nan)
    for g, group in enumerate(groups):
        if told_apart and len(set(column[group])) < len(group):
            raise CurveError(
                f"density {columns['density'][group[0]]:g} has the same trial twice; tell "
                "networks of one "
                "depth and width apart by `network`"
            )
        for t in set(column[group]):
            cells[g, t] = columns["error"][group][column[group] == t].mean()
    of = np.array([which[group[0]] for group in groups])
    unpruned_cells = np.full((len(names), len(labels)), np.nan)
    for k, t in set(zip(which.tolist(), column.tolist(), strict=True)):
        mine = columns["unpruned_error"][(which == k) & (column == t)]
        if np.ptp(mine) > 1e-9:
            raise CurveError(
                f"a network has one unpruned error; {names[k]!r} has {mine.min():g} and "
                f"{mine.max():g}: tell "
                "trials apart by `trial`"
            )
        unpruned_cells[k, t] = mine[0]
    firsts = np.array([int(np.flatnonzero(which == k)[0]) for k in range(len(names))])
    for name in ("depth", "width"):
        if any(np.ptp(columns[name][which == k]) > 0 for k in range(len(names))):
            raise CurveError(f"a network has one {name}")
    error = np.array([columns["error"][group].mean() for group in groups])
    counts = np.array([float(len(group)) for group in groups])
    unpruned = np.nanmean(unpruned_cells, axis=1)
    density = np.array([columns["density"][group[0]] for group in groups])
    trained = (~np.isnan(unpruned_cells)).sum(axis=1)
    return Curves(
        density=density,
        error=error,
        network=of,
        depth=columns["depth"][firsts],
        width=columns["width"][firsts],
        unpruned=unpruned,
        weight=_weight(error, counts, images),
        cells=cells,
        unpruned_cells=unpruned_cells,
        unpruned_weight=_weight(unpruned, trained, images),
        warnings=_warnings(density, error, of, unpruned, chance),
    )


def _weight(error: Floats, runs: Floats, images: int | None) -> Floats:
    """What a mean over runs counts in units of one run on endlessly many images."""
    sampling = 0.0 if images is None else (1 - error).clip(1e-9) / (images * error)
    return np.asarray(SEED_SD**2 / (SEED_SD**2 / runs + sampling))


def _warnings(
    density: Floats, error: Floats, network: Indices, unpruned: Floats, chance: float
) -> tuple[str, ...]:
    """What is odd about the points; raises where nothing rises."""
    found, above = [], error / unpruned[network]
    ends = np.array(
        [error[network == k].max() / error[network == k].min() - 1 for k in range(len(unpruned))]
    )
    if ends.max() < 1e-6 and (np.bincount(network) > 1).any():
        raise CurveError(
            f"all errors are equal, {error[0]:g}: a law needs densities at which the error differs"
        )
    if above.max() <= 1.0:
        raise InsufficientPointsError(
            f"no error is above the unpruned one: prune below density {density.min():.3g}, where "
            "the error rises; 2 points "
            f"at {RISE:g} times the unpruned error and more would do"
        )
    if (above < 1.0 - 1e-12).any():
        found.append(
            f"{int((above < 1 - 1e-12).sum())} of {len(error)} errors are below the unpruned "
            "error, by up to "
            f"{1 - above.min():.1%}: the law only falls with density and cannot follow the dip"
        )
    falls = [
        (float(1 - error[i + 1] / error[i]), density[i], density[i + 1])
        for i in range(len(error) - 1)
        if network[i] == network[i + 1]
    ]
    worst = max(falls, default=(0.0, 0.0, 0.0))
    if worst[0] > FALL:
        found.append(
            f"the error is not monotone: it falls by {worst[0]:.1%} from density {worst[1]:.3g} "
            f"to {worst[2]:.3g}"
        )
    if (error > chance).any():
        found.append(
            f"{int((error > chance).sum())} of {len(error)} errors are above chance, {chance:g}, "
            "by up to "
            f"{error.max() / chance - 1:.1%}"
        )
    if (error >= AT_CHANCE * chance).any():
        found.append(
            f"{int((error >= AT_CHANCE * chance).sum())} of {len(error)} errors are at chance, "
            f"{chance:g}: where "
            "layers have collapsed they tell nothing of the slope"
        )
    return tuple(found)
