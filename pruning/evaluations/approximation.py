"""The distance of pruned networks from the dense one, layer by layer, right after pruning and
after retraining.

Source: Gordon, When are approximation bounds useful?, ICLR 2021 submission; the definitions of this
evaluation are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from pruning import wording
from pruning.analysis.distance_findings import (
    CAUTION,
    Correlation,
    check_recovery_claim,
    correlate_with_accuracy,
)
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.output_distances import (
    BATCH,
    Deviations,
    average_finite,
    measure_output_distances,
)
from pruning.data.subsets import draw_subset
from pruning.data.tensors import Split
from pruning.evaluations import evaluations
from pruning.evaluations._compared_checkpoints import (
    AFTER,
    BEFORE,
    QUANTITIES,
    ComparedCheckpoint,
)
from pruning.schemas.report import Curve, Estimate, Section, Unit
from pruning.seeding import generator

TITLE = "Approximation of the dense network"
NOTES = (
    "Everything is relative to the dense network as given. A layer's error is the Euclidean "
    "distance of its outputs (before the activation function) from the dense network's, over the "
    "size of the latter: 0 is the same, 1 as far off as if the layer put out nothing. The hidden "
    "layers are all but the last, averaged. A removed channel counts as zero.",
    "What is added to all logits of an image alike, the softmax does not see: centred logits are "
    "without it. The distance of softmax outputs is Euclidean, the KL divergence that from the "
    "dense network's; agreement is the share of images on which both networks name the same "
    "class.",
)


@evaluations.register("approximation")
@dataclass(frozen=True)
class Approximation:
    """Distance of every checkpoint from the dense network, before and after retraining.

    The distances are of layers, logits and softmax outputs:
    e_l = mean over images x of ||a'_l(x) - a_l(x)||_2 / ||a_l(x)||_2, a_l the outputs of layer l of
    the dense network as given, a'_l those of the pruned one; see
    `pruning.analysis.output_distances`. Spearman's rho of each distance and the accuracy over all
    checkpoints has a percentile bootstrap interval and a permutation test at 5 %.
    """

    version: ClassVar[int] = 3
    reads_unretrained: ClassVar[bool] = True
    images: Annotated[
        int, Field(ge=1, description="test images to compare on, the same for all networks")
    ] = 1000

    def applies(self, record: JobRecord) -> bool:
        """Return whether there is a checkpoint to compare layer by layer."""
        return bool(_list_aligned(record))

    def units(self, size: JobSize) -> int:
        """Return the forward passes of the dense network beside the control and beside every
        checkpoint, right after pruning and retrained.
        """
        return 2 * min(self.images, size.images["test"]) * (1 + 2 * size.checkpoints)

    def evaluate(self, record: JobRecord) -> Section:
        """Return curves such as `layers_before/<criterion>` and `layers_after/...`, tables, rank
        correlations and findings.
        """
        aligned, others = _list_aligned(record), _explain_others(record)
        if not aligned:
            return Section(title=TITLE, version=self.version, notes=others)
        sample = self._draw_sample(record)
        dense = record.dense()

        def compare(network: nn.Module) -> Deviations:
            record.advance(2 * len(sample))
            batches = (images for images, _ in record.data.batches(sample, BATCH))
            return measure_output_distances(dense, network, batches)

        checkpoints = [ComparedCheckpoint.from_round(row, record, compare) for row in aligned]
        by_phase = _group_by_phase(checkpoints)
        phase_names = _name_phases(record)
        correlations = {
            phase: list(_correlate(record.seed, phase, group)) for phase, group in by_phase.items()
        }
        scalars = _list_rhos(correlations)
        findings: list[str] = []
        if len(by_phase) == 2:
            control = compare(record.control.network())
            scalars |= _measure_control(control)
            changes = [row.change() for row in checkpoints if row.in_both_phases]
            findings += check_recovery_claim(changes)
            findings += _describe_control(average_finite(control.hidden))
        for phase, group in by_phase.items():
            against = f"accuracy {phase_names[phase]}"
            findings += Correlation.sentences(correlations[phase], against, len(group))
        details = _tabulate(checkpoints, by_phase, phase_names)
        details["rank_correlation_with_accuracy"] = [
            correlation.row() for group in correlations.values() for correlation in group
        ]
        return Section(
            title=TITLE,
            version=self.version,
            scalars=scalars,
            curves=_draw_curves(checkpoints),
            notes=(
                *findings,
                *others,
                CAUTION,
                *_describe_overflows(checkpoints, phase_names),
                *_describe_left_out(checkpoints),
                *_explain_missing(record, checkpoints),
                *NOTES,
                _describe_sample(len(sample), len(record.data.test)),
            ),
            details={name: rows for name, rows in details.items() if rows},
            units={"sparsity": "share"},
            labels=_label(phase_names),
        )

    def _draw_sample(self, record: JobRecord) -> Split:
        labels = record.data.test.labels
        count = min(self.images, len(labels))
        rng = generator(record.seed, "approximation")
        chosen, _ = draw_subset(labels.cpu(), count, "plain", rng)
        return record.data.test[chosen.to(labels.device)]


def _list_aligned(record: JobRecord) -> list[RoundRecord]:
    """The checkpoints whose layers have those of the dense network to be compared with."""
    return [row for row in record.rounds if row.target is not None and row.own_architecture is None]


def _explain_others(record: JobRecord) -> tuple[str, ...]:
    """A note on the checkpoints whose layers cannot be compared; none without any."""
    ids = [row.id for row in record.rounds if row.own_architecture is not None]
    if not ids:
        return ()
    names = ", ".join(ids)
    return (f"Left out, because they are of another architecture than the dense network: {names}.",)


def _group_by_phase(
    checkpoints: Sequence[ComparedCheckpoint],
) -> dict[str, list[ComparedCheckpoint]]:
    """The checkpoints that were compared in each phase; no phase without any."""
    groups = {
        phase: [checkpoint for checkpoint in checkpoints if phase in checkpoint.by_phase]
        for phase in (BEFORE, AFTER)
    }
    return {phase: group for phase, group in groups.items() if group}


def _name_phases(record: JobRecord) -> dict[str, str]:
    return {
        BEFORE: "right after pruning",
        AFTER: "after training" if record.pruned_untrained else "after retraining",
    }


def _label(phase_names: Mapping[str, str]) -> dict[str, str]:
    """The words of the names of scalars, curves and columns."""
    labels = {name: quantity.words for name, quantity in QUANTITIES.items()}
    for phase, words in phase_names.items():
        labels[f"spearman_{phase}"] = f"Spearman's rho with the accuracy {words}"
        labels |= {f"{name}_{phase}": words for name in ("accuracy", "agreement", *QUANTITIES)}
        labels[f"relative_error_{phase}"] = f"relative error {words}"
    return labels | {"kl_divergence": "KL divergence", "change_kl_divergence": "change of KL"}


def _list_rhos(correlations: Mapping[str, Sequence[Correlation]]) -> dict[str, Estimate]:
    """The scalars of the rank correlations that are defined, by phase and quantity."""
    return {
        f"spearman_{phase}/{correlation.name}": correlation.rho
        for phase, group in correlations.items()
        for correlation in group
        if correlation.rho is not None
    }


def _describe_sample(images: int, test_images: int) -> str:
    return (
        f"Means are over {wording.count_of(images, 'test image')} of "
        f"{wording.count(test_images)}, the same for all networks, with 95 % intervals; "
        "accuracies are of all test images."
    )


def _measure_control(control: Deviations) -> dict[str, Estimate]:
    """The scalars of the dense control: every distance whose mean is finite."""
    scalars = {}
    for quantity in QUANTITIES.values():
        distance = average_finite(quantity.read(control))
        if distance is not None:
            scalars[f"{quantity.label}, dense control"] = distance.in_unit(quantity.unit)
    return scalars


def _tabulate(
    checkpoints: Sequence[ComparedCheckpoint],
    by_phase: Mapping[str, Sequence[ComparedCheckpoint]],
    phase_names: Mapping[str, str],
) -> dict[str, list[dict[str, Any]]]:
    """The tables of checkpoints by phase, of changes by retraining, and of layers."""
    details = {
        f"checkpoints_{phase_names[phase].replace(' ', '_')}": [
            checkpoint.row(phase) for checkpoint in group
        ]
        for phase, group in by_phase.items()
    }
    details["change_by_retraining"] = [
        checkpoint.change_row() for checkpoint in checkpoints if checkpoint.in_both_phases
    ]
    details["layers"] = [row for checkpoint in checkpoints for row in checkpoint.layer_rows()]
    return details


def _correlate(
    seed: int, phase: str, checkpoints: Sequence[ComparedCheckpoint]
) -> Iterator[Correlation]:
    """The rank correlation of every quantity, and of the disagreement, with the accuracy, each over
    the checkpoints that have both.
    """
    for name, quantity in QUANTITIES.items():
        pairs = _pair_with_accuracy(checkpoints, name, phase)
        yield correlate_with_accuracy(seed, phase, name, quantity.words, pairs)
    agreements = _pair_with_accuracy(checkpoints, "agreement", phase)
    pairs = [(1 - agreement, accuracy) for agreement, accuracy in agreements]
    yield correlate_with_accuracy(seed, phase, "disagreement", "disagreement", pairs)


def _pair_with_accuracy(
    checkpoints: Sequence[ComparedCheckpoint], name: str, phase: str
) -> list[tuple[float, float]]:
    """Pairs (value, accuracy) of the checkpoints that have both."""
    pairs = []
    for checkpoint in checkpoints:
        value = checkpoint.estimate(name, phase)
        accuracy = checkpoint.estimate("accuracy", phase)
        if value is not None and accuracy is not None:
            pairs.append((value.value, accuracy.value))
    return pairs


def _draw_curves(checkpoints: Sequence[ComparedCheckpoint]) -> dict[str, Curve]:
    """The curves over sparsity, by quantity, phase and criterion."""
    axes: dict[str, tuple[str, Unit]] = {"accuracy": ("test accuracy", "fraction")}
    axes |= {name: (quantity.label, quantity.unit) for name, quantity in QUANTITIES.items()}
    axes["agreement"] = ("agreement with the dense network", "fraction")
    curves: dict[str, Curve] = {}
    for name, axis in axes.items():
        for label in dict.fromkeys(checkpoint.round.label for checkpoint in checkpoints):
            group = [checkpoint for checkpoint in checkpoints if checkpoint.round.label == label]
            for phase in (BEFORE, AFTER):
                curve = _draw_curve(group, name, phase, axis)
                if curve is not None:
                    curves[f"{name}_{phase}/{label}"] = curve
    return curves


def _draw_curve(
    checkpoints: Sequence[ComparedCheckpoint], name: str, phase: str, axis: tuple[str, Unit]
) -> Curve | None:
    """The curve of one criterion's checkpoints on an axis of that label and unit; None where no
    value is finite.
    """
    sparsities, values = [], []
    for checkpoint in checkpoints:
        value = checkpoint.estimate(name, phase) if phase in checkpoint.by_phase else None
        if value is not None:
            sparsities.append(checkpoint.round.sparsity)
            values.append(value)
    if not values:
        return None
    y_label, y_unit = axis
    return Curve.over_sparsity(sparsities, values, y_label=y_label, y_unit=y_unit)


def _explain_missing(record: JobRecord, checkpoints: Sequence[ComparedCheckpoint]) -> list[str]:
    """The reason why networks right after pruning are not compared."""
    if record.pruned_untrained:
        return [
            "The job prunes before it trains: right after pruning there is only an untrained "
            "network, so the trained ones alone are compared. They are trained from the dense "
            "network's own initialisation."
        ]
    missing = [
        checkpoint.round.id for checkpoint in checkpoints if BEFORE not in checkpoint.by_phase
    ]
    if not missing:
        return []
    return [
        "Compared after retraining alone, as the network right after pruning was not kept: "
        f"{', '.join(missing)}."
    ]


def _describe_left_out(checkpoints: Sequence[ComparedCheckpoint]) -> list[str]:
    """The images and layers for which no relative error exists; they depend on the dense network
    alone.
    """
    if not checkpoints:
        return []
    distances = checkpoints[0].any_distances
    outputs = {
        **distances.layers,
        "logits": distances.logits,
        "centred logits": distances.centred,
    }
    zero = [
        f"{name or 'the network'} on {wording.count_of(int(values.isnan().sum()), 'image')}"
        for name, values in outputs.items()
        if bool(values.isnan().any())
    ]
    notes = []
    if zero:
        notes.append(
            "Outputs of the dense network that are zero, to which nothing is relative, are left "
            f"out: {', '.join(zero)}."
        )
    if distances.unmatched:
        notes.append(
            f"Left out, without one output for each image: {', '.join(distances.unmatched)}."
        )
    return notes


def _describe_overflows(
    checkpoints: Sequence[ComparedCheckpoint], phase_names: Mapping[str, str]
) -> list[str]:
    """The networks that overflow: a mean without the images that do would flatter them."""
    notes = []
    for checkpoint in checkpoints:
        for phase, (distances, _) in checkpoint.by_phase.items():
            outputs = {
                **distances.layers,
                "logits": distances.logits,
                "centred logits": distances.centred,
                "softmax": distances.softmax,
                "KL divergence": distances.kl,
            }
            infinite = {
                name or "the network": int(values.isinf().sum())
                for name, values in outputs.items()
                if bool(values.isinf().any())
            }
            if not infinite:
                continue
            names = ", ".join(infinite)
            if bool(distances.hidden.isinf().any()):
                names += " nor of the hidden layers"
            notes.append(
                f"{checkpoint.round.id} {phase_names[phase]} overflows (infinite or not a number) "
                f"on up to {wording.count_of(max(infinite.values()), 'image')}: no mean is given "
                f"of {names}."
            )
    return notes


def _describe_control(value: Estimate | None) -> list[str]:
    """The distance that retraining alone covers, in words."""
    if value is None:
        return []
    return [
        "For scale: the dense control, retrained without any pruning, is "
        f"{wording.quantity(value)} from the network as given in its hidden layers."
    ]
