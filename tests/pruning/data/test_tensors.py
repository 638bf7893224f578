"""Splits, normalisation, augmentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pruning.data.arrays import Arrays
from pruning.data.augmentation import PADDING, augment, resolve_augment
from pruning.data.tensors import Data, prepare
from pruning.errors import DataError
from pruning.rounds.costs import count_split_images
from pruning.schemas.recipe import Limit
from pruning.seeding import generator
from tests.support import cases, oracles


def arrays(
    train: int = 60,
    test: int = 30,
    val: int = 0,
    classes: int = 3,
    shape: tuple[int, int, int] = (1, 2, 2),
    weights: tuple[int, ...] | None = None,
) -> Arrays:
    """Every image holds its own number, so that splits can be distinguished."""

    def labels(n: int) -> Any:
        cycle = np.concatenate([np.full(k, i) for i, k in enumerate(weights or (1,) * classes)])
        return np.resize(cycle, n).astype(np.int64)

    def images(n: int, first: int) -> Any:
        out = np.zeros((n, *shape), np.uint8)
        out[:, 0, 0, 0], out[:, 0, 0, 1] = np.divmod(np.arange(first, first + n), 256)
        return out

    sizes = {"train": train, "test": test} | ({"val": val} if val else {})
    return Arrays(
        {k: images(n, 10_000 * i) for i, (k, n) in enumerate(sizes.items())},
        {k: labels(n) for k, n in sizes.items()},
        tuple("abcdefgh"[:classes]),
    )


def ids(data: Data, split: str) -> list[int]:
    images = getattr(data, split).images.long()
    return (images[:, 0, 0, 0] * 256 + images[:, 0, 0, 1]).tolist()


def prepared(source: Arrays, seed: int = 0, **fields: Any) -> Data:
    normalize = fields.pop("normalize", {"mean": [0.5], "std": [0.5]})
    classes = fields.pop("classes", None)
    return prepare(source, limit=Limit(**fields), seed=seed, normalize=normalize, classes=classes)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    train=st.integers(12, 90),
    test=st.integers(3, 40),
    val=st.integers(0, 5),
    seed=st.integers(0, 3),
    limit_train=st.one_of(st.none(), st.integers(2, 90)),
    limit_test=st.one_of(st.none(), st.integers(1, 40)),
    stratify=st.booleans(),
)
def test_splits_are_disjoint_deterministic_and_as_large_as_planned(
    train: int,
    test: int,
    val: int,
    seed: int,
    limit_train: int | None,
    limit_test: int | None,
    stratify: bool,
) -> None:
    source = arrays(train, test, val)
    limit = {"train": limit_train, "test": limit_test, "stratify": stratify}
    data, again = prepared(source, seed, **limit), prepared(source, seed, **limit)
    all_ids = [*ids(data, "fit"), *ids(data, "val"), *ids(data, "test")]
    assert len(set(all_ids)) == len(all_ids)
    assert all(ids(data, split) == ids(again, split) for split in ("fit", "val", "test"))
    counts = {"train": train, "test": test, "val": val}
    planned = count_split_images(cases.recipe(limit=Limit(**limit)), counts)
    assert planned == {"fit": len(data.fit), "val": len(data.val), "test": len(data.test)}
    if stratify and not val:  # classes come equally often, so each draw is balanced to one image
        for split in (
            torch.cat([data.fit.labels, data.val.labels]),
            data.test.labels,
            data.val.labels,
        ):
            per_class = torch.bincount(split, minlength=3)
            whole = len(split) in (train, test)
            assert whole or int(per_class.max() - per_class.min()) <= 1


def test_splits_keep_the_proportions_of_the_classes_and_every_class_is_trained_on() -> None:
    source = arrays(train=600, test=240, weights=(39, 39, 39, 3), classes=4)
    data = prepared(source)
    assert torch.bincount(data.fit.labels).tolist()[3] >= 13
    assert torch.bincount(data.val.labels, minlength=4).tolist()[3] in (1, 2)
    few = prepared(source, train=40, test=80)
    assert torch.bincount(few.fit.labels, minlength=4).tolist()[3] == 1
    assert torch.bincount(few.test.labels).tolist() == [26, 26, 26, 2]
    assert (data.notes, few.notes) == ((), ())


def test_classes_without_an_image_to_train_on_are_named() -> None:
    data = prepared(arrays(train=60, classes=6), train=4)
    missing = [name for index, name in enumerate("abcdef") if index not in data.fit.labels]
    (note,) = data.notes
    assert note.startswith(f"{len(missing)} of 6 classes have no image left to train on")
    assert repr(missing[0]) in note


def test_a_balanced_validation_split_leaves_half_of_a_rare_class() -> None:
    source = arrays(train=600, test=240, weights=(39, 39, 39, 3), classes=4)
    counts = torch.bincount(prepared(source, balanced=True).val.labels).tolist()
    assert counts[3] == 7
    assert sorted(counts[:3]) == [17, 18, 18]


def test_a_limit_is_balanced_even_where_the_dataset_is_not() -> None:
    source = arrays(train=100, weights=(8, 1, 1))
    data = prepared(source, train=20, balanced=True)
    assert sorted(torch.bincount(torch.cat([data.fit.labels, data.val.labels])).tolist()) == [
        6,
        7,
        7,
    ]
    exhausted = prepared(source, train=40, balanced=True)
    assert torch.bincount(torch.cat([exhausted.fit.labels, exhausted.val.labels])).tolist() == [
        20,
        10,
        10,
    ]


def test_without_stratify_the_draw_is_a_plain_one() -> None:
    source = arrays(train=1000, weights=(8, 1, 1))
    data = prepared(source, train=300, stratify=False)
    counts = torch.bincount(torch.cat([data.fit.labels, data.val.labels])).tolist()
    assert abs(counts[0] - 240) < 30
    # which images are drawn has nothing to do with their labels
    order = torch.randperm(1000, generator=generator(0, "limit", "train"))[:300]
    assert sorted([*ids(data, "fit"), *ids(data, "val")]) == sorted(order.tolist())


def test_seeds_draw_differently_and_a_dataset_keeps_its_own_val() -> None:
    source = arrays()
    assert ids(prepared(source, 0), "val") != ids(prepared(source, 1), "val")
    own = prepared(arrays(val=9), train=20)
    assert ids(own, "val") == list(range(20_000, 20_009))
    assert len(own.fit) == 20


def test_images_keep_their_labels_and_order() -> None:
    dataset = arrays()
    data = prepared(dataset, train=30)
    for split in ("fit", "val"):
        assert ids(data, split) == sorted(ids(data, split))
        assert getattr(data, split).labels.tolist() == [
            dataset.labels["train"][i] for i in ids(data, split)
        ]


def test_labels_follow_the_models_order_of_classes() -> None:
    dataset = arrays()
    data = prepared(dataset, classes=["c", "a", "b"])
    assert data.classes == ("c", "a", "b")
    for split, source in (("fit", "train"), ("val", "train"), ("test", "test")):
        first = 10_000 if split == "test" else 0
        names = [data.classes[label] for label in getattr(data, split).labels.tolist()]
        assert names == [
            dataset.classes[dataset.labels[source][i - first]] for i in ids(data, split)
        ]
    assert ids(data, "val") == ids(prepared(dataset), "val"), (
        "renumbering must not redraw the split"
    )


@pytest.mark.parametrize(
    "classes", [["a", "b"], ["a", "b", "x"], ["a", "b", "c", "d"], ["a", "b", "c", "a"]]
)
def test_other_classes_than_the_models_are_refused(classes: list[str]) -> None:
    with pytest.raises(DataError, match="are not those of the dataset"):
        prepared(arrays(), classes=classes)


def test_normalisation_by_hand() -> None:
    data = cases.make_data(shape=(3, 2, 2))
    data = Data(
        fit=data.fit,
        val=data.val,
        test=data.test,
        classes=data.classes,
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.6, 0.7),
    )
    normalized = data.normalize(data.fit.images)
    mean, std = (
        torch.tensor(constants, dtype=torch.float64).view(1, 3, 1, 1)
        for constants in (data.mean, data.std)
    )
    torch.testing.assert_close(
        normalized.double(), (data.fit.images.double() / 255 - mean) / std, atol=1e-6, rtol=1e-6
    )
    assert normalized.dtype == torch.float32
    assert data.fit.images.dtype == torch.uint8
    batches = list(data.batches(data.fit, 16))
    assert [len(y) for _, y in batches] == [16, 16, 8]
    assert torch.equal(torch.cat([x for x, _ in batches]), normalized)


def test_moments_are_those_of_the_whole_train_split() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2500, 3, 2, 2), dtype=np.uint8)  # more than one chunk
    source = Arrays(
        {"train": images, "test": images[:3]},
        {"train": np.arange(2500) % 3, "test": np.arange(3)},
        ("a", "b", "c"),
    )
    for fields in ({}, {"train": 30}, {"train": 30, "seed": 5}):
        data = prepared(source, normalize=None, **fields)
        assert data.mean == pytest.approx((images / 255).mean((0, 2, 3)).tolist(), abs=1e-12)
        assert data.std == pytest.approx((images / 255).std((0, 2, 3)).tolist(), abs=1e-9)


def test_images_of_one_grey_do_not_divide_by_zero() -> None:
    source = arrays()
    flat = Arrays(
        {split: np.full_like(images, 7) for split, images in source.images.items()},
        source.labels,
        source.classes,
    )
    data = prepared(flat, normalize=None)
    assert torch.isfinite(data.normalize(data.fit.images)).all()


@pytest.mark.parametrize(
    "normalize", [{"mean": [0.5] * 3, "std": [0.5] * 3}, {"mean": [0.5], "std": []}]
)
def test_constants_of_other_channels_are_refused(normalize: dict[str, list[float]]) -> None:
    with pytest.raises(DataError, match="the images have 1"):
        prepared(arrays(), normalize=normalize)


@pytest.mark.parametrize("size", [1, 2])
def test_one_training_image_cannot_be_split(size: int) -> None:
    if size == 1:
        with pytest.raises(DataError, match="too few to set 1 aside"):
            prepared(arrays(), train=size)
    else:
        assert len(prepared(arrays(), train=size).fit) == 1


# augmentation


@pytest.mark.parametrize("mode", ["crop", "crop_flip"])
@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 2, 2)])
def test_augmentation_pixel_by_pixel(mode: str, shape: tuple[int, int, int]) -> None:
    images = torch.randint(1, 256, (24, *shape), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    before = images.clone()
    augmented = augment(images, mode, generator(0, "augment"))
    rng = generator(0, "augment")
    offsets = torch.randint(0, 2 * PADDING + 1, (2, 24, 1), generator=rng).squeeze(2)
    flips = (
        (torch.rand(24, 1, generator=rng) < 0.5).squeeze(1)
        if mode == "crop_flip"
        else torch.zeros(24)
    )
    expected = torch.stack(
        [
            oracles.augmented(image, int(top), int(left), bool(flip), PADDING)
            for image, top, left, flip in zip(images, *offsets, flips, strict=True)
        ]
    )
    assert torch.equal(augmented, expected)
    assert augmented.dtype == torch.uint8
    assert torch.equal(images, before)
    assert mode == "crop" or 0 < int(flips.sum()) < 24


def test_no_augmentation_is_none() -> None:
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    assert augment(images, "none", torch.Generator()) is images


@pytest.mark.parametrize(
    ("shape", "mode"),
    [
        ((3, 32, 32), "crop_flip"),
        ((3, 24, 24), "crop_flip"),
        ((3, 23, 32), "none"),
        ((1, 32, 32), "none"),
    ],
)
def test_auto_flips_only_larger_colour_images(shape: tuple[int, int, int], mode: str) -> None:
    assert resolve_augment("auto", shape) == mode
    assert resolve_augment("crop", shape) == "crop"


# the decoded file


def test_decoded_arrays_survive_their_file(tmp_path: Path) -> None:
    saved = arrays(val=4)
    saved.save(tmp_path / "data")
    loaded = Arrays.load(tmp_path / "data")
    assert (loaded.classes, loaded.counts, loaded.shape) == (
        saved.classes,
        {"train": 60, "val": 4, "test": 30},
        (1, 2, 2),
    )
    assert all(
        (loaded.images[split] == saved.images[split]).all()
        and (loaded.labels[split] == saved.labels[split]).all()
        for split in saved.images
    )


@pytest.mark.parametrize(
    "metadata", [None, {"secateur": "no json"}, {"other": "{}"}, {"secateur": "{}"}]
)
def test_another_file_is_no_decoded_dataset(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    save_file({"train_x": np.zeros(1)}, tmp_path / "data", metadata=metadata)
    with pytest.raises(DataError, match="not a decoded dataset"):
        Arrays.load(tmp_path / "data")
    (tmp_path / "junk").write_text(json.dumps({}))
    with pytest.raises(DataError, match="not a decoded dataset"):
        Arrays.load(tmp_path / "junk")
