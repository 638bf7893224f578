"""ONNX files: dynamic batches, zeros, equal bytes, and no trace of the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.errors import CheckpointError
from pruning.masks import apply_masks_
from pruning.storage import onnx_files
from pruning.storage.onnx_files import write_onnx
from tests.support import cases
from tests.support.onnx_cases import SHAPE, build_conv_net, read_initializers


@pytest.mark.slow
def test_a_file_answers_as_its_network_with_any_batch_and_keeps_zeros(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from pruning.measurement.onnx_network import OnnxNetwork

    network = build_conv_net()
    masks = cases.half_masks(network)
    apply_masks_(network, masks)
    paths = tmp_path / "first.onnx", tmp_path / "second.onnx"
    for path in paths:
        write_onnx(path, network, SHAPE, architecture="conv", sparsity=0.5)
    content = paths[0].read_bytes()
    assert content == paths[1].read_bytes()
    assert b".py" not in content
    assert b"stack_trace" not in content
    model = onnx.load(str(paths[0]))
    onnx.checker.check_model(model)
    (entry,) = model.metadata_props
    described = json.loads(entry.value)
    assert entry.key == "secateur"
    assert described == {"format": "onnx", "version": 1, "architecture": "conv", "sparsity": 0.5}
    constants = read_initializers(paths[0])
    for name, mask in masks.items():
        assert torch.equal(constants[name] != 0, mask), name
    assert not torch.equal(constants["0.weight"], network.get_parameter("0.weight"))
    runtime = OnnxNetwork(paths[0], threads=1)
    for batch in (1, 2, 5):
        images = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(batch))
        torch.testing.assert_close(runtime(images), network(images), rtol=1e-5, atol=1e-5)


class Looping(nn.Module):
    """A network whose graph depends on its images."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


@pytest.mark.slow
def test_a_network_that_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(CheckpointError, match="PyTorch cannot export this network to ONNX"):
        write_onnx(tmp_path / "f.onnx", Looping(), SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> Any:
        return None

    monkeypatch.setattr(onnx_files.importlib.util, "find_spec", find_nothing)  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"pip install 'secateur\[onnx\]'"):
        write_onnx(tmp_path / "f.onnx", build_conv_net(), SHAPE)
