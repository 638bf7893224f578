"""Shifted sets that the user supplies: checked, split, numbered alike, and looked at beside
corruptions and noise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pruning.analysis.prune_potential import compute_prune_ratio
from pruning.analysis.shifts import compute_logits, draw_sample
from pruning.data.arrays import Arrays
from pruning.data.groups import GroupColumn
from pruning.data.shifted import (
    check_alike,
    count_shifted,
    describe_numbering,
    split_distributions,
    split_shifted,
)
from pruning.data.tensors import Data, ShiftedSplits, Split
from pruning.errors import DataError
from pruning.evaluations.certificate import Certificate
from pruning.evaluations.prune_potential import PrunePotential
from pruning.evaluations.robustness import Robustness
from pruning.measurement.intervals import binomial_interval
from pruning.schemas.recipe import Shifts
from pruning.verdict.shift_guidelines import VALIDATION
from tests.support import cases
from tests.support.finished_records import evaluate_job as evaluated
from tests.support.finished_records import finish_job as finished
from tests.support.finished_records import make_record as trial_of
from tests.support.shifted_sets import dark


def arrays(
    classes: tuple[str, ...] = ("a", "b", "c"),
    test: int = 12,
    val: int = 0,
    shape: tuple[int, ...] = (1, 4, 4),
    seed: int = 0,
) -> Arrays:
    rng = np.random.default_rng(seed)
    images_by_split = {
        split: rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        for split, n in (("test", test), ("val", val))
        if n
    }
    return Arrays(
        images_by_split,
        {split: np.arange(len(images)) % len(classes) for split, images in images_by_split.items()},
        classes,
    )


def data_with(**sets: ShiftedSplits) -> Data:
    return replace(cases.make_data(), shifted=sets)


def test_labels_are_numbered_as_those_of_the_data() -> None:
    splits = split_shifted("night", arrays(("c", "a"), val=4), cases.make_data(), seed=0)
    assert splits.test.labels.tolist() == [2, 0] * 6
    assert splits.val.labels.tolist() == [2, 0] * 2


def test_half_of_the_test_images_decide_where_the_set_brings_none_that_do() -> None:
    source = arrays(test=13)
    splits, again = (split_shifted("night", source, cases.make_data(), seed=3) for _ in range(2))
    assert (len(splits.val), len(splits.test)) == (6, 7)
    assert splits.val.labels.bincount().tolist() == [2, 2, 2], "balanced over the classes"
    both = torch.cat([splits.val.images, splits.test.images]).flatten(1).tolist()
    assert sorted(both) == sorted(source.images["test"].reshape(13, -1).tolist()), (
        "every image on one side"
    )
    assert torch.equal(splits.test.images, again.test.images)
    other = split_shifted("night", source, cases.make_data(), seed=4)
    assert not torch.equal(splits.test.images, other.test.images)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            arrays(("a", "d")),
            "classes that the dataset does not have: 'd'; the dataset has 'a', 'b', 'c'",
        ),
        (
            arrays(shape=(1, 4, 5)),
            "images of 5x4 pixels and 1 channel, the dataset of 4x4 pixels and 1 channel",
        ),
        (arrays(shape=(3, 4, 4)), "3 channels"),
        (arrays(test=1), "has 1 image"),
    ],
)
def test_sets_that_do_not_fit_are_refused_by_name(source: Arrays, message: str) -> None:
    data = cases.make_data()
    with pytest.raises(DataError, match=message) as caught:
        split_shifted("night", source, data, seed=0)
    assert "'night'" in str(caught.value)
    with pytest.raises(DataError, match=message) as caught:
        check_alike(
            "night",
            source.shape,
            classes=source.classes,
            counts=source.counts,
            own_shape=data.shape,
            own_classes=data.classes,
            pointer="/here",
        )
    assert caught.value.pointer == "/here"


def test_numbers_count_in_the_order_of_the_classes() -> None:
    data = cases.make_data()
    splits = split_shifted("noise", arrays(("0", "1")), data, seed=0)
    assert splits.test.labels.bincount().tolist() == [3, 3]
    (sentence,) = describe_numbering("noise", ("0", "1"), data.classes)
    assert "the labels of the shifted set 'noise' are numbers" in sentence
    assert "0 is 'a'" in sentence
    assert describe_numbering("noise", ("a",), data.classes) == ()
    with pytest.raises(DataError, match="classes that the dataset does not have: '0'"):
        split_shifted("noise", arrays(("0", "1", "2", "3")), data, seed=0)
    nameless = replace(data, classes=("0", "1", "2"))
    with pytest.raises(DataError, match=r"'d'.*: upload it with `classes`"):
        split_shifted("noise", arrays(("d", "e")), nameless, seed=0)
    numbered = replace(data, classes=("2", "1", "0"))
    splits = split_shifted("noise", arrays(("0", "1"), val=2), numbered, seed=0)
    assert splits.val.labels.tolist() == [2, 1]


def test_a_column_of_shifts_makes_a_distribution_of_each() -> None:
    source = arrays(test=18)
    codes = np.arange(18, dtype=np.int32) // 6 - 1
    source = replace(source, groups={"shift": GroupColumn(("fog.1", "fog.2"), codes)})
    parts = split_distributions("c10c", source, cases.make_data(), seed=0)
    assert list(parts) == ["c10c.fog.1", "c10c.fog.2"]
    for code, splits in enumerate(parts.values()):
        assert (len(splits.val), len(splits.test)) == (3, 3)
        images = torch.cat([splits.val.images, splits.test.images]).flatten(1).tolist()
        expected = source.images["test"][codes == code].reshape(6, -1).tolist()
        assert sorted(images) == sorted(expected)
    assert count_shifted("c10c", source.counts, source.group_counts()) == {
        "c10c.fog.1": (3, 3),
        "c10c.fog.2": (3, 3),
    }
    assert count_shifted("c10c", source.counts, {}) == {"c10c": (9, 9)}


def test_robustness_counts_a_shifted_set_among_the_shifts(tmp_path: Path) -> None:
    data = data_with(
        night=dark(cases.make_data()), dusk=ShiftedSplits(*[dark(cases.make_data(), 1).test] * 2)
    )
    recipe = cases.recipe(
        0.5, 0.9, evaluations=({"name": "robustness", "params": {"corruptions": ["fog"]}},)
    )
    results = finished(recipe, tmp_path, data=data)
    section = evaluated(results)["robustness"]
    trial = trial_of(results)
    rows = {
        (row["network"], row["shift"]): row["error"] for row in section.details["errors_by_shift"]
    }
    for name, images in (("night", 9), ("dusk", 1)):
        split = data.shifted[name].test
        for network, load in (
            ("control", trial.control.network),
            (trial.rounds[0].id, trial.rounds[0].network),
        ):
            missed = int(
                (
                    compute_logits(load(), data.normalize(split.images)).argmax(1) != split.labels
                ).sum()
            )
            assert rows[network, name] == binomial_interval(missed, images).model_dump()
    for id in (stage.id for stage in trial.rounds):
        (row,) = [row for row in section.details["excess_error"] if row["checkpoint"] == id]
        mean = sum(rows[id, name]["value"] for name in ("fog 3", "night", "dusk")) / 3
        assert row["shifted_error"]["value"] == pytest.approx(mean)
        assert row["excess_error"]["value"] == pytest.approx(mean - rows[id, "nominal"]["value"])
    assert any("The shifted set night has 9 images here." in note for note in section.notes)


def test_a_shifted_set_alone_is_shift_enough(tmp_path: Path) -> None:
    results = finished(cases.recipe(0.5), tmp_path, data=data_with(night=dark(cases.make_data())))
    section = Robustness(corruptions=()).evaluate(trial_of(results))
    assert {row["shift"] for row in section.details["errors_by_shift"]} == {"nominal", "night"}


def test_a_shifted_set_has_its_own_prune_potential_and_the_recommendation_reads_its_val_images(
    tmp_path: Path,
) -> None:
    """Reported on `test`, decided on `val`: either is made by hand, and they differ."""
    sets = dark(cases.make_data(), 30)
    recipe = cases.recipe(0.5, 0.9).model_copy(
        update={"shifts": Shifts(knowledge="partly_modelled")}
    )
    trial = trial_of(finished(recipe, tmp_path))
    named = compute_logits(trial.control.network(), trial.data.normalize(sets.val.images)).argmax(
        1
    )  # the control makes no mistake on val
    shuffled = replace(sets, val=replace(sets.val, labels=named))
    trial = replace(trial, data=replace(trial.data, shifted={"night": shuffled}))
    section = PrunePotential(corruptions=(), noise=(), margin=0.0).evaluate(trial)

    def by_hand(split: Split) -> float:
        errors = [
            float(
                (
                    compute_logits(load(), trial.data.normalize(split.images)).argmax(1)
                    != split.labels
                )
                .double()
                .mean()
            )
            for load in (trial.control.network, *(stage.network for stage in trial.rounds))
        ]
        parameters = sum(parameter.numel() for parameter in trial.dense().parameters())
        within = [
            compute_prune_ratio(stage, parameters)
            for stage, error in zip(trial.rounds, errors[1:], strict=True)
            if error <= errors[0]
        ]
        return max(within, default=0.0)

    (row,) = [
        row
        for row in section.details["potential_by_distribution"]
        if row["distribution"] == "night"
    ]
    (decides,) = [row for row in section.details[VALIDATION] if row["distribution"] == "night"]
    assert (row["group"], row["potential"]["n"]) == ("shifted set", 30)
    assert row["potential"]["value"] == pytest.approx(by_hand(shuffled.test))
    assert decides["potential"] == pytest.approx(by_hand(shuffled.val))
    assert by_hand(shuffled.test) != by_hand(shuffled.val), "the test tells the two apart"
    assert decides["held_out"]


def test_agreement_is_promised_on_a_shifted_set(tmp_path: Path) -> None:
    data = data_with(night=dark(cases.make_data()))
    section = Certificate(noise=()).evaluate(
        trial_of(finished(cases.recipe(0.5), tmp_path, data=data))
    )
    (row,) = section.details["limits_under_shift"]
    assert (row["distribution"], row["images"]) == ("night", 9)
    assert row["accuracy"] >= row["dense_accuracy"] - row["disagreement"]
    assert "shifted/magnitude/night" in section.curves


def test_the_sample_of_a_shifted_set_is_its_own(tmp_path: Path) -> None:
    trial = trial_of(
        finished(cases.recipe(0.5), tmp_path, data=data_with(night=dark(cases.make_data())))
    )
    sample = draw_sample(trial, 4, "night")
    assert len(sample) == 4
    pool = trial.data.shifted["night"].test.images.flatten(1).tolist()
    assert all(image in pool for image in sample.images.flatten(1).tolist())


@pytest.mark.parametrize(("stored_as", "is_noted"), [("JPEG", True), (None, False)])
def test_jpeg_compression_of_jpeg_files_is_told(
    tmp_path: Path, stored_as: str | None, is_noted: bool
) -> None:
    data = replace(cases.make_data(), stored_as=stored_as)
    results = finished(cases.recipe(0.5), tmp_path, data=data)
    section = Robustness(corruptions=("jpeg_compression", "fog")).evaluate(trial_of(results))
    assert (
        any("The images of this dataset are JPEG files" in note for note in section.notes)
        == is_noted
    )
