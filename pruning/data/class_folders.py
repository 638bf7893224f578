"""The layout of a zip whose folders name the classes: which image is of which split and class."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pruning.data.archives import Archive, is_document, list_names
from pruning.data.arrays import SPLITS
from pruning.data.class_names import CLASSES, MAX_CLASSES, read_names
from pruning.data.groups import TABLE
from pruning.data.images import JPEG_SUFFIXES, SUFFIXES
from pruning.data.splits import find_split, replace_missing_test, split_by_class
from pruning.errors import DataError

LAYOUT = (
    "train/<class>/<image>, test/<class>/<image> (optionally val/<class>/<image>), or "
    f"<class>/<image>; and optionally {TABLE} and {CLASSES}"
)


@dataclass(frozen=True)
class ImageFile:
    """An image of a zip and the name of its class, which is its folder."""

    label: str
    entry: zipfile.ZipInfo

    @property
    def is_jpeg(self) -> bool:
        """Whether the name of the file is that of a JPEG."""
        return PurePosixPath(self.entry.filename).suffix.lower() in JPEG_SUFFIXES


@dataclass(frozen=True)
class ClassFolders:
    """The images of a zip by split, in the order of their names, and the classes in order."""

    files: Mapping[str, Sequence[ImageFile]]
    classes: tuple[str, ...]
    labels: Mapping[str, int]
    """The label of each folder."""
    notes: tuple[str, ...]


def list_class_folders(archive: Archive, class_names: tuple[str, ...] = ()) -> ClassFolders:
    """The images of a zip by split and class; `DataError` where they are not so laid out.

    `class_names` count where the zip has no text of them. An image may lie in subfolders of its
    class. Where `val` comes without `test` it is taken for
    it, and where there are no splits a fifth of each class is: the notes say so.
    """
    entries, passed_over = _find_images(archive)
    has_splits = _check_splits([entry.filename for entry in entries])
    files: Mapping[str, Sequence[ImageFile]]
    notes: tuple[str, ...]
    if has_splits:
        files, notes = replace_missing_test(_sort_by_split(entries))
    else:
        files, notes = _draw_test(
            [ImageFile(entry.filename.split("/")[0], entry) for entry in entries]
        )
    classes, labels, class_notes = _order_classes(
        files, read_names(archive, MAX_CLASSES) or class_names
    )
    if passed_over:
        notes = (*notes, f"passed over beside the folders: {list_names(passed_over)}")
    return ClassFolders(files, classes, labels, (*archive.notes, *notes, *class_notes))


def _find_images(archive: Archive) -> tuple[list[zipfile.ZipInfo], list[str]]:
    """The images of a zip by name, and the texts beside the folders, which are passed over.

    Raises `DataError` for all other files.
    """
    images = []
    passed_over = []
    others = []
    for entry in archive.infolist():
        path = entry.filename
        is_below = "/" in path
        if is_below and PurePosixPath(path).suffix.lower() in SUFFIXES:
            images.append(entry)
        elif is_below or not is_document(path):
            others.append(path)
        elif path not in (TABLE, CLASSES):
            passed_over.append(path)
    if others:
        raise _misfit(others)
    if not images:
        raise DataError(f"the zip holds no images; expected {LAYOUT}")
    return sorted(images, key=lambda entry: entry.filename), passed_over


def _misfit(paths: Sequence[str]) -> DataError:
    """The refusal of files that are not in the layout."""
    noun, verb = ("entry", "does") if len(paths) == 1 else ("entries", "do")
    count = "" if len(paths) == 1 else f"{len(paths)} "
    return DataError(
        f"the zip {noun} {count}{list_names(paths)} {verb} not fit the layout {LAYOUT}; images "
        f"end in {', '.join(sorted(SUFFIXES))}"
    )


def _check_splits(paths: Sequence[str]) -> bool:
    """Whether the folders are those of splits; `DataError` where only some of them are, or two are
    of one split.

    Folders that hold images themselves are classes, though one be called `train`.
    """
    folders = {path.split("/")[0] for path in paths}
    splits = {folder: find_split(folder) for folder in sorted(folders)}
    others = [folder for folder, split in splits.items() if split is None]
    deep = {path.split("/")[0] for path in paths if path.count("/") > 1}
    if not others:
        named = sorted(splits)
        by_split = [splits[folder] for folder in named]
        if len(set(by_split)) < len(by_split):
            raise DataError(f"several folders are of one split: {list_names(named)}")
        shallow = [path for path in paths if path.count("/") < 2]
        if shallow:
            raise _misfit(shallow)
        return True
    if any(splits[folder] for folder in deep):
        raise DataError(
            f"the folders {list_names(others)} are beside folders of splits, and are not called "
            f"train, val or test; expected {LAYOUT}"
        )
    inner = [path for path in paths if any(map(find_split, path.split("/")[1:-1]))]
    if inner:
        raise DataError(
            f"the folders of splits lie below others, as in {inner[0]!r}; expected {LAYOUT}"
        )
    return False


def _sort_by_split(entries: Sequence[zipfile.ZipInfo]) -> dict[str, list[ImageFile]]:
    """The images by split; a folder below that of a split counts as none where it repeats it."""
    files: dict[str, list[ImageFile]] = {split: [] for split in SPLITS}
    repeated = {
        split: all(
            entry.filename.count("/") > 2 and find_split(entry.filename.split("/")[1]) == split
            for entry in entries
            if find_split(entry.filename.split("/")[0]) == split
        )
        for split in SPLITS
    }
    for entry in entries:
        parts = entry.filename.split("/")
        split = find_split(parts[0])
        assert split is not None
        files[split].append(ImageFile(parts[2 if repeated[split] else 1], entry))
    return files


def _draw_test(images: Sequence[ImageFile]) -> tuple[dict[str, list[ImageFile]], tuple[str, ...]]:
    """Images without splits, a fifth of each class for testing, and a note."""
    train, test, note = split_by_class([image.label for image in images])
    files = {
        "train": [images[index] for index in train],
        "test": [images[index] for index in test],
    }
    return files, (note,)


def _order_classes(
    files: Mapping[str, Sequence[ImageFile]], names: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, int], tuple[str, ...]]:
    """The classes in the order of labels, the label of each folder, and notes.

    Their order is that of `classes.txt`, else that of the numbers where all are numbers, else that
    of the alphabet.
    """
    folders = {image.label for images in files.values() for image in images}
    trained = {image.label for image in files.get("train", ())} or folders
    for split, images in files.items():
        _check_known({image.label for image in images}, trained, split)
    numbered = all(label.isascii() and label.isdigit() for label in folders)
    if names and folders <= set(names):
        return names, {name: label for label, name in enumerate(names)}, ()
    if names and numbered and max(map(int, folders)) < len(names):
        return names, {folder: int(folder) for folder in folders}, ()
    if names:
        unnamed = list_names(sorted(folders - set(names)))
        raise DataError(f"the class names ({CLASSES}) are not those of the folders {unnamed}")
    by_text = sorted(folders)
    classes = sorted(folders, key=lambda label: (int(label), label)) if numbered else by_text
    notes: tuple[str, ...] = ()
    if classes != by_text:
        notes = (
            "the classes are numbers, and are in the order of these (2 before 10); torchvision's "
            "ImageFolder orders them as texts: give the model's `classes` if it was trained so",
        )
    return tuple(classes), {name: label for label, name in enumerate(classes)}, notes


def _check_known(labels: set[str], trained: set[str], split: str) -> None:
    """Raise `DataError` where a split has classes that are not in train."""
    unknown = sorted(labels - trained)
    if not unknown:
        return
    noun, verb = ("class", "is") if len(unknown) == 1 else ("classes", "are")
    similar = {label.casefold().strip(): label for label in trained}
    hints = [
        similar[key] for key in (label.casefold().strip() for label in unknown) if key in similar
    ]
    hint = f"; train has {list_names(hints)}, in other letters" if hints else ""
    raise DataError(f"{noun} {list_names(unknown)} {verb} in {split} but not in train{hint}")
