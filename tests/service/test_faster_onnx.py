"""The sessions of docs/faster-onnx.md, as they stand but for smaller images and one target."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pruning.architectures import _torchvision_shim  # noqa: F401 (goes before torchvision)
from tests.support.running import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[2] / "docs" / "faster-onnx.md"
COLOURS = {"blue": (20, 30, 220), "green": (30, 200, 40), "red": (210, 40, 30), "grey": (128,) * 3}
SMALLER = {"146": "40", "128": "32", "[0.5, 0.4]": "[0.5]"}


def documented(name: str) -> str:
    """Return the block after a mark, for smaller images and one target."""
    text = PAGE.read_text(encoding="utf-8")
    block = re.search(rf"<!-- {name}[^\n]*-->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert block is not None
    code = block[1]
    for usual, smaller in SMALLER.items():
        code = code.replace(usual, smaller)
    return code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos.zip`, `resnet18.pth` and `job.json`."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("user")
    (folder / "job.json").write_text(documented("job.json"))
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("photos/.DS_Store", b"Bud1")
        for name, content in draw_photos():
            archive.writestr(name, content)
    torch.save(train_network().state_dict(), folder / "resnet18.pth")
    return folder


def draw_photos() -> Iterator[tuple[str, bytes]]:
    """Photos of several sizes, each class in its colour."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 20)):
        for name, colour in COLOURS.items():
            for number in range(count):
                size = rng.integers(44, 90, 2)
                pixels = rng.normal(colour, 25, (*size, 3)).clip(0, 255).astype(np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "JPEG")
                yield f"photos/{split}/{name}/{number:03}.jpg", file.getvalue()


def train_network() -> torch.nn.Module:
    """A ResNet-18 of torchvision that knows the colours, after a few steps."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network: torch.nn.Module = resnet18(num_classes=len(COLOURS))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    names = sorted(COLOURS)
    centres = torch.tensor([COLOURS[name] for name in names]) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for _ in range(25):
        labels = torch.randint(0, len(names), (32,))
        pixels = centres[labels][:, None, None] + 0.1 * torch.randn(32, 32, 32, 3)
        inputs = ((pixels.clamp(0, 1) - mean) / std).permute(0, 3, 1, 2)
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    return network


def run_shell(code: str, folder: Path, service: Running) -> str:
    command = f'secateur() {{ "{sys.executable}" -m secateur.cli "$@"; }}\n{code}'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=os.environ | {"SECATEUR_URL": service.url, "URL": service.url},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_line(folder: Path, service: Running) -> None:
    out = run_shell(documented("command line"), folder, service)
    assert 'torchvision {"name": "resnet18", "classes": 4}: fits' in out
    assert "latency of given" in out
    (row,) = [line for line in out.splitlines() if line.startswith("filter_norm-flops-0.5 ")]
    assert "torch " in row
    assert "onnxruntime " in row
    assert list(folder.glob("*-filter_norm-flops-0.5-onnx.onnx"))
    assert "filter_norm-flops-0.5" in (folder / "report.html").read_text()


def test_python_and_the_timing(
    folder: Path,
    service: Running,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SECATEUR_URL", service.url)
    names: dict[str, Any] = {}
    exec(documented("python"), names)
    (checkpoint,) = names["results"].parsed_report().checkpoints
    assert 0.35 < checkpoint.flops / names["given"] < 0.65
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
        exec(documented("timing"), {})
    out = capsys.readouterr().out
    assert "% of the FLOPs" in out
    assert "times as fast as the dense network" in out


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(folder: Path, service: Running) -> None:
    (folder / "small.onnx").unlink(missing_ok=True)
    job = json.loads(documented("job.json"))
    del job["latency"]  # measured in the two sessions before
    (folder / "job.json").write_text(json.dumps(job))
    out = run_shell(documented("curl"), folder, service)
    assert out.strip().endswith(" succeeded")
    results = json.loads((folder / "results.json").read_text())
    (checkpoint,) = results["report"]["checkpoints"]
    assert checkpoint["onnx"]["error"] == checkpoint["error"]
    assert checkpoint["size_bytes"]["onnx"] == (folder / "small.onnx").stat().st_size
