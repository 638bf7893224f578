"""The choice of the checkpoint to ship, on the validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning import wording
from pruning.schemas.recipe import Gates
from pruning.schemas.report import Checkpoint, Estimate, Network, Recommendation

DEFAULT_MARGIN = 0.005
"""The error increase that is tolerated where no gate sets one."""


@dataclass(frozen=True)
class References:
    """The dense networks that checkpoints are compared with."""

    given: Network
    control: Network
    control_over_given: Estimate
    """Test error of the control minus that of the network as given, paired."""

    @property
    def retraining_harms(self) -> bool:
        """Whether retraining made the dense network worse, beyond the noise of the test images."""
        return self.control_over_given.low is not None and self.control_over_given.low > 0

    def warning(self) -> str:
        """Return the warning to a user whose retraining harms."""
        return (
            "retraining alone raised the error of the dense network from "
            f"{wording.percent(self.given.error.value, 2)} to "
            f"{wording.percent(self.control.error.value, 2)}: what is compared with "
            "the control looks better than it is; change the retraining (a smaller learning "
            "rate, more "
            "epochs, other augmentation)"
        )


def recommend(
    checkpoints: Sequence[Checkpoint], gates: Gates, references: References
) -> Recommendation:
    """Return the sparsest checkpoint whose validation error is within the margin of the dense
    control's.

    The margin is the gate `max_error_increase` where one is set, else 0.5 pp. Only the validation
    split is read, so the test error of the choice is unbiased by it; the reason says where it
    speaks against the choice. A checkpoint that does no better than guessing is never recommended.
    """
    margin = DEFAULT_MARGIN if gates.max_error_increase is None else gates.max_error_increase
    within = [
        checkpoint
        for checkpoint in checkpoints
        if checkpoint.val_error_increase.value <= margin and not checkpoint.guesses
    ]
    if within:
        # of two checkpoints equally sparse, the one with the smaller validation error
        best = max(within, key=lambda candidate: (candidate.sparsity, -candidate.val_error.value))
        return Recommendation(
            checkpoint=best.id,
            sparsity=best.sparsity,
            margin=margin,
            reason=_explain_choice(best, margin, references),
        )
    reason = _explain_refusal(checkpoints, margin)
    return Recommendation(checkpoint=None, sparsity=None, margin=margin, reason=reason)


def is_proven_beyond(checkpoint: Checkpoint, margin: float) -> bool:
    """Whether the test images prove a loss against the control beyond the margin: the whole
    interval lies above it.
    """
    low = checkpoint.error_increase.control.low
    return low is not None and low > margin


def _explain_choice(best: Checkpoint, margin: float, references: References) -> str:
    gap = best.val_error_increase
    sentences = [
        _describe_validation(best, margin),
        *_warn_of_resolution(gap, margin),
        _describe_test(best, margin),
    ]
    if references.retraining_harms:
        sentences.append(f"Beware: {references.warning()}.")
    sentences.append(
        "Intervals hold at 95 %. Errors are nominal: nothing here speaks for data that differ from "
        "the test images."
    )
    return " ".join(sentences)


def _describe_validation(best: Checkpoint, margin: float) -> str:
    """Return the sentence about what decided: sparsity, and the error on the validation images."""
    gap = best.val_error_increase
    verb = "Ship"
    if is_proven_beyond(best, margin):
        verb = "Sparsest within the margin on the validation images is"
    return (
        f"{verb} {best.id}: {wording.percent(best.sparsity)} of the prunable weights are pruned, "
        f"and on {wording.count_of(gap.n or 0, 'validation image')} its error is "
        f"{_describe_difference(gap, 'the dense control')}, within the margin of "
        f"{wording.percentage_points(margin)}."
    )


def _describe_test(best: Checkpoint, margin: float) -> str:
    """Return the sentence about the test images, which may prove the choice wrong."""
    is_beyond = is_proven_beyond(best, margin)
    opening = "On the test images, which did not enter the choice,"
    if is_beyond:
        opening = "Beware: on the test images"
    over_control = _describe_difference(best.error_increase.control, "the control")
    over_given = _describe_difference(best.error_increase.given, "the given network")
    return (
        f"{opening} its error is {wording.percent(best.error.value, 2)}, {over_control}"
        f"{', beyond the margin' if is_beyond else ''}; it is {over_given}."
    )


def _explain_refusal(checkpoints: Sequence[Checkpoint], margin: float) -> str:
    """Return why no checkpoint is recommended."""
    if not checkpoints:
        return "No checkpoint was finished."
    gaps = [checkpoint.val_error_increase for checkpoint in checkpoints]
    nearest = min(gaps, key=lambda gap: gap.value)
    sentences = [
        f"No checkpoint stays within {wording.percentage_points(margin)} of the dense control's "
        "validation error and above guessing; ship the dense network, prune less, or retrain "
        "longer.",
        *_warn_of_resolution(nearest, margin),
    ]
    return " ".join(sentences)


def _warn_of_resolution(gap: Estimate, margin: float) -> list[str]:
    """Return a warning where the validation images are too few to resolve the margin."""
    if not gap.n or gap.low is None or gap.high is None or margin == 0:
        return []
    half_width = (gap.high - gap.low) / 2
    if half_width <= margin and 1 / gap.n <= margin:
        return []
    images = wording.count_of(gap.n, "validation image")
    return [f"{images} cannot tell a difference of {wording.percentage_points(margin)}."]


def _describe_difference(difference: Estimate, reference: str) -> str:
    """Return how far an error is from that of a reference, with its interval."""
    value, bracket, interval = wording.points_with_interval(difference, 2).partition(" [")
    text = "equal to"
    if difference.value:
        side = "above" if difference.value > 0 else "below"
        text = f"{value.lstrip('+' + wording.MINUS)} {side}"
    return f"{text} that of {reference}{bracket}{interval}"
