"""The constants of normalisation: who chooses them, and the warning where nobody did."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.schemas.preprocessing import (
    IMAGENET,
    choose_normalisation,
    describe_guess,
    describe_model_preprocessing,
)

OWN = {"mean": [0.1], "std": [0.2]}
OTHER = {"mean": [0.3], "std": [0.4]}


@pytest.mark.parametrize(
    ("model", "dataset", "constants", "source"),
    [
        ({"architecture": "mlp", "normalize": OWN}, OTHER, OWN, "given"),
        ({"architecture": "mlp", "normalize": OWN, "source": "model"}, OTHER, OWN, "model"),
        ({"architecture": "mlp", "normalize": None}, OTHER, OTHER, "given"),
        ({"architecture": "torchvision", "normalize": None}, OTHER, OTHER, "given"),
        ({"architecture": "torchvision", "normalize": None}, None, IMAGENET, "imagenet"),
        ({"architecture": "torchvision_segmentation"}, None, IMAGENET, "imagenet"),
        ({"architecture": "mlp"}, None, None, "dataset"),
    ],
)
def test_the_nearest_to_the_network_decides(
    model: dict[str, Any], dataset: Any, constants: Any, source: str
) -> None:
    assert choose_normalisation(model, dataset) == (constants, source)


def test_guesses_are_warned_of() -> None:
    assert describe_guess("given") is None
    assert describe_guess("model") is None
    assert "the constants of ImageNet" in str(describe_guess("imagenet"))
    assert "mean and standard deviation of the training images" in str(describe_guess("dataset"))


def test_a_network_alone_knows_its_preprocessing_or_leaves_it_to_the_dataset() -> None:
    known = describe_model_preprocessing({"architecture": "torchvision", "normalize": None})
    assert known is not None
    assert (known.source, known.mean, known.resize) == ("imagenet", IMAGENET["mean"], None)
    assert describe_model_preprocessing({"architecture": "mlp", "normalize": None}) is None
