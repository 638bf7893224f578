"""Folders as transformers saves them: config.json, model.safetensors, preprocessor_config.json."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from pruning.architectures._extras import import_extra
from pruning.architectures.huggingface import HuggingFace, check_config
from pruning.architectures.timm import OWN_FIELDS
from pruning.errors import ModelError, ParameterError
from pruning.networks.state_dicts import read_weights
from pruning.schemas.huggingface_files import CONFIG, PREPROCESSOR, WEIGHTS, is_read
from pruning.schemas.preprocessing import GivenPreprocessing, keep_resizing
from pruning.schemas.published_preprocessing import translate_published

SHOWN = 5
"""The number of names that a message lists."""


@dataclass(frozen=True, kw_only=True)
class FolderContent:
    """The content of a folder."""

    architecture: str
    kwargs: dict[str, Any]
    classes: list[str] | None
    """The names of the classes in the order of the outputs; None where they have only numbers."""
    state: dict[str, Tensor]
    preprocessing: dict[str, Any]
    """`normalize`, `source` and `preprocessing` as the store keeps them, each where it is said."""
    notes: tuple[str, ...]


def find_folder(path: Path, scratch: Path, most_bytes: int | None = None) -> Path | None:
    """The folder that was uploaded, unpacked into `scratch` from a zip; None for other files.

    It may lie in folders within the zip. Only the files that are read are unpacked. Raises
    `ModelError` for more than `most_bytes`, and for a zip of several networks.
    """
    if path.is_dir():
        return path
    with path.open("rb") as file:
        if file.read(2) != b"PK" or not zipfile.is_zipfile(path):
            return None
    with zipfile.ZipFile(path) as archive:
        files = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}
        configs = [name for name in files if PurePosixPath(name).name == CONFIG]
        if not configs:
            return None
        top = min((PurePosixPath(name).parent for name in configs), key=lambda at: len(at.parts))
        wanted = [
            entry
            for name, entry in files.items()
            if PurePosixPath(name).parent == top and is_read(PurePosixPath(name).name)
        ]
        size = sum(entry.file_size for entry in wanted)
        if most_bytes is not None and size > most_bytes:
            raise ModelError(f"the folder in the zip has {size} bytes, at most {most_bytes} fit")
        folder = scratch / "folder"
        folder.mkdir(parents=True)
        for entry in wanted:
            target = folder / PurePosixPath(entry.filename).name
            try:
                with archive.open(entry) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
                raise ModelError(f"{entry.filename} cannot be unpacked: {error}") from None
    return folder


def read_folder(folder: Path) -> FolderContent:
    """Read a folder. The weights may have the names of earlier releases of transformers.

    Raises `UnsafeFormatError`, `ParameterError`, `MissingPackageError`, and `ModelError` where
    files are missing or do not fit each other.
    """
    config = _read_json(folder / CONFIG)
    is_timm = "architecture" in config and "architectures" not in config
    if not is_timm:
        check_config(config)
    if not any((folder / name).exists() for name in (WEIGHTS[:1] if is_timm else WEIGHTS)):
        raise ModelError(
            f"the folder has no {WEIGHTS[0]}; save it again with "
            "model.save_pretrained(folder), which writes it"
        )
    if is_timm:
        return _read_timm_folder(folder, config)
    names, notes = _read_classes(config)
    count = len(names) if names is not None else int(config.get("num_labels") or 2)
    labels = config.get("id2label")
    if isinstance(labels, Mapping):
        count = len(labels)
    if count < 2:
        raise ModelError("config.json: the network has one output; a classifier has at least two")
    kept = {
        key: value
        for key, value in config.items()
        if key not in ("id2label", "label2id", "num_labels")
    }
    state, more = _read_state(folder, HuggingFace(config=kept, classes=count))
    preprocessing, remarks = _read_processor(folder)
    return FolderContent(
        architecture="huggingface",
        kwargs={"config": kept, "classes": count},
        classes=names,
        state=state,
        preprocessing=preprocessing,
        notes=(*notes, *more, *remarks),
    )


def _read_timm_folder(folder: Path, config: Mapping[str, Any]) -> FolderContent:
    """Read a folder as timm saves it for the Hugging Face hub, whose config.json names a network
    of timm.
    """
    given = config.get("model_args")
    arguments = dict(given) if isinstance(given, Mapping) else {}
    kwargs: dict[str, Any] = {"name": config["architecture"]}
    if "num_classes" in config:
        kwargs["classes"] = config["num_classes"]
    if isinstance(side := arguments.pop("img_size", None), int):
        kwargs["image_size"] = side
    options = {key: value for key, value in arguments.items() if key not in OWN_FIELDS}
    if options:
        kwargs["options"] = options
    labels = config.get("label_names")
    document = config.get("pretrained_cfg")
    return FolderContent(
        architecture="timm",
        kwargs=kwargs,
        classes=list(map(str, labels)) if isinstance(labels, list) else None,
        state=read_weights(folder / WEIGHTS[0])[""],
        preprocessing={} if document is None else _keep_preprocessing(CONFIG, document),
        notes=(),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"the folder has no {path.name}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ModelError(f"{path.name} holds no JSON object")
    return document


def _read_classes(config: Mapping[str, Any]) -> tuple[list[str] | None, list[str]]:
    """The names in `id2label`, and a note where some had to be made distinct."""
    labels = config.get("id2label")
    if not isinstance(labels, Mapping) or not labels:
        return None, []
    try:
        by_number = {int(key): str(value) for key, value in labels.items()}
        names = [by_number[number] for number in range(len(by_number))]
    except (ValueError, KeyError):
        raise ModelError("config.json: id2label must name the outputs 0, 1, 2, ...") from None
    if all(name == f"LABEL_{number}" for number, name in enumerate(names)):
        return None, []
    unique = [
        f"{name} ({number})" if name in names[:number] else name
        for number, name in enumerate(names)
    ]
    changed = [new for new, name in zip(unique, names, strict=True) if new != name]
    if not changed:
        return names, []
    return unique, [
        f"id2label has names twice, which got their numbers: {', '.join(changed[:SHOWN])}"
    ]


def _read_state(folder: Path, architecture: HuggingFace) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under the names of this release of transformers, and a note on what is over."""
    transformers = import_extra("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        network, info = architecture.find_class().from_pretrained(
            folder,
            config=architecture.read_config(),
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"transformers does not load the folder: {first}") from None
    missing = sorted(info["missing_keys"])
    if missing:
        ellipsis = " ..." if len(missing) > SHOWN else ""
        raise ModelError(
            f"the weights lack {', '.join(missing[:SHOWN])}{ellipsis}, which "
            f"{architecture.network_name} has"
        )
    unexpected = sorted(info["unexpected_keys"])
    notes = []
    if unexpected:
        notes.append(
            f"{unexpected[0]!r}"
            + (f" and {len(unexpected) - 1} more were" if len(unexpected) > 1 else " was")
            + " left out: the network has no such tensor"
        )
    return dict(network.state_dict()), notes


def _read_processor(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The content of preprocessor_config.json as the store keeps it, or a note on its absence."""
    if not (folder / PREPROCESSOR).exists():
        return {}, [f"the folder has no {PREPROCESSOR}: give the preprocessing with the upload"]
    return _keep_preprocessing(PREPROCESSOR, _read_json(folder / PREPROCESSOR)), []


def _keep_preprocessing(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The preprocessing of a document in the file `name`, as the store keeps it."""
    try:
        given = GivenPreprocessing.model_validate(translate_published(document))
    except (ValidationError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ParameterError(
            f"the preprocessing in {name} cannot be read: {error}; give 'preprocessing' with the "
            "upload, and leave it out of the folder",
            pointer="/preprocessing",
        ) from None
    known: dict[str, Any] = {}
    if given.constants is not None:
        normalize = {name: list(values) for name, values in given.constants.items()}
        known |= {"normalize": normalize, "source": "model"}
    if given.resizing is not None:
        known["preprocessing"] = keep_resizing(given.resizing, "model")
    return known
