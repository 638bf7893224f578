"""The difficulty ladder's helpers: idx files, planted zeros, the table."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from examples.difficulty_ladder import hide_zeros
from examples.ladder_data import pack_mnist, read_idx, thin
from examples.ladder_table import Row, markdown, rows, verdicts
from pruning.schemas.report import Section


def idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def test_idx_files_become_a_dataset(tmp_path: Path) -> None:
    images, labels = np.arange(24).reshape(2, 3, 4), np.array([7, 1])
    for name in ("train", "t10k"):
        idx(tmp_path / f"{name}-images-idx3-ubyte.gz", images)
        idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", labels)
    found = load_file(pack_mnist(tmp_path, tmp_path / "set.safetensors"))
    assert sorted(found) == ["test_x", "test_y", "train_x", "train_y"]
    assert found["train_x"].dtype == np.uint8
    assert (found["train_x"] == images[:, None]).all()
    assert found["test_y"].tolist() == [7, 1]
    (tmp_path / "other.gz").write_bytes(gzip.compress(b"\x00\x00\x0d\x01"))
    with pytest.raises(ValueError, match="no idx file of unsigned bytes"):
        read_idx(tmp_path / "other.gz")


def test_a_thin_zip_has_the_first_images_of_each_class(tmp_path: Path) -> None:
    names = [
        f"set/{split}/{label}/{number}.jpg"
        for split in ("train", "test")
        for label in "ab"
        for number in range(5)
    ]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ["set/", *names]:
            archive.writestr(name, name)
    with zipfile.ZipFile(thin(tmp_path / "all.zip", tmp_path / "few.zip", {"train": 4})) as archive:
        assert archive.namelist() == [
            name for name in sorted(names) if "test" in name or name[-5] in "01"
        ]
        assert archive.read(names[0]) == names[0].encode()


def test_hidden_zeros_are_tiny_and_the_rest_stays() -> None:
    weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)).masked_fill_(
        torch.eye(40, 50).bool(), 0.0
    )
    found = hide_zeros({"w": weight, "b": torch.zeros(3)}, 1e-3, 0)
    hidden = found["w"][weight == 0]
    assert torch.equal(found["w"][weight != 0], weight[weight != 0])
    assert hidden.all()
    assert 0.5e-3 < float(hidden.std() / weight.std()) < 1.5e-3
    assert not found["b"].any()
    assert torch.equal(found["w"], hide_zeros({"w": weight}, 1e-3, 0)["w"])


def prediction(form: str, log10: float) -> dict[str, Any]:
    tightness = (
        {"median": 10**log10, "log10_median": log10}
        if log10 < math.inf
        else {"median": None, "log10_median": None}
    )
    return {
        "method": "m",
        "form": form,
        "requested_sparsity": 0.5,
        "sparsity": 0.5,
        "measured_accuracy": 0.9,
        "predicted_accuracy": 0.2,
        "tightness": tightness,
    }


def test_a_row_is_the_certified_form_beside_the_papers() -> None:
    details: dict[str, Any] = {
        "predictions": [
            prediction("hoeffding", 9.0),
            prediction("minimum", 2.0),
            prediction("paper", 3.0),
        ],
        "coverage": [
            {"method": "m", "form": form, "vacuous_from_sparsity": 0.8}
            for form in ("minimum", "paper")
        ],
        "components": [
            {
                "method": "m",
                "form": "minimum",
                "factor": "no union bound",
                "sparsity": 0.5,
                "log10_of_its_cost": cost,
            }
            for cost in (0.25,)
        ],
    }
    (row,) = rows("planted", Section(title="b", version=1, details=details))
    assert row == Row("planted", "m", 0.5, 0.9, 0.2, 2.0, 3.0, 0.8, "the union bound (0.2)")


def test_what_is_infinite_is_null_in_reports() -> None:
    details: dict[str, Any] = {
        "predictions": [prediction("deterministic", math.inf)],
        "coverage": [{"method": "m", "form": "deterministic", "vacuous_from_sparsity": None}],
        "components": [
            {
                "method": "m",
                "form": "deterministic",
                "factor": "f",
                "sparsity": 0.5,
                "log10_of_its_cost": None,
            }
        ],
    }
    (row,) = rows("planted", Section(title="b", version=1, details=details))
    assert (row.tightness, row.paper, row.factor) == (math.inf, None, "f (∞)")
    text = markdown(
        [row, replace(row, rung="no penalty", tightness=3.0)], ["planted", "no penalty"]
    )
    assert "| m | 50 % | ∞ | 3.0 |" in text
    assert "tighter than" not in text


def test_the_table_goes_along_the_ladder() -> None:
    def row(rung: str, tightness: float | None) -> Row:
        return Row(rung, "m", 0.5, 0.9, 0.2, tightness, None, None, "–")

    rungs = ["planted", "L1 0.001", "no penalty"]
    found = [row("no penalty", 3.0), row("planted", 2.0), row("L1 0.001", None)]
    text = markdown(found, rungs)
    assert "| m | 50 % | 2.0 | – | 3.0 |" in text
    assert text.index("| m | 50 % | planted |") < text.index("| m | 50 % | no penalty |")
    assert "| m | never | never | never |" in text
    assert verdicts(found, rungs) == [
        "On planted the bound is tighter than on no penalty at 1 of 1 methods and sparsities; "
        "the median is 10^1.0 times tighter."
    ]
