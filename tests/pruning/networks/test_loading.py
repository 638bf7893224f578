"""State dicts that must fit their architecture, and files that hold no state dict."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from pruning.errors import (
    DataError,
    ModelError,
    ParameterError,
    SecateurError,
    UnknownNameError,
    UnsafeFormatError,
)
from pruning.networks.loading import (
    check_fits,
    load_model,
    load_state_,
    read_parameters,
    read_state,
    resolve,
)

RESNET: dict[str, Any] = {"depth": 8, "width": 0.25}


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        name: value.clone()
        for name, value in load_model("cifar_resnet", **RESNET).state_dict().items()
    }


def test_a_state_dict_loads_exactly() -> None:
    weights = state()
    for name, value in load_model("cifar_resnet", weights, **RESNET).state_dict().items():
        assert torch.equal(value, weights[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype: torch.dtype) -> None:
    weights = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in state().items()
    }
    model = load_model("cifar_resnet", weights, **RESNET)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.get_parameter("conv1.weight"), weights["conv1.weight"].float())


def test_batch_counters_may_be_missing() -> None:
    weights = {
        name: value for name, value in state().items() if not name.endswith("num_batches_tracked")
    }
    model = load_model("cifar_resnet", weights, **RESNET)
    assert int(model.get_buffer("bn1.num_batches_tracked")) == 0


BAD: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda weights: weights.pop("linear.bias"), "missing linear.bias"),
    "unexpected": (
        lambda weights: weights.update({"linear.extra": torch.zeros(1)}),
        "unexpected linear.extra",
    ),
    "renamed": (
        lambda weights: weights.update({"fc.bias": weights.pop("linear.bias")}),
        "missing linear.bias; unexpected fc.bias",
    ),
    "many missing": (
        lambda weights: [weights.pop(k) for k in list(weights) if k.startswith("layer")],
        r"missing layer1.*\.\.\.",
    ),
    "wrong shape": (
        lambda weights: weights.update({"linear.bias": torch.zeros(11)}),
        r"linear.bias has shape \(11,\), .* \(10,\)",
    ),
    "one dimension more": (
        lambda weights: weights.update({"linear.bias": torch.zeros(10, 1)}),
        "linear.bias has shape",
    ),
    "NaN": (
        lambda weights: weights["conv1.weight"].view(-1)[3].fill_(float("nan")),
        "conv1.weight holds NaN or infinity",
    ),
    "infinity": (
        lambda weights: weights["bn1.running_var"][0].fill_(float("inf")),
        "bn1.running_var holds NaN or infinity",
    ),
    "float64": (
        lambda weights: weights.update({"linear.bias": torch.zeros(10, dtype=torch.float64)}),
        "is torch.float64",
    ),
    "int for float": (
        lambda weights: weights.update({"linear.bias": torch.zeros(10, dtype=torch.int64)}),
        "is torch.int64",
    ),
    "float for int": (
        lambda weights: weights.update({"bn1.num_batches_tracked": torch.tensor(1.0)}),
        "is torch.float32",
    ),
    "complex": (
        lambda weights: weights.update({"linear.bias": torch.zeros(10, dtype=torch.complex64)}),
        "is torch.complex64",
    ),
    "empty": (lambda weights: weights.clear(), "missing"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(bad: str) -> None:
    change, message = BAD[bad]
    weights, model = state(), load_model("cifar_resnet", **RESNET)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    change(weights)
    with pytest.raises(ModelError, match=message):
        load_state_(model, weights)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save(state(), buffer)
    return buffer.getvalue()


def plain_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", b"y")
    return buffer.getvalue()


def header(content: Any, length: int | None = None) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


FILES: dict[str, tuple[Callable[[], bytes], type[SecateurError], str]] = {
    "torch.save": (torch_file, UnsafeFormatError, "safetensors.torch.save_file"),
    "zip": (plain_zip, UnsafeFormatError, "a pickle or a zip"),
    **{
        f"pickle {p}": (
            partial(pickle.dumps, {"a": 1}, protocol=p),
            UnsafeFormatError,
            "a pickle or a zip",
        )
        for p in (2, 3, 4, 5)
    },
    "pickle 0": (lambda: pickle.dumps({"a": 1}, protocol=0), ModelError, "not a safetensors file"),
    "nothing": (lambda: b"", ModelError, "no valid header"),
    "short": (lambda: b"1234567", ModelError, "no valid header"),
    "text": (lambda: b"#!/bin/sh\necho hello\n", ModelError, "no valid header"),
    "huge header": (lambda: header(b"{}", 2**63), ModelError, "no valid header"),
    "long header": (
        lambda: header(b"{" + b" " * (17 * 2**20) + b"}"),
        ModelError,
        "no valid header",
    ),
    "header beyond the end": (
        lambda: header(b"{}", 1000),
        ModelError,
        "not a readable safetensors file",
    ),
    "header no json": (
        lambda: header(b"{nonsense}"),
        ModelError,
        "not a readable safetensors file",
    ),
    "offsets beyond the end": (
        lambda: header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        ModelError,
        "not a readable safetensors file",
    ),
    "offsets that overlap": (
        lambda: (
            header(
                {
                    "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                    "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                }
            )
            + bytes(4)
        ),
        ModelError,
        "not a readable",
    ),
    "truncated": (lambda: save(state())[:-5], ModelError, "not a readable safetensors file"),
    "unknown type": (
        lambda: header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
        ModelError,
        "not a readable safetensors file",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_state_dict_are_refused(tmp_path: Path, case: str) -> None:
    make, error, message = FILES[case]
    (tmp_path / "f").write_bytes(make())
    with pytest.raises(error, match=message):
        read_state(tmp_path / "f")


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, 0x4B50])
def test_a_header_of_an_unlucky_length_is_still_read(tmp_path: Path, length: int) -> None:
    """640 bytes of header are 80 02: the first bytes of a pickle."""
    metadata = {"pad": ""}
    entry = {
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "__metadata__": metadata,
    }
    metadata["pad"] = "x" * (length - len(json.dumps(entry)))
    content = header(entry) + struct.pack("<f", 2.5)
    assert content[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
    (tmp_path / "f").write_bytes(content)
    assert read_state(tmp_path / "f")["a"].tolist() == [2.5]


def test_a_file_loads_as_its_state_dict(tmp_path: Path) -> None:
    weights = state()
    save_file(weights, tmp_path / "f")
    assert all(
        torch.equal(value, weights[name]) for name, value in read_state(tmp_path / "f").items()
    )
    assert torch.equal(
        load_model("cifar_resnet", tmp_path / "f", **RESNET).get_parameter("conv1.weight"),
        weights["conv1.weight"],
    )


def test_parameters_follow_from_the_dataset_unless_they_are_given() -> None:
    net = resolve("mlp", {"hidden": [5]}, shape=(3, 4, 6), classes=7)
    assert read_parameters(net) == {
        "hidden": [5],
        "activation": "relu",
        "initialisation": "pytorch",
        "channels": 3,
        "height": 4,
        "width": 6,
        "classes": 7,
    }
    assert resolve("mlp", {"classes": 9}, shape=(1, 2, 2), classes=7).outputs == 9
    # the width of a ResNet is no image width
    assert read_parameters(resolve("cifar_resnet", {}, shape=(1, 8, 8), classes=3)) == {
        "depth": 20,
        "width": 1.0,
        "shortcut": "A",
        "block": "basic",
        "channels": 1,
        "classes": 3,
    }


def test_unknown_names_and_parameters() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar_resnet'"):
        resolve("cifar_resnet20", {})
    with pytest.raises(ParameterError, match="depth 21 is not 6n"):
        resolve("cifar_resnet", {"depth": 21})


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((3, 2, 2), 3, "images of 1 channels, the dataset's have 3"),
        ((1, 3, 2), 3, "2 rows, the dataset's have 3"),
        ((1, 2, 3), 3, "2 columns, the dataset's have 3"),
        ((1, 2, 2), 4, "distinguishes 3 classes, the dataset has 4"),
    ],
)
def test_a_network_must_take_the_images(
    shape: tuple[int, int, int], classes: int, message: str
) -> None:
    net = resolve("mlp", {"channels": 1, "height": 2, "width": 2, "classes": 3})
    check_fits(net, (1, 2, 2), "abc")
    with pytest.raises(DataError, match=message) as caught:
        check_fits(net, shape, "abcdefg"[:classes])
    assert caught.value.pointer == "/dataset"


def test_a_resnet_takes_images_of_any_size() -> None:
    check_fits(resolve("cifar_resnet", {"classes": 2}), (3, 17, 29), "ab")


@pytest.mark.parametrize("depth", [8, 20])
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("width", [0.01, 0.5, 1.3])
def test_the_resnet_family_runs_at_every_width(depth: int, shortcut: str, width: float) -> None:
    model = load_model(
        "cifar_resnet", depth=depth, width=width, shortcut=shortcut, channels=1, classes=4
    )
    assert model(torch.zeros(2, 1, 9, 7)).shape == (2, 4)
    assert sum(
        isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in model.modules()
    ) == depth + (2 if shortcut == "B" else 0)


def test_a_network_whose_modules_have_versions_loads_from_a_plain_state_dict() -> None:
    """MNASNet refuses a state dict without `_metadata`, which safetensors do not hold."""
    kwargs: dict[str, Any] = {"name": "mnasnet0_5", "classes": 2}
    network = load_model("torchvision", **kwargs)
    again = load_model("torchvision", dict(network.state_dict()), **kwargs)
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_a_negative_variance_is_refused_by_name() -> None:
    network = load_model("cifar_resnet", depth=8, width=0.25, channels=1, classes=2)
    state = dict(network.state_dict())
    state["bn1.running_var"] = state["bn1.running_var"] - 1.5
    with pytest.raises(ModelError, match=r"bn1\.running_var holds -0\.5: a variance"):
        load_model("cifar_resnet", state, depth=8, width=0.25, channels=1, classes=2)
