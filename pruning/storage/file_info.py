"""The metadata of a file of this service: architecture, classes, normalisation of its network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from pruning.errors import CheckpointError
from pruning.schemas.preprocessing import Preprocessing
from pruning.storage.compressed import read_compressed_header
from pruning.storage.signatures import XZ, is_xz

Constants = Annotated[tuple[float, ...], Field(min_length=1, max_length=64)]


class Normalisation(BaseModel):
    """The constants of each channel."""

    model_config = ConfigDict(allow_inf_nan=False)

    mean: Constants
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=64)]


class FileInfo(BaseModel):
    """The entries of the metadata of a checkpoint that say what its network is."""

    format: str | None = None
    architecture: str | None = None
    arguments: Annotated[dict[str, Any] | None, Field(alias="kwargs")] = None
    classes: Annotated[list[str], Field(min_length=1, max_length=100_000)] | None = None
    normalize: Normalisation | None = None
    preprocessing: Preprocessing | None = None


def read_file_info(path: Path) -> FileInfo:
    """Read the metadata of a safetensors file or a compressed checkpoint; empty for one that this
    service did not write.
    """
    try:
        with path.open("rb") as start:
            if is_xz(start.read(len(XZ))):
                return FileInfo.model_validate_json(read_compressed_header(path))
        with safe_open(path, framework="numpy") as file:
            return FileInfo.model_validate_json((file.metadata() or {})["secateur"])
    except (SafetensorError, CheckpointError, ValidationError, KeyError, OSError):
        return FileInfo()
