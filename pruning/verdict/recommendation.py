"""The choice of the checkpoint to ship, on the validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning import wording
from pruning.measurement.needed_images import round_up_images
from pruning.schemas.gates import Gates
from pruning.schemas.report import Checkpoint, Estimate, Network, Recommendation
from pruning.schemas.targets import RequestedIncrease
from pruning.schemas.verdicts import NeededImages
from pruning.verdict.increases import count_deciding_images, judge, read_increase

DEFAULT_MARGIN = 0.005
"""The error increase that is tolerated where neither a gate nor a target sets one."""


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


def find_margin(gates: Gates, limits: Sequence[float] | None = None) -> float:
    """Return the error increase that is tolerated: the gate `max_error_increase` where one is set,
    else the largest of the limits that the job's targets are told in, else 0.5 pp.

    >>> find_margin(Gates()), find_margin(Gates(), (0.01, 0.02))
    (0.005, 0.02)
    """
    if gates.max_error_increase is not None:
        return gates.max_error_increase
    return max(limits) if limits else DEFAULT_MARGIN


def recommend(
    checkpoints: Sequence[Checkpoint], gates: Gates, references: References
) -> Recommendation:
    """Return the checkpoint of the largest target whose validation error is within the margin of
    the dense control's; `verdict.decision` judges it on the test images.

    The margin is that of `find_margin`. Of several at one
    target the one with the smallest validation error is chosen, of equals the fastest by measured
    latency, then the one with the smallest file. Only the validation split is read, so the test
    error of the choice is unbiased by it. A checkpoint that does no better than guessing is never
    recommended. Where none is within the margin, the verdict is `undecided` if the validation
    images cannot tell that, else `do_not_ship`.
    """
    limits = [
        checkpoint.requested.value
        for checkpoint in checkpoints
        if isinstance(checkpoint.requested, RequestedIncrease)
    ]
    margin = find_margin(gates, limits)
    candidates = [checkpoint for checkpoint in checkpoints if not checkpoint.guesses]
    within = [
        checkpoint for checkpoint in candidates if checkpoint.val_error_increase.value <= margin
    ]
    if not within:
        return _recommend_none(checkpoints, candidates, margin)
    best = max(within, key=_rank)
    return Recommendation(
        checkpoint=best.id,
        sparsity=best.sparsity,
        margin=margin,
        reason=_explain_choice(best, checkpoints, margin, references),
    )


def has_lost_channels(given: Network, checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is physically smaller than the network as given: its dense file
    is, by a byte or more for each parameter removed.
    """
    dense = given.size_bytes.get("dense")
    own = checkpoint.size_bytes.get("dense")
    removed = given.parameters - checkpoint.parameters
    return dense is not None and own is not None and 0 < removed <= dense - own


def find_latency_ratio(checkpoint: Checkpoint) -> float | None:
    """Return the largest measured latency as a ratio to that of the network as given, over the
    batch sizes.
    """
    ratios = [
        item.against_given for item in checkpoint.latency_ms if item.against_given is not None
    ]
    return max(ratios, default=None)


def _rank(checkpoint: Checkpoint) -> tuple[float, float, float, float]:
    """Return the key by which candidates are compared, the best one largest.

    The target that was asked for comes first, and not the realised sparsity: methods realise a
    target with rounding differences, which say nothing about which network is better.
    """
    latency = find_latency_ratio(checkpoint)
    return (
        checkpoint.removal,
        -checkpoint.val_error.value,
        -latency if latency is not None else float("-inf"),
        -checkpoint.size_bytes.get("sparse", 0),
    )


def _recommend_none(
    checkpoints: Sequence[Checkpoint], candidates: Sequence[Checkpoint], margin: float
) -> Recommendation:
    """Return the recommendation where no candidate is within the margin on validation images."""
    if not checkpoints:
        return Recommendation(
            checkpoint=None,
            sparsity=None,
            margin=margin,
            reason="No checkpoint was finished.",
            verdict="do_not_ship",
        )
    reason = (
        "No checkpoint's validation error stays within the recommendation's margin, "
        f"{wording.percentage_points(margin)} above that of the dense control, with an error below "
        "that of guessing."
    )
    needed: tuple[NeededImages, ...] = ()
    is_open = False
    if candidates:
        nearest = min(candidates, key=lambda candidate: candidate.val_error_increase.value)
        increase = read_increase(
            nearest.val_error_increase, nearest.val_counts, nearest.val_variance
        )
        is_open = increase is not None and judge(increase, margin, 0.0) == "undecided"
        if is_open and increase is not None:
            gap = _describe_difference(nearest.val_error_increase, "the dense control", margin)
            images = wording.count_of(nearest.val_error_increase.n or 0, "validation image")
            reason += (
                f" {images} cannot tell that: the error of {nearest.id}, the nearest, is {gap}, "
                "beyond the margin by no more than noise explains."
            )
            count = count_deciding_images(increase, margin, 0.0)
            if count is not None:
                about = wording.count(round_up_images(count))
                reason += (
                    f" About {about} validation images would tell in four of five cases, were the "
                    "loss as measured."
                )
                needed = (
                    NeededImages(
                        what="margin", images="validation", at_hand=increase.images, needed=count
                    ),
                )
    if not is_open:
        reason += " Ship the dense network, prune less, or retrain longer."
    return Recommendation(
        checkpoint=None,
        sparsity=None,
        margin=margin,
        reason=reason,
        verdict="undecided" if is_open else "do_not_ship",
        needed=needed,
    )


def _explain_choice(
    best: Checkpoint, checkpoints: Sequence[Checkpoint], margin: float, references: References
) -> str:
    gap = best.val_error_increase
    sentences = [
        f"{best.id} was chosen on {wording.count_of(gap.n or 0, 'validation image')}, where its "
        f"error is {_describe_difference(gap, 'the dense control', margin)}, within the "
        f"recommendation's margin of {wording.percentage_points(margin)}; "
        f"{wording.percent(best.sparsity)} of the prunable weights are pruned.",
        *_warn_of_resolution(gap, margin),
        *_describe_latencies(best, checkpoints, references.given),
    ]
    if references.retraining_harms:
        sentences.append(f"Beware: {references.warning()}.")
    sentences.append(
        "Intervals are at 95 % where no other level is named. The choice is by nominal errors: it "
        "says nothing of data that differ from them."
    )
    return " ".join(sentences)


def _describe_latencies(
    best: Checkpoint, checkpoints: Sequence[Checkpoint], given: Network
) -> list[str]:
    """Return what checkpoints of the same target gain in measured latency where whole channels
    were removed.
    """
    sentences = []
    for checkpoint in checkpoints:
        ratio = find_latency_ratio(checkpoint)
        is_rival = checkpoint.removal == best.removal
        if ratio is None or not is_rival or not has_lost_channels(given, checkpoint):
            continue
        text = (
            f"{checkpoint.id}, whose channels were removed, takes {ratio:.2f}× the time of the "
            "network as given"
        )
        if checkpoint is not best:
            text += f", with a validation error of {wording.percent(checkpoint.val_error.value)}"
        sentences.append(f"{text}.")
    if sentences:
        sentences.append("Ratios of times are the largest over the batch sizes that were timed.")
    return sentences


def _warn_of_resolution(gap: Estimate, margin: float) -> list[str]:
    """Return a warning where the validation images are too few to resolve the margin."""
    if not gap.n or gap.low is None or gap.high is None or margin == 0:
        return []
    half_width = (gap.high - gap.low) / 2
    if half_width <= margin and 1 / gap.n <= margin:
        return []
    images = wording.count_of(gap.n, "validation image")
    return [f"{images} cannot tell a difference of {wording.percentage_points(margin)}."]


def _describe_difference(difference: Estimate, reference: str, margin: float) -> str:
    """Return how far an error is from that of a reference, with its interval, and with digits
    enough to tell it from the margin.
    """
    digits = wording.choose_digits_apart(Estimate(value=difference.value), margin)
    value, bracket, interval = wording.points_with_interval(difference, digits).partition(" [")
    if not difference.value:
        unit = " pp" if bracket else ""
        return f"equal to that of {reference}{bracket}{interval}{unit}"
    side = "above" if difference.value > 0 else "below"
    text = f"{value.lstrip('+' + wording.MINUS)} {side}"
    return f"{text} that of {reference}{bracket}{interval}"
