"""Zips of images as people pack them: names, layouts, splits, duplicates, broken files."""

from __future__ import annotations

import io
import unicodedata
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from pruning.data.arrays import Arrays
from pruning.errors import DataError, UnsafeFormatError
from tests.support.uploaded_files import Array, encoded, folder, picture, read, zipped

FILES = folder()


def refused(content: bytes, tmp_path: Path) -> str:
    """Read a zip that is refused; return the message."""
    with pytest.raises(DataError) as caught:
        read(content, tmp_path)
    return caught.value.message


def same(left: Arrays, right: Arrays) -> bool:
    """Whether two datasets have the same images and labels in the same splits."""
    return left.counts == right.counts and all(
        (left.images[split] == right.images[split]).all()
        and (left.labels[split] == right.labels[split]).all()
        for split in left.images
    )


def flagless(names: dict[str, bytes], encoding: str) -> bytes:
    """Pack images by class into a zip whose names are not said to be UTF-8."""
    paths = [f"{split}/{name}/1.png" for split in ("train", "test") for name in names]
    stand_ins = [f"{index:x<{len(path.encode(encoding))}}" for index, path in enumerate(paths)]
    content = zipped(
        {
            stand_in: names[path.split("/")[1]]
            for path, stand_in in zip(paths, stand_ins, strict=True)
        }
    )
    for path, stand_in in zip(paths, stand_ins, strict=True):
        assert content.count(stand_in.encode()) == 2
        content = content.replace(stand_in.encode(), path.encode(encoding))
    return content


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"pets/{name}",
        lambda name: f"a/b/{name}",
        lambda name: name.replace("/", "\\"),
        lambda name: f"pets\\{name}".replace("/", "\\"),
        lambda name: f"./{name}",
        lambda name: f"images/{name}",
        lambda name: name.replace("train", "Training").replace("test", "TESTING"),
        lambda name: name.replace("/1.", "/images/1.").replace("/2.", "/images/2."),
        lambda name: name.replace("train/", "training_set/training_set/"),
    ],
)
def test_a_folder_is_read_as_it_was_packed(tmp_path: Path, rename: object) -> None:
    assert callable(rename)
    renamed = read(zipped({rename(name): content for name, content in FILES.items()}), tmp_path)
    assert same(renamed, read(zipped(FILES), tmp_path))
    assert (renamed.classes, renamed.notes) == (("a", "b"), ())


@pytest.mark.parametrize("suffix", ["JPG", "jpeg", "jfif"])
def test_jpegs_have_several_suffixes(tmp_path: Path, suffix: str) -> None:
    photo = encoded(picture(0), "JPEG")
    files = {name.replace("png", suffix): photo for name in FILES}
    assert read(zipped(files), tmp_path).stored_as == "JPEG"


def test_separators_are_no_way_out_of_the_folder(tmp_path: Path) -> None:
    for name in ("..\\x.png", "train\\..\\..\\x.png", "\\x.png", "c:\\x.png"):
        with pytest.raises(UnsafeFormatError, match="leaves its folder"):
            read(zipped({**FILES, name: b""}), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "train/a/Thumbs.db",
        "Desktop.ini",
        "train/desktop.ini",
        "__MACOSX/train/._a",
        "train/a/._1.png",
        ".DS_Store",
        "train/a/.ipynb_checkpoints/1.png",
        "test/@eaDir/1.png",
        "Icon\r",
    ],
)
def test_what_systems_leave_behind_is_dropped(tmp_path: Path, name: str) -> None:
    dataset = read(zipped({**FILES, name: b"\xd0\xcf\x11\xe0"}), tmp_path)
    assert (dataset.counts["train"], dataset.notes) == (4, ())


def test_texts_beside_the_folders_are_passed_over_and_named(tmp_path: Path) -> None:
    texts = {"README": b"x", "data.yaml": b"x"}
    dataset = read(zipped(FILES | texts), tmp_path)
    assert dataset.notes == ("passed over beside the folders: 'README', 'data.yaml'",)
    below = {f"pets/{name}": content for name, content in (FILES | texts).items()}
    assert read(zipped(below), tmp_path).notes == dataset.notes


def test_all_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    videos = {f"train/a/{index:02}.mp4": b"x" for index in range(25)}
    message = refused(zipped(FILES | videos), tmp_path)
    assert message.startswith("the zip entries 25 'train/a/00.mp4', 'train/a/01.mp4'")
    assert "'train/a/19.mp4' and 5 more do not fit the layout" in message


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_forms_of_one_name_are_one_class(tmp_path: Path, form: str) -> None:
    files = {
        name.replace(
            "/a/", "/café/" if "test" in name else f"/{decomposed('café', form)}/"
        ): content
        for name, content in FILES.items()
    }
    dataset = read(zipped(files), tmp_path)
    assert dataset.classes == ("b", "café")
    twice = {
        decomposed("test/café/1.png", other): FILES["test/a/1.png"] for other in ("NFC", "NFD")
    }
    assert "'test/café/1.png'" in refused(zipped(files | twice), tmp_path)


def decomposed(name: str, form: str) -> str:
    """Write a name in a Unicode form."""
    return unicodedata.normalize("NFD" if form == "NFD" else "NFC", name)


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("utf-8", ("café", "tea")),
        ("cp437", ("café", "Öl", "tea")),
        ("cp1252", ("café", "Öl", "Gérard")),
        ("cp932", ("犬", "猫")),
        ("cp932", ("ソース", "表1")),  # the second byte of a character may be a backslash
    ],
)
def test_names_that_do_not_say_their_encoding(
    tmp_path: Path, encoding: str, names: tuple[str, ...]
) -> None:
    files = dict.fromkeys(names, FILES["train/a/1.png"])
    dataset = read(flagless(files, encoding), tmp_path)
    assert dataset.classes == tuple(sorted(names))
    if encoding == "utf-8":
        assert dataset.notes == ()
    else:
        (note,) = dataset.notes
        assert f"read as {encoding}" in note


def test_two_entries_of_one_name_are_refused_by_name(tmp_path: Path) -> None:
    buffer = io.BytesIO(zipped(FILES))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("train/a/1.png", FILES["train/a/2.png"])
    message = refused(buffer.getvalue(), tmp_path)
    assert message.startswith("1 name of which the zip has several entries: 'train/a/1.png';")


def test_every_broken_file_is_named(tmp_path: Path) -> None:
    whole = encoded(picture(0, (64, 64)), "JPEG")
    broken = {"train/a/7.jpg": whole[:400], "train/b/8.jpg": b"", "test/a/9.jpg": whole[:300]}
    message = refused(zipped(FILES | broken), tmp_path)
    assert message.startswith("3 files cannot be used: ")
    assert all(f"{name}: not a readable image" in message for name in broken)
    many = {f"train/a/{index:03}.jpg": b"" for index in range(30)}
    message = refused(zipped(FILES | many), tmp_path)
    assert message.startswith("30 files cannot be used: train/a/000.jpg: ")
    assert message.count("not a readable image") == 20
    assert message.endswith("; and 10 more")


@pytest.mark.parametrize("spelling", ["val", "valid", "Validation"])
def test_val_reports_where_there_is_no_test(tmp_path: Path, spelling: str) -> None:
    files = {name.replace("test", spelling): content for name, content in FILES.items()}
    dataset = read(zipped(files), tmp_path)
    assert same(dataset, read(zipped(FILES), tmp_path))
    (note,) = dataset.notes
    assert "those for validation report" in note
    assert "drawn from train" in note
    both = read(zipped(FILES | files), tmp_path)
    assert both.counts == {"train": 4, "val": 2, "test": 2}
    assert both.notes == ()


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    message = refused(zipped(FILES | {"Val/a/1.png": b"", "valid/a/1.png": b""}), tmp_path)
    assert message.startswith("several folders are of one split: ")


def test_folders_of_classes_alone_are_split_by_class(tmp_path: Path) -> None:
    """A fifth of each class, the same one whatever folder lies above; also of one called train."""
    images = {
        f"{label}/{index:02}.png": encoded(np.full((2, 2), number * 50 + index, np.uint8))
        for number, (label, count) in enumerate({"bus": 10, "car": 2, "train": 20}.items())
        for index in range(count)
    }
    dataset = read(zipped(images), tmp_path)
    assert dataset.classes == ("bus", "car", "train")
    assert np.bincount(dataset.labels["test"]).tolist() == [2, 1, 4]
    assert np.bincount(dataset.labels["train"]).tolist() == [8, 1, 16]
    pixels = [*dataset.images["train"][:, 0, 0, 0], *dataset.images["test"][:, 0, 0, 0]]
    assert len(set(map(int, pixels))) == len(images)
    (note,) = dataset.notes
    assert "there are no splits: 7 of 32 images" in note
    assert "drawn with seed 0" in note
    again = read(zipped({f"x/y/{name}": content for name, content in images.items()}), tmp_path)
    assert same(again, dataset)
    single = {**images, "ship/1.png": images["car/00.png"]}
    assert "class 'ship' has 1 image" in refused(zipped(single), tmp_path)


def test_classes_that_are_not_in_train_are_all_named(tmp_path: Path) -> None:
    odd = {"test/A/1.png": b"", "test/c/1.png": b""}
    message = refused(zipped(FILES | odd), tmp_path)
    assert message == (
        "classes 'A', 'c' are in test but not in train; train has 'a', in other letters"
    )


def numbered(labels: range) -> dict[str, bytes]:
    """Draw an image of each numbered class in train and test, its pixels the number."""
    return {
        f"{split}/{label}/1.png": encoded(np.full((2, 2), label, np.uint8))
        for split in ("train", "test")
        for label in labels
    }


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    dataset = read(zipped(numbered(range(11))), tmp_path)
    assert dataset.classes == tuple(map(str, range(11)))
    assert dataset.images["train"][:, 0, 0, 0].tolist() != list(range(11))
    assert (dataset.labels["train"] == dataset.images["train"][:, 0, 0, 0]).all()
    (note,) = dataset.notes
    assert "ImageFolder orders them as texts" in note
    assert read(zipped(numbered(range(4))), tmp_path).notes == ()


def test_a_text_of_classes_says_their_order_or_their_names(tmp_path: Path) -> None:
    decomposed_name = {"classes.txt": unicodedata.normalize("NFD", "café\ntea").encode()}
    files = {name.replace("/a/", "/café/").replace("/b/", "/tea/"): FILES[name] for name in FILES}
    assert read(zipped(files | decomposed_name), tmp_path).classes == ("café", "tea")
    dataset = read(zipped(FILES | {"classes.txt": "b\na\n".encode("utf-8-sig")}), tmp_path)
    assert dataset.classes == ("b", "a")
    assert dataset.labels["train"].tolist() == [1, 1, 0, 0]
    dataset = read(zipped(numbered(range(3)) | {"classes.txt": b"cat\ndog\nowl"}), tmp_path)
    assert dataset.classes == ("cat", "dog", "owl")
    assert dataset.labels["train"].tolist() == [0, 1, 2]
    assert "not those of the folders 'b'" in refused(
        zipped(FILES | {"classes.txt": b"a\nc"}), tmp_path
    )


def test_groups_name_images_by_the_paths_that_people_have(tmp_path: Path) -> None:
    table = b"path,light\npets\\test\\a\\1.png,day\ntest/b/1.png,night\n"
    files = {f"pets/{name}": content for name, content in FILES.items()}
    dataset = read(zipped(files | {"pets/groups.csv": table}), tmp_path)
    assert dataset.group_counts() == {"light": {"day": 1, "night": 1}}


def photo(pixels: Array, orientation: int, format: str = "PNG") -> bytes:
    """Encode an image whose file says that it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, format, exif=exif)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_images_are_turned_upright(tmp_path: Path, format: str) -> None:
    """Orientation 6: the first row of the file is the right column of the picture."""
    pixels = picture(0, (4, 4))
    options = {"lossless": True} if format == "WEBP" else {}
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(pixels, format, exif=exif, **options)
    dataset = read(zipped(folder(train__a__1_dot_png=content)), tmp_path)
    assert (dataset.images["train"][0] == np.rot90(pixels, -1).transpose(2, 0, 1)).all()


def test_a_broken_exif_block_leaves_the_picture(tmp_path: Path) -> None:
    content = encoded(picture(0), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read(zipped(folder(train__a__1_dot_png=content)), tmp_path).counts["train"] == 4


def test_the_first_picture_of_a_photo_counts(tmp_path: Path) -> None:
    """A JPEG with a preview (MPO), and a TIFF with a smaller version."""
    large, small = Image.fromarray(picture(0)), Image.fromarray(picture(1, (2, 2)))
    mpo, tiff, pages = io.BytesIO(), io.BytesIO(), io.BytesIO()
    large.save(mpo, "MPO", save_all=True, append_images=[small], quality=100)
    dataset = read(zipped(folder(train__a__1_dot_png=mpo.getvalue())), tmp_path)
    with Image.open(mpo) as image:
        assert image.is_animated  # type: ignore[attr-defined]
        expected = np.asarray(image.convert("RGB"))
    assert (dataset.images["train"][0] == expected.transpose(2, 0, 1)).all()
    with TiffImagePlugin.AppendingTiffWriter(tiff) as writer:
        large.save(writer, "TIFF")
        writer.newFrame()
        small.save(writer, "TIFF", tiffinfo={254: 1})
    dataset = read(zipped(folder(train__a__1_dot_png=tiff.getvalue())), tmp_path)
    assert (dataset.images["train"][0] == picture(0).transpose(2, 0, 1)).all()
    large.save(pages, "TIFF", save_all=True, append_images=[large])
    message = refused(zipped(folder(train__a__1_dot_png=pages.getvalue())), tmp_path)
    assert message == "train/a/1.png: 2 pages; images have one"


def masked(image: bytes, mask: bytes) -> bytes:
    """Pack an image with its mask beside an upright pair of 4 x 6 pixels."""
    upright = (encoded(picture(5, (6, 4))), encoded(np.ones((6, 4), np.uint8)))
    files = {"images/train/1.png": image, "masks/train/1.png": mask}
    for split in ("train", "test"):
        files[f"images/{split}/2.png"], files[f"masks/{split}/2.png"] = upright
    return zipped(files)


def test_masks_are_turned_with_their_images(tmp_path: Path) -> None:
    """A mask of the stored size is turned alike, one of the upright size is upright already."""
    stored = picture(3, (4, 6))
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3
    turned = np.rot90(labels, -1)
    for mask in (encoded(labels), encoded(np.ascontiguousarray(turned)), photo(labels, 6)):
        dataset = read(masked(photo(stored, 6), mask), tmp_path)
        assert (dataset.images["train"][0] == np.rot90(stored, -1).transpose(2, 0, 1)).all()
        assert (dataset.labels["train"][0] == turned).all()
    square = masked(photo(picture(3, (6, 6)), 6), encoded(np.ones((6, 6), np.uint8)))
    assert "images/train/1.png: its EXIF orientation turns it" in refused(square, tmp_path)


def test_segmentation_is_read_as_it_was_packed(tmp_path: Path) -> None:
    image, mask = encoded(picture(0)), encoded(np.eye(4, dtype=np.uint8))
    files = {
        f"voc\\{split}\\{kind}\\1.png": content
        for split in ("Training", "valid")
        for kind, content in (("Images", image), ("Masks", mask))
    }
    dataset = read(zipped(files | {"voc\\Thumbs.db": b"x"}), tmp_path)
    assert dataset.task == "segmentation"
    assert dataset.counts == {"train": 1, "val": 0, "test": 1}
    assert "those for validation report" in dataset.notes[0]
    del files["voc\\valid\\Masks\\1.png"]
    broken = {"voc\\train\\images\\2.png": b"", "voc\\train\\masks\\2.png": b"x"}
    assert "cannot" not in refused(zipped(files), tmp_path)
    files = {name.replace("valid", "val"): b"" for name in files} | broken
    files["voc\\val\\masks\\1.png"] = b""
    files = {name.replace("Training", "train"): content for name, content in files.items()}
    assert refused(zipped(files), tmp_path).startswith("3 files cannot be used: ")
