"""Errors under shift against a slow loop over resamples, networks and distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pruning.analysis.shift_errors import CONTROL, ShiftErrors
from pruning.analysis.shifts import Shift, name_networks
from pruning.measurement.bootstrap import RESAMPLES
from pruning.measurement.intervals import binomial_interval
from pruning.measurement.measure import estimate_error
from pruning.measurement.paired import count_paired_errors, p_value_above, p_value_below
from pruning.schemas.report import Estimate
from pruning.seeding import generator
from tests.support import cases
from tests.support.finished_records import finish_job, make_record
from tests.support.pipelines import MODES
from tests.support.shifted_jobs import find_slow_errors

FOG, SNOW, NOISE, NIGHT = (
    Shift("fog", 2),
    Shift("snow", 2),
    Shift(noise=0.5),
    Shift(dataset="night"),
)
SHIFTS = [FOG, SNOW, NIGHT, NOISE]
NAMES = ["nominal", "fog 2", "snow 2", "night", "noise 0.5"]
RATIOS = {"random-0.3": 0.3, "random-0.6": 0.55, "random-0.9": 0.9}
NETWORKS = ["given", CONTROL, *RATIOS]
SEED, SEED_NAMES = 3, ("a test", "images")


def draw_errors(images: int, night: int, *, by_pixels: bool) -> dict[str, dict[str, Tensor]]:
    """Draw the errors of all networks on all distributions; sparser networks err more often."""
    rng = torch.Generator().manual_seed(images)
    wrong: dict[str, dict[str, Tensor]] = {}
    for level, network in enumerate(NETWORKS):
        wrong[network] = {}
        for name in NAMES:
            drawn = torch.rand(night if name == "night" else images, generator=rng).double()
            errors = (drawn + level / 20).clamp_max(1.0)
            wrong[network][name] = errors if by_pixels else errors > 0.7
    return wrong


@dataclass
class SlowErrors:
    """What `ShiftErrors` computes, one resample after the other.

    `columns[network][name]` are the error on the images themselves and then that in every resample.
    """

    wrong: dict[str, dict[str, Tensor]]
    columns: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for network, by_name in self.wrong.items():
            self.columns[network] = {}
            for name, flags in by_name.items():
                seed_names = [*SEED_NAMES, "night"] if name == "night" else SEED_NAMES
                rng = generator(SEED, *seed_names)
                errors = flags.double().tolist()
                column = [fmean(errors)]
                for _ in range(RESAMPLES // 100):
                    drawn = torch.randint(len(flags), (100, len(flags)), generator=rng)
                    column += [fmean(errors[image] for image in row) for row in drawn.tolist()]
                self.columns[network][name] = column

    def estimate(self, column: Sequence[float], names: Sequence[str]) -> Estimate:
        """The first entry with the percentiles of the others."""
        value, *draws = column
        n = min(len(self.wrong[CONTROL][name]) for name in names)
        if n == 1:
            return Estimate(value=value, n=1)
        low, high = np.quantile(draws, [0.025, 0.975])
        return Estimate(value=value, low=min(float(low), value), high=max(float(high), value), n=n)

    def average(self, network: str, names: Sequence[str]) -> list[float]:
        """The mean error over distributions."""
        rows = zip(*(self.columns[network][name] for name in names), strict=True)
        return [fmean(row) for row in rows]

    def excess(self, network: str, shifted: Sequence[str], own: Sequence[str]) -> list[float]:
        """The excess error."""
        pairs = zip(self.average(network, shifted), self.average(network, own), strict=True)
        return [first - second for first, second in pairs]

    def potential(self, name: str, margin: float) -> float:
        """The largest prune ratio within the margin."""
        reference = self.columns[CONTROL][name][0]
        within = [
            ratio
            for network, ratio in RATIOS.items()
            if self.columns[network][name][0] <= reference + margin + 1e-12
        ]
        return max(within, default=0.0)

    def ends(self, name: str, margin: float, tail: float) -> tuple[float, float]:
        """The safe limit and the largest potential by one test after the other."""
        safe, largest, walks = 0.0, 0.0, True
        for network, ratio in RATIOS.items():
            below, above = self.p_values(network, name, margin)
            walks = walks and below <= tail
            safe = ratio if walks else safe
            largest = ratio if above > tail else largest
        return safe, largest

    def p_values(self, network: str, name: str, margin: float) -> tuple[float, float]:
        """Those against "the increase is at least the margin" and "at most the margin"."""
        wrong, reference = self.wrong[network][name], self.wrong[CONTROL][name]
        if wrong.dtype == torch.bool:
            errors = count_paired_errors(wrong, reference)
            return p_value_below(errors, margin), p_value_above(errors, margin)
        gaps = wrong - reference
        if len(gaps) == 1:
            return 1.0, 1.0
        below = stats.ttest_1samp(gaps.numpy(), margin, alternative="less").pvalue
        return float(below), 1 - float(below)


def assert_alike(estimate: Estimate, expected: Estimate) -> None:
    """The same numbers but for rounding, and intervals in the same places."""
    assert estimate.n == expected.n
    assert estimate.value == pytest.approx(expected.value, abs=1e-12)
    assert estimate.low == (
        None if expected.low is None else pytest.approx(expected.low, abs=1e-12)
    )
    assert estimate.high == (
        None if expected.high is None else pytest.approx(expected.high, abs=1e-12)
    )


def make_errors(wrong: dict[str, dict[str, Tensor]], trained: tuple[str, ...] = ()) -> ShiftErrors:
    return ShiftErrors(wrong, SHIFTS, seed=SEED, seed_names=SEED_NAMES, trained=trained)


GRID = [(9, 4, False), (2, 11, False), (9, 1, False), (1, 1, False), (8, 5, True), (1, 3, True)]
"""The numbers of images and of those of the shifted set, and whether errors are of pixels."""


@pytest.fixture(scope="module", params=GRID, ids=str)
def slow(request: pytest.FixtureRequest) -> SlowErrors:
    images, night, by_pixels = request.param
    return SlowErrors(draw_errors(images, night, by_pixels=by_pixels))


@pytest.mark.parametrize(
    ("trained", "shifted", "own"),
    [
        ((), NAMES[1:], NAMES[:1]),
        (("fog", "frost"), ["snow 2", "night", "noise 0.5"], ["nominal", "fog 2"]),
        (("snow", "fog"), ["night", "noise 0.5"], ["nominal", "fog 2", "snow 2"]),
    ],
)
def test_errors_and_excess_are_those_of_a_slow_loop(
    slow: SlowErrors, trained: tuple[str, ...], shifted: list[str], own: list[str]
) -> None:
    errors = make_errors(slow.wrong, trained)
    assert (errors.shifted, errors.own) == (shifted, own)
    control = slow.excess(CONTROL, shifted, own)
    for network in NETWORKS:
        for names in (shifted, own, NAMES):
            if len(names) > 1:
                expected = slow.estimate(slow.average(network, names), names)
                assert_alike(errors.error(network, names), expected)
        excess = slow.excess(network, shifted, own)
        delta = [value - reference for value, reference in zip(excess, control, strict=True)]
        assert_alike(errors.excess(network), slow.estimate(excess, NAMES))
        assert_alike(errors.delta_excess(network), slow.estimate(delta, NAMES))
        for name in NAMES:
            error, nominal = slow.columns[network][name][0], slow.columns[network]["nominal"][0]
            increase = error - slow.columns[CONTROL][name][0]
            assert errors.increase(network, name) == pytest.approx(increase, abs=1e-12)
            assert errors.excess_under(network, [name]).value == pytest.approx(
                error - nominal, abs=1e-12
            )


@pytest.mark.parametrize("margin", [-0.2, 0.0, 0.1, 0.6])
def test_potentials_are_those_of_a_slow_loop(slow: SlowErrors, margin: float) -> None:
    errors = make_errors(slow.wrong)
    values = {name: slow.potential(name, margin) for name in NAMES}
    for names in (["nominal"], ["night"], ["fog 2", "noise 0.5"], NAMES):
        n = min(len(slow.wrong[CONTROL][name]) for name in names)
        ends = [slow.ends(name, margin, 0.025 / len(names)) for name in names]
        alone = [slow.ends(name, margin, 0.025) for name in names]
        mean = fmean(values[name] for name in names)
        low, high = fmean(end[0] for end in ends), fmean(end[1] for end in ends)
        assert_alike(
            errors.potential(RATIOS, names, margin), Estimate(value=mean, low=low, high=high, n=n)
        )
        least = min(values[name] for name in names)
        low, high = min(end[0] for end in alone), min(end[1] for end in ends)
        assert_alike(
            errors.potential(RATIOS, names, margin, summary="minimum"),
            Estimate(value=least, low=low, high=high, n=n),
        )
        safe = min(slow.ends(name, margin, 0.05)[0] for name in names)
        assert errors.safe_potential(RATIOS, names, margin) == safe
    fog, snow, night = (
        (values[name], *slow.ends(name, margin, 0.025 / 3)) for name in ("fog 2", "snow 2", "night")
    )
    gap = errors.potential_difference(RATIOS, ["fog 2", "snow 2"], ["night"], margin)
    assert gap.value == pytest.approx((fog[0] + snow[0]) / 2 - night[0])
    assert gap.low == pytest.approx((fog[1] + snow[1]) / 2 - night[2])
    assert gap.high == pytest.approx((fog[2] + snow[2]) / 2 - night[1])


def test_excess_errors_compare_the_same_images_and_nominal_figures_take_all() -> None:
    wrong = draw_errors(40, 20, by_pixels=False)
    sample = torch.arange(0, 40, 4)
    few = {
        network: {
            name: flags if name in ("nominal", "night") else flags[sample]
            for name, flags in by_name.items()
        }
        for network, by_name in wrong.items()
    }
    errors = ShiftErrors(few, SHIFTS, seed=SEED, seed_names=SEED_NAMES, sample=sample)
    paired = {
        network: {**by_name, "nominal": by_name["nominal"][sample]}
        for network, by_name in few.items()
    }
    same = make_errors(paired)
    for network in NETWORKS:
        assert errors.excess(network) == same.excess(network)
        assert errors.delta_excess(network) == same.delta_excess(network)
        assert errors.excess_under(network, ["fog 2"]) == same.excess_under(network, ["fog 2"])
        assert errors.error(network, ["nominal"]) == estimate_error(wrong[network]["nominal"])
        expected = float(wrong[network]["nominal"].double().mean())
        expected -= float(wrong[CONTROL]["nominal"].double().mean())
        assert errors.increase(network, "nominal") == pytest.approx(expected)
    assert errors.sizes == {"nominal": 40, "fog 2": 10, "snow 2": 10, "night": 20, "noise 0.5": 10}
    nominal = ShiftErrors(
        {k: {"nominal": v["nominal"]} for k, v in wrong.items()}, [], seed=0, seed_names=()
    )
    assert errors.potential(RATIOS, ["nominal"], 0.1) == nominal.potential(RATIOS, ["nominal"], 0.1)


@pytest.mark.parametrize("by_pixels", [False, True])
def test_the_error_on_one_distribution_needs_no_resamples(by_pixels: bool) -> None:
    wrong = draw_errors(12, 5, by_pixels=by_pixels)
    errors = make_errors(wrong)
    for network in NETWORKS:
        for name in NAMES:
            assert errors.error(network, [name]) == estimate_error(wrong[network][name])
    if not by_pixels:
        count = int(wrong["given"]["night"].sum())
        assert errors.error("given", ["night"]) == binomial_interval(count, 5)


def test_what_an_object_says_of_its_distributions() -> None:
    errors = make_errors(draw_errors(6, 4, by_pixels=False), ("fog",))
    assert [shift.name for shift in errors.distributions] == NAMES
    assert errors.networks == NETWORKS
    assert errors.sizes == dict.fromkeys(NAMES, 6) | {"night": 4}
    assert errors.groups == {
        "nominal": ["nominal"],
        "corruption trained on": ["fog 2"],
        "corruption": ["snow 2"],
        "shifted set": ["night"],
        "noise": ["noise 0.5"],
    }


def test_where_the_job_trains_on_all_shifts_they_count_as_shifted() -> None:
    wrong = draw_errors(6, 4, by_pixels=False)
    for shifts in ([FOG, SNOW], [FOG], []):
        errors = ShiftErrors(
            {
                network: {name: by_name[name] for name in ["nominal", *(s.name for s in shifts)]}
                for network, by_name in wrong.items()
            },
            shifts,
            seed=0,
            seed_names=("a test",),
            trained=("fog", "snow"),
        )
        assert errors.shifted == [shift.name for shift in shifts]
        assert errors.own == ["nominal"]


def test_networks_beside_have_no_part_and_seed_names_do() -> None:
    wrong = draw_errors(40, 20, by_pixels=False)
    few = {network: wrong[network] for network in (CONTROL, "random-0.6")}
    assert make_errors(few).delta_excess("random-0.6") == make_errors(wrong).delta_excess(
        "random-0.6"
    )
    other = ShiftErrors(few, SHIFTS, seed=SEED, seed_names=("another test",))
    assert other.excess("random-0.6").value == make_errors(few).excess("random-0.6").value
    assert other.excess("random-0.6") != make_errors(few).excess("random-0.6")


def test_the_errors_of_a_job(tmp_path: Path) -> None:
    """Its networks on its test images under shift, or on its validation images."""
    recipe = cases.recipe(
        0.5, 0.9, retrain=MODES["fine_tune"]["retrain"] | {"corrupt": {"names": ["fog"]}}
    )
    record = make_record(finish_job(recipe, tmp_path))
    errors = ShiftErrors.measure(record, [FOG, SNOW, NOISE], 25, seed_names=SEED_NAMES)
    assert errors.trained == {"fog"}
    assert errors.own == ["nominal", "fog 2"]
    for network in name_networks(record):
        for shift in errors.distributions:
            flags = find_slow_errors(record, network.load(), shift, 25)
            assert len(flags) == (30 if shift == Shift() else 25)
            assert errors.error(network.name, [shift.name]) == binomial_interval(
                sum(flags), len(flags)
            )
    decides = ShiftErrors.measure(record, [FOG], 25, seed_names=SEED_NAMES, validation=True)
    assert decides.sizes == {"nominal": 10, "fog 2": 10}
    assert decides.error("given", ["nominal"]) == estimate_error(record.given_measured.val_wrong)


@pytest.mark.slow
def test_intervals_of_groups_of_distributions_cover() -> None:
    """Shifts of the same images, each with a curve of its own, and checkpoints of one lineage."""
    rng = np.random.default_rng(5)
    ratios = {f"random-{ratio}": ratio for ratio in (0.2, 0.4, 0.6, 0.8)}
    curves = {
        "nominal": (0.0, 0.0, 0.01, 0.03),
        "fog 2": (0.025, 0.025, 0.025, 0.025),
        "snow 2": (0.0, 0.015, 0.03, 0.06),
        "noise 0.5": (0.0, 0.0, 0.0, 0.15),
    }
    shifted = [FOG, SNOW, NOISE]
    names = [shift.name for shift in shifted]
    margin, jobs = 0.02, 60
    truth = {
        name: max([0.0, *(r for r, e in zip(ratios.values(), curve, strict=True) if e <= margin)])
        for name, curve in curves.items()
    }
    held = {"mean": 0, "minimum": 0, "difference": 0, "safe": 0}
    for _ in range(jobs):
        wrong: dict[str, dict[str, Tensor]] = {name: {} for name in (CONTROL, *ratios)}
        hard = rng.standard_normal(500)
        for name, curve in curves.items():
            own = rng.standard_normal(500)
            for network, increase in zip(wrong, (0.0, *curve), strict=True):
                own = 0.95 * own + (1 - 0.95**2) ** 0.5 * rng.standard_normal(500)
                limit = stats.norm.isf(0.15 + increase)
                wrong[network][name] = torch.from_numpy(0.7 * hard + 0.51**0.5 * own > limit)
        errors = ShiftErrors(wrong, shifted, seed=0, seed_names=())
        mean = errors.potential(ratios, names, margin)
        least = errors.potential(ratios, names, margin, summary="minimum")
        gap = errors.potential_difference(ratios, names[:2], names[2:], margin)
        true_mean = fmean(truth[name] for name in names)
        true_gap = fmean(truth[name] for name in names[:2]) - truth[names[2]]
        true_least = min(truth[name] for name in names)
        for kind, estimate, value in (
            ("mean", mean, true_mean),
            ("minimum", least, true_least),
            ("difference", gap, true_gap),
        ):
            assert estimate.low is not None
            assert estimate.high is not None
            held[kind] += estimate.low - 1e-9 <= value <= estimate.high + 1e-9
        held["safe"] += errors.safe_potential(ratios, names, margin) <= true_least + 1e-9
    print({kind: count / jobs for kind, count in held.items()})  # noqa: T201
    assert min(held.values()) >= 0.95 * jobs
