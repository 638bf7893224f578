"""Compressed checkpoints that are uploaded again: what they say of themselves, their weights."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import ModelError
from pruning.networks.loading import load_model, read_state
from pruning.networks.state_dicts import is_stored, read_weights
from pruning.networks.uploads import read_upload
from pruning.storage.checkpoints import write_sparse
from pruning.storage.compressed import write_compressed
from tests.support.checkpoint_cases import exactly


def test_a_compressed_checkpoint_is_uploaded_as_a_sparse_one(tmp_path: Path) -> None:
    """It says itself what it is, its weights are taken, and they are kept as safetensors."""
    arguments: dict[str, Any] = {
        "hidden": [4],
        "channels": 1,
        "height": 2,
        "width": 2,
        "classes": 2,
    }
    state = load_model("mlp", **arguments).state_dict()
    masks = {"fc1.weight": state["fc1.weight"] > 0}
    state["fc1.weight"].masked_fill_(~masks["fc1.weight"], 0.0)
    info: dict[str, Any] = {
        "architecture": "mlp",
        "kwargs": arguments,
        "classes": ["no", "yes"],
        "normalize": {"mean": [0.5], "std": [0.25]},
    }
    write_compressed(tmp_path / "f.xz", state, masks, **info)
    write_sparse(tmp_path / "f", state, masks, **info)
    upload, other = (read_upload(tmp_path / name, tmp_path) for name in ("f.xz", "f"))
    exactly(dict(upload.states[""]), dict(other.states[""]))
    assert upload.architecture == "mlp"
    assert (upload.kwargs, upload.classes) == (other.kwargs, other.classes)
    assert upload.known == other.known
    exactly(read_state(tmp_path / "f.xz"), dict(state))
    assert not is_stored(tmp_path / "f.xz", upload.states[""], upload.states)
    assert is_stored(tmp_path / "f", other.states[""], other.states)
    with pytest.raises(ModelError, match="at most 20 are read"):
        read_upload(tmp_path / "f.xz", tmp_path, 20)


def test_other_files_of_xz_are_explained(tmp_path: Path) -> None:
    (tmp_path / "weights.pth.xz").write_bytes(lzma.compress(b"PK"))
    with pytest.raises(ModelError, match="unpack other files of xz before they are sent"):
        read_weights(tmp_path / "weights.pth.xz")
    with pytest.raises(ModelError, match="not a compressed checkpoint"):
        read_state(tmp_path / "weights.pth.xz")
