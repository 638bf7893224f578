"""The documentation of checkpoint files: its loaders and its table of metadata."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors import safe_open
from torch import nn

from pruning.channels.compaction import build_compact, load_compact, write_arch
from pruning.errors import CheckpointError
from pruning.masks import apply_masks_, find_prunable
from pruning.storage.checkpoints import (
    WRITERS,
    read_sparse,
    write_dense,
    write_pth,
    write_sparse,
)
from pruning.storage.compressed import (
    read_compressed,
    read_compressed_header,
    write_compressed,
)
from pruning.types import Masks
from tests.support.channel_nets import select
from tests.support.checkpoint_cases import network

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "checkpoints.md"


def documented(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_documented_loader_agrees_exactly(tmp_path: Path) -> None:
    (code,) = [block for block in documented("python") if "def load_sparse" in block]
    assert "torch" not in code
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    for dtype in (torch.float32, torch.float16):
        state, masks = network(dtype)
        write_sparse(tmp_path / "f", state, masks)
        state, expected = namespace["load_sparse"](tmp_path / "f"), read_sparse(tmp_path / "f")
        assert set(state) == set(expected)
        for name, value in expected.items():
            assert state[name].dtype == value.numpy().dtype
            assert state[name].shape == tuple(value.shape)
            assert np.array_equal(state[name], value.numpy())


def test_the_documented_loader_needs_no_torch(tmp_path: Path) -> None:
    write_sparse(tmp_path / "f", *network())
    (code,) = [block for block in documented("python") if "def load_sparse" in block]
    code = ALONE.format(allowed={"numpy", "safetensors"}) + code
    code += "\nload_sparse(sys.argv[1])\n"
    subprocess.run([sys.executable, "-c", code, tmp_path / "f"], check=True, cwd=tmp_path)


@pytest.mark.parametrize("values", ["exact", "bfloat16"])
def test_the_documented_loader_of_compressed_files_agrees_exactly(
    tmp_path: Path, values: Literal["exact", "bfloat16"]
) -> None:
    (code,) = [block for block in documented("python") if "def load_compressed" in block]
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    shapes = ((3, 5), (1,), (60, 70), (0, 4), (7,))
    for dtype in (torch.float32, torch.float16):
        for kept in (0.0, 0.01, 0.3, 1.1):
            write_compressed(tmp_path / "f", *network(dtype, kept, shapes), values=values)
            state, expected = (
                namespace["load_compressed"](tmp_path / "f"),
                read_compressed(tmp_path / "f"),
            )
            assert set(state) == set(expected)
            for name, value in expected.items():
                assert state[name].dtype == value.numpy().dtype
                assert state[name].shape == tuple(value.shape)
                assert np.array_equal(state[name], value.numpy())
    alone = ALONE.format(allowed={"numpy"}) + code + "\nload_compressed(sys.argv[1])\n"
    subprocess.run([sys.executable, "-c", alone, tmp_path / "f"], check=True, cwd=tmp_path)


@pytest.mark.slow
def test_a_network_without_channels_loads_with_torch_alone(tmp_path: Path) -> None:
    """A network of the user's own, rebuilt in a process that finds PyTorch and what it needs."""
    (code,) = [block for block in documented("python") if "def load_with_torch" in block]
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    network = namespace["build"]().eval()
    masks = select(network, (3, 8, 8), 0.4).masks
    apply_masks_(network, masks)
    small = build_compact(network, masks, (3, 8, 8)).eval()
    write_pth(tmp_path / "c.pth", small.state_dict())
    write_arch(tmp_path / "arch.json", small, "own", {})
    torch.save(small(torch.ones(2, 3, 8, 8)), tmp_path / "logits.pth")
    code = ALONE.format(allowed=list_requirements("torch")) + NETWORK + code + CHECK
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def list_requirements(name: str) -> set[str]:
    """A package with all that it needs, by the names that are imported."""
    needed: set[str] = set()
    waiting = [canonicalize_name(name)]
    providers = packages_distributions()
    while waiting:
        distribution = waiting.pop()
        needed |= {
            module
            for module, owners in providers.items()
            if distribution in map(canonicalize_name, owners)
        }
        requirements = [Requirement(line) for line in requires(distribution) or ()]
        waiting += [
            canonicalize_name(requirement.name)
            for requirement in requirements
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    return needed


ALONE = """\
import sys


class Refusing:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names and root not in {allowed}:
            raise ModuleNotFoundError(f"{{name}} is not to be had")


sys.meta_path.insert(0, Refusing())
"""
NETWORK = """
from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


"""
CHECK = """

network = load_with_torch(build(), "c.pth", "arch.json")
wanted = torch.load("logits.pth", weights_only=True)
assert torch.equal(network(torch.ones(2, 3, 8, 8)), wanted)
assert len(network[0].weight) < 16
"""


def test_the_documented_ways_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning.library import load_model

    monkeypatch.chdir(tmp_path)
    model = load_model("lenet_300_100", height=8, width=8)
    masks = {
        name: torch.zeros_like(weight, dtype=torch.bool)
        for name, weight in find_prunable(model).items()
    }
    apply_masks_(model, masks)
    for format, write in WRITERS.items():
        write(
            Path(f"magnitude-0.95.{format}.safetensors"),
            model.state_dict(),
            masks,
            architecture="lenet_300_100",
            kwargs={"height": 8, "width": 8},
        )
    small = build_compact(model, channel_masks(model), (1, 8, 8))
    write_arch(Path("filter_norm-0.5.arch.json"), small, "lenet_300_100", {"height": 8, "width": 8})
    write_dense(Path("filter_norm-0.5.dense.safetensors"), small.state_dict())
    write_pth(Path("magnitude-0.95.pth"), model.state_dict())
    for code in documented("python"):
        if "load_compact" in code:
            names: dict[str, Any] = {}
            exec(code, names)
            assert names["model"].fc1.weight.shape == (150, 64)
            assert all(
                torch.equal(value, small.state_dict()[name])
                for name, value in names["model"].state_dict().items()
            )
        elif "def load_" not in code and "onnxruntime" not in code:
            namespace: dict[str, Any] = {"model": load_model("lenet_300_100", height=8, width=8)}
            exec(code, namespace)
            assert not namespace["model"].fc1.weight.detach().any()
            assert torch.equal(namespace["model"].fc1.bias, model.get_parameter("fc1.bias"))


def channel_masks(model: nn.Module) -> Masks:
    """Masks that remove the first half of the first hidden layer."""
    keep = torch.arange(300) >= 150
    return {
        "fc1.weight": keep[:, None].expand(300, 64),
        "fc1.bias": keep,
        "fc2.weight": keep.expand(100, 300),
        "fc3.weight": torch.ones(10, 100, dtype=torch.bool),
    }


def test_the_documented_metadata_is_what_is_written(tmp_path: Path) -> None:
    example, compressed, arch = (json.loads(block) for block in documented("json"))
    (tmp_path / "arch.json").write_text(json.dumps(arch))
    with pytest.raises(
        CheckpointError, match="lists 2 layers"
    ):  # it is shortened, but otherwise valid
        load_compact(tmp_path / "arch.json", {})
    write_sparse(
        tmp_path / "f",
        {"fc1.weight": torch.zeros(300, 784)},
        {"fc1.weight": torch.zeros(300, 784, dtype=torch.bool)},
        **{
            key: value
            for key, value in example.items()
            if key not in ("format", "version", "tensors")
        },
    )
    with safe_open(tmp_path / "f", framework="numpy") as file:
        assert list(file.metadata()) == ["secateur"]
        assert json.loads(file.metadata()["secateur"]) == example
    mask = torch.zeros(2, 100, dtype=torch.bool)
    mask[0, [3, 7, 90]] = True
    state = {"fc1.weight": mask.float(), "fc1.bias": torch.zeros(2)}
    write_compressed(tmp_path / "g", state, {"fc1.weight": mask})
    assert json.loads(read_compressed_header(tmp_path / "g")) == compressed
