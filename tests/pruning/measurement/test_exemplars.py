"""Pruning-identified exemplars against counts by hand."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pruning.measurement.exemplars import find_exemplars
from pruning.measurement.image_errors import find_disagreements, shrink_images


def list_modal(answers: list[int]) -> set[int]:
    """The answers that are most frequent."""
    counts = Counter(answers)
    return {label for label, count in counts.items() if count == max(counts.values())}


@pytest.mark.parametrize("seed", range(5))
def test_exemplars_are_images_whose_modal_labels_differ(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    pruned = torch.randint(0, 4, (7, 300), generator=rng)
    dense = torch.randint(0, 4, (5, 300), generator=rng)
    expected = [
        not list_modal(pruned[:, image].tolist()) & list_modal(dense[:, image].tolist())
        for image in range(300)
    ]
    assert find_exemplars(pruned, dense).tolist() == expected
    assert 0 < sum(expected) < 300


def test_a_tie_is_no_difference() -> None:
    pruned = torch.tensor([[0, 2], [1, 2]])
    dense = torch.tensor([[1, 1]])
    assert find_exemplars(pruned, dense).tolist() == [False, True]


def test_networks_answer_the_same_images() -> None:
    with pytest.raises(ValueError, match="3 images beside 2"):
        find_exemplars(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("seed", range(5))
def test_an_exemplar_differs_from_its_reference_in_one_of_the_jobs(seed: int) -> None:
    """So the pictures that the jobs keep of such images are all that a report needs."""
    rng = torch.Generator().manual_seed(seed)
    dense = torch.randint(0, 3, (3, 300), generator=rng)
    pruned = torch.where(torch.rand(3, 300, generator=rng) < 0.4, dense.roll(1, 1), dense)
    kept = {
        place
        for own, reference in zip(pruned, dense, strict=True)
        for place in find_disagreements(
            {"pruned": own, "dense": reference}, {"pruned": "dense"}
        ).tolist()
    }
    exemplars = set(torch.nonzero(find_exemplars(pruned, dense)).flatten().tolist())
    assert exemplars
    assert exemplars <= kept


def test_images_are_shrunk_to_the_means_of_blocks() -> None:
    image = torch.zeros(1, 1, 130, 66, dtype=torch.uint8)
    image[..., :3, :3] = 90
    (small,) = shrink_images(image)
    assert small.shape == (1, 43, 22)
    assert small[0, 0, :2].tolist() == [90, 0]
