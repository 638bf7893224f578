"""The section on damage by class and group: its tables, sentences and picture."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from pruning.analysis.applicability import applies_to
from pruning.evaluations.class_damage import DamageByClass
from pruning.measurement.intervals import binomial_interval
from pruning.pipeline.results import Results
from pruning.schemas.class_damage import read_class_damage, read_group_damage
from pruning.schemas.report import Section
from tests.support.class_records import (
    make_checkpoint,
    make_class_record,
    make_classes,
    measure_wrong,
)
from tests.support.finished_records import evaluate_job, make_record
from tests.support.loss_rounds import find_note

LABELS = make_classes([100, 100, 200])
CONTROL = torch.arange(400) % 10 == 0
NONE = torch.zeros(400, dtype=torch.bool)


def lose(first: int, count: int) -> Tensor:
    """The control's errors, and those on `count` images from `first` on."""
    wrong = CONTROL.clone()
    wrong[first : first + count] = True
    return wrong


def evaluate(*errors: Tensor, groups: dict[str, list[int]] | None = None) -> Section:
    """The section of a job whose checkpoints, ever sparser, err on these images."""
    rounds = [
        make_checkpoint(measure_wrong(LABELS, wrong), target=0.5 + 0.1 * number, number=number + 1)
        for number, wrong in enumerate(errors)
    ]
    record = make_class_record(LABELS, measure_wrong(LABELS, CONTROL), rounds, groups)
    section = DamageByClass().evaluate(record)
    assert Section.model_validate_json(section.model_dump_json()) == section
    return section


def test_a_class_that_loses_more_than_the_others_is_named() -> None:
    section = evaluate(lose(100, 40))
    rows = {row.class_name: row for row in read_class_damage(section)}
    assert list(rows) == ["class1", "class0", "class2"], "the largest loss first"
    damaged = rows["class1"]
    assert (damaged.n, damaged.only_pruned, damaged.only_control) == (100, 36, 0)
    assert damaged.error_pruned == binomial_interval(46, 100)
    assert damaged.error_control == binomial_interval(10, 100)
    assert damaged.increase.value == pytest.approx(0.36)
    assert damaged.adjusted_p_value == 1e-6
    assert damaged.finding == "loses more than the others"
    assert rows["class0"].finding == rows["class2"].finding == "not distinguished"
    note = find_note(section, "stands out. Its error rose")
    assert note.startswith("magnitude-0.5: the class 'class1' stands out. Its error rose by +36.0")
    assert "46.0 % against the control's 10.0 %, on 100 test images." in note


def test_a_loss_that_all_classes_share_names_none() -> None:
    everywhere = CONTROL | (torch.arange(400) % 4 == 1)
    section = evaluate(everywhere)
    assert {row.finding for row in read_class_damage(section)} == {"loses"}
    note = find_note(section, "rose beyond noise")
    assert note == (
        "The error rose beyond noise in some classes, in no class more than in the others "
        "beyond noise: magnitude-0.5 (3 of 3)."
    )
    assert not any("stands out. Its" in note for note in section.notes)


def test_where_no_class_stands_out_the_section_says_what_would_have() -> None:
    section = evaluate(lose(0, 3), lose(100, 3))
    note = find_note(section, "No class stands out")
    smallest = [row for row in read_class_damage(section) if row.n == 100]
    largest = max(row.detectable_increase or 1.0 for row in smallest)
    assert note.startswith(
        "No class stands out at magnitude-0.5, magnitude-0.6 at this number of images. In the "
        f"smallest class (100 test images) a loss of {100 * largest:.1f} pp would have been found "
        "with a probability of 80 %. In the largest class (200 test images) a loss of "
    )


def test_a_gain_is_no_loss() -> None:
    section = evaluate(NONE)
    assert find_note(section, "No checkpoint loses a test image")
    assert not section.pictures
    assert {row.finding for row in read_class_damage(section)} == {"gains"}
    assert find_note(section, "No class stands out")


def test_errors_are_told_by_group_and_clusters_count_once() -> None:
    half = [index % 2 for index in range(400)]
    columns = {"sex": half, "age": [-1] * 200 + [0] * 200}
    section = evaluate(CONTROL | (torch.arange(400) % 4 == 1), groups=columns)
    rows = {(row.column, row.group): row for row in read_group_damage(section)}
    assert set(rows) == {("sex", "0"), ("sex", "1"), ("age", "0")}
    assert (rows["sex", "1"].n, rows["sex", "1"].only_pruned) == (200, 100)
    assert rows["sex", "1"].finding == "loses more than the others"
    assert rows["sex", "0"].finding == "not distinguished"
    assert rows["age", "0"].finding == "loses", "there are no others"
    assert find_note(section, "the group of sex '1' stands out")
    # The same errors, all within four clusters of a hundred images: four signs prove nothing.
    clustered = evaluate(
        CONTROL | (torch.arange(400) % 4 == 1),
        groups=columns | {"cluster": [index // 100 for index in range(400)]},
    )
    assert {row.finding for row in read_group_damage(clustered)} == {"not distinguished"}
    assert {row.column for row in read_group_damage(clustered)} == {"sex", "age"}
    assert find_note(clustered, "400 images in 4 clusters")


def test_the_lost_images_come_most_confidently_lost_first() -> None:
    confidences = torch.linspace(0.2, 0.9, 400)
    wrong = lose(50, 30)
    rounds = [make_checkpoint(measure_wrong(LABELS, wrong, confidences))]
    record = make_class_record(LABELS, measure_wrong(LABELS, CONTROL), rounds)
    shuffled = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    record = replace(
        record, data=replace(record.data, test=replace(record.data.test, indices=shuffled))
    )
    section = DamageByClass().evaluate(record)
    table = section.details["lost_images"]
    assert len(table) == 16
    places = [place for place in range(79, 49, -1) if not CONTROL[place]][:16]
    assert [row["index_in_test"] for row in table] == shuffled[places].tolist()
    assert table[0] == {
        "checkpoint": "magnitude-0.8",
        "index_in_test": int(shuffled[79]),
        "class": "class0",
        "answer": "class1",
        "confidence": float(confidences[79]),
        "confidence_of_control": 0.5,
    }
    assert find_note(section, "magnitude-0.8 27.")
    assert list(section.pictures) == ["lost_images"]


def test_a_network_without_an_answer_is_not_given_one() -> None:
    measured = measure_wrong(LABELS, lose(1, 1))
    assert measured.answers is not None
    measured.answers.classes[1] = -1
    record = make_class_record(
        LABELS, measure_wrong(LABELS, CONTROL), [make_checkpoint(measured)] * 2
    )
    section = DamageByClass().evaluate(record)
    assert section.details["lost_images"][0]["answer"] == "no answer"
    assert section.details["exemplars"][0]["modal_answer"] == "no answer"


def test_the_picture_is_of_the_sparsest_checkpoint_within_the_margin() -> None:
    rounds = []
    for number, (target, val_errors) in enumerate([(0.5, 0), (0.7, 0), (0.9, 4)]):
        measured = measure_wrong(LABELS, lose(50 * number, 30))
        measured = replace(measured, val_wrong=torch.arange(10) < val_errors)
        rounds.append(make_checkpoint(measured, target=target, number=number + 1))
    record = make_class_record(LABELS, measure_wrong(LABELS, CONTROL), rounds)
    from pruning.evaluations._lost_images import choose_shown, find_lost

    lost = [find_lost(record, row) for row in rounds]
    shown = choose_shown(record, lost)
    assert shown is not None
    assert shown.row.id == "magnitude-0.7"
    beyond = choose_shown(record, lost[2:])
    assert beyond is not None
    assert beyond.row.id == "magnitude-0.9"
    assert choose_shown(record, [replace(lost[0], places=lost[0].places[:0])]) is None


@pytest.mark.usefixtures("drawn")
def test_the_picture_holds_the_images() -> None:
    picture = evaluate(lose(50, 5)).pictures["lost_images"]
    assert picture.caption.startswith("Lost by magnitude-0.5: 4 test images that the dense control")
    assert Image.open(io.BytesIO(base64.b64decode(picture.png))).width > 200


def test_exemplars_are_what_several_checkpoints_of_a_target_have_in_common() -> None:
    errors = {"magnitude": lose(0, 30), "synflow": lose(10, 30), "random": lose(15, 3)}
    rounds = [
        make_checkpoint(measure_wrong(LABELS, wrong), label=label)
        for label, wrong in errors.items()
    ]
    control = measure_wrong(LABELS, CONTROL)
    section = DamageByClass().evaluate(make_class_record(LABELS, control, rounds))
    table = section.details["exemplars"]
    both = [index for index in range(10, 30) if not CONTROL[index]]
    assert {row["index_in_test"] for row in table} <= set(both)
    assert [row["checkpoints_with_it"] for row in table[:3]] == [3, 3, 3]
    assert {row["index_in_test"] for row in table[:3]} == {15, 16, 17}
    note = find_note(section, f"{len(both)} at 80 % (3 checkpoints)")
    assert "most checkpoints" not in note, "the modal answer may be of fewer than half"
    alone = DamageByClass().evaluate(make_class_record(LABELS, control, rounds[:1]))
    assert "exemplars" not in alone.details


def test_it_runs_unasked_on_a_job_and_costs_no_pass(cascade: Results) -> None:
    record = make_record(cascade)
    assert applies_to(DamageByClass(), record)
    passes: list[int] = []
    section = DamageByClass().evaluate(replace(record, advance=passes.append))
    assert passes == []
    rows = read_class_damage(section)
    assert len(rows) == 6 * 3
    targets = {row.id: row for row in record.rounds}
    labels = record.data.test.labels
    for row in rows:
        members = labels == record.data.classes.index(row.class_name)
        errors = targets[row.checkpoint].measured.wrong[members]
        assert row.error_pruned == binomial_interval(int(errors.sum()), row.n)


def test_a_job_without_targets_says_so() -> None:
    section = DamageByClass().evaluate(
        make_class_record(LABELS, measure_wrong(LABELS, CONTROL), [])
    )
    assert find_note(section, "No checkpoint")


def test_it_is_in_the_report_of_a_job(cascade: Results) -> None:
    assert "class_damage" in evaluate_job(cascade)
