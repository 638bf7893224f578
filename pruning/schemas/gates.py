"""The demands that a job makes of the recommended checkpoint."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pruning.schemas.base import Document

Points = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Distribution = Annotated[str, Field(min_length=1, max_length=64, examples=["fog 3"])]
EVALUATION_OF_GATE = {
    "max_class_increase": "class_damage",
    "max_delta_excess_error": "robustness",
    "min_prune_potential": "prune_potential",
    "min_certified_accuracy": "certificate",
}
"""The evaluation that a gate reads, for those that read one."""


class Gates(Document):
    """The demands that a pipeline may make of the recommended checkpoint.

    What is measured on images passes only where a one-sided test proves it at `confidence`, for all
    gates together (Holm). It fails where the loss lies beyond the limit by more than noise explains
    (one-sided at 75 %), and is undecided between the two. Sizes and FLOPs are counted, and pass or
    fail; a latency passes where the 95 % interval of its ratio ends at or below the limit, and
    fails where it begins above. Without a recommended checkpoint none is evaluated, and all are
    undecided.
    """

    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """The probability with which no gate passes whose limit is not kept."""
    max_error_increase: Points | None = None
    """Largest test error above that of the dense control."""
    max_delta_excess_error: Points | None = None
    """Largest excess error under the shifts of the evaluation `robustness` above that of the dense
    control.
    """
    max_class_increase: Points | None = None
    """Largest test error above that of the dense control in any class: passes where it is proven in
    each, by the evaluation `class_damage`.
    """
    min_prune_potential: Annotated[dict[Distribution, Share], Field(max_length=32)] = {}
    """Least prune potential of the recommended criterion by distribution, as the evaluation
    `prune_potential` names it (`nominal`, `fog 3`): passes where the safe limit reaches it, fails
    where the upper end of the interval does not.
    """
    min_certified_accuracy: Share | None = None
    """Least accuracy that the evaluation `certificate` promises from labelled images, at its own
    confidence.
    """
    max_size_bytes: Annotated[int, Field(ge=1)] | None = None
    """Largest size of the sparse file, in bytes."""
    max_flops: Annotated[int, Field(ge=1)] | None = None
    """Most FLOPs of one forward pass, pruned weights not counted."""
    max_latency_ratio: Annotated[float, Field(gt=0)] | None = None
    """Largest measured latency as a ratio to that of the network as given, on dense kernels: the
    largest over the batch sizes that were measured, by its 95 % interval.
    """

    def list_set(self) -> list[str]:
        """Return the names of the gates that are set.

        >>> Gates(max_flops=10, min_prune_potential={"fog 3": 0.5}).list_set()
        ['min_prune_potential', 'max_flops']
        """
        names = [name for name in type(self).model_fields if name != "confidence"]
        return [name for name in names if getattr(self, name) not in (None, {})]
