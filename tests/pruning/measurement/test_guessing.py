"""Guessing: the best constant answer, and networks that do no better, on classes of any mix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pruning.measurement.guessing import find_constant_answer, guessing_error, is_guessing

MIXES = {"even": [50] * 4, "skewed": [180, 20], "long_tail": [120, 60, 15, 5]}


def labels_of(counts: list[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


@pytest.mark.parametrize(
    ("counts", "answer", "error"), [([5, 5], 0, 0.5), ([1, 9], 1, 0.1), ([0, 3, 1], 1, 0.25)]
)
def test_the_constant_answer_is_the_most_frequent_class(
    counts: list[int], answer: int, error: float
) -> None:
    class_, constant_error = find_constant_answer(labels_of(counts), len(counts))
    assert class_ == answer
    assert constant_error == pytest.approx(error)


def test_labels_of_one_class_tell_nothing_about_guessing() -> None:
    labels = labels_of([0, 6])
    assert guessing_error(labels, 4) == 0.75
    assert not is_guessing(labels != 1, labels, 2)
    assert is_guessing(labels == 1, labels, 2)


def test_a_network_that_collapsed_to_the_majority_guesses() -> None:
    labels = labels_of(MIXES["skewed"])
    assert is_guessing(labels != 0, labels, 2)
    nearly = labels != 0
    nearly[:3] = True  # three images of the majority wrong, one of the others right
    nearly[-1] = False
    assert is_guessing(nearly, labels, 2)


def test_a_network_that_finds_rare_classes_does_not_guess_though_its_error_is_higher() -> None:
    labels = labels_of(MIXES["skewed"])
    wrong = torch.zeros(200, dtype=torch.bool)
    wrong[:30] = True  # 150 of 180 and 16 of 20 are right: an error of 17 % where a constant has 10
    wrong[-4:] = True
    assert float(wrong.double().mean()) > guessing_error(labels, 2)
    assert not is_guessing(wrong, labels, 2)


@pytest.mark.parametrize("name", MIXES)
def test_answers_that_ignore_the_image_are_found_to_guess(name: str) -> None:
    """Simulated answers of any fixed distribution, drawn without regard to the image."""
    rng = np.random.default_rng(0)
    labels = labels_of(MIXES[name])
    classes, many = len(MIXES[name]), 400
    passed = 0
    for _ in range(many):
        answers = rng.choice(classes, len(labels), p=rng.dirichlet(np.ones(classes)))
        passed += not is_guessing(torch.from_numpy(answers) != labels, labels, classes)
    print(f"{name}: {passed / many:.1%} of label-blind networks pass as better")  # noqa: T201
    assert passed / many <= 0.05


@pytest.mark.parametrize("name", MIXES)
def test_answers_that_know_half_of_the_images_are_not_taken_for_guesses(name: str) -> None:
    rng = np.random.default_rng(0)
    labels = labels_of(MIXES[name])
    classes, many = len(MIXES[name]), 200
    passed = 0
    for _ in range(many):
        guesses = rng.integers(0, classes, len(labels))
        answers = np.where(rng.random(len(labels)) < 0.5, labels.numpy(), guesses)
        passed += not is_guessing(torch.from_numpy(answers) != labels, labels, classes)
    print(f"{name}: {passed / many:.1%} of networks that know half of the images pass")  # noqa: T201
    assert passed / many >= 0.95
