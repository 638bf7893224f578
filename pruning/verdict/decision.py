"""The verdict on the recommended checkpoint: ship, undecided, or do not ship, by the test images
and the gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning import wording
from pruning.schemas.estimates import Estimate
from pruning.schemas.report import Checkpoint, Recommendation
from pruning.schemas.verdicts import GateResult, NeededImages, Outcome, RecommendationVerdict
from pruning.verdict.gates import explain_outcome, format_confidence
from pruning.verdict.increases import count_deciding_images, judge, read_increase

OPENINGS = {
    "ship": "Ship {}.",
    "undecided": "It is undecided whether {} can be shipped.",
    "do_not_ship": "Do not ship {}.",
}


def decide(
    recommendation: Recommendation,
    checkpoints: Sequence[Checkpoint],
    gates: Sequence[GateResult],
    confidence: float,
    *,
    partial: bool = False,
) -> Recommendation:
    """Return the recommendation with its verdict, and the images that would decide.

    `ship` needs every gate to pass and the test images to prove that the error increase is below
    the margin, at `confidence`: all must hold, so that each may be tested at that level. A gate
    `max_error_increase` is the test of the margin. `do_not_ship` follows from any that fails; all
    else is `undecided`, and so is what a `partial` report would ship: its job goes on.
    """
    best = next(
        (checkpoint for checkpoint in checkpoints if checkpoint.id == recommendation.checkpoint),
        None,
    )
    if best is None:
        return _decide_without_checkpoint(recommendation, confidence)
    margin = _test_margin(best, recommendation.margin, gates, confidence)
    others = [gate for gate in gates if gate.name != "max_error_increase"]
    verdict = _combine([margin.outcome, *(gate.outcome for gate in others)])
    is_early = partial and verdict == "ship"
    if is_early:
        verdict = "undecided"
    sentences = [OPENINGS[verdict].format(best.id), margin.describe(best, recommendation.margin)]
    sentences += [
        f"The gate {gate.name} {'failed' if gate.outcome == 'failed' else 'is undecided'}: "
        f"{gate.message.removeprefix(f'{best.id}: ')}."
        for gate in others
        if gate.outcome != "passed"
    ]
    if is_early:
        sentences.append(
            "The job is not finished: other checkpoints, and gates that read evaluations, may "
            "follow."
        )
    return recommendation.model_copy(
        update={
            "verdict": verdict,
            "needed": (*margin.list_needed(), *_list_needed(others, best.error.n)),
            "confidence": confidence,
            "reason": " ".join((*sentences, recommendation.reason)),
        }
    )


@dataclass(frozen=True, kw_only=True)
class _Margin:
    """The test of the margin on the test images."""

    outcome: Outcome
    name: str
    """The gate that is the test of the margin, or `margin`."""
    value: Estimate
    """The increase with its one-sided limits, where they are known."""
    confidence: float
    needed: int | None = None
    replicates: int = 1

    def describe(self, best: Checkpoint, limit: float) -> str:
        """Return what the test images say."""
        digits = wording.choose_digits_apart(self.value, limit)
        over_control = wording.points_with_interval(self.value, digits)
        ends = ""
        if self.value.low is not None:
            level = format_confidence(self.confidence)
            ends = f" (limits of the test, each end one-sided at {level})"
        explained = explain_outcome(
            self.outcome,
            low=self.value.low,
            limit=limit,
            images=self.value.n,
            needed=self.needed,
            replicates=self.replicates,
        )
        over_given = wording.points_with_interval(best.error_increase.given, 2)
        return (
            f"On the test images, which did not enter the choice, its error is "
            f"{wording.percent(best.error.value, 2)}, {over_control} against the dense control"
            f"{ends}, with the recommendation's margin of "
            f"{wording.percentage_points(limit, digits)}: {explained}. Against "
            f"the network as given it is {over_given}."
        )

    def list_needed(self) -> tuple[NeededImages, ...]:
        """Return the images that would decide, if that is open and known."""
        if self.needed is None:
            return ()
        return (
            NeededImages(what=self.name, images="test", at_hand=self.value.n, needed=self.needed),
        )


def _test_margin(
    best: Checkpoint, margin: float, gates: Sequence[GateResult], confidence: float
) -> _Margin:
    """Return the gate on the error increase as the test of the margin, else a test of its own."""
    estimate = best.error_increase.control
    variance = best.error_increase.control_variance
    replicates = 1 if variance is None else variance.replicates
    for gate in gates:
        if gate.name == "max_error_increase":
            return _Margin(
                outcome=gate.outcome,
                name=gate.name,
                value=Estimate(value=estimate.value, low=gate.low, high=gate.high, n=estimate.n),
                confidence=gate.confidence or confidence,
                needed=gate.needed,
                replicates=replicates,
            )
    increase = read_increase(estimate, best.error_increase.control_counts, variance)
    if increase is None:
        return _Margin(outcome="undecided", name="margin", value=estimate, confidence=confidence)
    low, high = increase.compute_limits(confidence)
    outcome = judge(increase, margin, 1 - confidence)
    needed = None
    if outcome == "undecided":
        needed = count_deciding_images(increase, margin, 1 - confidence)
    return _Margin(
        outcome=outcome,
        name="margin",
        value=Estimate(value=increase.value, low=low, high=high, n=estimate.n),
        confidence=confidence,
        needed=needed,
        replicates=replicates,
    )


def _combine(outcomes: Sequence[Outcome]) -> RecommendationVerdict:
    if "failed" in outcomes:
        return "do_not_ship"
    return "undecided" if "undecided" in outcomes else "ship"


def _list_needed(gates: Sequence[GateResult], images: int | None) -> list[NeededImages]:
    """Return the images in all that would decide the gates that are open, beside the test images at
    hand; a gate on a class counts the images of all classes.
    """
    return [
        NeededImages(
            what=gate.name,
            images="test",
            at_hand=images,
            needed=gate.needed,
        )
        for gate in gates
        if gate.needed is not None
    ]


def _decide_without_checkpoint(recommendation: Recommendation, confidence: float) -> Recommendation:
    """Return the verdict where no checkpoint is recommended: under a guideline for shifts it is not
    to ship, else that of the validation images stays.
    """
    verdict = recommendation.verdict or "do_not_ship"
    if recommendation.shifts is not None:
        verdict = "do_not_ship"
    return recommendation.model_copy(
        update={
            "verdict": verdict,
            "needed": recommendation.needed if verdict == "undecided" else (),
            "confidence": confidence,
        }
    )
