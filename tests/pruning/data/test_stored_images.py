"""Images that stay on the disk: the same as in memory, few at a time, and named where damaged."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from pruning.data import photo_images
from pruning.data import photos as photos_module
from pruning.data.arrays import Arrays
from pruning.data.groups import GroupColumn
from pruning.data.images import read_entry
from pruning.data.reading_ahead import AHEAD, read_ahead
from pruning.data.shifted import split_distributions
from pruning.data.stored_bytes import StoredBytes, find_stored, write_tensors
from pruning.data.tensors import Data, Split, prepare
from pruning.errors import DataError
from pruning.schemas.preprocessing import Resizing
from pruning.schemas.recipe import Limit
from pruning.schemas.training import Corrupt, Training
from pruning.seeding import generator
from pruning.training.epoch_images import TrainingImages
from tests.support.photo_world import make_files, read_files
from tests.support.stored_photos import HeldImages, keep, make_pixels

CROP = Resizing(resize=40, crop=36, interpolation="bilinear")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    return read_files(make_files(30, test=10), tmp_path_factory.mktemp("upload"))


def prepare_both(arrays: Arrays, folder: Path, resizing: Resizing | None) -> tuple[Data, Data]:
    """The data of a job in memory and on the disk."""
    held, stored = keep(arrays, folder)
    limit = Limit(train=18)
    in_memory = prepare(held, limit=limit, seed=3, normalize=None, resizing=resizing)
    on_disk = prepare(
        stored, limit=limit, seed=3, normalize=None, resizing=resizing, decodes_evaluated=False
    )
    return in_memory, on_disk


def iterate_epoch(
    data: Data, training: Training, epoch: int, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch from one of them on."""
    images = TrainingImages(data, training, 7, "fit")
    order = torch.randperm(len(data.fit), generator=generator(7, "order", epoch))
    batches = torch.split(order, training.batch_size)[first:]
    with images.start_epoch(epoch, batches) as epoch_images:
        for step, index in enumerate(batches, first):
            yield epoch_images.draw_batch(index, generator(7, "augment", step))
            again, _ = epoch_images.draw_batch(index, generator(7, "augment", step))
            assert again.shape[0] == len(index), "what did not fit in memory is drawn again"


def draw_epoch(data: Data, training: Training, epoch: int, first: int = 0) -> list[Tensor]:
    """The images and labels of the batches of an epoch from one of them on."""
    return [tensor for batch in iterate_epoch(data, training, epoch, first) for tensor in batch]


def test_a_stored_dataset_says_the_same_of_itself(photos: Arrays, tmp_path: Path) -> None:
    for arrays in (photos, make_pixels()):
        held, stored = keep(arrays, tmp_path)
        for name in ("shape", "counts", "classes", "task", "guessing_error"):
            assert getattr(stored, name) == getattr(held, name) == getattr(arrays, name)
        assert stored.describe_sizes() == held.describe_sizes() == arrays.describe_sizes()
        assert isinstance(stored.photos["train"].content, StoredBytes)


@pytest.mark.parametrize("kind", ["photos", "pixels", "resized pixels"])
def test_stored_images_are_those_in_memory(kind: str, photos: Arrays, tmp_path: Path) -> None:
    arrays = photos if kind == "photos" else make_pixels()
    resizing = None if kind == "pixels" else CROP
    in_memory, on_disk = prepare_both(arrays, tmp_path, resizing)
    assert (on_disk.shape, on_disk.sizes) == (in_memory.shape, in_memory.sizes)
    assert (on_disk.mean, on_disk.std) == (in_memory.mean, in_memory.std)
    for name in ("fit", "val", "test"):
        ours: Split = getattr(on_disk, name)
        theirs: Split = getattr(in_memory, name)
        assert not isinstance(ours.stored, Tensor)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.dataset_indices, theirs.dataset_indices)
        pairs = zip(on_disk.batches(ours, 4), in_memory.batches(theirs, 4), strict=True)
        for (inputs, labels), (wanted, wanted_labels) in pairs:
            assert torch.equal(inputs, wanted)
            assert torch.equal(labels, wanted_labels)


@pytest.mark.parametrize(
    ("augment", "corrupt"),
    [
        ("auto", Corrupt(names=("brightness", "contrast"))),
        ("auto", None),
        ("none", None),
        ("random_resized_crop", Corrupt(names=("brightness", "contrast"))),
    ],
)
def test_training_sees_the_same_images_from_the_disk(
    augment: Any, corrupt: Corrupt | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory, on_disk = prepare_both(make_pixels(), tmp_path, None)
    training = Training(epochs=2, batch_size=5, augment=augment, corrupt=corrupt)
    wanted = draw_epoch(in_memory, training, 1)
    for workers in (1, 3):
        monkeypatch.setattr(photo_images, "count_workers", partial(int, workers))
        drawn = draw_epoch(on_disk, training, 1)
        assert all(map(torch.equal, drawn, wanted))
        assert all(map(torch.equal, draw_epoch(on_disk, training, 1, first=2), wanted[4:]))
    assert len(wanted) == 2 * -(-len(in_memory.fit) // 5)


def test_few_images_are_held_at_once(
    photos: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldImages()
    _, on_disk = prepare_both(photos, tmp_path, CROP)
    held.watch(monkeypatch)
    for _ in iterate_epoch(on_disk, Training(epochs=1, batch_size=2), 0):
        pass
    assert held.ever == len(on_disk.fit)
    for _ in on_disk.batches(on_disk.test, 2):
        pass
    assert held.ever == len(on_disk.fit) + len(on_disk.test)
    # What is ready, what is being read, and what is used.
    assert held.most <= 2 * (AHEAD + 2)
    assert held.now == 0


def test_what_reading_raises_is_raised_where_it_is_needed() -> None:
    read: list[int] = []

    def divide(number: int) -> float:
        read.append(number)
        return 1 / number

    values = read_ahead(divide, [2, 1, 0, 5, 6, 7, 8])
    assert [next(values), next(values)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(values)
    assert 8 not in read


def damage(path: Path, key: str, place: int) -> None:
    """Change one byte of a tensor in a file."""
    tensors = load_file(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors[key] = tensors[key].copy()
    tensors[key].reshape(-1).view(np.uint8)[place] ^= 0xFF
    save_file(tensors, path, metadata)


def test_a_damaged_photo_is_named(photos: Arrays, tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    photos.save(path)
    train = photos.photos["train"]
    name = train.find_name(4)
    assert name.startswith("train/bird/")
    damage(path, "train_content", int(train.starts[5]) - 20)
    for in_memory in (False, True):
        data = prepare(
            Arrays.load(path, in_memory=in_memory),
            limit=Limit(),
            seed=0,
            normalize={"mean": (0.5,) * 3, "std": (0.2,) * 3},
            resizing=CROP,
        )
        with pytest.raises(DataError, match=f"{name}: its bytes are not those that were stored"):
            draw_epoch(data, Training(epochs=1, batch_size=4), 0)


def test_a_damaged_image_of_one_size_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    make_pixels().save(path)
    damage(path, "test_x", 3 * 3 * 28 * 28 + 5)
    on_disk = prepare(
        Arrays.load(path, in_memory=False),
        limit=Limit(),
        seed=0,
        normalize=None,
        decodes_evaluated=False,
    )
    with pytest.raises(DataError, match="image 3 of test: its bytes are not those"):
        list(on_disk.batches(on_disk.test, 4))


def test_a_file_that_ends_too_early_is_named(photos: Arrays, tmp_path: Path) -> None:
    _, stored = keep(photos, tmp_path)
    path = tmp_path / "data.safetensors"
    begin = min(photos.content.start for photos in stored.photos.values())  # type: ignore[union-attr]
    with path.open("r+b") as file:
        file.truncate(begin + 100)
    with pytest.raises(DataError, match=r"ends \d+ bytes too early"):
        stored.photos["test"].open(0)
    with pytest.raises(DataError, match="not a decoded dataset"):
        Arrays.load(path)


def test_files_of_earlier_versions_are_read(photos: Arrays, tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    for arrays in (photos, make_pixels()):
        arrays.save(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
        old = {
            name: value
            for name, value in load_file(path).items()
            if not name.endswith(("checksums", "names", "name_starts"))
        }
        save_file(old, path, metadata)
        held, stored = Arrays.load(path), Arrays.load(path, in_memory=False)
        assert held.counts == stored.counts
        image = np.asarray(stored.photos["train"].open(3))
        if arrays is photos:
            assert (image == np.asarray(held.photos["train"].open(3))).all()
        else:
            assert (image == held.images["train"][3].transpose(1, 2, 0)).all()


@pytest.mark.parametrize("kind", ["photos", "pixels"])
def test_shifted_sets_stay_on_the_disk(kind: str, photos: Arrays, tmp_path: Path) -> None:
    arrays = photos if kind == "photos" else make_pixels()
    data, _ = prepare_both(arrays, tmp_path, CROP if kind == "photos" else None)
    codes = np.arange(arrays.counts["test"], dtype=np.int32) % 2
    shifted = Arrays(
        {name: value for name, value in arrays.images.items() if name == "test"},
        {"test": arrays.labels["test"]},
        arrays.classes,
        groups={"shift": GroupColumn(("fog", "snow"), codes)},
        photos={name: value for name, value in arrays.photos.items() if name == "test"},
    )
    held, stored = keep(shifted, tmp_path)
    ours = split_distributions("own", stored, data, seed=0, decodes=False)
    theirs = split_distributions("own", held, data, seed=0)
    assert list(ours) == list(theirs) == ["own.fog", "own.snow"]
    for name, splits in ours.items():
        assert not isinstance(splits.test.stored, Tensor)
        assert torch.equal(splits.test.images, theirs[name].test.images)
        assert torch.equal(splits.val.images, theirs[name].val.images)


class CountedBytes(bytearray):
    """Bytes that a weak reference may watch."""


def test_a_zip_is_read_with_one_file_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_files(30, test=10)
    held: list[int] = []
    most: list[int] = []

    def read_and_count(*args: Any) -> bytes:
        content = CountedBytes(read_entry(*args))
        held.append(len(content))
        most.append(len(held))
        weakref.finalize(content, held.pop)
        return content  # type: ignore[return-value]

    monkeypatch.setattr(photos_module, "read_entry", read_and_count)
    arrays = read_files(files, tmp_path)
    assert len(most) == len(files)
    assert max(most) <= 2, "the next file is read before the name of the last one is given up"
    assert held == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos.zip"]
    arrays.save(tmp_path / "data.safetensors")
    loaded = Arrays.load(tmp_path / "data.safetensors").photos["test"]
    names = sorted(name for name in files if name.startswith("test/"))
    assert [loaded.find_name(place) for place in range(len(names))] == names
    assert loaded.content[:].tobytes() == b"".join(files[name] for name in names)


def test_what_is_written_is_what_the_library_of_safetensors_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "b": rng.integers(0, 255, (3, 2, 5), np.uint8),
        "a": np.arange(5),
        "c": np.arange(3, dtype=np.uint32),
        "empty": np.zeros((0, 4), np.uint8),
    }
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_tensors(ours, tensors, {"secateur": "{}"})
    save_file(tensors, theirs, {"secateur": "{}"})
    assert ours.read_bytes() == theirs.read_bytes()
    stored = find_stored(ours)["b"][0]
    assert (stored[4:9] == tensors["b"].reshape(-1)[4:9]).all()
    write_tensors(tmp_path / "copy", {"b": stored}, {})
    assert (load_file(tmp_path / "copy")["b"] == tensors["b"].reshape(-1)).all()
