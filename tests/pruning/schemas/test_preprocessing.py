"""The preprocessing of images: who chooses it, and the warning where nobody did."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.architectures import _torchvision_shim  # noqa: F401 (goes before torchvision)
from pruning.data.preprocessing import choose_preprocessing
from pruning.errors import ParameterError
from pruning.schemas.job import DatasetRef
from pruning.schemas.preprocessing import (
    IMAGENET,
    GivenPreprocessing,
    Resizing,
    choose_normalisation,
    choose_resizing,
    describe_guess,
    describe_model_preprocessing,
    find_own_resizing,
    keep_resizing,
)
from pruning.schemas.published_preprocessing import translate_published
from pruning.schemas.torchvision_transforms import TRANSFORMS

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


def torchvision(name: str = "resnet18", **fields: Any) -> dict[str, Any]:
    return {"architecture": "torchvision", "kwargs": {"name": name}, **fields}


def test_the_table_of_published_weights_is_that_of_torchvision() -> None:
    from torchvision import models

    names = models.list_models(module=models)
    assert sorted(TRANSFORMS) == sorted(names)
    for name in names:
        published = models.get_model_weights(name).DEFAULT.transforms()
        own = find_own_resizing(torchvision(name))
        assert own is not None
        sides = (published.resize_size, published.crop_size)
        assert sides == ([own.resize], [own.crop])
        assert own.interpolation == published.interpolation.value
        constants, source = choose_normalisation(torchvision(name), None)
        assert source == "imagenet"
        assert constants is not None
        assert list(constants["mean"]) == published.mean
        assert list(constants["std"]) == published.std


def kept(source: Any = "given", **sizes: Any) -> dict[str, Any] | None:
    return keep_resizing(GivenPreprocessing.model_validate(sizes).resizing or Resizing(), source)


PHOTOS = (None, None)
GIVEN = GivenPreprocessing(crop=32).resizing


@pytest.mark.parametrize(
    ("size", "model", "dataset", "given", "crop", "source"),
    [
        (PHOTOS, torchvision(), {}, None, 224, "imagenet"),
        (PHOTOS, torchvision(), {}, GIVEN, 32, "given"),
        (PHOTOS, torchvision(), {"preprocessing": kept(crop=64)}, None, 64, "given"),
        (PHOTOS, torchvision(preprocessing=kept("model", crop=96)), {}, None, 96, "model"),
        (
            PHOTOS,
            torchvision(preprocessing=kept(crop=96)),
            {"preprocessing": kept(crop=64)},
            None,
            96,
            "given",
        ),
        (PHOTOS, torchvision(preprocessing=kept("model")), {}, None, 224, "imagenet"),
        (PHOTOS, {"architecture": "mlp", "kwargs": {}}, {}, None, None, None),
        ((32, 32), torchvision(), {}, None, None, None),
        ((224, 224), torchvision(), {}, None, None, None),
        ((256, 256), torchvision(), {}, None, 224, "imagenet"),
        ((500, 224), torchvision(), {}, None, 224, "imagenet"),
        ((256, 256), torchvision(preprocessing=kept("model")), {}, None, None, None),
        ((96, 96), torchvision(preprocessing=kept(crop=96)), {}, None, None, None),
        ((32, 32), torchvision(), {"preprocessing": kept(crop=24)}, None, 24, "given"),
        ((32, 32), torchvision(), {}, GIVEN, 32, "given"),
    ],
)
def test_sizes_are_those_of_who_is_asked_first(
    size: Any, model: Any, dataset: Any, given: Any, crop: int | None, source: str | None
) -> None:
    chosen, chosen_source = choose_resizing(size, model, dataset, given)
    assert (None if chosen is None else chosen.crop, chosen_source) == (crop, source)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize": 64}, "leaves images of differing sizes"),
        ({"resize": 64, "crop": 65}, "does not fit"),
        ({"interpolation": "bicubic"}, "no effect"),
        ({"mean": [0.5]}, "belong together"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "std has 2"),
        ({"mean": [0.5], "std": [0]}, "positive"),
        ({"crop": 0}, "greater than or equal to 1"),
    ],
)
def test_a_preprocessing_that_makes_no_sense_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GivenPreprocessing.model_validate(fields)


TIMM = {"input_size": [3, 224, 224], "interpolation": "bicubic", "mean": [0.5], "std": [0.5]}
VIT = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CONVNEXT = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3, "do_resize": True}
CONVNEXT |= {"image_mean": [0.4], "image_std": [0.2]}


@pytest.mark.parametrize(
    ("document", "resize", "crop", "interpolation"),
    [
        (TIMM | {"crop_pct": 0.95}, 235, 224, "bicubic"),
        (TIMM | {"crop_pct": 1.0, "crop_mode": "squash"}, (224, 224), 224, "bicubic"),
        (TIMM, 256, 224, "bicubic"),
        (VIT, (224, 224), None, "bilinear"),
        (VIT | {"size": 384}, (384, 384), None, "bilinear"),
        (
            VIT | {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224},
            256,
            224,
            "bilinear",
        ),
        (CONVNEXT, 256, 224, "bicubic"),
        (CONVNEXT | {"size": {"shortest_edge": 384}}, (384, 384), None, "bicubic"),
        ({"crop": 64}, 64, 64, "bilinear"),
    ],
)
def test_what_other_libraries_write_beside_weights_is_read(
    document: dict[str, Any], resize: Any, crop: int | None, interpolation: str
) -> None:
    given = GivenPreprocessing.model_validate(translate_published(document))
    assert given.resizing == Resizing(resize=resize, crop=crop, interpolation=interpolation)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (TIMM | {"crop_mode": "border"}, "crop_mode"),
        (TIMM | {"input_size": [3, 224, 256]}, "squares"),
        (VIT | {"rescale_factor": 1.0}, "1/255"),
        (VIT | {"size": {"longest_edge": 224}}, "shortest_edge"),
    ],
)
def test_what_has_no_counterpart_is_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        translate_published(document)


@pytest.mark.parametrize("owner", ["model", "dataset"])
def test_a_refusal_points_at_the_preprocessing_that_was_given(owner: str) -> None:
    grey = GivenPreprocessing(mean=(0.5,), std=(0.2,))
    model: dict[str, Any] = {"architecture": "mlp", "kwargs": {}}
    dataset = {"shape": [3, 8, 8], "task": "classification"}
    reference = DatasetRef(builtin="digits", preprocessing=grey if owner == "dataset" else None)
    with pytest.raises(ParameterError) as refused:
        choose_preprocessing(reference, model, dataset, grey if owner == "model" else None)
    assert refused.value.pointer == f"/{owner}/preprocessing/mean"
    cropped = GivenPreprocessing(crop=4)
    reference = DatasetRef(builtin="digits", preprocessing=cropped if owner == "dataset" else None)
    masks = dataset | {"task": "segmentation"}
    with pytest.raises(ParameterError) as refused:
        choose_preprocessing(reference, model, masks, cropped if owner == "model" else None)
    assert refused.value.pointer == f"/{owner}/preprocessing"
