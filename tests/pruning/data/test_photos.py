"""Photos of any size: stored as they are, and seen exactly as a script of torchvision sees them."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

import pruning.architectures._torchvision_shim  # noqa: F401
from pruning.data.arrays import Arrays
from pruning.data.keyed_random import Draws
from pruning.data.photo_images import ATTEMPTS, PhotoImages, draw_boxes
from pruning.data.tensors import prepare
from pruning.errors import DataError
from pruning.schemas.preprocessing import GivenPreprocessing, Resizing
from pruning.schemas.recipe import Limit
from tests.support.photo_world import encode, make_files, read_files

CROP = GivenPreprocessing(resize=73, crop=64).resizing
assert CROP is not None


def open_photo(content: bytes) -> Image.Image:
    """A photo as torchvision's ImageFolder loads it."""
    return Image.open(io.BytesIO(content)).convert("RGB")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return make_files()


@pytest.fixture(scope="module")
def photos(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    folder = tmp_path_factory.mktemp("photos")
    arrays = read_files(files, folder)
    arrays.save(folder / "data.safetensors")
    return Arrays.load(folder / "data.safetensors")


def test_photos_that_differ_in_size_are_stored_as_their_files(
    files: dict[str, bytes], photos: Arrays
) -> None:
    assert (photos.shape, photos.counts) == ((3, None, None), {"train": 28, "val": 0, "test": 12})
    train = photos.photos["train"]
    assert len(train.content) == sum(len(files[name]) for name in files if "train" in name)
    sizes = photos.describe_sizes()
    assert sizes is not None
    assert 60 <= min(sizes["smallest"]) < max(sizes["largest"]) <= 150
    names = sorted(name for name in files if name.startswith("train/"))
    for place in (0, 9, 27):
        photo = np.asarray(train.open(place))
        assert (photo == np.asarray(open_photo(files[names[place]]))).all()


@pytest.mark.parametrize(
    "resizing",
    [
        Resizing(resize=73, crop=64, interpolation="bilinear"),
        Resizing(resize=50, crop=41, interpolation="bicubic"),
        Resizing(resize=(48, 40), interpolation="lanczos"),
        Resizing(resize=160, crop=64, interpolation="nearest"),
    ],
    ids=str,
)
def test_evaluation_sees_the_pixels_of_torchvision(
    files: dict[str, bytes], photos: Arrays, resizing: Resizing
) -> None:
    from torchvision.transforms import InterpolationMode, functional

    data = prepare(
        photos, limit=Limit(test=7), seed=1, normalize=None, resizing=resizing, size_source="given"
    )
    names = sorted(name for name in files if name.startswith("test/"))
    size = [resizing.resize] if isinstance(resizing.resize, int) else list(resizing.resize or ())
    assert len(data.test) == 7
    assert isinstance(data.test.stored, Tensor)
    for index, pixels in zip(data.test.dataset_indices, data.test.images, strict=True):
        image = open_photo(files[names[int(index)]])
        wanted = functional.resize(image, size, InterpolationMode(resizing.interpolation))
        if resizing.crop is not None:
            wanted = functional.center_crop(wanted, [resizing.crop])
        assert torch.equal(pixels, functional.pil_to_tensor(wanted))
    assert data.preprocessing.resize == resizing.resize
    assert (data.preprocessing.crop, data.preprocessing.size_source) == (resizing.crop, "given")


def test_the_preset_of_torchvision_gives_the_same_inputs(
    files: dict[str, bytes], photos: Arrays
) -> None:
    from torchvision.models import ResNet18_Weights

    from pruning.schemas.preprocessing import IMAGENET, find_own_resizing

    resizing = find_own_resizing({"architecture": "torchvision", "kwargs": {"name": "resnet18"}})
    data = prepare(
        photos,
        limit=Limit(test=4),
        seed=0,
        normalize=IMAGENET,
        resizing=resizing,
        source="imagenet",
    )
    transform = ResNet18_Weights.IMAGENET1K_V1.transforms()
    names = sorted(name for name in files if name.startswith("test/"))
    ((inputs, _),) = data.batches(data.test, 4)
    wanted = [transform(open_photo(files[names[int(at)]])) for at in data.test.dataset_indices]
    assert torch.allclose(inputs, torch.stack(wanted), atol=1e-5)


def seen_parts(images: PhotoImages, count: int, *names: str | int) -> list[Any]:
    draws = Draws.from_key(3, *names, indices=torch.arange(count))
    return draw_boxes(torch.from_numpy(images.photos.own_sizes[:count]), draws)


def test_training_crops_are_those_of_torchvision(photos: Arrays) -> None:
    from torchvision.transforms import InterpolationMode, functional

    train = photos.photos["train"]
    assert CROP is not None
    images = PhotoImages(train, CROP)
    boxes = seen_parts(images, 9, "crop", 2)
    cropped = images.crop_at_random(torch.arange(9), 3, "crop", 2)
    assert {box.mirrored for box in boxes} == {True, False}
    for place, box in enumerate(boxes):
        wanted = functional.resized_crop(
            train.open(place),
            box.top,
            box.left,
            box.height,
            box.width,
            [64, 64],
            InterpolationMode.BILINEAR,
        )
        if box.mirrored:
            wanted = functional.hflip(wanted)
        assert torch.equal(cropped[place], functional.pil_to_tensor(wanted))


def test_a_crop_depends_on_seed_epoch_and_photo_alone(photos: Arrays) -> None:
    train = photos.photos["train"]
    assert CROP is not None
    images = PhotoImages(train, CROP)
    together = images.crop_at_random(torch.tensor([4, 1, 7]), 0, "fit", "crop", 5)
    alone = images.crop_at_random(torch.tensor([7]), 0, "fit", "crop", 5)
    assert torch.equal(together[2:], alone)
    for other in (("fit", "crop", 6), ("other", "crop", 5)):
        assert not torch.equal(alone, images.crop_at_random(torch.tensor([7]), 0, *other))


def draw_slowly(height: int, width: int, shapes: Any, places: Any) -> tuple[int, int, int, int]:
    """The parameters of torchvision's RandomResizedCrop, from given uniform numbers."""
    for share, ratio in zip(*shapes, strict=True):
        area = height * width * (0.08 + 0.92 * share)
        aspect = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * ratio)
        part_width = round(math.sqrt(area * aspect))
        part_height = round(math.sqrt(area / aspect))
        if 0 < part_width <= width and 0 < part_height <= height:
            top = int(places[0] * (height - part_height + 1))
            left = int(places[1] * (width - part_width + 1))
            return top, left, part_height, part_width
    if width / height < 3 / 4:
        part_height, part_width = round(width / (3 / 4)), width
    elif width / height > 4 / 3:
        part_height, part_width = height, round(height * 4 / 3)
    else:
        part_height, part_width = height, width
    return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


def test_crops_are_drawn_as_in_torchvision() -> None:
    rng = np.random.default_rng(0)
    sizes = torch.from_numpy(rng.integers(1, 400, (300, 2)))
    sizes[:40, 0] = 2  # so narrow that no drawn part fits
    draws = Draws.from_key(0, "x", indices=torch.arange(300))
    boxes = draw_boxes(sizes, draws)
    shapes = (draws.words(2, ATTEMPTS).long() & 0xFFFFFFFF).double() / 2**32
    places = (draws.words(2, stream=1).long() & 0xFFFFFFFF).double() / 2**32
    for size, box, shape, place in zip(sizes.tolist(), boxes, shapes, places, strict=True):
        height, width = size
        wanted = draw_slowly(height, width, shape.tolist(), place.tolist())
        assert (box.top, box.left, box.height, box.width) == wanted
    shares = [
        box.height * box.width / (h * w)
        for box, (h, w) in zip(boxes, sizes.tolist(), strict=True)
        if min(h, w) > 100
    ]
    assert 0.07 < min(shares) < 0.2
    assert 0.8 < max(shares) <= 1


def test_photos_without_a_size_to_come_to_are_refused(photos: Arrays) -> None:
    with pytest.raises(DataError, match="differ in size"):
        prepare(photos, limit=Limit(), seed=0, normalize=None)


def test_a_broken_photo_is_named(files: dict[str, bytes], tmp_path: Path) -> None:
    broken = dict(files)
    name = "train/cat/009.jpg"
    broken[name] = files[name][: len(files[name]) // 2]
    with pytest.raises(DataError, match=name):
        read_files(broken, tmp_path)


def test_photos_are_turned_as_the_camera_was_held(files: dict[str, bytes], tmp_path: Path) -> None:
    turned = dict(files)
    image = Image.fromarray(np.arange(80 * 60 * 3, dtype=np.uint8).reshape(80, 60, 3))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    name = "train/bird/000.jpg"
    turned[name] = encode(image, exif=exif)
    train = read_files(turned, tmp_path).photos["train"]
    assert train.open(0).size == (80, 60)
    assert train.own_sizes[0].tolist() == [60, 80]
    upright = open_photo(turned[name]).transpose(Image.Transpose.ROTATE_270)
    assert (np.asarray(train.open(0)) == np.asarray(upright)).all()


def test_one_image_of_another_size_among_many_makes_photos_of_all(tmp_path: Path) -> None:
    plain = Image.new("RGB", (8, 8))
    files = {f"train/{n % 2}/{n:03}.png": encode(plain, "PNG") for n in range(140)}
    files |= {f"test/{n}/0.png": encode(plain, "PNG") for n in range(2)}
    assert read_files(files, tmp_path).shape == (3, 8, 8)
    files["train/0/098.png"] = encode(Image.new("RGB", (9, 8)), "PNG")
    assert read_files(files, tmp_path).shape == (3, None, None)


def test_images_of_one_size_stay_pixels_and_may_be_resized(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = {}
    for number in range(12):
        image = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        split = "test" if number > 7 else "train"
        files[f"{split}/{number % 2}/{number}.png"] = encode(image, "PNG")
    arrays = read_files(files, tmp_path)
    assert arrays.shape == (3, 20, 30)
    resizing = Resizing(resize=18, crop=16, interpolation="bilinear")
    data = prepare(arrays, limit=Limit(), seed=0, normalize=None, resizing=resizing)
    assert data.shape == (3, 16, 16)
    assert isinstance(data.fit.stored, PhotoImages)
    whole = data.fit.images
    cropped = data.fit.stored.crop_at_random(torch.arange(len(whole)), 0, "x")
    assert whole.shape == cropped.shape == (len(data.fit), 3, 16, 16)
    untouched = prepare(arrays, limit=Limit(), seed=0, normalize=None)
    assert untouched.shape == (3, 20, 30)
