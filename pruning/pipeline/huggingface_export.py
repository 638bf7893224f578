"""A checkpoint as a Hugging Face folder in a zip, which transformers loads."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pruning.architectures._extras import import_extra
from pruning.architectures.huggingface import HuggingFace
from pruning.errors import CheckpointError
from pruning.schemas.huggingface_files import CARD, PREPROCESSOR
from pruning.schemas.preprocessing import Preprocessing
from pruning.schemas.published_preprocessing import RESAMPLE
from pruning.storage.checkpoints import write_aside

ARCHITECTURE = "huggingface"
OTHER_NETWORK = (
    "a Hugging Face folder is written of networks that were uploaded as one (architecture "
    "'huggingface'); this is {architecture!r}: take 'pth' or 'onnx'"
)
NO_WIDTHS = (
    "a Hugging Face folder cannot say that channels were removed: its config.json has one width "
    "for all layers of a kind, and transformers would build the whole network; take 'onnx', or the "
    "formats dense and arch together"
)
ONE_SHARD = "1TB"
"""The size up to which transformers writes the weights as one file."""


def explain_no_folder(architecture: str, *, compacts: bool) -> str | None:
    """Why there is no Hugging Face folder of such a network; None where there is one."""
    if architecture != ARCHITECTURE:
        return OTHER_NETWORK.format(architecture=architecture)
    return NO_WIDTHS if compacts else None


def write_huggingface(
    path: Path,
    model: nn.Module,
    kwargs: Mapping[str, Any],
    *,
    classes: Sequence[str],
    preprocessing: Mapping[str, Any],
    card: str,
) -> None:
    """Write config.json, model.safetensors, preprocessor_config.json and README.md as a zip.

    The names of the weights are those that transformers saves, `id2label` are the classes. Equal
    networks make equal files. Raises `CheckpointError` where transformers does not save it.
    """
    transformers = import_extra("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    network: Any = HuggingFace(**kwargs).build_own()
    network.load_state_dict(model.state_dict())
    network.config.id2label = dict(enumerate(classes))
    network.config.label2id = {name: number for number, name in enumerate(classes)}
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        folder = Path(scratch)
        try:
            network.save_pretrained(folder, max_shard_size=ONE_SHARD)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise CheckpointError(f"transformers does not save this network: {error}") from error
        document = describe_processor(Preprocessing.model_validate(preprocessing))
        (folder / PREPROCESSOR).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
        (folder / CARD).write_text(card)
        with write_aside(path) as aside, zipfile.ZipFile(aside, "w") as archive:
            for file in sorted(folder.iterdir()):
                _add_file(archive, file)


def _add_file(archive: zipfile.ZipFile, file: Path) -> None:
    """Add a file without its time, as it is: weights with zeros are packed by the format sparse."""
    entry = zipfile.ZipInfo(file.name)
    entry.external_attr = 0o644 << 16
    entry.file_size = file.stat().st_size
    with file.open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target)


def describe_processor(preprocessing: Preprocessing) -> dict[str, Any]:
    """The preprocessor_config.json that prepares images as they were measured.

    Images with masks keep their size, and so do those of a job that resizes none.
    """
    document: dict[str, Any] = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    resize = preprocessing.resize
    if resize is None:
        return document | {"image_processor_type": "ViTImageProcessor", "do_resize": False}
    size: dict[str, int] = {"shortest_edge": resize} if isinstance(resize, int) else {}
    if isinstance(resize, tuple):
        size = {"height": resize[0], "width": resize[1]}
    document |= {
        "do_resize": True,
        "size": size,
        "resample": RESAMPLE.index(preprocessing.interpolation or "bilinear"),
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_center_crop": preprocessing.crop is not None,
    }
    if preprocessing.crop is not None:
        document["crop_size"] = {"height": preprocessing.crop, "width": preprocessing.crop}
    return document
