"""The section on classes: in which of them the mean over replicates loses, and on which images the
replicates agree against the dense ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from pruning import wording
from pruning.analysis.class_damage import ALPHA
from pruning.measurement import crossed_limits, replicated
from pruning.measurement.exemplars import find_exemplars
from pruning.measurement.paired import POWER, adjust_holm
from pruning.replicates.finished import Finished, stack_errors
from pruning.reporting.pictures import arrange_pixels, draw_grid
from pruning.schemas.class_damage import LABELS, SECTION, Damage, Finding
from pruning.schemas.estimates import Estimate
from pruning.schemas.report import Checkpoint, Picture, Section
from pruning.schemas.verdicts import CrossedVariance

MOST = 16
"""The number of exemplars that the table lists of a checkpoint and a picture shows, at most."""
COLUMNS = 4
"""The number of images in a row of the picture."""
NOTES = (
    "Each class is compared with the dense controls of the replicates: the mean increase of the "
    "error over replicates and images, tested against 0 and against the other classes with limits "
    "for other seeds and other images. The p-values of both tests of all rows are adjusted "
    "together (Holm): the probability that any of these statements is false is at most 5 %; the "
    "intervals hold together, too (Bonferroni). Counts are sums over replicates.",
    "Pruning-identified exemplars (Hooker et al., 2019) are the test images whose most frequent "
    "answer over the pruned networks is none of the most frequent over the dense ones. With few "
    "replicates an image is one by chance, too.",
    "Groups of the dataset, clusters of images and the images that a single network loses are in "
    "the replicates' own reports.",
)


@dataclass(frozen=True)
class _Tested:
    """The mean increase in a class of the images, and how much more that is than in the others."""

    checkpoint: str
    name: str
    pruned: Tensor
    """bool (replicates, images of the class): the errors of the pruned networks."""
    control: Tensor
    value: float
    variance: CrossedVariance
    p_value: float
    p_value_above_others: float


def build_classes_section(
    finished: Sequence[Finished], checkpoints: Sequence[Checkpoint], margin: float
) -> Section | None:
    """Build the section with the tables `classes` and `exemplars` and a picture of exemplars; None
    where no replicate has one on classes. Those of the sparsest checkpoint within `margin` are
    shown.
    """
    labels = finished[0].images.labels
    has_section = any(SECTION in replicate.report.sections for replicate in finished)
    if labels is None or not has_section:
        return None
    classes = finished[0].report.data.classes
    tested: list[_Tested] = []
    exemplars: list[_Exemplars] = []
    for checkpoint in checkpoints:
        owners = [replicate for replicate in finished if checkpoint.id in replicate.checkpoints]
        tested += _test_classes(checkpoint.id, owners, labels, classes)
        exemplars.append(_collect_exemplars(checkpoint.id, owners))
    damages = _describe(tested)
    counts = {own.id: len(own.places) for own in exemplars}
    shown = _choose_shown(exemplars, margin)
    picture = None if shown is None else shown.draw(labels, classes)
    return Section(
        title="Damage by class",
        version=1,
        scalars={
            f"exemplars/{id}": Estimate(value=float(count), n=len(labels), unit="number")
            for id, count in counts.items()
        },
        details={
            "classes": damages,
            "exemplars": [row for own in exemplars for row in own.list_rows(labels, classes)],
        },
        pictures={} if picture is None else {"exemplars": picture},
        units={"detectable_increase": "points"},
        labels=LABELS,
        notes=(*_list_findings(damages), _describe_exemplars(counts, len(finished)), *NOTES),
    )


def _test_classes(
    id: str, owners: Sequence[Finished], labels: Tensor, classes: Sequence[str]
) -> Iterator[_Tested]:
    """Yield the tests of a checkpoint in every class that has images."""
    controls = [replicate.checkpoints[id].control for replicate in owners]
    pruned = stack_errors(owners, [id] * len(owners))
    control = stack_errors(owners, controls)
    for code, name in enumerate(classes):
        inside = labels == code
        if int(inside.sum()) < 1:
            continue
        value, variance = replicated.measure_increase(pruned[:, inside], control[:, inside])
        below = crossed_limits.p_value_below(value, variance, 0.0)
        above = crossed_limits.p_value_above(value, variance, 0.0)
        beyond_others = 1.0
        if not bool(inside.all()):
            more, spread = _contrast(pruned, control, inside)
            beyond_others = crossed_limits.p_value_above(more, spread, 0.0)
        yield _Tested(
            checkpoint=id,
            name=name,
            pruned=pruned[:, inside],
            control=control[:, inside],
            value=value,
            variance=variance,
            p_value=min(1.0, 2 * min(below, above)),
            p_value_above_others=beyond_others,
        )


def _contrast(pruned: Tensor, control: Tensor, inside: Tensor) -> tuple[float, CrossedVariance]:
    """The mean increase in a class less that in the others, and its variance: the images of the two
    are different, the seeds the same.
    """
    own, of_own = replicated.measure_increase(pruned[:, inside], control[:, inside])
    rest, of_rest = replicated.measure_increase(pruned[:, ~inside], control[:, ~inside])
    gaps = pruned.double() - control.double()
    differences = gaps[:, inside].mean(1) - gaps[:, ~inside].mean(1)
    variance = CrossedVariance(
        by_images=of_own.by_images + of_rest.by_images,
        by_replicates=float(differences.var()) / len(differences),
        images=of_own.images,
        replicates=len(differences),
    )
    return own - rest, variance


def _describe(tested: Sequence[_Tested]) -> list[dict[str, Any]]:
    """The rows of the table, adjusted over all of them."""
    count = len(tested)
    adjusted = adjust_holm(
        [row.p_value for row in tested] + [row.p_value_above_others for row in tested]
    )
    return [
        {"checkpoint": row.checkpoint, "class": row.name}
        | _describe_row(row, (adjusted[index], adjusted[count + index]), count)
        for index, row in enumerate(tested)
    ]


def _describe_row(row: _Tested, p_values: tuple[float, float], tests: int) -> dict[str, Any]:
    """The numbers of a row; its interval holds with those of all `tests` rows together."""
    level = ALPHA / (2 * tests)
    low, high = crossed_limits.compute_limits(row.value, row.variance, 1 - level)
    deviation = (row.variance.by_images + row.variance.by_replicates) ** 0.5
    detectable = crossed_limits.compute_half_width(row.variance, 1 - level)
    detectable += NormalDist().inv_cdf(POWER) * deviation
    damage = Damage(
        checkpoint=row.checkpoint,
        n=row.pruned.shape[1],
        only_pruned=int((row.pruned & ~row.control).sum()),
        only_control=int((row.control & ~row.pruned).sum()),
        error_pruned=replicated.measure_error(row.pruned),
        error_control=replicated.measure_error(row.control),
        increase=Estimate(
            value=row.value,
            low=max(-1.0, low),
            high=min(1.0, high),
            n=row.pruned.shape[1],
            unit="points",
        ),
        adjusted_p_value=p_values[0],
        adjusted_p_value_above_others=p_values[1],
        detectable_increase=detectable if detectable <= 1 else None,
        finding=_judge(row.value, *p_values),
        variance=row.variance,
    )
    values = damage.model_dump(mode="json")
    del values["checkpoint"]
    return values


def _judge(increase: float, p_value: float, p_value_above_others: float) -> Finding:
    """The outcome of both tests at 95 %."""
    if p_value > ALPHA:
        return "not distinguished"
    if increase < 0:
        return "gains"
    return "loses more than the others" if p_value_above_others <= ALPHA else "loses"


def _list_findings(damages: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for every class that loses more than the others, or that there is none."""
    sentences = [
        f"{row['checkpoint']}: the error in the class {row['class']} rises by "
        f"{wording.points_with_interval(Estimate.model_validate(row['increase']))}, more than in "
        "the others."
        for row in damages
        if row["finding"] == "loses more than the others"
    ]
    return sentences or ["No class is found to lose more than the others."]


@dataclass(frozen=True)
class _Exemplars:
    """The exemplars of a checkpoint, those on which most replicates agree first."""

    id: str
    owners: Sequence[Finished]
    places: Tensor
    """int64 (exemplars,): the places of the images among the test images."""
    modal: Tensor
    """int32 (exemplars,): the most frequent answer of the pruned networks."""
    modal_dense: Tensor
    """int32 (exemplars,): that of their dense controls."""
    agreeing: Tensor
    """int64 (exemplars,): the number of pruned networks that give the most frequent answer."""

    def list_rows(self, labels: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of the table, `MOST` at most."""
        indices = self.owners[0].images.indices
        return [
            {
                "checkpoint": self.id,
                "index_in_test": int(indices[place]),
                "class": classes[int(labels[place])],
                "modal_answer_of_controls": _name(classes, int(self.modal_dense[number])),
                "modal_answer": _name(classes, int(self.modal[number])),
                "replicates_with_it": int(self.agreeing[number]),
                "replicates": len(self.owners),
            }
            for number, place in enumerate(self.places[:MOST].tolist())
        ]

    def draw(self, labels: Tensor, classes: Sequence[str]) -> Picture | None:
        """A contact sheet of the first `MOST` images; None where no replicate holds their pixels,
        which those of an earlier version do not.
        """
        tiles = []
        for row, place in zip(self.list_rows(labels, classes), self.places.tolist(), strict=False):
            held = (replicate.images.find_picture(place) for replicate in self.owners)
            pixels = next((picture for picture in held if picture is not None), None)
            if pixels is not None:
                name = f"{row['index_in_test']}: {row['class']}\nas {row['modal_answer']}"
                tiles.append((name, arrange_pixels(pixels.numpy())))
        if not tiles:
            return None
        shown = f"{len(tiles)} of " if len(tiles) < len(self.places) else ""
        caption = (
            f"Exemplars of {self.id}: {shown}{wording.count_of(len(self.places), 'test image')} "
            f"to which most of {len(self.owners)} pruned networks answer otherwise than their "
            "dense controls. Index in the test split, class, most frequent answer when pruned."
        )
        return draw_grid(tiles, caption, columns=min(COLUMNS, len(tiles)))


def _collect_exemplars(id: str, owners: Sequence[Finished]) -> _Exemplars:
    """The exemplars of a checkpoint."""
    pruned = torch.stack([replicate.images.answers[id] for replicate in owners])
    dense = torch.stack(
        [replicate.images.answers[replicate.checkpoints[id].control] for replicate in owners]
    )
    places = torch.nonzero(find_exemplars(pruned, dense)).flatten()
    agreeing = (pruned[:, places] == pruned[:, places].mode(0).values).sum(0)
    places = places[agreeing.argsort(descending=True, stable=True)]
    modal = pruned[:, places].mode(0).values
    return _Exemplars(
        id=id,
        owners=owners,
        places=places,
        modal=modal,
        modal_dense=dense[:, places].mode(0).values,
        agreeing=(pruned[:, places] == modal).sum(0),
    )


def _choose_shown(exemplars: Sequence[_Exemplars], margin: float) -> _Exemplars | None:
    """The checkpoint whose exemplars are shown: of those that have any, the last (sparsest) whose
    mean error on the validation images is within the margin of its controls'; where none is
    within, the one with the lowest error there.
    """

    def measure(shown: _Exemplars) -> tuple[float, float]:
        controls = [replicate.checkpoints[shown.id].control for replicate in shown.owners]
        pruned = stack_errors(shown.owners, [shown.id] * len(shown.owners), validation=True)
        control = stack_errors(shown.owners, controls, validation=True)
        return float(pruned.double().mean()), float(control.double().mean())

    errors = [(shown, *measure(shown)) for shown in exemplars if len(shown.places)]
    within = [shown for shown, pruned, control in errors if pruned - control <= margin]
    if within:
        return within[-1]
    return min(errors, key=lambda entry: entry[1])[0] if errors else None


def _name(classes: Sequence[str], answer: int) -> str:
    """The class of an answer; a negative number is no answer."""
    return classes[answer] if answer >= 0 else "no answer"


def _describe_exemplars(counts: Mapping[str, int], replicates: int) -> str:
    """The number of exemplars of every checkpoint, in words."""
    listed = ", ".join(f"{id} {count}" for id, count in counts.items())
    return (
        "Images on which the most frequent answer of "
        f"{wording.count_of(replicates, 'pruned network')} is none of the most frequent of the "
        f"dense ones: {listed}."
    )
