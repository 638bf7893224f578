"""Checkpoints compared with the dense network, right after pruning and after retraining, for the
evaluation `approximation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pruning.analysis.distance_findings import Change
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.output_distances import (
    Deviations,
    average_finite,
    average_paired_change,
)
from pruning.measurement.intervals import binomial_interval
from pruning.measurement.measure import Measured, estimate_increase
from pruning.schemas.report import Estimate, Unit

BEFORE, AFTER = "before", "after"
"""The two phases: right after pruning, and after retraining."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A distance of a network from the dense one: the larger, the further away."""

    words: str
    label: str
    """The label of its axis."""
    column: str
    """Its column in tables."""
    read: Callable[[Deviations], Tensor]
    """Reads its value for each image."""
    unit: Unit = "number"
    change_unit: Unit = "number"
    """The unit of its change."""


QUANTITIES: Mapping[str, Quantity] = {
    "layers": Quantity(
        words="hidden layers",
        label="mean relative error of hidden layers",
        column="relative_error_hidden_layers",
        read=lambda distances: distances.hidden,
    ),
    "logits": Quantity(
        words="logits",
        label="relative error of logits",
        column="relative_error_logits",
        read=lambda distances: distances.logits,
    ),
    "centred": Quantity(
        words="centred logits",
        label="relative error of centred logits",
        column="relative_error_centred_logits",
        read=lambda distances: distances.centred,
    ),
    "softmax": Quantity(
        words="softmax",
        label="distance of softmax outputs",
        column="softmax_distance",
        read=lambda distances: distances.softmax,
    ),
    "kl": Quantity(
        words="KL divergence",
        label="KL divergence of softmax outputs",
        column="kl_divergence",
        read=lambda distances: distances.kl,
        unit="nats",
        change_unit="nats_difference",
    ),
}


@dataclass(frozen=True)
class ComparedCheckpoint:
    """A checkpoint, and by phase its distances from the dense network and its measurement."""

    round: RoundRecord
    by_phase: Mapping[str, tuple[Deviations, Measured]]

    @staticmethod
    def from_round(
        round_record: RoundRecord, record: JobRecord, compare: Callable[[nn.Module], Deviations]
    ) -> ComparedCheckpoint:
        """Compare the networks of a target that were kept."""
        by_phase: dict[str, tuple[Deviations, Measured]] = {}
        if round_record.retrained is None and not record.pruned_untrained:
            by_phase[BEFORE] = compare(round_record.full_size()), round_record.pruned
        else:
            unretrained = round_record.unretrained()
            if unretrained is not None:
                by_phase[BEFORE] = compare(unretrained), round_record.pruned
        if round_record.retrained is not None:
            by_phase[AFTER] = compare(round_record.full_size()), round_record.retrained
        return ComparedCheckpoint(round_record, by_phase)

    @property
    def in_both_phases(self) -> bool:
        """Whether it was compared right after pruning and after retraining."""
        return len(self.by_phase) == 2

    @property
    def any_distances(self) -> Deviations:
        """The distances of the first phase: what depends on the dense network alone is the same in
        both.
        """
        return next(iter(self.by_phase.values()))[0]

    def estimate(self, name: str, phase: str) -> Estimate | None:
        """A quantity's mean, the accuracy or the agreement; None for a mean that is not finite."""
        distances, measured = self.by_phase[phase]
        if name in ("accuracy", "agreement"):
            flags = ~measured.wrong if name == "accuracy" else distances.agrees
            return binomial_interval(int(flags.sum()), len(flags))
        quantity = QUANTITIES[name]
        value = average_finite(quantity.read(distances))
        return None if value is None else value.in_unit(quantity.unit)

    def row(self, phase: str) -> dict[str, Any]:
        """The row of a phase's table."""
        columns = {"accuracy": "accuracy"}
        columns |= {name: quantity.column for name, quantity in QUANTITIES.items()}
        columns["agreement"] = "agreement"
        return {"checkpoint": self.round.id, "sparsity": self.round.sparsity} | {
            column: _to_document(self.estimate(name, phase)) for name, column in columns.items()
        }

    def layer_rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the table of layers."""
        for layer in self.any_distances.layers:
            values = {
                phase: distances.layers[layer] for phase, (distances, _) in self.by_phase.items()
            }
            row = {"checkpoint": self.round.id, "sparsity": self.round.sparsity, "layer": layer}
            for phase, errors in values.items():
                row[f"relative_error_{phase}"] = _to_document(average_finite(errors))
            if self.in_both_phases:
                row["relative_error_change"] = _to_document(
                    average_paired_change(values[BEFORE], values[AFTER])
                )
            row["images_left_out"] = int(next(iter(values.values())).isnan().sum())
            yield row

    def change(self) -> Change:
        """The changes of its accuracy and of its distances by retraining."""
        before, pruned = self.by_phase[BEFORE]
        after, retrained = self.by_phase[AFTER]
        error = self.estimate("layers", BEFORE)
        return Change(
            self.round.id,
            estimate_increase(pruned.wrong, retrained.wrong),
            {
                quantity.words: average_paired_change(quantity.read(before), quantity.read(after))
                for quantity in QUANTITIES.values()
            },
            None if error is None else error.value,
        )

    def change_row(self) -> dict[str, Any]:
        """The row of the table of changes."""
        change = self.change()
        row = {
            "checkpoint": self.round.id,
            "sparsity": self.round.sparsity,
            "accuracy_increase": change.accuracy.model_dump(),
        }
        for quantity in QUANTITIES.values():
            value = change.errors[quantity.words]
            if value is not None:
                value = value.in_unit(quantity.change_unit)
            row[f"change_{quantity.column}"] = _to_document(value)
        return row


def _to_document(value: Estimate | None) -> dict[str, Any] | None:
    return None if value is None else value.model_dump()
