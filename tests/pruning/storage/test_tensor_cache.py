"""Tensors that are expensive to compute are made once, and their folder stays small."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.analysis import shifts
from pruning.analysis.shifts import Shift, shift_images
from pruning.data.corrupted import corrupt
from pruning.data.tensors import Data, Split
from pruning.storage.tensor_cache import TensorCache, hash_content


class Maker:
    def __init__(self, value: float = 1.0, size: int = 100) -> None:
        self.calls, self.value, self.size = 0, value, size

    def __call__(self) -> Tensor:
        self.calls += 1
        return torch.full((self.size,), self.value)


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    make = Maker()
    first = TensorCache(tmp_path / "new" / "folder", 10_000).get("a", make)
    again = TensorCache(tmp_path / "new" / "folder", 10_000).get("a", make)
    assert torch.equal(first, again)
    assert make.calls == 1
    assert not list(tmp_path.rglob(".*"))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, 1_500)  # three of some 480 bytes
    for place, key in enumerate("abc"):
        cache.get(key, Maker())
        os.utime(tmp_path / f"{key}.safetensors", (place, place))
    cache.get("a", Maker())  # used now
    cache.get("d", Maker())
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]
    assert cache.size_bytes <= 1_500
    cache.get("e", Maker(size=1000))
    assert not (tmp_path / "e.safetensors").exists(), "larger than all that may be kept"


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: bytes) -> None:
    cache, make = TensorCache(tmp_path, 10_000), Maker()
    (tmp_path / "a.safetensors").write_bytes(damage)
    assert torch.equal(cache.get("a", make), make())
    assert torch.equal(cache.get("a", Maker(2.0)), make())


def test_a_disk_that_fails_costs_no_job(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache, make = TensorCache(tmp_path / "file", 10_000), Maker()
    assert torch.equal(cache.get("a", make), cache.get("a", make))
    assert make.calls == 2
    assert cache.size_bytes == 0


def test_a_key_is_of_content_and_of_what_is_made_of_it() -> None:
    images = torch.zeros(2, 3, dtype=torch.uint8)
    keys = [
        hash_content(images, "fog", 1),
        hash_content(images, "fog", 2),
        hash_content(images + 1, "fog", 1),
        hash_content(images.reshape(3, 2), "fog", 1),
        hash_content(images.int(), "fog", 1),
        hash_content(images, "frost", 1),
    ]
    assert len(set(keys)) == len(keys)


def test_a_later_job_does_not_corrupt_the_same_images_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    split = Split(
        torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)
    )
    data = Data(
        fit=split, val=split, test=split, classes=("a", "b"), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    calls: list[str] = []

    def counted(images: Tensor, name: str, severity: int, **others: Any) -> Tensor:
        calls.append(f"{name} {severity}")
        return corrupt(images, name, severity, **others)

    monkeypatch.setattr(shifts, "corrupt", counted)
    fog = Shift("fog", 3)
    first = shift_images(data, split, shift=fog, seed=0, cache=TensorCache(tmp_path, 10**6))
    assert torch.equal(
        first, shift_images(data, split, shift=fog, seed=0, cache=TensorCache(tmp_path, 10**6))
    )
    assert torch.equal(first, shift_images(data, split, shift=fog, seed=0))
    assert calls == ["fog 3", "fog 3"], "once for the cache, once without one"
    shift_images(data, split, shift=fog, seed=1, cache=TensorCache(tmp_path, 10**6))
    shift_images(data, split, shift=Shift("fog", 4), seed=0, cache=TensorCache(tmp_path, 10**6))
    assert calls[2:] == ["fog 3", "fog 4"]
