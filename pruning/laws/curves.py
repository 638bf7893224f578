"""Measured errors, checked and averaged over trials: what every law is fitted to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import CurveError, InsufficientPointsError, ParameterError
from pruning.laws.forms import Flags, Floats, Indices

SEED_SD = 0.034
"""Relative standard deviation between seeds in the paper, which no number of images reduces."""
RISE = 1.5
"""A law that has seen no error this many times the unpruned one is not extrapolated."""
FALL = 0.05
"""An error that falls by more than this fraction, where the density falls too, is reported."""
AT_CHANCE = 0.97
"""An error of at least this fraction of chance counts as chance."""
OVER = 0.10
"""An error may be above chance by this fraction, as on few images; then it is reported."""
FEW_ODD = 0.25
"""Up to this fraction of the points (at least one) is left out for an error further above chance;
more of them say that the number of classes is wrong.
"""
ILL_CONDITIONED = 1e8
"""Parameters of a larger condition number mean nothing one by one."""
SAME_POINT = 1e-6
"""Densities of one network that differ by less, relatively, are trials of one point."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Points of one or several networks, averaged over trials.

    Arrays of points are (n,), of networks (K,).
    """

    density: Floats
    error: Floats
    network: Indices
    """The network of each point, 0 to K - 1."""
    depth: Floats
    width: Floats
    unpruned: Floats
    weight: Floats
    """1 for a single run on endlessly many images; many runs count more, few images less."""
    cells: Floats
    """The errors by trial, (n, T), nan where there is none; T is 1 where trials have no labels."""
    unpruned_cells: Floats
    """The unpruned errors by trial, (K, T)."""
    unpruned_weight: Floats
    """The weight of each unpruned error, in the same unit, (K,)."""
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.density)


def gather_curves(  # noqa: PLR0913 - the columns of the data
    density: ArrayLike,
    error: ArrayLike,
    unpruned_error: ArrayLike,
    depth: ArrayLike = 1.0,
    width: ArrayLike = 1.0,
    *,
    chance: float = 1.0,
    images: ArrayLike | None = None,
    network: Sequence[Hashable] | None = None,
    trial: Sequence[Hashable] | None = None,
) -> Curves:
    """Check measured points and average those of one network and density.

    Points belong to one network if they share a label in `network`; without labels, if they share
    depth and width, and without `trial` the unpruned error too. `weight` is SEED_SD^2 /
    (SEED_SD^2 / trials + (1 - e) / (images e)) for an error e measured on `images` test images.
    Raises `CurveError` for numbers no law describes, `InsufficientPointsError` where no error is
    above its unpruned one.

    >>> curves = gather_curves([0.5, 0.5, 0.1], [0.10, 0.12, 0.3], 0.1)
    >>> curves.density.tolist(), curves.error.round(6).tolist(), curves.weight.tolist()
    ([0.5, 0.1], [0.11, 0.3], [2.0, 1.0])
    """
    columns = _broadcast_columns(
        density=density, error=error, unpruned_error=unpruned_error, depth=depth, width=width
    )
    n = len(columns["density"])
    columns["images"] = np.broadcast_to(_check_images(images, n), n)
    for name, labels in (("network", network), ("trial", trial)):
        if labels is not None and len(labels) != n:
            raise CurveError(f"{name}: {len(labels)} labels of {n} points")
    labels_of_networks = network
    if labels_of_networks is None:
        labels_of_networks = _label_networks(columns, trial is not None)
    networks = list(labels_of_networks)
    trials: list[Hashable] = [0] * n if trial is None else list(trial)
    _check_values(columns, chance)
    odd = columns["error"] > min(1.0, (1 + OVER) * chance)
    warnings: tuple[str, ...] = ()
    if odd.any():
        warnings = (_warn_odd(columns, odd, chance),)
        columns = {name: values[~odd] for name, values in columns.items()}
        networks = [networks[i] for i in np.flatnonzero(~odd)]
        trials = [trials[i] for i in np.flatnonzero(~odd)]
    return _average_trials(
        columns,
        networks,
        trials=trials,
        chance=chance,
        separate_trials=trial is not None,
        warnings=warnings,
    )


def _check_images(images: ArrayLike | None, n: int) -> Floats:
    """The number of images behind each error, (n,) or one; infinite where they do not matter."""
    counts = np.atleast_1d(np.asarray(np.inf if images is None else images, float))
    if counts.shape not in ((1,), (n,)):
        raise CurveError(f"images: {counts.size} numbers of {n} points")
    if not (counts >= 1).all():
        raise ParameterError(
            f"images: {counts.min():g}; at least 1, or None where they do not matter"
        )
    return counts


def _warn_odd(columns: dict[str, Floats], odd: Flags, chance: float) -> str:
    """The warning about points that are left out; `CurveError` for too many, or no fractions."""
    first = int(np.argmax(np.where(odd, columns["error"], 0.0)))
    error, density = float(columns["error"][first]), float(columns["density"][first])
    if error > 1 or odd.sum() > max(1, FEW_ODD * len(odd)):
        raise CurveError(
            f"error {error:g} at point {first} is above chance, {chance:g}; errors are "
            "fractions, and `guessing_error` or `classes` says what chance is"
        )
    return (
        f"{int(odd.sum())} of {len(odd)} points left out: an error of {error:g} at density "
        f"{density:.3g} is above chance, {chance:g}, and on no curve"
    )


def _label_networks(columns: dict[str, Floats], separate_trials: bool) -> list[Hashable]:
    """Depth and width of every point, and its unpruned error where trials are not labelled."""
    names = ["depth", "width"] if separate_trials else ["depth", "width", "unpruned_error"]
    return list(zip(*(columns[name] for name in names), strict=True))


def _broadcast_columns(**columns: ArrayLike) -> dict[str, Floats]:
    """The columns as arrays of one length, (n,); `CurveError` where that is not possible."""
    try:
        arrays = {name: np.atleast_1d(np.asarray(value, float)) for name, value in columns.items()}
        shape = np.broadcast_shapes(*(values.shape for values in arrays.values()))
    except (TypeError, ValueError) as error:
        raise CurveError(
            "densities, errors and the rest are numbers, as many of each or one for all: "
            + ", ".join(f"{name} {np.shape(value)}" for name, value in columns.items())
        ) from error
    if len(shape) != 1 or shape[0] == 0:
        raise CurveError(f"points are a list of numbers, at least one; got the shape {shape}")
    for name in ("density", "error"):
        if arrays[name].shape != shape:
            raise CurveError(f"{name}: {len(arrays[name])} values of {shape[0]} points")
    return {name: np.broadcast_to(values, shape) for name, values in arrays.items()}


def _check_values(columns: dict[str, Floats], chance: float) -> None:
    """Raise `CurveError` for values that no point of a law has."""
    for name in ("density", "error", "unpruned_error", "depth", "width"):
        values = columns[name]
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise CurveError(
                f"{name} is {values[wrong[0]]} at point {wrong[0]} ({len(wrong)} such); leave "
                "out what was not measured"
            )
    limits = {
        "density": (1.0, "a density is above 0 and at most 1"),
        "depth": (np.inf, "a depth is above 0"),
        "width": (np.inf, "a width is above 0"),
    }
    for name, (most, rule) in limits.items():
        values = columns[name]
        wrong = np.flatnonzero((values <= 0) | (values > most * (1 + 1e-9)))
        if len(wrong):
            raise CurveError(f"{name} {values[wrong[0]]:g} at point {wrong[0]}: {rule}")
    for name in ("error", "unpruned_error"):
        wrong = np.flatnonzero(columns[name] <= 0)
        if len(wrong):
            raise CurveError(
                f"{name} {columns[name][wrong[0]]:g} at point {wrong[0]}: a law is fitted to "
                "relative deviations, which an error of 0 does not have; measure on more images "
                "or leave it out"
            )
    unpruned = columns["unpruned_error"]
    if (unpruned > chance).any():
        point = int(np.argmax(unpruned))
        raise CurveError(
            f"unpruned_error {unpruned[point]:g} at point {point} is above chance, {chance:g}; "
            "errors are fractions, and `guessing_error` or `classes` says what chance is"
        )


def _average_trials(
    columns: dict[str, Floats],
    networks: list[Hashable],
    *,
    trials: list[Hashable],
    chance: float,
    separate_trials: bool,
    warnings: tuple[str, ...],
) -> Curves:
    """Average the points of one network and density; `networks` and `trials` label the points."""
    names, network_of = _number_labels(networks)
    labels, trial_of = _number_labels(trials)
    groups = _group_points(columns["density"], network_of)
    cells = np.full((len(groups), len(labels)), np.nan)
    for g, group in enumerate(groups):
        group_trials = set(trial_of[group])
        if separate_trials and len(group_trials) < len(group):
            raise CurveError(
                f"density {columns['density'][group[0]]:g} has the same trial twice; distinguish "
                "networks of one depth and width by `network`"
            )
        for t in group_trials:
            cells[g, t] = columns["error"][group][trial_of[group] == t].mean()
    unpruned_cells = _collect_unpruned(columns["unpruned_error"], names, network_of, trial_of)
    firsts = np.array([int(np.flatnonzero(network_of == k)[0]) for k in range(len(names))])
    for name in ("depth", "width"):
        if any(np.ptp(columns[name][network_of == k]) > 0 for k in range(len(names))):
            raise CurveError(f"a network has one {name}")
    error = np.array([columns["error"][group].mean() for group in groups])
    runs = np.array([float(len(group)) for group in groups])
    network = np.array([network_of[group[0]] for group in groups])
    density = np.array([columns["density"][group[0]] for group in groups])
    unpruned = np.nanmean(unpruned_cells, axis=1)
    unpruned_runs = (~np.isnan(unpruned_cells)).sum(axis=1)
    images = np.array([columns["images"][group].mean() for group in groups])
    unpruned_images = np.array(
        [columns["images"][network_of == k].mean() for k in range(len(names))]
    )
    _check_rise(density, error, network, unpruned)
    return Curves(
        density=density,
        error=error,
        network=network,
        depth=columns["depth"][firsts],
        width=columns["width"][firsts],
        unpruned=unpruned,
        weight=_weigh_runs(error, runs, images),
        cells=cells,
        unpruned_cells=unpruned_cells,
        unpruned_weight=_weigh_runs(unpruned, unpruned_runs, unpruned_images),
        warnings=(*warnings, *_list_warnings(density, error, network, unpruned, chance)),
    )


def _number_labels(labels: list[Hashable]) -> tuple[list[Hashable], Indices]:
    """The different labels in the order of their first use, and which one each point has, (n,)."""
    names = list(dict.fromkeys(labels))
    numbers = {name: i for i, name in enumerate(names)}
    return names, np.array([numbers[label] for label in labels])


def _group_points(density: Floats, network: Indices) -> list[Indices]:
    """The indices of the points of each network and density, the densest first in a network."""
    order = np.lexsort((-density, network))
    starts: list[int] = []  # where a group begins in the order
    for position, i in enumerate(order):
        if starts:
            first = order[starts[-1]]
            same_density = density[i] >= density[first] * (1 - SAME_POINT)
            if network[i] == network[first] and same_density:
                continue
        starts.append(position)
    return np.split(order, starts[1:])


def _collect_unpruned(
    unpruned: Floats, names: list[Hashable], network: Indices, trial: Indices
) -> Floats:
    """The unpruned errors by network and trial, (K, T), nan where there is none."""
    cells = np.full((len(names), int(trial.max()) + 1), np.nan)
    for k, t in set(zip(network.tolist(), trial.tolist(), strict=True)):
        errors = unpruned[(network == k) & (trial == t)]
        if np.ptp(errors) > 1e-9:
            raise CurveError(
                f"a network has one unpruned error; {names[k]!r} has {errors.min():g} and "
                f"{errors.max():g}: distinguish trials by `trial`"
            )
        cells[k, t] = errors[0]
    return cells


def _weigh_runs(error: Floats, runs: Floats, images: Floats) -> Floats:
    """The weight of a mean over runs, in units of one run on endlessly many images."""
    sampling = (1 - error).clip(1e-9) / (images * error)
    return np.asarray(SEED_SD**2 / (SEED_SD**2 / runs + sampling))


def _check_rise(density: Floats, error: Floats, network: Indices, unpruned: Floats) -> None:
    """Raise where no error differs, or none is above its unpruned one: nothing to fit a law to."""
    ranges = np.array(
        [error[network == k].max() / error[network == k].min() - 1 for k in range(len(unpruned))]
    )
    if ranges.max() < 1e-6 and (np.bincount(network) > 1).any():
        raise CurveError(
            f"all errors are equal, {error[0]:g}: a law needs densities at which the error differs"
        )
    if (error / unpruned[network]).max() <= 1.0:
        raise InsufficientPointsError(
            f"no error is above the unpruned one: prune below density {density.min():.3g}, where "
            f"the error rises; 2 points at {RISE:g} times the unpruned error and more would do"
        )


def _list_warnings(
    density: Floats, error: Floats, network: Indices, unpruned: Floats, chance: float
) -> tuple[str, ...]:
    """Warnings about points that a law cannot follow."""
    warnings = []
    relative = error / unpruned[network]
    below = int((relative < 1.0 - 1e-12).sum())
    if below:
        warnings.append(
            f"{below} of {len(error)} errors are below the unpruned error, by up to "
            f"{100 * (1 - relative.min()):.1f} %: the law only falls with "
            "density and cannot follow the dip"
        )
    falls = [
        (float(1 - error[i + 1] / error[i]), density[i], density[i + 1])
        for i in range(len(error) - 1)
        if network[i] == network[i + 1]
    ]
    fall, denser, sparser = max(falls, default=(0.0, 0.0, 0.0))
    if fall > FALL:
        warnings.append(
            f"the error is not monotone: it falls by {100 * fall:.1f} % from density {denser:.3g} "
            f"to {sparser:.3g}"
        )
    above_chance = int((error > chance).sum())
    if above_chance:
        warnings.append(
            f"{above_chance} of {len(error)} errors are above chance, {100 * chance:.1f} %, by up "
            f"to {100 * (error.max() / chance - 1):.1f} %"
        )
    at_chance = int((error >= AT_CHANCE * chance).sum())
    if at_chance:
        warnings.append(
            f"{at_chance} of {len(error)} errors are at chance, {100 * chance:.1f} %, or near it: "
            "where layers have collapsed, the errors do not show the slope"
        )
    return tuple(warnings)
