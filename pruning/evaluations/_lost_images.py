"""The images that pruning loses: right by the dense control, wrong by the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruning import wording
from pruning.analysis.class_damage import find_control
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.measurement.exemplars import find_exemplars
from pruning.measurement.measure import Answers, Measured
from pruning.reporting.pictures import arrange_pixels, draw_grid
from pruning.schemas.report import Picture
from pruning.verdict.recommendation import find_margin

MOST = 16
"""The number of lost images that a picture shows, and a table lists of a checkpoint, at most."""
COLUMNS = 4


@dataclass(frozen=True)
class LostImages:
    """The images that a checkpoint loses, the most confidently lost first."""

    row: RoundRecord
    places: Tensor
    """int64 (lost,): the places of the images among the test images of the job."""

    def list_rows(self, record: JobRecord) -> list[dict[str, Any]]:
        """The rows of the table, `MOST` at most."""
        indices = record.data.test.dataset_indices.cpu()
        labels = record.data.test.labels.cpu()
        classes = record.data.classes
        answers = _read_answers(self.row.measured)
        control = _read_answers(find_control(record, self.row))
        return [
            {
                "checkpoint": self.row.id,
                "index_in_test": int(indices[place]),
                "class": classes[int(labels[place])],
                "answer": _name_answer(classes, answers.classes[place]),
                "confidence": float(answers.confidences[place]),
                "confidence_of_control": float(control.confidences[place]),
            }
            for place in self.places[:MOST].tolist()
        ]

    def draw(self, record: JobRecord) -> Picture:
        """A contact sheet of the first `MOST` images."""
        images = record.data.test.pixels(self.places[:MOST].to(record.data.test.labels.device))
        tiles = [
            (
                f"{row['index_in_test']}: {row['class']}\nas {row['answer']}, "
                f"{wording.percent(row['confidence'], 0)}",
                arrange_pixels(image.cpu().numpy()),
            )
            for row, image in zip(self.list_rows(record), images, strict=True)
        ]
        shown = f"the {len(tiles)} most confident of " if len(tiles) < len(self.places) else ""
        caption = (
            f"Lost by {self.row.id}: {shown}{wording.count_of(len(self.places), 'test image')} "
            "that the dense control gets right and this checkpoint wrong. Index in the test split, "
            "class, wrong answer and its confidence."
        )
        return draw_grid(tiles, caption, columns=min(COLUMNS, len(tiles)))


def find_lost(record: JobRecord, row: RoundRecord) -> LostImages:
    """The images that the control of a checkpoint gets right and the checkpoint wrong."""
    lost = row.measured.wrong & ~find_control(record, row).wrong
    places = torch.nonzero(lost).flatten()
    order = _read_answers(row.measured).confidences[places].argsort(descending=True, stable=True)
    return LostImages(row, places[order])


def choose_shown(record: JobRecord, lost: Sequence[LostImages]) -> LostImages | None:
    """The checkpoint whose lost images are shown: of those that lose any, the sparsest within the
    margin of its control on the validation images; where none is within, the one with the lowest
    error there. None where no checkpoint loses an image.
    """
    losing = [images for images in lost if len(images.places)]
    if not losing:
        return None
    margin = find_margin(record.recipe.gates, record.recipe.targets.max_error_increase)

    def measure_val_error(images: LostImages) -> float:
        return float(images.row.measured.val_wrong.double().mean())

    def measure_val_increase(images: LostImages) -> float:
        control = find_control(record, images.row)
        return measure_val_error(images) - float(control.val_wrong.double().mean())

    within = [images for images in losing if measure_val_increase(images) <= margin]
    if within:
        return max(within, key=lambda images: (images.row.sparsity, -measure_val_error(images)))
    return min(losing, key=measure_val_error)


@dataclass(frozen=True)
class Exemplars:
    """The test images on which the modal answer of several checkpoints of one target is not that of
    their control.
    """

    target: float
    pruned: Tensor
    """int32 (checkpoints, test images): the answers of the checkpoints."""
    control: Tensor
    """int32 (test images,): the answers of the control."""

    def find_places(self) -> list[int]:
        """The places of the images among the test images of the job, those on which most
        checkpoints agree first.
        """
        places = torch.nonzero(find_exemplars(self.pruned, self.control[None])).flatten()
        _, agreeing = self._count_modal(places)
        return places[agreeing.argsort(descending=True, stable=True)].tolist()

    def list_rows(self, record: JobRecord) -> list[dict[str, Any]]:
        """The rows of the table, `MOST` at most."""
        places = torch.tensor(self.find_places()[:MOST], dtype=torch.int64)
        modal, agreeing = self._count_modal(places)
        indices = record.data.test.dataset_indices.cpu()
        labels = record.data.test.labels.cpu()
        classes = record.data.classes
        return [
            {
                "target_sparsity": self.target,
                "index_in_test": int(indices[place]),
                "class": classes[int(labels[place])],
                "answer_of_control": _name_answer(classes, self.control[place]),
                "modal_answer": _name_answer(classes, modal[number]),
                "checkpoints_with_it": int(agreeing[number]),
                "checkpoints": len(self.pruned),
            }
            for number, place in enumerate(places.tolist())
        ]

    def _count_modal(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The modal answer to each of these images, and how many checkpoints give it."""
        answers = self.pruned[:, places]
        modal = answers.mode(0).values
        return modal, (answers == modal).sum(0)


def collect_exemplars(record: JobRecord, rows: Sequence[RoundRecord]) -> list[Exemplars]:
    """The exemplars of every target with several checkpoints."""
    exemplars = []
    for target in sorted({row.target for row in rows if row.target is not None}):
        own = [row for row in rows if row.target == target]
        if len(own) > 1:
            pruned = torch.stack([_read_answers(row.measured).classes for row in own])
            control = _read_answers(find_control(record, own[0])).classes
            exemplars.append(Exemplars(target, pruned, control))
    return exemplars


def _name_answer(classes: Sequence[str], answer: Tensor) -> str:
    """The class of an answer; a negative number is no answer."""
    return classes[int(answer)] if answer >= 0 else "no answer"


def _read_answers(measured: Measured) -> Answers:
    """The answers, which every measurement for classification has."""
    assert measured.answers is not None
    return measured.answers
