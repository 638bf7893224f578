"""Files that `torch.save` wrote (`.pt`, `.pth`, `.bin`), read without running what they hold.

`torch.load(weights_only=True)` builds tensors and plain containers alone. Other objects beside the
weights of a training (its arguments, the state of a scheduler) are read as `Unread`, which holds a
name and nothing else, so that no class of the file is ever imported or called.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pruning.errors import ModelError, UnsafeFormatError
from pruning.storage.signatures import is_pickle, is_safetensors

MOST_CLASSES = 200
"""The most classes that are not read, before a file counts as something other than weights."""
ADVICE = (
    "save the weights alone: torch.save(model.state_dict(), path), or "
    "safetensors.torch.save_file(model.state_dict(), path)"
)
FOREIGN: Mapping[bytes, str] = {
    b"\x89HDF": "an HDF5 file (Keras)",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"version https://git-lfs": "a pointer of Git LFS and not the file itself: run 'git lfs pull'",
    b"<!DOCTYPE": "a web page, not the file that it links to",
    b"<html": "a web page, not the file that it links to",
    b"\x93NUMPY": "a NumPy array",
}
"""Files that are sent in place of weights, by their first bytes."""
UNKNOWN_CLASS = re.compile(r"Unsupported global: GLOBAL (\S+) was not")
CONTAINERS = frozenset({"bytearray", "complex", "dict", "float", "int", "list", "slice", "tuple"})
"""The builtins that trainings save beside weights, as the argument of a defaultdict."""


class Unread:
    """The place of an object whose class is not read; `of` names the class."""

    of = "object"

    def __new__(cls, *args: Any, **kwargs: Any) -> Unread:
        """An instance without content, whatever the arguments are."""
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Ignore the object's content: it is not read."""


def is_pytorch(path: Path) -> bool:
    """Whether a file begins as those of `torch.save` do: as a zip or a pickle."""
    head = _read_head(path)[:9]
    return not is_safetensors(head) and (is_pickle(head) or head.startswith(b"PK"))


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def describe_foreign(path: Path) -> str | None:
    """Describe a file that is sent in place of weights; None for one that is not recognised."""
    head = _read_head(path)
    for start, description in FOREIGN.items():
        if head.lower().startswith(start.lower()):
            return description
    return None


def read_pytorch(path: Path) -> Any:
    """The content of a file of `torch.save`: containers of tensors, numbers, strings and `Unread`.

    Raises `UnsafeFormatError` for what could run code when read, `ModelError` for a damaged file.
    """
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_archive(path)
    elif _read_head(path)[:2] == b"PK":
        raise UnsafeFormatError("this is a zip that is cut short or damaged; send it again")
    names: list[str] = []
    while True:
        stands_in = [(type("Unread", (Unread,), {"of": name}), name) for name in names]
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(stands_in):  # type: ignore[arg-type]
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError as error:
            names.append(_name_unread_class(str(error), names))
        except MemoryError:
            raise
        except Exception as error:  # a damaged file may fail in any way
            if "memory" in str(error):
                raise MemoryError from None
            raise ModelError(
                f"the file is damaged or cut short, or torch.save did not write it; {ADVICE}"
            ) from None


def _name_unread_class(reason: str, names: Sequence[str]) -> str:
    """The full name of the class that stopped the reading, which is to be `Unread`.

    Raises `UnsafeFormatError` for a function that could run code.
    """
    unknown = UNKNOWN_CLASS.search(reason)
    name = "" if unknown is None else unknown[1]
    if name in CONTAINERS:
        name = f"builtins.{name}"
    if "." not in name or name in names or len(names) >= MOST_CLASSES:
        raise UnsafeFormatError(_explain_refusal(reason))
    return name


def _explain_refusal(reason: str) -> str:
    """Why a pickle is refused, in words for whoever sent it."""
    blocked = re.search(r"GLOBAL (\S+) whose module|GLOBAL (\S+) was not", reason)
    if blocked is not None:
        return f"the pickle refers to {blocked[1] or blocked[2]!r}, which could run code; {ADVICE}"
    return f"the pickle holds more than tensors and plain containers of them; {ADVICE}"


def _check_archive(path: Path) -> None:
    """Raise for a zip that holds a program, or that would become larger when it is unpacked."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = {entry.filename.partition("/")[2] or entry.filename for entry in entries}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise UnsafeFormatError(f"this is TorchScript, which is a program; {ADVICE}")
    if any("archive_format" in name or name.endswith("model.json") for name in names):
        raise UnsafeFormatError(
            f"this is an archive of torch.export (.pt2), which is a program; {ADVICE}"
        )
    if "data.pkl" not in names:
        shown = ", ".join(repr(entry.filename) for entry in entries[:3])
        raise UnsafeFormatError(
            "a zip is read where torch.save wrote it, and this one did something else: it holds "
            f"{shown or 'nothing'}; send the file of weights itself"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UnsafeFormatError(
            "the zip is compressed, which torch.save does not do; send the file as it was saved"
        )
