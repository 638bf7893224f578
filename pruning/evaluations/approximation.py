"""How far pruned networks are from the dense one, layer by layer, right after pruning and after
retraining.

Source: Gordon, When are approximation bounds useful?, ICLR 2021 submission; the definitions of this
evaluation are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from pruning import wording as q
from pruning.analysis.distance_findings import (
    CAUTION,
    Change,
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
    average_paired_change,
    measure_output_distances,
)
from pruning.data.tensors import Split, draw_subset
from pruning.evaluations import evaluations
from pruning.measurement.intervals import binomial_interval
from pruning.measurement.measure import Measured, estimate_increase
from pruning.schemas.report import Curve, Estimate, Section
from pruning.seeding import generator

BEFORE, AFTER = "before", "after"
QUANTITIES: Mapping[str, tuple[str, str, Callable[[Deviations], Tensor]]] = {
    "layers": ("hidden layers", "mean relative error of hidden layers", lambda one: one.hidden),
    "logits": ("logits", "relative error of logits", lambda one: one.logits),
    "centred": ("centred logits", "relative error of centred logits", lambda one: one.centred),
    "softmax": ("softmax", "distance of softmax outputs", lambda one: one.softmax),
    "kl": ("KL divergence", "KL divergence of softmax outputs (nats)", lambda one: one.kl),
}
"""Name in words, label of the axis, value for each image: the further from the dense network, the
larger.
"""
COLUMNS = {
    "layers": "relative_error_hidden_layers",
    "logits": "relative_error_logits",
    "centred": "relative_error_centred_logits",
    "softmax": "softmax_distance",
    "kl": "kl_divergence_nats",
}
NOTES = (
    "Everything is relative to the dense network as given. A layer's error is the Euclidean "
    "distance of its outputs (before "
    "the activation function) from the dense network's, over the size of the latter: 0 is the "
    "same, 1 as far off as if the "
    "layer put out nothing. The hidden layers are all but the last, averaged. A removed channel "
    "counts as zero.",
    "What is added to all logits of an image alike, the softmax does not see: centred logits are "
    "without it. The distance "
    "of softmax outputs is Euclidean, the KL divergence that from the dense network's; agreement "
    "is the share of images on "
    "which both networks name the same class.",
)


@evaluations.register("approximation")
@dataclass(frozen=True)
class Approximation:
    """Distance of every checkpoint from the dense network: of layers, logits and softmax, before
    and after retraining.

    e_l = mean over images x of ||a'_l(x) - a_l(x)||_2 / ||a_l(x)||_2, a_l the outputs of layer l of
    the dense network as given, a'_l those of the pruned one; see
    `pruning.analysis.output_distances`. Spearman's rho of each distance and the accuracy over all
    checkpoints has a percentile bootstrap interval and a permutation test at 5 %.
    """

    version: ClassVar[int] = 1
    images: Annotated[
        int, Field(ge=1, description="test images to compare on, the same for all networks")
    ] = 1000

    def applies(self, trial: JobRecord) -> bool:
        """With a checkpoint to compare."""
        return any(one.target is not None for one in trial.rounds)

    def units(self, scale: JobSize) -> int:
        """The dense network beside the control and beside every checkpoint, right after pruning and
        retrained.
        """
        return 2 * min(self.images, scale.images["test"]) * (1 + 2 * scale.checkpoints)

    def evaluate(self, trial: JobRecord) -> Section:
        """Curves such as `layers_before/<criterion>` and `layers_after/...`; tables, rank
        correlations, findings.
        """
        sample = self._sample(trial)
        dense = trial.dense()

        def compare(network: nn.Module) -> Deviations:
            trial.advance(2 * len(sample))
            return measure_output_distances(
                dense, network, (images for images, _ in trial.data.batches(sample, BATCH))
            )

        found = [
            _Compared.of(one, trial, compare) for one in trial.rounds if one.target is not None
        ]
        phases = {
            phase: some
            for phase in (BEFORE, AFTER)
            if (some := [one for one in found if phase in one.by])
        }
        words = _words(trial)
        correlations = [
            one for phase, some in phases.items() for one in _correlations(trial.seed, phase, some)
        ]
        scalars = {
            f"spearman_{one.phase}/{one.name}": one.rho
            for one in correlations
            if one.rho is not None
        }
        findings: list[str] = []
        if len(phases) == 2:
            control = compare(trial.control())
            scalars |= {
                f"{label}, dense control": value
                for name, (_, label, get) in QUANTITIES.items()
                if (value := average_finite(get(control))) is not None
            }
            findings = check_recovery_claim(
                [_change(one) for one in found if len(one.by) == 2]
            ) + _control(average_finite(control.hidden))
        findings += [
            sentence
            for phase, some in phases.items()
            for sentence in Correlation.sentences(
                [one for one in correlations if one.phase == phase],
                f"accuracy {words[phase]}",
                len(some),
            )
        ]
        notes = [
            *findings,
            CAUTION,
            *_overflows(found, words),
            *_blanks(found),
            *_missing(trial, found),
            *NOTES,
            f"Means are over {q.count_of(len(sample), 'test image')} of "
            f"{q.count(len(trial.data.test))}, the same for "
            "all networks, with normal 95 % intervals; accuracies are of all test images.",
        ]
        details = {
            f"checkpoints_{words[phase].replace(' ', '_')}": [one.row(phase) for one in some]
            for phase, some in phases.items()
        }
        details |= {
            "change_by_retraining": [_change_row(one) for one in found if len(one.by) == 2],
            "layers": [row for one in found for row in one.layer_rows()],
            "rank_correlation_with_accuracy": [one.row() for one in correlations],
        }
        return Section(
            title="Approximation of the dense network",
            version=self.version,
            scalars=scalars,
            curves=_curves(found),
            notes=tuple(notes),
            details={key: value for key, value in details.items() if value},
        )

    def _sample(self, trial: JobRecord) -> Split:
        labels = trial.data.test.labels
        chosen, _ = draw_subset(
            labels.cpu(),
            min(self.images, len(labels)),
            False,
            generator(trial.seed, "approximation"),
        )
        return trial.data.test[chosen.to(labels.device)]


@dataclass(frozen=True)
class _Compared:
    """A checkpoint, by phase: how far it is from the dense network, and its accuracy."""

    of_: RoundRecord
    by: Mapping[str, tuple[Deviations, Measured]]

    @staticmethod
    def of(
        one: RoundRecord, trial: JobRecord, compare: Callable[[nn.Module], Deviations]
    ) -> _Compared:
        last = one.full_size or one.network
        by: dict[str, tuple[Deviations, Measured]] = {}
        if one.retrained is None and not trial.pruned_untrained:
            by[BEFORE] = compare(last()), one.pruned
        elif one.unretrained is not None:
            by[BEFORE] = compare(one.unretrained()), one.pruned
        if one.retrained is not None:
            by[AFTER] = compare(last()), one.retrained
        return _Compared(one, by)

    def value(self, name: str, phase: str) -> Estimate | None:
        """A quantity, the accuracy or the agreement."""
        found, measured = self.by[phase]
        if name in ("accuracy", "agreement"):
            flags = ~measured.wrong if name == "accuracy" else found.agrees
            return binomial_interval(int(flags.sum()), len(flags))
        return average_finite(QUANTITIES[name][2](found))

    def row(self, phase: str) -> dict[str, Any]:
        columns = {"accuracy": "accuracy", **COLUMNS, "agreement": "agreement"}
        return {"checkpoint": self.of_.id, "sparsity": self.of_.sparsity} | {
            column: _document(self.value(name, phase)) for name, column in columns.items()
        }

    def layer_rows(self) -> Iterator[dict[str, Any]]:
        for layer in next(iter(self.by.values()))[0].layers:
            values = {phase: found.layers[layer] for phase, (found, _) in self.by.items()}
            row = {"checkpoint": self.of_.id, "sparsity": self.of_.sparsity, "layer": layer} | {
                f"relative_error_{phase}": _document(average_finite(some))
                for phase, some in values.items()
            }
            if len(values) == 2:
                row["relative_error_change"] = _document(
                    average_paired_change(values[BEFORE], values[AFTER])
                )
            yield row | {"images_left_out": int(next(iter(values.values())).isnan().sum())}


def _document(value: Estimate | None) -> dict[str, Any] | None:
    return None if value is None else value.model_dump()


def _words(trial: JobRecord) -> dict[str, str]:
    return {
        BEFORE: "right after pruning",
        AFTER: "after training" if trial.pruned_untrained else "after retraining",
    }


def _change(one: _Compared) -> Change:
    """What retraining did to a checkpoint."""
    (before, pruned), (after, retrained) = one.by[BEFORE], one.by[AFTER]
    error = one.value("layers", BEFORE)
    return Change(
        one.of_.id,
        estimate_increase(pruned.wrong, retrained.wrong),
        {
            words: average_paired_change(get(before), get(after))
            for words, _, get in QUANTITIES.values()
        },
        None if error is None else error.value,
    )


def _change_row(one: _Compared) -> dict[str, Any]:
    changed = _change(one)
    return {
        "checkpoint": one.of_.id,
        "sparsity": one.of_.sparsity,
        "accuracy_increase": changed.accuracy.model_dump(),
    } | {
        f"change_{COLUMNS[name]}": _document(changed.errors[words])
        for name, (words, *_) in QUANTITIES.items()
    }


def _correlations(seed: int, phase: str, found: Sequence[_Compared]) -> Iterator[Correlation]:
    """Of every quantity and of the disagreement with the accuracy, over the checkpoints that have
    both.
    """
    for name, words in [
        *((name, words) for name, (words, _, _) in QUANTITIES.items()),
        ("disagreement", "disagreement"),
    ]:
        pairs = []
        for one in found:
            value, accuracy = (
                one.value("agreement" if name == "disagreement" else name, phase),
                one.value("accuracy", phase),
            )
            if value is not None and accuracy is not None:
                pairs.append(
                    (1 - value.value if name == "disagreement" else value.value, accuracy.value)
                )
        yield correlate_with_accuracy(seed, phase, name, words, pairs)


def _curves(found: Sequence[_Compared]) -> dict[str, Curve]:
    labels = {
        "accuracy": "test accuracy",
        **{name: label for name, (_, label, _) in QUANTITIES.items()},
        "agreement": "agreement with the dense network",
    }
    curves: dict[str, Curve] = {}
    for name, y_label in labels.items():
        for label in dict.fromkeys(one.of_.label for one in found):
            for phase in (BEFORE, AFTER):
                points = [
                    (one.of_.sparsity, value)
                    for one in found
                    if one.of_.label == label
                    and phase in one.by
                    and (value := one.value(name, phase)) is not None
                ]
                if points:
                    curves[f"{name}_{phase}/{label}"] = Curve(
                        x=tuple(x for x, _ in points),
                        y=tuple(y for _, y in points),
                        x_label="sparsity",
                        y_label=y_label,
                    )
    return curves


def _missing(trial: JobRecord, found: Sequence[_Compared]) -> list[str]:
    """Why networks right after pruning are not compared."""
    if trial.pruned_untrained:
        return [
            "The job prunes before it trains: right after pruning there is only an untrained "
            "network, so the trained "
            "ones alone are compared. They are trained from the dense network's own initialisation."
        ]
    left = [one.of_.id for one in found if BEFORE not in one.by]
    return (
        [
            "Compared after retraining alone, as the network right after pruning was not kept: "
            f"{', '.join(left)}."
        ]
        if left
        else []
    )


def _blanks(found: Sequence[_Compared]) -> list[str]:
    """What cannot be relative to anything, which depends on the dense network alone."""
    if not found:
        return []
    one = next(iter(found[0].by.values()))[0]
    named = {**one.layers, "logits": one.logits, "centred logits": one.centred}
    zero = [
        f"{name or 'the network'} on {q.count_of(int(values.isnan().sum()), 'image')}"
        for name, values in named.items()
        if bool(values.isnan().any())
    ]
    notes = (
        [
            "Outputs of the dense network that are zero, to which nothing is relative, are left "
            f"out: {', '.join(zero)}."
        ]
        if zero
        else []
    )
    return notes + (
        [f"Left out, without one output for each image: {', '.join(one.unmatched)}."]
        if one.unmatched
        else []
    )


def _overflows(found: Sequence[_Compared], words: Mapping[str, str]) -> list[str]:
    """Networks that overflow: a mean without the images that do would flatter them."""
    notes = []
    for one in found:
        for phase, (some, _) in one.by.items():
            named = {
                **some.layers,
                "logits": some.logits,
                "centred logits": some.centred,
                "softmax": some.softmax,
                "KL divergence": some.kl,
            }
            off = {
                name or "the network": int(values.isinf().sum())
                for name, values in named.items()
                if bool(values.isinf().any())
            }
            if off:
                notes.append(
                    f"{one.of_.id} {words[phase]} overflows (infinite or no number) on up to "
                    f"{q.count_of(max(off.values()), 'image')}: no mean is given of "
                    f"{', '.join(off)}"
                    f"{' nor of the hidden layers' if bool(some.hidden.isinf().any()) else ''}."
                )
    return notes


def _control(value: Estimate | None) -> list[str]:
    """How far retraining alone goes."""
    return (
        []
        if value is None
        else [
            "For scale: the dense control, retrained without any pruning, is "
            f"{q.by_name('relative', value)} from the network as given in its hidden layers."
        ]
    )
