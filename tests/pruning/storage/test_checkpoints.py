"""Checkpoint files: exact, equal for equal networks, refused when damaged."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning.channels.compaction import write_arch
from pruning.errors import CheckpointError
from pruning.masks import apply_masks_
from pruning.storage.checkpoints import (
    WRITERS,
    read_masks,
    read_sparse,
    save_durably,
    write_dense,
    write_masks,
    write_sparse,
)
from tests.support import cases
from tests.support.checkpoint_cases import exactly, network

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_sparse_files_read_back_exactly(tmp_path: Path, dtype: torch.dtype, kept: float) -> None:
    state, masks = network(dtype, kept if kept != 1 else 1.1)
    if kept == 0.3:
        assert any(bool((masks[name] & (state[name] == 0)).any()) for name in masks), (
            "no kept zero in this case"
        )
    write_sparse(tmp_path / "sparse", state, masks, note="x")
    exactly(read_sparse(tmp_path / "sparse"), state)
    exactly(read_masks(tmp_path / "sparse"), masks)
    write_masks(tmp_path / "masks", masks)
    exactly(read_masks(tmp_path / "masks"), masks)
    write_dense(tmp_path / "dense", state)
    exactly(load_file(tmp_path / "dense"), state)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(bits=st.lists(st.booleans(), min_size=1, max_size=40), transpose=st.booleans())
def test_any_mask_survives(tmp_path: Path, bits: list[bool], transpose: bool) -> None:
    mask = torch.tensor(bits).repeat(2, 1)
    mask = mask.t() if transpose else mask
    weight = (
        torch.arange(1.0, mask.numel() + 1).reshape(mask.shape[::-1]).t() * mask
    )  # not contiguous
    write_sparse(tmp_path / "f", {"w": weight}, {"w": mask})
    assert torch.equal(read_sparse(tmp_path / "f")["w"], weight)
    with safe_open(tmp_path / "f", framework="numpy") as file:
        expected = "".join("01"[bit] for bit in mask.reshape(-1).tolist())
        stored = "".join(f"{byte:08b}" for byte in file.get_tensor("w.bitmask"))
    assert stored == expected + "0" * (-len(expected) % 8)


def test_nothing_is_masked(tmp_path: Path) -> None:
    state, _ = network()
    write_sparse(tmp_path / "f", state, {})
    exactly(read_sparse(tmp_path / "f"), state)


@pytest.mark.parametrize("stray", [1e-45, -1.0, float("nan")])
def test_a_pruned_weight_that_is_not_zero_is_refused(tmp_path: Path, stray: float) -> None:
    with pytest.raises(CheckpointError, match="w: a pruned weight is not zero"):
        write_sparse(
            tmp_path / "f", {"w": torch.tensor([1.0, stray])}, {"w": torch.tensor([True, False])}
        )
    assert not list(tmp_path.iterdir())


def test_sparse_files_are_small(tmp_path: Path) -> None:
    weight = torch.randn(400, 400, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(400, 400, dtype=torch.bool)
    mask.view(-1)[:8000] = True
    for format, write in WRITERS.items():
        write(tmp_path / format, {"w": weight * mask}, {"w": mask})
    sizes = {format: (tmp_path / format).stat().st_size for format in WRITERS}
    assert sizes["dense"] > 640_000
    assert sizes["sparse"] <= 8000 * 4 + 20_000 + 500
    assert sizes["masks"] <= 20_000 + 500


def test_tied_weights_can_be_written(tmp_path: Path) -> None:
    model, _ = cases.awkward("tied")
    masks = cases.half_masks(model)
    apply_masks_(model, masks)
    for format, write in WRITERS.items():
        write(tmp_path / format, model.state_dict(), masks)
    exactly(read_sparse(tmp_path / "sparse"), dict(model.state_dict()))
    exactly(load_file(tmp_path / "dense"), dict(model.state_dict()))


WRITE = """
import sys, torch
from pathlib import Path
from pruning.storage.checkpoints import WRITERS
names = ["b", "a", "fc.weight", "c"]
state = {name: torch.arange(6.0).reshape(2, 3) * (1 + i) for i, name in enumerate(names)}
masks = {name: value > 4 for name, value in state.items() if name != "c"}
state = {name: value * masks.get(name, 1) for name, value in state.items()}
for format, write in WRITERS.items():
    info = {"kwargs": {"width": 2, "depth": 3}, "classes": tuple({"x": 1, "y": 2})}
    write(Path(sys.argv[1]) / format, state, masks, **info)
"""


@pytest.mark.slow
def test_equal_networks_give_equal_files_in_any_process(tmp_path: Path) -> None:
    """This process hashes strings by its own seed, the other one by the seed given here."""
    digests = []
    other = str(1 + (os.environ.get("PYTHONHASHSEED") == "1"))
    for number, seed in enumerate((None, other)):
        folder = tmp_path / str(number)
        folder.mkdir()
        if seed is None:
            exec(WRITE.replace("sys.argv[1]", repr(str(folder))), {})
        else:
            subprocess.run(
                [sys.executable, "-c", WRITE, folder],
                check=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": seed},
            )
        digests.append(
            {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        )
    assert digests[0] == digests[1]
    assert set(digests[0]) == set(WRITERS)


# damaged files


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> Path:
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["secateur"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(tensors, meta)
    save_file(tensors, path, metadata={"secateur": json.dumps(meta)})
    return path


DAMAGE: dict[str, Callable[[dict[str, Tensor], dict[str, Any]], object]] = {
    "no bitmask": lambda tensors, meta: tensors.pop("layer0.weight.bitmask"),
    "no values": lambda tensors, meta: tensors.pop("layer0.weight.values"),
    "too few values": lambda tensors, meta: tensors.update(
        {"layer0.weight.values": torch.zeros(1)}
    ),
    "too many values": lambda tensors, meta: tensors.update(
        {"layer0.weight.values": torch.zeros(15)}
    ),
    "values of two dimensions": lambda tensors, meta: tensors.update(
        {"layer0.weight.values": tensors["layer0.weight.values"][:, None]}
    ),
    "values of another type": lambda tensors, meta: tensors.update(
        {"layer0.weight.values": tensors["layer0.weight.values"].double()}
    ),
    "short bitmask": lambda tensors, meta: tensors.update(
        {"layer0.weight.bitmask": torch.zeros(1, dtype=torch.uint8)}
    ),
    "bitmask of another type": lambda tensors, meta: tensors.update(
        {"layer0.weight.bitmask": torch.zeros(2)}
    ),
    "bits beyond the end": lambda tensors, meta: tensors["layer0.weight.bitmask"][-1].bitwise_or_(
        1
    ),
    "another shape": lambda tensors, meta: meta["tensors"]["layer0.weight"].update(shape=[3, 50]),
    "negative shape": lambda tensors, meta: meta["tensors"]["layer0.weight"].update(shape=[-3, -5]),
    "overflowing shape": lambda tensors, meta: meta["tensors"]["layer0.weight"].update(
        shape=[2**32, 2**32]
    ),
    "shape of text": lambda tensors, meta: meta["tensors"]["layer0.weight"].update(shape="35"),
    "no shape": lambda tensors, meta: meta["tensors"]["layer0.weight"].pop("shape"),
    "tensors is a list": lambda tensors, meta: meta.update(tensors=["layer0.weight"]),
    "no tensors": lambda tensors, meta: meta.pop("tensors"),
    "another version": lambda tensors, meta: meta.update(version=2),
    "another format": lambda tensors, meta: meta.update(format="dense"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_sparse_files_are_refused(tmp_path: Path, damage: str) -> None:
    state, masks = network()
    write_sparse(tmp_path / "f", state, masks)
    path = rewritten(tmp_path / "f", DAMAGE[damage])  # type: ignore[arg-type]
    with pytest.raises(CheckpointError):
        read_sparse(path)


@pytest.mark.parametrize(
    "content", [b"", b"x", bytes(100), b"\x80\x04\x95", b"PK\x03\x04" + bytes(40)]
)
def test_what_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    for read in (read_sparse, read_masks):
        with pytest.raises(CheckpointError, match="f: not a checkpoint"):
            read(tmp_path / "f")


@pytest.mark.parametrize(
    "metadata",
    [None, {"other": "x"}, {"secateur": "no json"}, {"secateur": "[]"}, {"secateur": "3"}],
)
def test_other_safetensors_files_are_refused(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "f", metadata=metadata)
    for read in (read_sparse, read_masks):
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            read(tmp_path / "f")


@pytest.mark.parametrize("cut", [1, 9, 100, 300])
def test_truncated_files_are_refused(tmp_path: Path, cut: int) -> None:
    write_sparse(tmp_path / "f", *network())
    (tmp_path / "f").write_bytes((tmp_path / "f").read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read_sparse(tmp_path / "f")


def test_a_dense_file_is_no_sparse_one(tmp_path: Path) -> None:
    write_dense(tmp_path / "f", network()[0])
    with pytest.raises(CheckpointError, match="format dense 1, expected sparse 1"):
        read_sparse(tmp_path / "f")


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
    )
)
def test_flipped_bytes_never_fail_otherwise(tmp_path: Path, edits: list[tuple[float, int]]) -> None:
    write_sparse(tmp_path / "f", *network())
    content = bytearray((tmp_path / "f").read_bytes())
    for position, value in edits:
        content[int(position * len(content))] = value
    (tmp_path / "g").write_bytes(content)
    for read in (read_sparse, read_masks):
        with contextlib.suppress(CheckpointError):
            read(tmp_path / "g")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_durably({"w": torch.ones(1)}, tmp_path / "f", {})
    before = (tmp_path / "f").read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_durably({"w": torch.zeros(1)}, tmp_path / "f", {})
    assert (tmp_path / "f").read_bytes() == before
    with pytest.raises(OSError, match="disk full"):
        write_arch(tmp_path / "arch.json", torch.nn.Linear(2, 2), "mlp", {})
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_is_an_oserror_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr("pruning.storage.checkpoints.save_file", full)
    with pytest.raises(OSError, match="No space left") as failed:
        save_durably({"w": torch.ones(1)}, tmp_path / "f", {})
    assert failed.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
