"""The accuracy that can be promised of a pruned network: limits from data that hold with a stated
probability.

Source: Clopper and Pearson, Biometrika 26 (1934); the agreement bound is the union bound over "the
dense network errs" and "the two disagree".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pruning import wording
from pruning.analysis.bound_findings import TIGHTEST
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.noise import iterate_noisy, key_noise
from pruning.analysis.shifts import Shift, predict_classes, select_split
from pruning.evaluations import evaluations
from pruning.measurement.intervals import upper_limit
from pruning.measurement.objective import compare_answers
from pruning.schemas.report import Curve, Estimate, Section, Unit

UNITS: dict[str, Unit] = {
    "sparsity": "share",
    "error": "fraction",
    "accuracy": "fraction",
    "dense_accuracy": "fraction",
    "disagreement": "fraction",
    "disagreement_at_most": "fraction_at_most",
    "accuracy_at_least_a_priori": "fraction_at_least",
    "accuracy_at_least_agreement": "fraction_at_least",
    "accuracy_at_least_labelled": "fraction_at_least",
}
LABELS = {
    "labelled": "from labelled images",
    "agreement": "from agreement",
    "disagreement": "disagreement",
    "shifted": "under shift",
    "a_priori": "by the a-priori bound",
}
"""The words of the names of curves."""
LABELLED = "accuracy at least, from labelled images"
AGREEMENT = "accuracy at least, from agreement with the dense network"
SHIFTED = "accuracy at least under shift, from agreement with the dense network"
A_PRIORI = "accuracy at least on the images looked at, before retraining, by the a-priori bound"
DISAGREEMENT = "disagreement with the dense network at most"
NOTES = (
    "The limit from labelled images is mostly the tighter one where there are labels. The "
    "agreement bound, accuracy of the pruned network at least that of the dense one less their "
    "disagreement, needs labels for the dense network alone, once: disagreement can be counted "
    "on any images.",
    "On shifted data, disagreement without labels bounds the difference of the two networks "
    "there; a promise of accuracy also needs the dense network's limit there, which labels of "
    "the shifted images give. Each level of noise and each shifted set is a promise of its own.",
)


@dataclass(frozen=True)
class Limits:
    """The limits of one pruned network, all limits of one kind together with probability 1 -
    delta.
    """

    labelled: float
    """The accuracy at least, from its own errors on labelled images."""
    disagreement: float
    """The fraction of images on which it and the dense network differ at most, from images without
    labels.
    """
    agreement: float
    """The accuracy at least, from the disagreement and the dense network's own limit."""


def limit_errors(wrong: Tensor, dense_wrong: Tensor, differs: Tensor, delta: float) -> list[Limits]:
    """Return the limits of m networks that were all looked at: `wrong` and `differs` are bool
    (m, n), `dense_wrong` is bool (n,).

    labelled_k = 1 - U(errors_k, n, delta / m); disagreement_k = U(differences_k, n, delta / (2 m));
    and agreement_k = 1 - U(dense errors, n, delta / 2) - disagreement_k, none below 0. U is the
    exact upper limit.

    >>> flags = torch.arange(100) < 10
    >>> (limits,) = limit_errors(flags[None], flags, (flags & ~flags)[None], 0.05)
    >>> round(limits.labelled, 3), round(limits.disagreement, 3), round(limits.agreement, 3)
    (0.836, 0.036, 0.788)
    """
    m, n = wrong.shape
    dense = 1 - upper_limit(int(dense_wrong.sum()), n, delta / 2)
    limits = []
    for errors, differences in zip(wrong.sum(1).tolist(), differs.sum(1).tolist(), strict=True):
        disagreement = upper_limit(differences, n, delta / (2 * m))
        limits.append(
            Limits(
                labelled=1 - upper_limit(errors, n, delta / m),
                disagreement=disagreement,
                agreement=max(0.0, dense - disagreement),
            )
        )
    return limits


@evaluations.register("certificate")
@dataclass(frozen=True)
class Certificate:
    """Lower limits of the accuracy of every checkpoint, from labelled images and from agreement.

    Agreement is with the dense network: accuracy(pruned) >= accuracy(dense) - P(the two disagree)
    on any distribution. The limits of one kind hold together for all checkpoints with probability
    1 - delta over the draw of the test images, whichever is chosen afterwards; so do those on
    images shifted by x + U(-level, level) for every level of `noise`, and on every shifted set of
    the dataset.
    """

    version: ClassVar[int] = 4
    reads: ClassVar[tuple[str, ...]] = ("bounds",)
    delta: Annotated[
        float, Field(ge=1e-100, lt=0.5, description="probability that a limit fails")
    ] = 0.05
    against: Literal["given", "control"] = "given"
    noise: Annotated[
        tuple[Annotated[float, Field(gt=0, le=100)], ...],
        Field(
            max_length=20,
            description=(
                "levels of uniform noise, in normalised space, under which agreement counts"
            ),
        ),
    ] = (0.2,)

    def applies(self, record: JobRecord) -> bool:
        """Return whether there is a checkpoint to certify."""
        return any(row.target is not None for row in record.rounds)

    def units(self, size: JobSize) -> int:
        """Return the forward passes of the dense network and of every checkpoint, on every
        distribution.
        """
        nominal = size.images["test"] * (1 + len(self.noise))
        shifted = sum(test for _, test in size.shifted.values())
        return (nominal + shifted) * (1 + size.checkpoints)

    def evaluate(self, record: JobRecord) -> Section:
        """Return curves `labelled/<criterion>`, `agreement/...`, `disagreement/...` and
        `a_priori/...`, and a table of all.

        `a_priori` is what the section `bounds` promises of the same method and sparsity before
        retraining, where there is one: fractions of the images that it looked at.
        """
        targets = [row for row in record.rounds if row.target is not None]
        load_dense, measured = record.control.network, record.control.measured
        if self.against == "given":
            load_dense, measured = record.dense, record.given_measured
        networks = [load_dense, *(row.network for row in targets)]
        dense, *pruned = _predict_classes(record, networks, Shift())
        wrong = differs = torch.zeros(0, len(dense), dtype=torch.bool)
        if targets:
            differs = torch.stack([~compare_answers(classes, dense) for classes in pruned])
            wrong = torch.stack([row.measured.wrong for row in targets])
        limits = limit_errors(wrong, measured.wrong, differs, self.delta)
        shifts = [Shift(noise=level) for level in self.noise]
        shifts += [Shift(dataset=name) for name in record.data.shifted]
        shifted = [
            row
            for shift in shifts
            for row in self._limit_under_shift(record, targets, networks, shift)
        ]
        promised = _read_bounds(record)
        details: dict[str, Any] = {
            "confidence": 1 - self.delta,
            "limits": [
                _tabulate(row, limit, wrong[index], differs[index])
                | {"accuracy_at_least_a_priori": promised.get(row.id)}
                for index, (row, limit) in enumerate(zip(targets, limits, strict=True))
            ],
        }
        if shifted:
            details["limits_under_shift"] = shifted
        return Section(
            title="What can be promised",
            version=self.version,
            curves=_draw_limit_curves(targets, limits, images=wrong.shape[1])
            | _draw_shifted_curves(shifted)
            | _draw_promised_curves(targets, promised),
            details=details,
            hidden=("confidence",),
            units=UNITS,
            labels=LABELS,
            notes=(
                self._describe_promise(record, len(targets), wrong.shape[1]),
                *_describe_best(targets, limits),
                *_describe_bounds(promised),
                *NOTES,
            ),
        )

    def _limit_under_shift(
        self,
        record: JobRecord,
        targets: Sequence[RoundRecord],
        networks: Sequence[Callable[[], nn.Module]],
        shift: Shift,
    ) -> list[dict[str, Any]]:
        """The limits on test images with noise, the same for all networks, or on those of a shifted
        set.
        """
        labels = select_split(record.data, shift.dataset).labels.cpu()
        dense, *pruned = _predict_classes(record, networks, shift)
        if not pruned:
            return []
        limits = limit_errors(
            torch.stack([classes != labels for classes in pruned]),
            dense != labels,
            torch.stack([~compare_answers(classes, dense) for classes in pruned]),
            self.delta,
        )
        return [
            {
                "checkpoint": row.id,
                "method": row.label,
                "distribution": shift.name,
                "images": len(labels),
                "sparsity": row.sparsity,
                "dense_accuracy": float((dense == labels).double().mean()),
                "accuracy": float((classes == labels).double().mean()),
                "disagreement": float((~compare_answers(classes, dense)).double().mean()),
                "disagreement_at_most": limit.disagreement,
                "accuracy_at_least_agreement": limit.agreement,
            }
            for row, classes, limit in zip(targets, pruned, limits, strict=True)
        ]

    def _describe_promise(self, record: JobRecord, checkpoints: int, images: int) -> str:
        dense = "network as given" if self.against == "given" else "dense control"
        if self.against == "control" and len(record.controls) > 1:
            dense += f" after {wording.count_of(record.control.retrainings, 'retraining')}"
        return (
            f"With probability {wording.percent(1 - self.delta, 0)} over the draw of "
            f"{wording.count_of(images, 'test image')}, the limits of one kind hold for "
            f"{wording.count_of(checkpoints, 'checkpoint')} together: one may be chosen after "
            f"looking at all. Agreement is with the {dense}."
        )


def _tabulate(
    round_record: RoundRecord, limit: Limits, wrong: Tensor, differs: Tensor
) -> dict[str, Any]:
    """The row of a checkpoint in the table of limits."""
    return {
        "checkpoint": round_record.id,
        "sparsity": round_record.sparsity,
        "error": float(wrong.double().mean()),
        "accuracy_at_least_labelled": limit.labelled,
        "disagreement": float(differs.double().mean()),
        "disagreement_at_most": limit.disagreement,
        "accuracy_at_least_agreement": limit.agreement,
    }


def _draw_limit_curves(
    targets: Sequence[RoundRecord], limits: Sequence[Limits], *, images: int
) -> dict[str, Curve]:
    """The curves of the three limits of every criterion."""
    curves = {}
    for label in dict.fromkeys(row.label for row in targets):
        pairs = [
            (row.sparsity, limit)
            for row, limit in zip(targets, limits, strict=True)
            if row.label == label
        ]
        sparsities = tuple(sparsity for sparsity, _ in pairs)
        for kind, y_label in (
            ("labelled", LABELLED),
            ("agreement", AGREEMENT),
            ("disagreement", DISAGREEMENT),
        ):
            curves[f"{kind}/{label}"] = Curve.over_sparsity(
                sparsities,
                [Estimate(value=getattr(limit, kind), n=images) for _, limit in pairs],
                y_label=y_label,
                y_unit="fraction",
            )
    return curves


def _draw_shifted_curves(shifted: Sequence[dict[str, Any]]) -> dict[str, Curve]:
    """The curves of the table of limits under shift, by criterion and distribution."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in shifted:
        groups.setdefault((row["method"], row["distribution"]), []).append(row)
    return {
        f"shifted/{label}/{distribution}": Curve.over_sparsity(
            [row["sparsity"] for row in rows],
            [Estimate(value=row["accuracy_at_least_agreement"], n=row["images"]) for row in rows],
            y_label=SHIFTED,
            y_unit="fraction",
        )
        for (label, distribution), rows in groups.items()
    }


def _draw_promised_curves(
    targets: Sequence[RoundRecord], promised: dict[str, float]
) -> dict[str, Curve]:
    """The curves of what the bounds promise, of every criterion that has a bound."""
    curves = {}
    for label in dict.fromkeys(row.label for row in targets):
        rounds = [row for row in targets if row.label == label and row.id in promised]
        if rounds:
            curves[f"a_priori/{label}"] = Curve.over_sparsity(
                [row.sparsity for row in rounds],
                [Estimate(value=promised[row.id]) for row in rounds],
                y_label=A_PRIORI,
                y_unit="fraction",
            )
    return curves


def _read_bounds(record: JobRecord) -> dict[str, float]:
    """The accuracy, by checkpoint, that the tightest certified form of the bounds promises of the
    pruned network.
    """
    section = record.sections.get("bounds")
    rows = section.details.get("predictions", []) if section is not None else []
    promised: dict[str, float] = {}
    for round_record in record.rounds:
        accuracies = [
            row["predicted_accuracy"]
            for row in rows
            if row["form"] in TIGHTEST
            and row["method"] == round_record.label
            and row["requested_sparsity"] == round_record.target
        ]
        if round_record.target is not None and accuracies:
            promised[round_record.id] = accuracies[0]
    return promised


def _describe_bounds(promised: dict[str, float]) -> list[str]:
    """The worth of the a-priori bounds beside the limits from data, in words."""
    if not promised:
        return []
    useful = sum(value > 0 for value in promised.values())
    return [
        f"The a-priori bounds promise something of {useful} of "
        f"{wording.count_of(len(promised), 'checkpoint')} before retraining, for the images that "
        "their section looks at alone, and nothing after it; the limits from data hold for what "
        "is shipped."
    ]


def _describe_best(targets: Sequence[RoundRecord], limits: Sequence[Limits]) -> list[str]:
    """The checkpoint of which most can be promised, the sparsest of equals, in words."""
    if not limits:
        return []
    best, limit = max(
        zip(targets, limits, strict=True), key=lambda pair: (pair[1].labelled, pair[0].sparsity)
    )
    return [
        f"Most is promised of {best.id}: at least {wording.percent_at_least(limit.labelled)} of "
        f"images right by labelled images, at least {wording.percent_at_least(limit.agreement)} "
        "by agreement."
    ]


def _predict_classes(
    record: JobRecord, networks: Sequence[Callable[[], nn.Module]], shift: Shift
) -> list[Tensor]:
    """The classes that each network names for all test images with noise, the same for all
    networks, or for those of a shifted set.
    """
    split = select_split(record.data, shift.dataset)
    predictions = []
    for load in networks:
        draws = key_noise(split, shift.noise, record.seed, "certificate")
        batches = iterate_noisy(record.data, split, shift.noise, draws)
        predictions.append(predict_classes(load(), batches, record.advance))
    return predictions
