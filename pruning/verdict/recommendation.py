"""Which checkpoint to ship, and whether the gates hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning import wording
from pruning.measurement.intervals import is_guessing
from pruning.schemas.recipe import Gates
from pruning.schemas.report import Checkpoint, Estimate, Network, Recommendation

DEFAULT_MARGIN = 0.005


@dataclass(frozen=True)
class References:
    """What checkpoints are held against."""

    given: Network
    control: Network
    control_over_given: Estimate
    """Test error of the control minus that of the network as given, paired."""
    chance: float
    """The error of guessing, on the validation images."""

    @property
    def retraining_harms(self) -> bool:
        """Whether retraining made the dense network worse, beyond the noise of the test images."""
        return self.control_over_given.low is not None and self.control_over_given.low > 0

    def warning(self) -> str:
        """What to tell a user whose retraining harms."""
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
    """The sparsest checkpoint whose validation error is within the margin of the dense control's.

    The margin is the gate `max_error_increase` where one is set, else 0.5 pp. Only the validation
    split is read, so the test error of the choice is unbiased by it; the reason says where it
    speaks against the choice. A checkpoint that does no better than guessing is never recommended.
    """
    margin = DEFAULT_MARGIN if gates.max_error_increase is None else gates.max_error_increase
    within = [
        c
        for c in checkpoints
        if c.val_error_increase.value <= margin and not is_guessing(c.val_error, references.chance)
    ]
    if within:
        best = max(within, key=lambda c: (c.sparsity, -c.val_error.value))
        return Recommendation(
            checkpoint=best.id,
            sparsity=best.sparsity,
            margin=margin,
            reason=_reason(best, margin, references),
        )
    if not checkpoints:
        return Recommendation(
            checkpoint=None, sparsity=None, margin=margin, reason="No checkpoint was finished."
        )
    nearest = min((c.val_error_increase for c in checkpoints), key=lambda gap: gap.value)
    reason = " ".join(
        [
            f"No checkpoint stays within {wording.percentage_points(margin)} of the dense control's "
            "validation error and above "
            "guessing; ship the dense network, prune less, or retrain longer.",
            *_limits(nearest, margin),
        ]
    )
    return Recommendation(checkpoint=None, sparsity=None, margin=margin, reason=reason)


def is_proven_beyond(checkpoint: Checkpoint, margin: float) -> bool:
    """Whether the test images prove a loss against the control beyond the margin: the whole
    interval lies above it.
    """
    low = checkpoint.error_increase.control.low
    return low is not None and low > margin


def _reason(best: Checkpoint, margin: float, references: References) -> str:
    gap, test, given = (
        best.val_error_increase,
        best.error_increase.control,
        best.error_increase.given,
    )
    beyond = is_proven_beyond(best, margin)
    sentences = [
        f"{'Sparsest within the margin on the validation images is' if beyond else 'Ship'} "
        f"{best.id}: "
        f"{wording.percent(best.sparsity)} of the prunable weights are pruned, and on "
        f"{wording.count_of(gap.n or 0, 'validation image')} "
        f"its error is {_apart(gap, 'the dense control')}, within the margin of "
        f"{wording.percentage_points(margin)}.",
        *_limits(gap, margin),
        f"{'Beware: on the test images' if beyond else 'On the test images, which did not enter the choice,'} its error is "
        f"{wording.percent(best.error.value, 2)}, {_apart(test, 'the control')}"
        f"{', beyond the margin' if beyond else ''}; it is {_apart(given, 'the given network')}.",
    ]
    if references.retraining_harms:
        sentences.append(f"Beware: {references.warning()}.")
    return " ".join(
        [
            *sentences,
            "Intervals hold at 95 %. Errors are nominal: nothing here speaks for data "
            "that differ from the test images.",
        ]
    )


def _limits(gap: Estimate, margin: float) -> list[str]:
    """That the validation images cannot resolve the margin, where they are too few for it."""
    if not gap.n or gap.low is None or gap.high is None or margin == 0:
        return []
    coarse = (gap.high - gap.low) / 2 > margin or 1 / gap.n > margin
    return (
        [
            f"{wording.count_of(gap.n, 'validation image')} cannot tell a difference of "
            f"{wording.percentage_points(margin)}."
        ]
        if coarse
        else []
    )


def _apart(difference: Estimate, reference: str) -> str:
    """How far an error is from that of a reference, with its interval."""
    value, bracket, interval = wording.points_with_interval(difference, 2).partition(" [")
    side = "above" if difference.value > 0 else "below"
    text = f"{value.lstrip('+' + wording.MINUS)} {side}" if difference.value else "equal to"
    return f"{text} that of {reference}{bracket}{interval}"
