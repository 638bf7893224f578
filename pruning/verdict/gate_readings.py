"""Readings of the recommended checkpoint for each gate: an increase to be tested, a count, or what
a section promises.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pruning import wording
from pruning.measurement.paired import CONFIDENCE
from pruning.schemas.estimates import Estimate, Unit
from pruning.schemas.gates import Gates
from pruning.schemas.job import NOMINAL
from pruning.schemas.report import Checkpoint, Section
from pruning.schemas.verdicts import CrossedVariance, GateName, Outcome
from pruning.verdict.classes import describe_detectable, list_class_increases
from pruning.verdict.increases import (
    Increase,
    NormalIncrease,
    WorstIncrease,
    count_deciding_images,
    judge,
    read_increase,
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A gate and what was read for it."""

    name: GateName
    limit: float
    unit: Unit = "points"
    quantity: str = ""
    measured: Estimate | None = None
    increase: Increase | None = None
    """An increase that is to be tested against the limit; what follows holds where there is
    none.
    """
    outcome: Outcome = "undecided"
    sentence: str = ""
    subject: str | None = None
    low: float | None = None
    confidence: float | None = None
    needed: int | None = None
    remark: str = ""
    """A clause behind the outcome of a test that does not pass, with its semicolon in front."""

    def p_value_below(self) -> float:
        """The p-value against "the limit is not kept"."""
        assert self.increase is not None
        return self.increase.p_value_below(self.limit)


def list_readings(
    gates: Gates, best: Checkpoint | None, sections: Mapping[str, Section]
) -> list[Reading]:
    """Return a reading of every gate that is set, in the order of the schema; without a checkpoint
    they hold the limits alone.
    """
    readings = []
    if gates.max_error_increase is not None:
        readings.append(_read_error_increase(gates.max_error_increase, best))
    if gates.max_delta_excess_error is not None:
        limit = gates.max_delta_excess_error
        readings.append(_read_excess_error(limit, best, sections.get("robustness")))
    if gates.max_class_increase is not None:
        limit = gates.max_class_increase
        readings.append(_read_classes(limit, best, sections.get("class_damage")))
    section = sections.get("prune_potential")
    for distribution, least in gates.min_prune_potential.items():
        readings.append(_read_potential(distribution, least, best, section))
    if gates.min_certified_accuracy is not None:
        limit = gates.min_certified_accuracy
        readings.append(_read_certificate(limit, best, sections.get("certificate")))
    return [*readings, *_read_costs(gates, best)]


def _read_error_increase(limit: float, best: Checkpoint | None) -> Reading:
    quantity = "test error"
    if best is None:
        return Reading(name="max_error_increase", limit=limit)
    measured = best.error_increase.control
    return Reading(
        name="max_error_increase",
        limit=limit,
        quantity=quantity,
        measured=measured,
        increase=read_increase(
            measured, best.error_increase.control_counts, best.error_increase.control_variance
        ),
        sentence=f"{quantity} has no interval",
    )


def _read_excess_error(
    limit: float, best: Checkpoint | None, robustness: Section | None
) -> Reading:
    """Return the excess error under shift of a checkpoint above that of the dense control."""
    quantity = "excess error under shift"
    measured = None
    variance = None
    rows = [] if robustness is None else robustness.details.get("excess_error", [])
    for row in rows:
        if best is not None and row["checkpoint"] == best.id:
            measured = Estimate.model_validate(row["delta_excess_error"])
            if row.get("variance") is not None:
                variance = CrossedVariance.model_validate(row["variance"])
    return Reading(
        name="max_delta_excess_error",
        limit=limit,
        quantity=quantity,
        measured=measured,
        increase=None if measured is None else read_increase(measured, None, variance),
        sentence=f"{quantity} {'was not measured' if measured is None else 'has no interval'}",
    )


def _read_classes(limit: float, best: Checkpoint | None, section: Section | None) -> Reading:
    """Return the largest increase over the classes."""
    groups = {} if best is None else list_class_increases(best, section)
    if not groups:
        return Reading(
            name="max_class_increase", limit=limit, sentence="no class was compared on its own"
        )
    assert best is not None
    detectable = describe_detectable(best, section)
    increase = WorstIncrease(tuple(groups.values()))
    worst = max(groups, key=lambda name: groups[name].value)
    return Reading(
        name="max_class_increase",
        limit=limit,
        quantity=f"test error of the class that rises most, {worst},",
        measured=Estimate(value=increase.value, n=groups[worst].images, unit="points"),
        increase=increase,
        subject=worst,
        remark=f"; {detectable}" if detectable else "",
    )


def _read_potential(
    distribution: str, least: float, best: Checkpoint | None, section: Section | None
) -> Reading:
    """Return the prune potential under a distribution: it passes where the safe limit reaches the
    least that is asked for, and fails where the upper end of its interval does not.
    """
    rows = _find_potentials(best, section)
    row = rows.get(distribution, {})
    measured = Estimate.model_validate(row["potential"]) if row else None
    safe = row.get("safe")
    quantity = name_potential(distribution)
    if measured is None:
        known = ", ".join(rows)
        outcome: Outcome = "undecided"
        sentence = f"{quantity} was not measured{f'; there are {known}' if known else ''}"
        if section is not None and distribution in section.details.get("unchanged", ()):
            sentence = f"{quantity} was left out: {distribution} changes none of the images"
    elif safe is not None and safe >= least:
        outcome = "passed"
        promised, asked = _format_promise(safe, least)
        sentence = f"{quantity} is at least {promised}, at least {asked} is asked for"
    else:
        most = measured.value if measured.high is None else measured.high
        outcome = "failed" if most < least else "undecided"
        promised, asked = _format_promise(safe or 0.0, least)
        limit = "no safe limit" if safe is None else f"safe limit {promised}"
        estimate, _ = format_apart("min_prune_potential", measured.value, least)
        sentence = f"{quantity}: {estimate} as measured, {limit}; at least {asked} is asked for"
    return Reading(
        name="min_prune_potential",
        limit=least,
        unit="fraction",
        measured=measured,
        outcome=outcome,
        sentence=sentence,
        subject=distribution,
        low=safe,
        confidence=None if safe is None else CONFIDENCE,
    )


def name_potential(distribution: str | None) -> str:
    """Return the prune potential of a distribution in words.

    >>> name_potential("fog 3"), name_potential("nominal")
    ('prune potential under fog 3', 'nominal prune potential')
    """
    return (
        "nominal prune potential"
        if distribution == NOMINAL
        else f"prune potential under {distribution}"
    )


def _find_potentials(best: Checkpoint | None, section: Section | None) -> dict[str, dict[str, Any]]:
    """Return the rows of the checkpoint's criterion in the section, by distribution."""
    rows = [] if section is None else section.details.get("potential_by_distribution", [])
    if best is None:
        return {}
    label = best.label or best.id.removesuffix(f"-{best.requested_sparsity!r}")
    return {row["distribution"]: row for row in rows if row["method"] == label}


def _read_certificate(limit: float, best: Checkpoint | None, section: Section | None) -> Reading:
    """Return the accuracy that the section `certificate` promises from labelled images, at the
    confidence of that section: it passes where the promise reaches the limit, and fails where the
    error lies beyond it by more than noise explains.
    """
    details = {} if section is None else section.details
    rows = details.get("limits", [])
    confidence = details.get("confidence")
    row = next((row for row in rows if best is not None and row["checkpoint"] == best.id), None)
    if row is None or best is None:
        return Reading(
            name="min_certified_accuracy",
            limit=limit,
            unit="fraction",
            sentence="no accuracy was certified",
        )
    promised = row["accuracy_at_least_labelled"]
    accuracy = 1 - row["error"]
    images = best.error.n
    deviation = math.sqrt(max(accuracy * (1 - accuracy), 1e-9) / (images or 1))
    shortfall = NormalIncrease(1 - accuracy, deviation, images)
    outcome: Outcome = "passed" if promised >= limit else judge(shortfall, 1 - limit, 0.0)
    needed = None
    if outcome == "undecided":
        level = (1 - (confidence or CONFIDENCE)) / len(rows)
        needed = count_deciding_images(shortfall, 1 - limit, level)
    least, asked = _format_promise(promised, limit)
    held_at = ""
    if confidence is not None:
        held_at = f" at {wording.short_percent(confidence)} for all checkpoints together"
    return Reading(
        name="min_certified_accuracy",
        limit=limit,
        unit="fraction",
        measured=Estimate(value=accuracy, low=promised, n=images, unit="fraction"),
        outcome=outcome,
        sentence=(
            f"accuracy {wording.percent(accuracy)}, certified at least {least}{held_at}; at least "
            f"{asked} is asked for"
        ),
        low=promised,
        confidence=confidence,
        needed=needed,
    )


def _format_promise(promised: float, asked: float) -> tuple[str, str]:
    """Return what is promised, rounded down, and what is asked for with all its decimals, both with
    digits enough to tell them apart.
    """
    exact = len(f"{100 * asked:.6f}".rstrip("0").partition(".")[2])
    digits = max(exact, wording.count_digits_apart(promised, asked, wording.percent, 1))
    return wording.percent_at_least(promised, digits), wording.percent(asked, digits)


def _read_costs(gates: Gates, best: Checkpoint | None) -> Iterator[Reading]:
    """Yield the gates on what is counted, which has no test, and on what is timed."""
    if gates.max_size_bytes is not None:
        size = None if best is None else best.size_bytes.get("sparse")
        yield _compare_cost("max_size_bytes", gates.max_size_bytes, size, "bytes", "sparse file")
    if gates.max_flops is not None:
        flops = None if best is None else best.flops
        yield _compare_cost("max_flops", gates.max_flops, flops, "number", "one forward pass")
    if gates.max_latency_ratio is not None:
        yield _read_latency(gates.max_latency_ratio, best)


def _read_latency(limit: float, best: Checkpoint | None) -> Reading:
    """Return the latency as a ratio to that of the network as given: it passes where the 95 %
    intervals at all batch sizes lie at or below the limit, and fails where one lies above. Ratios
    without an interval, of too few passes, decide nothing.
    """
    quantity = "measured latency against the network as given"
    latencies = () if best is None else best.latency_ms
    ratios = [
        Estimate(
            value=item.against_given,
            low=item.against_given_low,
            high=item.against_given_high,
            unit="factor",
        )
        for item in latencies
        if item.against_given is not None
    ]
    if not ratios:
        return _compare_cost("max_latency_ratio", limit, None, "factor", quantity)

    def rank(ratio: Estimate) -> tuple[bool, float]:
        return _find_low(ratio) > limit, _find_high(ratio)

    worst = max(ratios, key=rank)
    outcome: Outcome = "undecided"
    if _find_low(worst) > limit:
        outcome = "failed"
    elif _find_high(worst) <= limit:
        outcome = "passed"
    digits = count_latency_digits(worst, limit)
    allowed = wording.factor(limit, digits)
    sentence = f"{quantity}: {wording.factor_with_interval(worst, digits)}, limit {allowed}"
    if worst.low is None:
        sentence += ": too few passes were timed for an interval"
    elif outcome == "undecided":
        sentence += ": the passes that were timed cannot tell on which side of it the ratio lies"
    return Reading(
        name="max_latency_ratio",
        limit=limit,
        unit="factor",
        measured=worst,
        outcome=outcome,
        sentence=sentence,
    )


def count_latency_digits(ratio: Estimate, limit: float) -> int:
    """Return the significant digits at which a ratio of latencies and its ends are told from a
    limit that they differ from.
    """
    ends = [end for end in (ratio.value, ratio.low, ratio.high) if end is not None]
    return max(wording.count_digits_apart(end, limit, wording.factor, 3) for end in ends)


def _find_low(ratio: Estimate) -> float:
    """Return the lower end of an interval, 0 where there is none."""
    return 0.0 if ratio.low is None else ratio.low


def _find_high(ratio: Estimate) -> float:
    """Return the upper end of an interval, infinity where there is none."""
    return math.inf if ratio.high is None else ratio.high


def _compare_cost(
    name: GateName, limit: float, value: float | None, unit: Unit, quantity: str
) -> Reading:
    if value is None:
        return Reading(name=name, limit=limit, unit=unit, sentence=f"{quantity}: not measured")
    outcome: Outcome = "passed" if value <= limit else "failed"
    measured, allowed = format_apart(name, value, limit)
    return Reading(
        name=name,
        limit=limit,
        unit=unit,
        measured=Estimate(value=value, unit=unit),
        outcome=outcome,
        sentence=f"{quantity}: {measured}, limit {allowed}",
    )


def format_limit(name: GateName, value: float, more_digits: int = 0) -> str:
    """Return a value of a gate as people read it.

    >>> format_limit("max_flops", 8.1e7), format_limit("max_error_increase", 0.005)
    ('81.0 MFLOP', '0.50 pp')
    """
    match name:
        case "max_flops":
            return wording.operations(value, 3 + more_digits)
        case "max_size_bytes":
            return wording.file_size(value, 3 + more_digits)
        case "max_latency_ratio":
            return wording.factor(value, 3 + more_digits)
        case "min_prune_potential" | "min_certified_accuracy":
            return wording.percent(value, 1 + more_digits)
    return wording.percentage_points(value, 2 + more_digits)


def format_exactly(name: GateName, limit: float) -> str:
    """Return the limit of a gate as it was given: a percentage with all its decimals.

    >>> format_exactly("max_error_increase", 0.00333), format_exactly("max_flops", 8.1e7)
    ('0.333 pp', '81.0 MFLOP')
    """
    if name in ("max_size_bytes", "max_flops", "max_latency_ratio"):
        return format_limit(name, limit)
    decimals = len(f"{100 * limit:.6f}".rstrip("0").partition(".")[2])
    fewest = 1 if name in ("min_prune_potential", "min_certified_accuracy") else 2
    return format_limit(name, limit, max(0, decimals - fewest))


def format_apart(name: GateName, value: float, limit: float) -> tuple[str, str]:
    """Return a value and the limit of a gate, with digits enough to tell them apart.

    >>> format_apart("max_flops", 81_040_000, 81_000_000)
    ('81.04 MFLOP', '81.00 MFLOP')
    """

    def form(number: float, digits: int) -> str:
        return format_limit(name, number, digits)

    digits = wording.count_digits_apart(value, limit, form, 0)
    return form(value, digits), form(limit, digits)
