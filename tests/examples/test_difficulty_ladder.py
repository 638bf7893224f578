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
from examples.ladder_table import Row, describe_verdicts, list_rows, render_markdown
from pruning.schemas.report import Section


def write_idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def test_idx_files_become_a_dataset(tmp_path: Path) -> None:
    images, labels = np.arange(24).reshape(2, 3, 4), np.array([7, 1])
    for name in ("train", "t10k"):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", labels)
    tensors = load_file(pack_mnist(tmp_path, tmp_path / "set.safetensors"))
    assert sorted(tensors) == ["test_x", "test_y", "train_x", "train_y"]
    assert tensors["train_x"].dtype == np.uint8
    assert (tensors["train_x"] == images[:, None]).all()
    assert tensors["test_y"].tolist() == [7, 1]
    (tmp_path / "other.gz").write_bytes(gzip.compress(b"\x00\x00\x0d\x01"))
    with pytest.raises(ValueError, match="not an idx file of unsigned bytes"):
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
    state = hide_zeros({"w": weight, "b": torch.zeros(3)}, 1e-3, 0)
    hidden = state["w"][weight == 0]
    assert torch.equal(state["w"][weight != 0], weight[weight != 0])
    assert hidden.all()
    assert 0.5e-3 < float(hidden.std() / weight.std()) < 1.5e-3
    assert not state["b"].any()
    assert torch.equal(state["w"], hide_zeros({"w": weight}, 1e-3, 0)["w"])


def make_prediction(form: str, log10: float) -> dict[str, Any]:
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
            make_prediction("hoeffding", 9.0),
            make_prediction("minimum", 2.0),
            make_prediction("paper", 3.0),
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
    (row,) = list_rows("planted", Section(title="b", version=1, details=details))
    assert row == Row(
        rung="planted",
        method="m",
        sparsity=0.5,
        measured=0.9,
        predicted=0.2,
        tightness=2.0,
        paper=3.0,
        vacuous_from=0.8,
        factor="the union bound (0.2)",
    )


def test_what_is_infinite_is_null_in_reports() -> None:
    details: dict[str, Any] = {
        "predictions": [make_prediction("deterministic", math.inf)],
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
    (row,) = list_rows("planted", Section(title="b", version=1, details=details))
    assert (row.tightness, row.paper, row.factor) == (math.inf, None, "f (∞)")
    text = render_markdown(
        [row, replace(row, rung="no penalty", tightness=3.0)], ["planted", "no penalty"]
    )
    assert "| m | 50 % | ∞ | 3.0 |" in text
    assert "tighter than" not in text


def test_the_table_goes_along_the_ladder() -> None:
    def make_row(rung: str, tightness: float | None) -> Row:
        return Row(
            rung=rung,
            method="m",
            sparsity=0.5,
            measured=0.9,
            predicted=0.2,
            tightness=tightness,
            paper=None,
            vacuous_from=None,
            factor="–",
        )

    rungs = ["planted", "L1 0.001", "no penalty"]
    rows = [make_row("no penalty", 3.0), make_row("planted", 2.0), make_row("L1 0.001", None)]
    text = render_markdown(rows, rungs)
    assert "| m | 50 % | 2.0 | – | 3.0 |" in text
    assert text.index("| m | 50 % | planted |") < text.index("| m | 50 % | no penalty |")
    assert "| m | never | never | never |" in text
    assert describe_verdicts(rows, rungs) == [
        "On planted the bound is tighter than on no penalty at 1 of 1 methods and sparsities; "
        "the median is 10^1.0 times tighter."
    ]
