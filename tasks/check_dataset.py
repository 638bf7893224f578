"""A dataset checked where it lies, with the code and the limits of the service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.data.uploads import describe_dataset, read_dataset
from pruning.errors import DataError
from tasks.settings import Settings


def check_dataset(path: Path, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the document that the service would answer to this upload.

    `classes` names numbered classes. Raises `DataError` or `UnsafeFormatError` where the service
    would refuse it.
    """
    settings = Settings()
    size = path.stat().st_size
    if size > settings.max_upload_bytes:
        raise DataError(f"{size} bytes; at most {settings.max_upload_bytes} are accepted")
    arrays = read_dataset(path, path.name, settings.max_pixels, tuple(classes or ()))
    return describe_dataset(arrays)
