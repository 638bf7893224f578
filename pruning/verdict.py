"""Which checkpoint to ship, and whether the gates hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.intervals import guesses
from pruning.schemas.recipe import Gates
from pruning.schemas.report import Checkpoint, Estimate, GateResult, Network, Recommendation

DEFAULT_MARGIN = 0.005


@dataclass(frozen=True)
class References:
    """What checkpoints are held against."""

    given: Network
    control: Network
    control_over_given: Estimate
    """Test error of the control minus that of the network as given, paired."""
    classes: int

    @property
    def retraining_harms(self) -> bool:
        """Whether retraining made the dense network worse, beyond the noise of the test images."""
        return self.control_over_given.low is not None and self.control_over_given.low > 0

    def warning(self) -> str:
        """What to tell a user whose retraining harms."""
        return (f"retraining alone raised the error of the dense network from {self.given.error.value:.2%} to "
                f"{self.control.error.value:.2%}: what is compared with the control looks better than it is; change the "
                "retraining (a smaller learning rate, more epochs, other augmentation)")


def recommend(checkpoints: Sequence[Checkpoint], gates: Gates, references: References) -> Recommendation:
    """The sparsest checkpoint whose validation error is within the margin of the dense control's.

    The margin is the gate `max_error_increase` where one is set, else 0.5 %. Only the validation split is read, so the
    test error of the choice is unbiased by it. A checkpoint that does no better than guessing is never recommended.
    """
    margin = DEFAULT_MARGIN if gates.max_error_increase is None else gates.max_error_increase
    within = [c for c in checkpoints
              if c.val_error_increase.value <= margin and not guesses(c.val_error, references.classes)]
    if not within:
        reason = ("No checkpoint was finished." if not checkpoints else
                  f"No checkpoint stays within {margin:.2%} of the dense control's validation error and above guessing; "
                  "ship the dense network, prune less, or retrain longer.")
        return Recommendation(checkpoint=None, sparsity=None, margin=margin, reason=reason)
    best = max(within, key=lambda c: (c.sparsity, -c.val_error.value))
    gap, test, given = best.val_error_increase, best.error_increase.control, best.error_increase.given
    reason = (
        f"Ship {best.id}: {best.sparsity:.1%} of the prunable weights are zero and its validation error is "
        f"{_points(gap.value)} that of the dense control (95 % interval {gap.low:+.2%} to {gap.high:+.2%}, {gap.n} images), "
        f"within the margin of {margin:.2%}. On the test images, which did not enter the choice, its error is "
        f"{best.error.value:.2%}: {_points(test.value)} the control's and {_points(given.value)} the given network's. "
        + (f"Beware: {references.warning()}. " if references.retraining_harms else "")
        + "Errors are nominal: nothing here speaks for data that differ from the test images."
    )
    return Recommendation(checkpoint=best.id, sparsity=best.sparsity, margin=margin, reason=reason)


def hold_gates(checkpoints: Sequence[Checkpoint], recommendation: Recommendation, gates: Gates) -> tuple[GateResult, ...]:
    """Each gate held against the recommended checkpoint on the test split; without a recommendation it fails."""
    limit = gates.max_error_increase
    if limit is None:
        return ()
    best = next((c for c in checkpoints if c.id == recommendation.checkpoint), None)
    measured = best.error_increase.control if best is not None else None
    passed = measured is not None and measured.value <= limit
    message = ("no checkpoint could be recommended" if best is None or measured is None else
               f"{best.id}: test error {measured.value:+.2%} against the dense control, limit {limit:+.2%}")
    return (GateResult(name="max_error_increase", limit=limit, checkpoint=recommendation.checkpoint, measured=measured,
                       passed=passed, message=message),)


def _points(value: float) -> str:
    return f"{abs(value):.2%} {'above' if value > 0 else 'below'}" if value else "equal to"
