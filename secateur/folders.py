"""Folders of datasets and of networks, packed into a zip to be uploaded."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pruning.schemas.droppings import is_dropping
from pruning.schemas.huggingface_files import CONFIG, is_read
from secateur.errors import UnreadableFolder

COMPRESSED = {".jpg", ".jpeg", ".png", ".webp", ".parquet", ".npz", ".safetensors"}
"""The suffixes of files that are stored as they are: they are compressed already, or dense."""
CHUNK_BYTES = 2**20


def pack_network(folder: Path) -> Path:
    """Return a zip of the files that are read of a folder of Hugging Face; see `pack_folder`.

    Raises `UnreadableFolder` where it has no config.json.
    """
    if not (folder / CONFIG).is_file():
        raise UnreadableFolder(
            f"{folder}: there is no {CONFIG} in this folder; a network is a file of weights, or a "
            "folder as transformers saves it"
        )
    return pack_folder(folder, is_read)


def pack_folder(folder: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """Return a zip of the folder in a new temporary folder, which the caller removes.

    The same files give the same bytes: entries are sorted by name, and have neither times nor
    owners. What systems leave behind is left out; links to files and folders are followed. Raises
    `UnreadableFolder` for a folder without files, or for a name that is not UTF-8.
    """
    packed = Path(tempfile.mkdtemp(prefix="secateur-folder-")) / f"{folder.resolve().name}.zip"
    try:
        with zipfile.ZipFile(packed, "w") as archive:
            for name, file in list_files(folder):
                if is_wanted(name):
                    _add_file(archive, name, file)
            if not archive.filelist:
                raise UnreadableFolder(f"{folder}: there are no files in this folder")
    except BaseException:
        shutil.rmtree(packed.parent, ignore_errors=True)
        raise
    return packed


def list_files(folder: Path) -> list[tuple[str, Path]]:
    """Return the files of a folder by their names in a zip, sorted."""
    files = []
    for file in _walk(folder, set()):
        name = file.relative_to(folder).as_posix()
        if is_dropping(name):
            continue
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UnreadableFolder(
                f"{os.fsencode(file)!r}: the name of this file is not UTF-8; rename it"
            ) from None
        files.append((name, file))
    return sorted(files)


def _walk(folder: Path, above: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield the files below a folder; `above` are the folders that hold it, so that a link to one
    of them ends.
    """
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            if not is_dropping(path.name):
                yield from _walk(path, above | {identity})
        else:
            yield path


def _add_file(archive: zipfile.ZipFile, name: str, file: Path) -> None:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3  # Unix, so that the bytes are the same on every system
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    compressed = file.suffix.lower() in COMPRESSED
    entry.compress_type = zipfile.ZIP_STORED if compressed else zipfile.ZIP_DEFLATED
    entry.file_size = file.stat().st_size
    with file.open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)


PACKERS: dict[str, Callable[[Path], Path]] = {"dataset": pack_folder, "model": pack_network}
"""The functions that pack a folder, by its content."""
