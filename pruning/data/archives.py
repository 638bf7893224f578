"""A zip of a dataset: safe entries under the names that people gave them. Free of torch."""

from __future__ import annotations

import copy
import re
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from pruning.data.splits import find_split
from pruning.data.zip_names import decode_names
from pruning.errors import DataError, UnsafeFormatError
from pruning.schemas.droppings import is_dropping
from pruning.schemas.unicode_names import compose

MAX_ENTRIES = 5_000_000
MAX_RATIO = 200
"""The most times that an entry may expand whose format is compressed in itself."""
COMPRESSED = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"}
"""The suffixes of such formats: arrays and bitmaps may well expand 1000 times."""
DOCUMENTS = {".txt", ".md", ".rst", ".csv", ".json", ".yaml", ".yml", ".xml", ".html", ".pdf"}
MOST_NAMED = 20
"""The most files that one message names."""


class Archive(zipfile.ZipFile):
    """A zip whose entries were checked and renamed: `infolist` has files alone, each once.

    Names are decoded and composed (NFC), separators are `/`, what operating systems leave behind is
    dropped, and so is one folder above all others (`root`).
    """

    root: str = ""
    """The path of the folder above all others, with its `/`."""
    notes: tuple[str, ...] = ()
    """Sentences that tell the user how names were read."""

    def clean_path(self, path: str) -> str:
        """The path of an entry, from one that a file of the user names."""
        return clean_separators(compose(path)).removeprefix(self.root)


def open_archive(path: Path, max_bytes: int) -> Archive:
    """Open a zip that expands to no more than `max_bytes`.

    Raises `DataError` where it cannot be read or is too large, `UnsafeFormatError` for an entry
    that leaves its folder or is no plain file.
    """
    try:
        archive = Archive(path)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        struct.error,
        ValueError,
        OSError,
        IndexError,
    ) as error:
        raise DataError(f"not a readable zip: {error}") from None
    try:
        _rename_entries_(archive, max_bytes)
    except BaseException:
        archive.close()
        raise
    return archive


def list_names(names: Sequence[str]) -> str:
    """The first names in quotes, and how many there are beyond.

    >>> list_names(["a", "b"])
    "'a', 'b'"
    """
    listed = ", ".join(map(repr, names[:MOST_NAMED]))
    remaining = len(names) - MOST_NAMED
    return f"{listed} and {remaining} more" if remaining > 0 else listed


def combine_faults(faults: Sequence[DataError]) -> DataError:
    """One error that tells the first of several faults of files, and how many there are."""
    if len(faults) == 1:
        return faults[0]
    messages = "; ".join(fault.message for fault in faults[:MOST_NAMED])
    remaining = len(faults) - MOST_NAMED
    more = f"; and {remaining} more" if remaining > 0 else ""
    return DataError(f"{len(faults)} files cannot be used: {messages}{more}")


def clean_separators(name: str) -> str:
    """The path with `/` between its parts, without `.` parts.

    >>> clean_separators("./train\\\\cat//1.png")
    'train/cat/1.png'
    """
    return "/".join(part for part in re.split(r"[\\/]", name) if part not in ("", "."))


def is_document(path: str) -> bool:
    """Whether the suffix of a path is that of a text about the dataset."""
    name = PurePosixPath(path)
    is_readme = name.stem.lower() in ("readme", "license", "licence") and not name.suffix
    return is_readme or name.suffix.lower() in DOCUMENTS


def _rename_entries_(archive: Archive, max_bytes: int) -> None:
    """Check the entries of an archive, and give them their names in place."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise DataError(f"the zip has {len(entries)} entries; at most {MAX_ENTRIES} are accepted")
    names, archive.notes = decode_names(entries)
    files = []
    total = 0
    for entry, name in zip(entries, names, strict=True):
        _check_entry(entry, name)
        total += entry.file_size
        path = clean_separators(name)
        if name.endswith(("/", "\\")) or not path or is_dropping(path):
            continue
        # A copy under another name: `ZipFile.open` compares `orig_filename` with the local header.
        file = copy.copy(entry)
        file.filename = path
        files.append(file)
    if total > max_bytes:
        raise DataError(f"the zip expands to {total} bytes; at most {max_bytes} are accepted")
    archive.root = _find_root([file.filename for file in files])
    for file in files:
        file.filename = file.filename.removeprefix(archive.root)
    _refuse_duplicates(file.filename for file in files)
    archive.filelist[:] = files
    archive.NameToInfo.clear()
    archive.NameToInfo.update((file.filename, file) for file in files)


def _check_entry(entry: zipfile.ZipInfo, name: str) -> None:
    """Refuse an entry that leaves its folder, is a link, is encrypted or expands too much."""
    if not name:
        raise DataError("the zip has an entry without a name")
    parts = re.split(r"[\\/]", name)
    if not parts[0] or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise UnsafeFormatError(f"the zip entry {name!r} leaves its folder")
    mode = entry.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnsafeFormatError(f"the zip entry {name!r} is a link or a device")
    if entry.flag_bits & 0x1:
        raise DataError(f"the zip entry {name!r} is encrypted")
    compressed = max(entry.compress_size, 1)
    may_expand = PurePosixPath(name).suffix.lower() not in COMPRESSED
    if may_expand or entry.file_size <= max(MAX_RATIO * compressed, 2**20):
        return
    raise DataError(
        f"the zip entry {name!r} expands {entry.file_size / compressed:.0f} times; "
        f"at most {MAX_RATIO} times is accepted"
    )


def _find_root(paths: Sequence[str]) -> str:
    """The path of the folders above all others, with its `/`; "" where there is none.

    A folder is above all others where every file lies in it and something remains of the layout
    below it: a class and an image, or an array. Texts beside it are passed over.
    """
    files = [path.split("/") for path in paths if not is_document(path)]
    depth = 0
    while files:
        least = 2 if all(parts[-1].endswith((".npy", ".parquet")) for parts in files) else 3
        folders = {parts[depth] if len(parts) >= depth + least else "" for parts in files}
        folder = min(folders)
        if len(folders) > 1 or not folder or find_split(folder) is not None:
            break
        depth += 1
    return "".join(f"{part}/" for part in files[0][:depth]) if files else ""


def _refuse_duplicates(paths: Iterable[str]) -> None:
    """Raise `DataError` where two entries have one name."""
    repeated = [path for path, count in Counter(paths).items() if count > 1]
    if repeated:
        noun = "name" if len(repeated) == 1 else "names"
        raise DataError(
            f"{len(repeated)} {noun} of which the zip has several entries: {list_names(repeated)}; "
            "unpacked, one of them would remain"
        )
