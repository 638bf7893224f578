"""Uploads of networks: a file of weights, or a folder of Hugging Face in a zip."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pruning.architectures.torchvision import PUBLISHED
from pruning.networks.huggingface_folder import find_folder, read_folder
from pruning.networks.state_dicts import read_weights
from pruning.schemas.preprocessing import keep_resizing
from pruning.storage.file_info import read_file_info
from pruning.storage.pytorch_files import is_pytorch

DIGITS = 8
"""The number of hexadecimal digits by which a published file is known."""


@dataclass(frozen=True, kw_only=True)
class UploadedNetwork:
    """The weights of an upload, and what it says itself of its network."""

    states: Mapping[str, Mapping[str, Tensor]]
    """The state dicts by their places."""
    architecture: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    classes: list[str] | None = None
    known: dict[str, Any] = field(default_factory=dict)
    """`normalize`, `source` and `preprocessing` as the store keeps them, each where it is said."""
    notes: tuple[str, ...] = ()

    def merge_kwargs(self, name: str | None, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Its own parameters where the architecture `name` is its own, and what is given."""
        own = self.kwargs if name == self.architecture else {}
        return {**own, **(given or {})}


def read_upload(path: Path, scratch: Path, most_bytes: int | None = None) -> UploadedNetwork:
    """Read an upload; a zip is unpacked into `scratch`, and it and a compressed checkpoint to at
    most so many bytes.

    Raises `UnsafeFormatError`, `ModelError`, `ParameterError`, `MissingPackageError`.
    """
    folder = find_folder(path, scratch, most_bytes)
    if folder is not None:
        content = read_folder(folder)
        return UploadedNetwork(
            states={"": content.state},
            architecture=content.architecture,
            kwargs=content.kwargs,
            classes=content.classes,
            known=content.preprocessing,
            notes=content.notes,
        )
    info = read_file_info(path)
    published = PUBLISHED.get(_hash_file(path)[:DIGITS]) if is_pytorch(path) else None
    if published is not None:
        return UploadedNetwork(
            states=read_weights(path),
            architecture="torchvision",
            kwargs=published,
            notes=(f"the file is the one that torchvision published: {json.dumps(published)}",),
        )
    known: dict[str, Any] = {}
    if info.normalize is not None:
        known |= {"normalize": info.normalize.model_dump(mode="json"), "source": "model"}
    if info.preprocessing is not None:
        known["preprocessing"] = keep_resizing(info.preprocessing, "model")
    return UploadedNetwork(
        states=read_weights(path, most_bytes),
        architecture=info.architecture,
        kwargs=info.arguments or {},
        classes=info.classes,
        known=known,
    )


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
