"""Which checkpoint to ship, and whether the gates hold."""

from __future__ import annotations

from collections.abc import Sequence

from pruning.schemas.recipe import Gates
from pruning.schemas.report import Checkpoint, GateResult, Recommendation

DEFAULT_MARGIN = 0.005


def recommend(checkpoints: Sequence[Checkpoint], gates: Gates) -> Recommendation:
    """The sparsest checkpoint whose validation error is within the margin of the dense control's.

    The margin is the gate `max_error_increase` where one is set, else 0.5 %. Only the validation split is read, so the
    test error of the choice is unbiased by it.
    """
    margin = DEFAULT_MARGIN if gates.max_error_increase is None else gates.max_error_increase
    within = [c for c in checkpoints if c.val_error_increase.value <= margin]
    if not within:
        reason = ("No checkpoint was finished." if not checkpoints else
                  f"No checkpoint stays within {margin:.2%} of the dense control's validation error; "
                  "ship the dense network, prune less, or retrain longer.")
        return Recommendation(checkpoint=None, sparsity=None, margin=margin, reason=reason)
    best = max(within, key=lambda c: (c.sparsity, -c.val_error.value))
    gap, test = best.val_error_increase, best.error_increase.control
    reason = (
        f"Ship {best.id}: {best.sparsity:.1%} of the prunable weights are zero and its validation error is "
        f"{_points(gap.value)} that of the dense control (95 % interval {gap.low:+.2%} to {gap.high:+.2%}, {gap.n} images), "
        f"within the margin of {margin:.2%}. On the test images, which did not enter the choice, its error is "
        f"{best.error.value:.2%}, {_points(test.value)} the control's. Errors are nominal: nothing here speaks for "
        "data that differ from the test images."
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
