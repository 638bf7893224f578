"""One statement of what holds of the recommended checkpoint at one confidence together, what does
not, and what would decide the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pruning import wording
from pruning.measurement.needed_images import round_up_images
from pruning.measurement.paired import adjust_holm
from pruning.schemas.gates import Gates
from pruning.schemas.report import Checkpoint, Recommendation, Section
from pruning.schemas.verdicts import Claim, JointStatement, Outcome
from pruning.verdict.classes import describe_resolution, list_findings
from pruning.verdict.gate_readings import Reading, format_exactly, list_readings, name_potential
from pruning.verdict.gates import format_confidence, list_levels
from pruning.verdict.increases import FAIL_CONFIDENCE, count_deciding_images, judge
from pruning.verdict.shift_guidelines import name_reference

NAMED_SHIFTS = 3
"""The most shifts that the statement names; of more it gives the number."""


@dataclass(frozen=True)
class _Sorted:
    """The claims of a kind by their outcome."""

    holds: list[str]
    fails: list[str]
    open: list[str]

    @staticmethod
    def sort(claims: Sequence[Claim]) -> _Sorted:
        """Return the texts of claims by outcome; an open one says what would decide it."""
        texts: dict[Outcome, list[str]] = {"passed": [], "failed": [], "undecided": []}
        for claim in claims:
            text = claim.text
            if claim.outcome == "undecided" and claim.needed is not None:
                images = wording.count(round_up_images(claim.needed))
                text += f" (about {images} test images would tell, were it as measured)"
            texts[claim.outcome].append(text)
        return _Sorted(texts["passed"], texts["failed"], texts["undecided"])


def state_jointly(
    checkpoints: Sequence[Checkpoint],
    recommendation: Recommendation,
    gates: Gates,
    sections: Mapping[str, Section],
) -> JointStatement:
    """Return one sentence on the recommended checkpoint from gates, margin, classes and shifts.

    Claims that are tested on the test images are tested together (Holm): with probability 1 -
    confidence at most one of those said to hold does not. Limits that a section promises at a
    confidence of its own, and what is counted, are told beside them.
    """
    best = next(
        (checkpoint for checkpoint in checkpoints if checkpoint.id == recommendation.checkpoint),
        None,
    )
    if best is None:
        return JointStatement(
            confidence=gates.confidence,
            sentence="No checkpoint is recommended, so that there is no joint statement about one.",
        )
    if gates.max_error_increase is None:
        gates = gates.model_copy(update={"max_error_increase": recommendation.margin})
    readings = list_readings(gates, best, sections)
    damage = sections.get("class_damage")
    tested = _test_together(readings, list_findings(best, damage), gates.confidence)
    apart = [
        Claim(text=_claim(reading), outcome=reading.outcome, needed=reading.needed)
        for reading in readings
        if reading.increase is None
    ]
    apart += _claim_safe_shifts(best, gates, sections.get("prune_potential"))
    return JointStatement(
        confidence=gates.confidence,
        sentence=_write_sentence(
            best, gates.confidence, tested, apart, describe_resolution(best, damage)
        ),
        claims=(*tested, *apart),
    )


def _test_together(
    readings: Sequence[Reading], findings: Sequence[tuple[str, float]], confidence: float
) -> list[Claim]:
    """Return the claims on increases, and the findings of classes with their p-values, tested
    together. A finding is a claim that something is lost; where it does not hold together with the
    others it is left out.
    """
    tested = [reading for reading in readings if reading.increase is not None]
    p_values = [reading.p_value_below() for reading in tested]
    p_values += [p_value for _, p_value in findings]
    levels = list_levels(p_values, 1 - confidence)
    adjusted_p_values = adjust_holm(p_values)
    claims = []
    for reading, level, adjusted in zip(tested, levels, adjusted_p_values, strict=False):
        assert reading.increase is not None
        outcome = judge(reading.increase, reading.limit, level)
        needed = None
        if outcome == "undecided":
            needed = count_deciding_images(reading.increase, reading.limit, level)
        claims.append(Claim(text=_claim(reading), outcome=outcome, p_value=adjusted, needed=needed))
    for (text, _), adjusted in zip(findings, adjusted_p_values[len(tested) :], strict=True):
        if adjusted <= 1 - confidence:
            claims.append(Claim(text=text, outcome="passed", p_value=adjusted))
    return claims


def _claim(reading: Reading) -> str:
    """Return the statement that a gate asks for."""
    limit = format_exactly(reading.name, reading.limit)
    match reading.name:
        case "max_error_increase":
            return f"its test error is less than {limit} above that of the dense control"
        case "max_class_increase":
            return f"in every class its test error is less than {limit} above that of the control"
        case "max_delta_excess_error":
            return f"its excess error under shift is less than {limit} above that of the control"
        case "min_prune_potential":
            return f"the {name_potential(reading.subject)} is at least {limit}"
        case "min_certified_accuracy":
            return f"its certified accuracy is at least {limit}"
        case "max_size_bytes":
            return f"its sparse file is at most {limit}"
        case "max_flops":
            return f"a forward pass takes at most {limit}"
        case "max_latency_ratio":
            return f"its latency is at most {limit} that of the network as given"


def _claim_safe_shifts(best: Checkpoint, gates: Gates, section: Section | None) -> Iterator[Claim]:
    """Yield which distributions the safe limit of the prune potential holds the checkpoint under,
    and which it does not.
    """
    rows = [] if section is None else section.details.get("potential_by_distribution", [])
    label = best.label or best.id.removesuffix(f"-{best.requested_sparsity!r}")
    names: dict[Outcome, list[str]] = {"passed": [], "undecided": []}
    for row in rows:
        safe = row.get("safe")
        name = row["distribution"]
        is_gate = name in gates.min_prune_potential
        if row["method"] != label or safe is None or name == "nominal" or is_gate:
            continue
        names["passed" if best.prune_ratio <= safe + 1e-9 else "undecided"].append(name)
    total = sum(map(len, names.values()))
    kind = "other shift" if gates.min_prune_potential.keys() - {"nominal"} else "shift"
    for outcome, shifts in names.items():
        if shifts:
            yield Claim(
                text=f"under {_list_shifts(shifts, total, kind)} {_describe_margin(section)}",
                outcome=outcome,
            )


def _describe_margin(section: Section | None) -> str:
    """Return what the safe limits of the section `prune_potential` hold an error to; sections of
    earlier versions say no number.
    """
    details = {} if section is None else section.details
    margin = details.get("margin")
    if margin is None:
        return "it stays within the margin of the evaluation prune_potential"
    return (
        f"its error stays within the margin of the evaluation prune_potential, "
        f"{wording.percentage_points(margin)} above that of {name_reference(details)}"
    )


def _list_shifts(names: Sequence[str], total: int, kind: str) -> str:
    """Return the names of shifts, or their number of `total` where they are many; they are `other`
    ones where a gate has a claim on some of its own.
    """
    if len(names) <= NAMED_SHIFTS:
        return ", ".join(names)
    return f"{len(names)} of {wording.count_of(total, kind)}"


def _write_sentence(
    best: Checkpoint,
    confidence: float,
    tested: Sequence[Claim],
    apart: Sequence[Claim],
    of_classes: str | None,
) -> str:
    """Return the statement: what holds together, what does not, what is open, and what is told
    apart.
    """
    level = format_confidence(confidence)
    together = _Sorted.sort(tested)
    single = _Sorted.sort(apart)
    if together.holds:
        parts = [f"Of {best.id} this holds at {level} together: {'; '.join(together.holds)}"]
    else:
        # beside what holds by itself, nothing would be too much said
        tested_how = "tested together" if single.holds else "tested"
        parts = [f"Nothing that was {tested_how} of {best.id} holds at {level}"]
    if together.open:
        parts.append(f"undecided: {'; '.join(together.open)}")
    if together.fails:
        against = format_confidence(FAIL_CONFIDENCE)
        fails = "; ".join(together.fails)
        parts.append(f"the images speak against this (one-sided at {against}): {fails}")
    if of_classes is not None:
        parts.append(of_classes)
    if single.holds:
        parts.append(f"besides, each by itself: {'; '.join(single.holds)}")
    if single.open:
        parts.append(f"not shown: {'; '.join(single.open)}")
    if single.fails:
        parts.append(f"missed: {'; '.join(single.fails)}")
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."
