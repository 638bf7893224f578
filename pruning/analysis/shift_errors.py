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
from pruning.analysis.prune_potential import find_prune_potential
from pruning.analysis.shifts import (
    Reference,
    Shift,
    errors_under_shifts,
    find_references,
    find_trained_corruptions,
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
Summary = Literal["mean", "minimum"]
Resampled = tuple[float, Tensor]
"""A value, and its bootstrap draws, float64 (resamples,)."""


class ShiftErrors:
    """The errors of networks on the nominal images and under shifts, with bootstrap draws.

    e(f, D) is the mean over the images of distribution D of the error of network f on each. The
    distributions of the same images take one set of resamples for all networks, so that a
    difference is that of pairs; distributions of other images (shifted sets) have their own.
    Intervals are 95 % percentile intervals of the draws, none at a single image, and hold the
    value; `n` is the smallest number of images among the distributions.

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
        references: Mapping[str, str] | None = None,
    ) -> None:
        """Take the errors of each image by network and distribution, as `errors_under_shifts`
        returns them for the nominal images and `shifts`.

        `seed` and `seed_names`, with the name of a shifted set, name the generators of the
        resamples; `trained` are the names of the corruptions that the job trains on. `references`
        names the dense network that each checkpoint is compared with, `control` by default.
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
        """The errors of all networks of a job on at most `images` test (or validation) images of
        each distribution, see `pruning.analysis.shifts.errors_under_shifts`; checkpoints are
        compared with the control of their training, or `against` the network as given.
        """
        return ShiftErrors(
            errors_under_shifts(
                record, [Shift(), *shifts], images, validation=validation, against=against
            ),
            shifts,
            seed=record.seed,
            seed_names=seed_names,
            trained=find_trained_corruptions(record),
            references=find_references(record, against),
        )

    def _resample(self, dataset: str | None, rng: torch.Generator) -> None:
        """Draw the errors on the distributions of the same images: all take the same resamples."""
        names = [shift.name for shift in self.distributions if shift.dataset == dataset]
        keys = [(network, name) for network in self.networks for name in names]
        flags = torch.stack([self._wrong[network][name] for network, name in keys])
        self._errors |= zip(keys, flags.double().mean(1).tolist(), strict=True)
        self._draws |= zip(keys, resample_errors(flags, rng), strict=True)

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
        """The excess error of a checkpoint less that of its reference."""
        reference = self.references[network]
        difference = _subtract(self._subtract_own(network), self._subtract_own(reference))
        return self._estimate(difference, self.sizes, "points")

    def excess_under(self, network: str, name: str) -> float:
        """e(network, D) - e(network, nominal)."""
        return self._errors[network, name] - self._errors[network, NOMINAL]

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

        `ratios` are the prune ratios PR of the networks f to choose among.
        """
        potentials = [self._find_potential(ratios, name, margin) for name in names]
        if summary == "mean":
            return self._estimate(_average(potentials), names, "fraction")
        values, draws = zip(*potentials, strict=True)
        return self._estimate((min(values), torch.stack(draws).amin(0)), names, "fraction")

    def potential_difference(
        self,
        ratios: Mapping[str, float],
        first: Sequence[str],
        second: Sequence[str],
        margin: float,
    ) -> Estimate:
        """The mean potential over the first distributions less that over the second."""
        averages = [
            _average([self._find_potential(ratios, name, margin) for name in names])
            for names in (first, second)
        ]
        return self._estimate(_subtract(*averages), [*first, *second], "points")

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
        return _subtract(shifted, self._average_errors(network, self.own))

    def _find_potential(self, ratios: Mapping[str, float], name: str, margin: float) -> Resampled:
        """The potential on a distribution."""
        references = [self.references[network] for network in ratios]
        errors, reference_errors = (
            torch.tensor([self._errors[network, name] for network in group], dtype=torch.float64)
            for group in (list(ratios), references)
        )
        draws, reference_draws = (
            torch.stack([self._draws[network, name] for network in group])
            for group in (list(ratios), references)
        )
        prune_ratios = torch.tensor(list(ratios.values()), dtype=torch.float64)
        return (
            float(find_prune_potential(prune_ratios, errors, reference_errors, margin)),
            find_prune_potential(prune_ratios, draws, reference_draws, margin),
        )


def _average(resampled: Sequence[Resampled]) -> Resampled:
    """The mean of values."""
    values, draws = zip(*resampled, strict=True)
    return sum(values) / len(values), torch.stack(draws).mean(0)


def _subtract(first: Resampled, second: Resampled) -> Resampled:
    """The first value less the second."""
    return first[0] - second[0], first[1] - second[1]
