"""Compressed checkpoints: exact, small at any density, equal for equal networks, refused when
damaged.
"""

from __future__ import annotations

import json
import lzma
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from pruning.errors import CheckpointError
from pruning.storage import compressed
from pruning.storage.checkpoints import write_dense
from pruning.storage.compressed import read_compressed, write_compressed
from pruning.storage.file_info import read_file_info
from pruning.types import Masks
from tests.support.checkpoint_cases import exactly, network
from tests.support.pipelines import State

TRAINED = Path(__file__).parents[3].parent / "shared/data/resnet20-cifar10.safetensors"
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("kept", [0.0, 0.05, 0.3, 1.1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_files_read_back_exactly(tmp_path: Path, dtype: torch.dtype, kept: float) -> None:
    shapes = ((3, 5), (2, 2, 3, 3), (1,), (60, 70), (0, 4))
    state, masks = network(dtype, kept, shapes)
    write_compressed(tmp_path / "f", state, masks, note="x")
    exactly(read_compressed(tmp_path / "f"), state)
    write_compressed(tmp_path / "f", state, {})
    exactly(read_compressed(tmp_path / "f"), state)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    places=st.sets(st.integers(0, 3000), max_size=9),
    size=st.integers(1, 3001),
    transpose=st.booleans(),
)
def test_any_mask_survives(tmp_path: Path, places: set[int], size: int, transpose: bool) -> None:
    """Few weights remain, far apart: gaps of one byte and of several, and none at all."""
    mask = torch.zeros(2, size, dtype=torch.bool)
    mask.view(-1)[[place % (2 * size) for place in places]] = True
    mask = mask.t() if transpose else mask
    weight = torch.arange(1.0, mask.numel() + 1).reshape(mask.shape) * mask
    write_compressed(tmp_path / "f", {"w": weight}, {"w": mask})
    assert torch.equal(read_compressed(tmp_path / "f")["w"], weight)


def test_gaps_of_every_length_survive(tmp_path: Path) -> None:
    mask = torch.zeros(300_000, dtype=torch.bool)
    mask[torch.arange(760).cumsum(0)] = True
    assert compressed._encode_mask(mask)[0] == "gaps"
    write_compressed(tmp_path / "f", {"w": mask.float()}, {"w": mask})
    assert torch.equal(read_compressed(tmp_path / "f")["w"], mask.float())


def test_a_mask_is_stored_in_its_shorter_coding() -> None:
    for kept, coding in ((2, "gaps"), (30, "gaps"), (200, "bits"), (255, "bits"), (256, None)):
        mask = torch.zeros(256, dtype=torch.bool)
        mask[torch.randperm(256, generator=torch.Generator().manual_seed(0))[:kept]] = True
        name, content = compressed._encode_mask(mask)
        assert name == coding
        assert len(content) <= 32


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.0])
def test_files_are_below_the_entropy_of_the_masks_and_the_raw_values(
    tmp_path: Path, density: float
) -> None:
    """On trained weights where they are there, else on weights of a normal distribution."""
    state = load_file(TRAINED) if TRAINED.exists() else draw_weights()
    masks = prune_globally(state, density)
    for name, mask in masks.items():
        state[name] = state[name].masked_fill(~mask, 0.0)
    write_compressed(tmp_path / "compressed", state, masks)
    write_dense(tmp_path / "dense", state)
    size = (tmp_path / "compressed").stat().st_size
    assert size < count_entropy_bytes(state, masks)
    if density == 0.05:
        assert size <= 0.065 * (tmp_path / "dense").stat().st_size
    exactly(read_compressed(tmp_path / "compressed"), state)


def draw_weights() -> State:
    """Weights as He's initialisation draws them, and tensors as BatchNorm has them."""
    rng = torch.Generator().manual_seed(0)
    state: State = {}
    for number in range(8):
        weight = torch.randn(64, 64, 3, 3, generator=rng) * (2 / 576) ** 0.5
        state[f"{number}.weight"] = weight
        state[f"{number}.bias"] = torch.randn(64, generator=rng)
        state[f"{number}.running_var"] = torch.rand(64, generator=rng)
    return state


def prune_globally(state: State, density: float) -> Masks:
    """The masks of the largest weights of all layers together."""
    weights = {name: value.abs() for name, value in state.items() if value.dim() > 1}
    flat = torch.cat([value.reshape(-1) for value in weights.values()])
    keep = torch.zeros(len(flat), dtype=torch.bool)
    keep[flat.topk(round(density * len(flat))).indices] = True
    parts = keep.split([value.numel() for value in weights.values()])
    return {
        name: part.reshape(value.shape)
        for (name, value), part in zip(weights.items(), parts, strict=True)
    }


def count_entropy_bytes(state: State, masks: Masks) -> float:
    """The entropy of every layer's mask, the values that remain and the other tensors, raw."""
    total = 0.0
    for name, value in state.items():
        if name not in masks:
            total += value.numel() * value.element_size()
            continue
        density = float(masks[name].double().mean())
        for share in (density, 1 - density):
            total -= value.numel() * share * math.log2(share) / 8 if share else 0.0
        total += int(masks[name].sum()) * value.element_size()
    return total


def test_equal_networks_give_equal_files(tmp_path: Path) -> None:
    state, masks = network()
    write_compressed(tmp_path / "f", state, masks, kwargs={"width": 2, "depth": 3})
    turned = dict(reversed(state.items()))
    write_compressed(tmp_path / "g", turned, masks, kwargs={"depth": 3, "width": 2})
    assert (tmp_path / "f").read_bytes() == (tmp_path / "g").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"f", "g"}


def test_bfloat16_rounds_the_weights_of_layers_alone(tmp_path: Path) -> None:
    state, masks = network()
    state["double"] = torch.full((2, 2), 0.1, dtype=torch.float64)
    write_compressed(tmp_path / "f", state, masks, values="bfloat16")
    expected = {
        name: tensor.bfloat16().float()
        if tensor.dtype == torch.float32 and tensor.dim() > 1
        else tensor
        for name, tensor in state.items()
    }
    read = read_compressed(tmp_path / "f")
    exactly(read, expected)
    write_compressed(tmp_path / "g", read, masks, values="bfloat16")
    assert (tmp_path / "f").read_bytes() == (tmp_path / "g").read_bytes()


def test_not_a_number_and_infinity_are_rounded_to_themselves(tmp_path: Path) -> None:
    weight = torch.tensor([[math.nan, math.inf, -math.inf, -0.0]])
    write_compressed(tmp_path / "f", {"w": weight}, {}, values="bfloat16")
    read = read_compressed(tmp_path / "f")["w"]
    assert torch.equal(read.nan_to_num(7.0), weight.nan_to_num(7.0))
    assert bool(read.signbit()[0, 3])


@pytest.mark.parametrize("weight", [3.4e38, -3.4e38])
def test_a_weight_beyond_bfloat16_is_refused(tmp_path: Path, weight: float) -> None:
    with pytest.raises(CheckpointError, match="w: a weight is beyond the largest bfloat16"):
        write_compressed(tmp_path / "f", {"w": torch.tensor([[weight]])}, {}, values="bfloat16")
    assert not list(tmp_path.iterdir())


def test_a_type_that_could_not_be_read_is_refused(tmp_path: Path) -> None:
    weight = torch.zeros(2, dtype=torch.float8_e4m3fn)
    with pytest.raises(CheckpointError, match="w: tensors of float8_e4m3fn cannot be stored"):
        write_compressed(tmp_path / "f", {"w": weight}, {})
    assert not list(tmp_path.iterdir())


def test_a_pruned_weight_that_is_not_zero_is_refused(tmp_path: Path) -> None:
    weight, mask = torch.tensor([1.0, 1e-45]), torch.tensor([True, False])
    with pytest.raises(CheckpointError, match="w: a pruned weight is not zero"):
        write_compressed(tmp_path / "f", {"w": weight}, {"w": mask})
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_tensor_by_tensor(tmp_path: Path) -> None:
    """16 tensors of a MiB each take no more memory beside them than two do."""
    peaks = []
    for count in (2, 16):
        state = {f"{number:02}": torch.zeros(512, 512) for number in range(count)}
        tracemalloc.start()
        try:
            write_compressed(tmp_path / "f", state, {})
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2**18
    assert peaks[1] < 64 * 2**20


# damaged files


def rewritten(path: Path, change: Callable[[dict[str, Any], bytearray], object]) -> Path:
    """The file with a header and tensors that `change` has changed."""
    content = lzma.decompress(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    header, tensors = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    change(header, tensors)
    text = json.dumps(header).encode()
    path.write_bytes(lzma.compress(len(text).to_bytes(8, "little") + text + tensors))
    return path


def entry(header: dict[str, Any], name: str = "layer0.weight") -> dict[str, Any]:
    tensor: dict[str, Any] = header["tensors"][name]
    return tensor


DAMAGE: dict[str, Callable[[dict[str, Any], bytearray], object]] = {
    "another format": lambda header, tensors: header.update(format="sparse"),
    "another version": lambda header, tensors: header.update(version=2),
    "no tensors": lambda header, tensors: header.pop("tensors"),
    "tensors is a list": lambda header, tensors: header.update(tensors=["layer0.weight"]),
    "no shape": lambda header, tensors: entry(header).pop("shape"),
    "another shape": lambda header, tensors: entry(header).update(shape=[3, 50]),
    "negative shape": lambda header, tensors: entry(header).update(shape=[-3, -5]),
    "shape of text": lambda header, tensors: entry(header).update(shape="35"),
    "many dimensions": lambda header, tensors: entry(header).update(shape=[1] * 70 + [15]),
    "larger than memory": lambda header, tensors: entry(header).update(shape=[2**32, 2**32]),
    "unknown type": lambda header, tensors: entry(header).update(dtype="float31"),
    "another type": lambda header, tensors: entry(header).update(dtype="float64"),
    "a longer mask": lambda header, tensors: entry(header).update(mask_bytes=2**40),
    "a shorter mask": lambda header, tensors: entry(header).update(mask_bytes=1),
    "another coding": lambda header, tensors: entry(header).update(mask="gaps"),
    "unknown coding": lambda header, tensors: entry(header).update(mask="runs"),
    "no planes": lambda header, tensors: entry(header).update(planes=0),
    "a plane less": lambda header, tensors: entry(header).update(planes=3),
    "two planes": lambda header, tensors: entry(header).update(planes=2),
    "too few bytes": lambda header, tensors: tensors.pop(),
    "too many bytes": lambda header, tensors: tensors.append(0),
    "no bytes": lambda header, tensors: tensors.clear(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    write_compressed(tmp_path / "f", *network())
    path = rewritten(tmp_path / "f", DAMAGE[damage])
    with pytest.raises(CheckpointError, match="f: not a compressed checkpoint"):
        read_compressed(path)


def test_masks_that_cannot_be_are_refused(tmp_path: Path) -> None:
    mask = torch.zeros(700, dtype=torch.bool)
    mask[::300] = True
    for end, message in ((255, "has no end"), (254, "beyond the last of 700")):
        write_compressed(tmp_path / "f", {"w": mask.float()}, {"w": mask})
        path = rewritten(tmp_path / "f", lambda _, tensors: tensors.__setitem__(4, end))  # noqa: B023
        with pytest.raises(CheckpointError, match=message):
            read_compressed(path)
    mask = torch.tensor([True] * 10 + [False])
    write_compressed(tmp_path / "f", {"w": mask.float()}, {"w": mask})
    path = rewritten(tmp_path / "f", lambda _, tensors: tensors.__setitem__(1, 255))
    with pytest.raises(CheckpointError, match="bits are set beyond the last of 11"):
        read_compressed(path)
    write_compressed(tmp_path / "f", {"w": torch.tensor([True])}, {})
    path = rewritten(tmp_path / "f", lambda _, tensors: tensors.__setitem__(0, 2))
    with pytest.raises(CheckpointError, match="neither 0 nor 1"):
        read_compressed(path)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    write_compressed(tmp_path / "f", *network())
    content = (tmp_path / "f").read_bytes()
    for length in range(len(content)):
        (tmp_path / "g").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="g: not a compressed checkpoint"):
            read_compressed(tmp_path / "g")


def test_every_flipped_byte_is_seen(tmp_path: Path) -> None:
    """By a checksum of the file, or of what it unpacks to."""
    write_compressed(tmp_path / "f", *network())
    content = (tmp_path / "f").read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "g").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="g: not a compressed checkpoint"):
            read_compressed(tmp_path / "g")


@pytest.mark.parametrize("more", [b"\0", b"\0\0\0\0", lzma.compress(b"more"), bytes(100_000)])
def test_a_file_with_more_behind_it_is_refused(tmp_path: Path, more: bytes) -> None:
    write_compressed(tmp_path / "f", *network())
    with (tmp_path / "f").open("ab") as file:
        file.write(more)
    with pytest.raises(CheckpointError, match="more follows the last tensor"):
        read_compressed(tmp_path / "f")


def test_bombs_are_refused_before_they_unpack(tmp_path: Path) -> None:
    """A file of some kilobytes that holds a GiB: of one tensor, of a header, of what follows; and
    one that asks for a large dictionary.
    """
    header = json.dumps(
        {
            "format": "compressed",
            "version": 1,
            "values": "exact",
            "tensors": {"w": {"shape": [2**15, 2**13], "dtype": "float32", "planes": 4}},
        }
    ).encode()
    whole = len(header).to_bytes(8, "little") + header
    write_zeros(tmp_path / "tensor", whole)
    with pytest.raises(CheckpointError, match=r"have 1073741824 bytes, at most 1000000 are read"):
        read_compressed(tmp_path / "tensor", most_bytes=1_000_000)
    write_zeros(tmp_path / "header", (2**29).to_bytes(8, "little"))
    with pytest.raises(CheckpointError, match="a header of 536870912 bytes"):
        read_compressed(tmp_path / "header")
    small = header.replace(b"[32768, 8192]", b"[1]")
    write_zeros(tmp_path / "behind", len(small).to_bytes(8, "little") + small)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="more follows"):
            read_compressed(tmp_path / "behind")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**28}]
    with lzma.open(tmp_path / "dictionary", "wb", filters=filters) as file:
        file.write(whole)
    with pytest.raises(CheckpointError, match="Memory usage limit"):
        read_compressed(tmp_path / "dictionary")


def write_zeros(path: Path, start: bytes) -> None:
    with lzma.open(path, "wb", preset=0) as file:
        file.write(start)
        for _ in range(32):
            file.write(bytes(2**20))


@pytest.mark.parametrize("content", [b"", b"x", lzma.compress(b""), lzma.compress(b"x" * 99)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(CheckpointError, match="f: not a compressed checkpoint"):
        read_compressed(tmp_path / "f")
    assert read_file_info(tmp_path / "f").format is None
