"""What can be promised of a pruned network's accuracy today: limits from data, that hold with a
stated probability.

Source: Clopper and Pearson, Biometrika 26 (1934); the agreement bound is the union bound over "the
dense network errs" and "the two disagree".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pruning import wording as q
from pruning.analysis.bound_findings import TIGHTEST
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.shifts import Shift
from pruning.data.tensors import Split
from pruning.evaluations import evaluations
from pruning.measurement.intervals import upper_limit
from pruning.measurement.measure import EVAL_BATCH
from pruning.schemas.report import Curve, Estimate, Section
from pruning.seeding import generator


@dataclass(frozen=True)
class Limits:
    """What is promised of one pruned network, all limits of one kind together with probability 1 -
    delta.
    """

    labelled: float
    """Accuracy, from its own errors on labelled images."""
    disagreement: float
    """The most of the images on which it and the dense network may differ, from images without
    labels.
    """
    agreement: float
    """Accuracy, from that and the dense network's own limit."""


def limit_errors(wrong: Tensor, dense_wrong: Tensor, differs: Tensor, delta: float) -> list[Limits]:
    """Those of m networks that were all looked at: `wrong` and `differs` are bool (m, n),
    `dense_wrong` is bool (n,).

    labelled_k = 1 - U(errors_k, n, delta / m); disagreement_k = U(differences_k, n, delta / (2 m));
    and agreement_k = 1 - U(dense errors, n, delta / 2) - disagreement_k, none below 0. U is the
    exact upper limit.

    >>> flags = torch.arange(100) < 10
    >>> (found,) = limit_errors(flags[None], flags, (flags & ~flags)[None], 0.05)
    >>> round(found.labelled, 3), round(found.disagreement, 3), round(found.agreement, 3)
    (0.836, 0.036, 0.788)
    """
    m, n = wrong.shape
    dense = 1 - upper_limit(int(dense_wrong.sum()), n, delta / 2)
    found = []
    for errors, differences in zip(wrong.sum(1).tolist(), differs.sum(1).tolist(), strict=True):
        most = upper_limit(differences, n, delta / (2 * m))
        found.append(Limits(1 - upper_limit(errors, n, delta / m), most, max(0.0, dense - most)))
    return found


@evaluations.register("certificate")
@dataclass(frozen=True)
class Certificate:
    """Lower limits of the accuracy of every checkpoint: from labelled images, and from agreement
    with the dense network.

    accuracy(pruned) >= accuracy(dense) - P(the two disagree) on any distribution. The limits of one
    kind hold together for all checkpoints with probability 1 - delta over the draw of the test
    images, whichever is chosen afterwards; so do those on images shifted by x + U(-level, level)
    for every level of `noise`, and on every shifted set of the dataset.
    """

    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("bounds",)
    delta: Annotated[float, Field(gt=0, lt=0.5, description="probability that a limit fails")] = (
        0.05
    )
    against: Literal["given", "control"] = "given"
    noise: Annotated[
        tuple[Annotated[float, Field(gt=0, le=100)], ...],
        Field(
            max_length=20,
            description="levels of uniform noise, in normalised space, under which agreement counts",
        ),
    ] = (0.2,)

    def applies(self, trial: JobRecord) -> bool:
        """With a checkpoint to certify."""
        return any(one.target is not None for one in trial.rounds)

    def units(self, scale: JobSize) -> int:
        """The dense network and every checkpoint, on every distribution."""
        images = scale.images["test"] * (1 + len(self.noise)) + sum(
            test for _, test in scale.shifted.values()
        )
        return images * (1 + scale.checkpoints)

    def evaluate(self, trial: JobRecord) -> Section:
        """Curves `labelled/<criterion>`, `agreement/...`, `disagreement/...`, `a_priori/...`; a
        table of all.

        `a_priori` is what the section `bounds` promises of the same method and sparsity before
        retraining, where there is one: fractions of the images that it looked at.
        """
        targets = [one for one in trial.rounds if one.target is not None]
        dense, measured = (
            (trial.dense, trial.given_measured)
            if self.against == "given"
            else (trial.control, trial.control_measured)
        )
        test = trial.data.test
        answers = _answers(dense(), trial, test)
        differs = (
            torch.stack([_answers(one.network(), trial, test) != answers for one in targets])
            if targets
            else torch.zeros(0, len(answers), dtype=torch.bool)
        )
        wrong = torch.stack([one.measured.wrong for one in targets]) if targets else differs
        found = limit_errors(wrong, measured.wrong, differs, self.delta)
        curves: dict[str, Curve] = {}
        for label in dict.fromkeys(one.label for one in targets):
            mine = [index for index, one in enumerate(targets) if one.label == label]
            for kind, y_label in (
                ("labelled", LABELLED),
                ("agreement", AGREEMENT),
                ("disagreement", DISAGREEMENT),
            ):
                curves[f"{kind}/{label}"] = Curve(
                    x=tuple(targets[index].sparsity for index in mine),
                    x_label="sparsity",
                    y_label=y_label,
                    y=tuple(
                        Estimate(value=getattr(found[index], kind), n=wrong.shape[1])
                        for index in mine
                    ),
                )
        shifts = [Shift(noise=level) for level in self.noise] + [
            Shift(dataset=name) for name in trial.data.shifted
        ]
        shifted = [row for shift in shifts for row in self._shifted(trial, targets, dense(), shift)]
        for label, name in dict.fromkeys((row["method"], row["distribution"]) for row in shifted):
            rows = [row for row in shifted if (row["method"], row["distribution"]) == (label, name)]
            curves[f"shifted/{label}/{name}"] = Curve(
                x=tuple(row["sparsity"] for row in rows),
                x_label="sparsity",
                y_label=SHIFTED,
                y=tuple(
                    Estimate(value=row["accuracy_at_least_agreement"], n=row["images"])
                    for row in rows
                ),
            )
        promised = _a_priori(trial)
        for label in dict.fromkeys(one.label for one in targets):
            known = [
                (one.sparsity, promised[one.id])
                for one in targets
                if one.label == label and one.id in promised
            ]
            if known:
                curves[f"a_priori/{label}"] = Curve(
                    x=tuple(x for x, _ in known),
                    x_label="sparsity",
                    y_label=A_PRIORI,
                    y=tuple(Estimate(value=value) for _, value in known),
                )
        return Section(
            title="What can be promised",
            version=self.version,
            curves=curves,
            details={
                "limits": [
                    self._row(one, limit, wrong[index], differs[index])
                    | {"accuracy_at_least_a_priori": promised.get(one.id)}
                    for index, (one, limit) in enumerate(zip(targets, found, strict=True))
                ]
            }
            | ({"limits_under_shift": shifted} if shifted else {}),
            notes=(
                self._promise(len(targets), wrong.shape[1]),
                *_best(targets, found),
                *_useful(targets, promised),
                *NOTES,
            ),
        )

    def _shifted(
        self, trial: JobRecord, targets: Sequence[RoundRecord], dense: nn.Module, shift: Shift
    ) -> list[dict[str, Any]]:
        """The limits on test images with noise, the same for all networks, or on those of a shifted
        set.
        """
        split = trial.data.test if shift.dataset is None else trial.data.shifted[shift.dataset].test
        answers, labels = _answers(dense, trial, split, shift.noise), split.labels.cpu()
        others = [_answers(one.network(), trial, split, shift.noise) for one in targets]
        if not others:
            return []
        found = limit_errors(
            torch.stack([other != labels for other in others]),
            answers != labels,
            torch.stack([other != answers for other in others]),
            self.delta,
        )
        return [
            {
                "checkpoint": one.id,
                "method": one.label,
                "distribution": shift.name,
                "images": len(labels),
                "sparsity": one.sparsity,
                "dense_accuracy": float((answers == labels).double().mean()),
                "accuracy": float((other == labels).double().mean()),
                "disagreement": float((other != answers).double().mean()),
                "disagreement_at_most": limit.disagreement,
                "accuracy_at_least_agreement": limit.agreement,
            }
            for one, other, limit in zip(targets, others, found, strict=True)
        ]

    def _row(
        self, one: RoundRecord, limit: Limits, wrong: Tensor, differs: Tensor
    ) -> dict[str, Any]:
        return {
            "checkpoint": one.id,
            "sparsity": one.sparsity,
            "error": float(wrong.double().mean()),
            "accuracy_at_least_labelled": limit.labelled,
            "disagreement": float(differs.double().mean()),
            "disagreement_at_most": limit.disagreement,
            "accuracy_at_least_agreement": limit.agreement,
        }

    def _promise(self, checkpoints: int, images: int) -> str:
        dense = "network as given" if self.against == "given" else "dense control"
        return (
            f"With probability {q.percent(1 - self.delta, 0)} over the draw of "
            f"{q.count_of(images, 'test image')}, the "
            f"limits of one kind hold for {q.count_of(checkpoints, 'checkpoint')} together: one "
            "may be chosen after "
            f"looking at all. Agreement is with the {dense}."
        )


LABELLED = "accuracy at least, from labelled images"
AGREEMENT = "accuracy at least, from agreement with the dense network"
SHIFTED = "accuracy at least under shift, from agreement with the dense network"
A_PRIORI = "accuracy at least on the images looked at, before retraining, by the a-priori bound"
DISAGREEMENT = "disagreement with the dense network at most"
NOTES = (
    "The limit from labelled images is the tighter one where there are labels. The agreement "
    "bound, accuracy of the pruned "
    "network at least that of the dense one less their disagreement, needs labels for the dense "
    "network alone, once: "
    "disagreement can be counted on any images.",
    "On shifted data, disagreement without labels bounds the difference of the two networks "
    "there; a promise of accuracy "
    "also needs the dense network's limit there, which labels of the shifted images give. Each "
    "level of noise and each "
    "shifted set is a promise of its own.",
)


def _a_priori(trial: JobRecord) -> dict[str, float]:
    """By checkpoint, the accuracy that the tightest certified form of the bounds promises of the
    pruned network.
    """
    section = trial.sections.get("bounds")
    rows = section.details.get("predictions", []) if section is not None else []
    found: dict[str, float] = {}
    for one in trial.rounds:
        mine = [
            row["predicted_accuracy"]
            for row in rows
            if row["form"] in TIGHTEST
            and row["method"] == one.label
            and row["requested_sparsity"] == one.target
        ]
        if one.target is not None and mine:
            found[one.id] = mine[0]
    return found


def _useful(targets: Sequence[RoundRecord], promised: dict[str, float]) -> list[str]:
    """What the a-priori bounds are worth beside the limits from data."""
    if not promised:
        return []
    some = sum(value > 0 for value in promised.values())
    return [
        f"The a-priori bounds promise something of {some} of "
        f"{q.count_of(len(promised), 'checkpoint')} before "
        "retraining, for the images that their section looks at alone, and nothing after it; the "
        "limits from data hold "
        "for what is shipped."
    ]


def _best(targets: Sequence[RoundRecord], found: Sequence[Limits]) -> list[str]:
    """The sparsest checkpoint of which most can be promised."""
    if not found:
        return []
    best = max(
        range(len(found)), key=lambda index: (found[index].labelled, targets[index].sparsity)
    )
    return [
        f"Most is promised of {targets[best].id}: at least {q.percent(found[best].labelled)} of "
        "images right by "
        f"labelled images, at least {q.percent(found[best].agreement)} by agreement."
    ]


def _answers(model: nn.Module, trial: JobRecord, split: Split, noise: float = 0.0) -> Tensor:
    """The class that a network names for every image, on the CPU; with noise drawn from the seed
    and the level.
    """
    model.eval()
    rng, found = generator(trial.seed, "certificate", repr(noise)), []
    with torch.no_grad():
        for inputs, _ in trial.data.batches(split, EVAL_BATCH):
            shift = (
                noise * (2 * torch.rand(inputs.shape, generator=rng) - 1)
                if noise
                else torch.zeros(())
            )
            found.append(model(inputs + shift.to(inputs)).argmax(1).cpu())
            trial.advance(len(inputs))
    return torch.cat(found)
