"""The errors of networks by distribution of test images, with bootstrap draws over the images.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021 (excess error, prune potential). Intervals over images are
ours: the paper repeats trainings instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from pruning.analysis.job_record import JobRecord
from pruning.analysis.prune_potential import (
    find_largest_potential,
    find_prune_potential,
    find_safe_limit,
    limit_increases,
)
from pruning.analysis.shifts import (
    Reference,
    Shift,
    draw_positions,
    errors_under_shifts,
    find_references,
    find_trained_corruptions,
    list_nominal_errors,
)
from pruning.measurement.bootstrap import percentile_interval, resample_errors
from pruning.measurement.measure import estimate_error
from pruning.schemas.job import NOMINAL
from pruning.schemas.report import Estimate, Unit
from pruning.seeding import generator

CONTROL = "control"
"""The name of a dense control among the networks, which checkpoints are compared with by
default.
"""
PAIRED = "nominal, the images under shift"
"""The nominal images of which there are shifted ones, among the distributions of draws."""
CONFIDENCE = 0.95
Summary = Literal["mean", "minimum"]
Resampled = tuple[float, Tensor]
"""A value, and its bootstrap draws, float64 (resamples,)."""


class ShiftErrors:
    """The errors of networks on the nominal images and under shifts, with bootstrap draws.

    e(f, D) is the mean over the images of distribution D of the error of network f on each. The
    distributions of the same images take one set of resamples for all networks, so that a
    difference is that of pairs; distributions of other images (shifted sets) have their own.
    Intervals are 95 % percentile intervals of the draws, none at a single image, and hold the
    value; `n` is the smallest number of images among the distributions. Those of potentials are of
    paired tests instead: percentiles of a maximum do not cover.

    There may be more nominal images than images under shift. Excess errors compare the latter with
    the nominal ones of the same images; `error` and `potential` take all.

    Networks and distributions go by their names in reports: `control` is a dense control, `nominal`
    the images as they are. A name that is not among them raises `KeyError`. Each checkpoint is
    compared with its reference r(f), a dense network of its own.

    >>> wrong = {
    ...     "control": {
    ...         "nominal": torch.tensor([True, False, False, False]),
    ...         "fog 3": torch.tensor([True, True, False, False]),
    ...     },
    ...     "magnitude-0.5": {
    ...         "nominal": torch.tensor([True, False, False, False]),
    ...         "fog 3": torch.tensor([True, True, True, False]),
    ...     },
    ... }
    >>> errors = ShiftErrors(wrong, [Shift("fog", 3)], seed=0, seed_names=("example",))
    >>> errors.error("magnitude-0.5", ["fog 3"]).value, errors.excess("magnitude-0.5").value
    (0.75, 0.5)
    >>> errors.delta_excess("magnitude-0.5").value
    0.25
    >>> errors.potential({"magnitude-0.5": 0.4}, ["nominal", "fog 3"], 0.01).value
    0.2
    """

    def __init__(
        self,
        wrong: Mapping[str, Mapping[str, Tensor]],
        shifts: Sequence[Shift],
        *,
        seed: int,
        seed_names: Sequence[str],
        trained: Collection[str] = (),
        sample: Tensor | None = None,
        references: Mapping[str, str] | None = None,
    ) -> None:
        """Take the errors of each image by network and distribution, as `list_nominal_errors` and
        `errors_under_shifts` return them for the nominal images and `shifts`.

        `sample` are the places of the images under shift among the nominal ones, int64 (n,); None
        where they are the same, or all shifts have other images. `seed` and `seed_names`, with the
        name of a shifted set, name the generators of the resamples; `trained` are the names of the
        corruptions that the job trains on. `references` names the dense network that each
        checkpoint is compared with, `control` by default.
        """
        self.distributions = [Shift(), *shifts]
        """The nominal distribution and the shifts."""
        self.networks = list(wrong)
        """The names of the networks."""
        self.trained = frozenset(trained)
        """The names of the corruptions that the job trains on."""
        self.references = dict.fromkeys(wrong, CONTROL) if references is None else references
        """The name of the dense network that each checkpoint is compared with, by checkpoint."""
        self.sizes = {name: len(flags) for name, flags in wrong[self.networks[0]].items()}
        """The number of images by distribution."""
        self.shifted = [shift.name for shift in shifts if shift.corruption not in self.trained]
        """The distributions that count as shifted: all shifts where the job trains on all."""
        self.own = [NOMINAL, *(shift.name for shift in shifts if shift.corruption in self.trained)]
        """The distributions that count as the job's own: nominal, and those trained on."""
        if not self.shifted:
            self.shifted, self.own = self.own[1:], self.own[:1]
        self._wrong = wrong
        self._sample = sample
        self._nominal = NOMINAL if sample is None else PAIRED
        self._limits: dict[tuple[tuple[str, ...], float], dict[str, tuple[Tensor, Tensor]]] = {}
        self._errors: dict[tuple[str, str], float] = {}
        self._draws: dict[tuple[str, str], Tensor] = {}
        for dataset in dict.fromkeys(shift.dataset for shift in self.distributions):
            names = [] if dataset is None else [dataset]
            self._resample(dataset, generator(seed, *seed_names, *names))

    @staticmethod
    def measure(
        record: JobRecord,
        shifts: Sequence[Shift],
        images: int,
        *,
        seed_names: Sequence[str],
        validation: bool = False,
        against: Reference = "control",
    ) -> ShiftErrors:
        """The errors of all networks of a job on all nominal test (or validation) images and at
        most `images` under each shift, see `pruning.analysis.shifts.errors_under_shifts`;
        checkpoints are compared with the control of their training, or `against` the network as
        given.
        """
        nominal = list_nominal_errors(record, validation=validation)
        shifted = errors_under_shifts(
            record, shifts, images, validation=validation, against=against
        )
        positions = draw_positions(record, images, validation=validation)
        fewer = len(positions) < len(nominal["given"])
        same_images = any(shift.dataset is None for shift in shifts)
        return ShiftErrors(
            {name: {NOMINAL: nominal[name], **shifted[name]} for name in shifted},
            shifts,
            seed=record.seed,
            seed_names=seed_names,
            trained=find_trained_corruptions(record),
            sample=positions if fewer and same_images else None,
            references=find_references(record, against),
        )

    def _resample(self, dataset: str | None, rng: torch.Generator) -> None:
        """Draw the errors on the distributions of the same images: all take the same resamples."""
        names = [shift.name for shift in self.distributions if shift.dataset == dataset]
        if self._sample is not None and dataset is None:
            names[names.index(NOMINAL)] = PAIRED
            for network in self.networks:
                nominal = self._wrong[network][NOMINAL]
                self._errors[network, NOMINAL] = float(nominal.double().mean())
        keys = [(network, name) for network in self.networks for name in names]
        flags = torch.stack([self._find_flags(*key).double() for key in keys])
        self._errors |= zip(keys, flags.mean(1).tolist(), strict=True)
        self._draws |= zip(keys, resample_errors(flags, rng), strict=True)

    def _find_flags(self, network: str, name: str) -> Tensor:
        """The errors of a network on the images of a distribution."""
        if name == PAIRED:
            assert self._sample is not None
            return self._wrong[network][NOMINAL][self._sample]
        return self._wrong[network][name]

    @property
    def groups(self) -> dict[str, list[str]]:
        """The names of the distributions by `Shift.group`, `nominal` first."""
        groups: dict[str, list[str]] = {}
        for shift in self.distributions:
            groups.setdefault(shift.group(self.trained), []).append(shift.name)
        return groups

    def error(self, network: str, names: Sequence[str]) -> Estimate:
        """The mean over distributions of e(network, D).

        For one distribution the interval is that of `estimate_error`: exact, or Student's where an
        image has an error of its own.
        """
        if len(names) == 1:
            return estimate_error(self._wrong[network][names[0]])
        return self._estimate(self._average_errors(network, names), names, "fraction")

    def excess(self, network: str) -> Estimate:
        """The excess error: the mean of e(network, D) over the shifted distributions, less that
        over the job's own.
        """
        return self._estimate(self._subtract_own(network), self.sizes, "points")

    def delta_excess(self, network: str) -> Estimate:
        """The excess error of a network less that of its reference."""
        return self._estimate(self.resample_delta_excess(network), self.sizes, "points")

    def mean_delta_excess(self, networks: Sequence[str]) -> Estimate:
        """The mean over networks of their delta excess errors."""
        mean = _average([self.resample_delta_excess(network) for network in networks])
        return self._estimate(mean, self.sizes, "points")

    def resample_delta_excess(self, network: str) -> Resampled:
        """The delta excess error of a network, and its draws."""
        return _subtract(self._subtract_own(network), self._subtract_own(self.references[network]))

    def excess_under(self, network: str, names: Sequence[str]) -> Estimate:
        """The mean over distributions of e(network, D) - e(network, nominal)."""
        nominal = self._average_errors(network, [self._nominal])
        return self._estimate(
            _subtract(self._average_errors(network, names), nominal), self.sizes, "points"
        )

    def paired_increase(self, network: str) -> float:
        """e(f, nominal) - e(r(f), nominal) of a checkpoint f, on the images of which there are
        shifted ones.
        """
        return self.increase(network, self._nominal)

    def increase(self, network: str, name: str) -> float:
        """e(f, D) - e(r(f), D) of a checkpoint f."""
        return self._errors[network, name] - self._errors[self.references[network], name]

    def potential(
        self,
        ratios: Mapping[str, float],
        names: Sequence[str],
        margin: float,
        *,
        summary: Summary = "mean",
    ) -> Estimate:
        """The mean or the minimum over distributions of P(D) = max PR with e(f, D) <= e(r(f), D) +
        margin, 0 without one.

        `ratios` are the prune ratios PR of the networks f to choose among. The interval covers with
        at least 95 %: its ends are `find_safe_limit` and `find_largest_potential` of limits that
        are one-sided at 97.5 %, over m distributions at 1 - .025 / m, so that all hold together.
        The safe limit of the minimum needs no such correction, as it fails only where that of the
        least potential does.
        """
        potentials = [self._find_potential(ratios, name, margin) for name in names]
        tail = (1 - CONFIDENCE) / 2
        ends = [self._bound_potential(ratios, name, margin, tail / len(names)) for name in names]
        lows, highs = zip(*ends, strict=True)
        if summary == "mean":
            value, low, high = (sum(part) / len(names) for part in (potentials, lows, highs))
        else:
            low = min(self._bound_potential(ratios, name, margin, tail)[0] for name in names)
            value, high = min(potentials), min(highs)
        images = min(self.sizes[name] for name in names)
        return Estimate(
            value=value, low=min(low, value), high=max(high, value), n=images, unit="fraction"
        )

    def safe_potential(
        self,
        ratios: Mapping[str, float],
        names: Sequence[str],
        margin: float,
        *,
        confidence: float = CONFIDENCE,
    ) -> float:
        """The largest PR that is safe under all of the distributions: the least of their safe
        limits, which is a lower limit of the least potential at the same confidence.
        """
        return min(self._bound_potential(ratios, name, margin, 1 - confidence)[0] for name in names)

    def potential_difference(
        self,
        ratios: Mapping[str, float],
        first: Sequence[str],
        second: Sequence[str],
        margin: float,
    ) -> Estimate:
        """The mean potential over the first distributions less that over the second, with the
        interval of limits that all hold together.
        """
        names = [*first, *second]
        tail = (1 - CONFIDENCE) / 2 / len(names)
        value, low, high = 0.0, 0.0, 0.0
        for name in names:
            potential = self._find_potential(ratios, name, margin)
            least, most = self._bound_potential(ratios, name, margin, tail)
            if name in first:
                weight = 1 / len(first)
            else:
                weight = -1 / len(second)
                least, most = most, least
            value += weight * potential
            low += weight * least
            high += weight * most
        images = min(self.sizes[name] for name in names)
        return Estimate(
            value=value, low=min(low, value), high=max(high, value), n=images, unit="points"
        )

    def resolution(self, checkpoints: Sequence[str], name: str) -> float:
        """The distance from an increase up to its upper limit, one-sided at 95 %: the median over
        checkpoints.
        """
        _, high = self._limit_increases(checkpoints, name, 1 - CONFIDENCE)
        increases = [self.increase(checkpoint, name) for checkpoint in checkpoints]
        return float((high - torch.tensor(increases).double()).median())

    def _estimate(self, resampled: Resampled, names: Collection[str], unit: Unit) -> Estimate:
        """The estimate of a value of these distributions."""
        value, draws = resampled
        return percentile_interval(value, draws, min(self.sizes[name] for name in names), unit)

    def _average_errors(self, network: str, names: Sequence[str]) -> Resampled:
        """The mean over distributions of the errors of a network."""
        return _average(
            [(self._errors[network, name], self._draws[network, name]) for name in names]
        )

    def _subtract_own(self, network: str) -> Resampled:
        """The excess error of a network."""
        shifted = self._average_errors(network, self.shifted)
        own = [self._nominal if name == NOMINAL else name for name in self.own]
        return _subtract(shifted, self._average_errors(network, own))

    def _find_potential(self, ratios: Mapping[str, float], name: str, margin: float) -> float:
        """The potential on a distribution."""
        errors = [self._errors[network, name] for network in ratios]
        references = [self._errors[self.references[network], name] for network in ratios]
        return float(
            find_prune_potential(
                torch.tensor(list(ratios.values()), dtype=torch.float64),
                torch.tensor(errors, dtype=torch.float64),
                torch.tensor(references, dtype=torch.float64),
                margin,
            )
        )

    def _bound_potential(
        self, ratios: Mapping[str, float], name: str, margin: float, tail: float
    ) -> tuple[float, float]:
        """The lower and the upper limit of the potential on a distribution, each of which fails
        with probability `tail` at most.
        """
        low, high = self._limit_increases(list(ratios), name, tail)
        prune_ratios = torch.tensor(list(ratios.values()), dtype=torch.float64)
        return (
            find_safe_limit(prune_ratios, high, margin),
            find_largest_potential(prune_ratios, low, margin),
        )

    def _limit_increases(
        self, networks: Sequence[str], name: str, tail: float
    ) -> tuple[Tensor, Tensor]:
        """The limits of the increases of networks over their references on a distribution."""
        key = (tuple(networks), tail)
        if key not in self._limits:
            pairs = {
                shift.name: (
                    torch.stack([self._wrong[network][shift.name] for network in networks]),
                    torch.stack(
                        [self._wrong[self.references[network]][shift.name] for network in networks]
                    ),
                )
                for shift in self.distributions
            }
            self._limits[key] = limit_increases(pairs, 1 - tail)
        return self._limits[key][name]


def _average(resampled: Sequence[Resampled]) -> Resampled:
    """The mean of values."""
    values, draws = zip(*resampled, strict=True)
    return sum(values) / len(values), torch.stack(draws).mean(0)


def _subtract(first: Resampled, second: Resampled) -> Resampled:
    """The first value less the second."""
    return first[0] - second[0], first[1] - second[1]
