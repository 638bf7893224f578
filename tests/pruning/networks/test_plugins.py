"""The page on networks of one's own, followed to the letter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "plugins.md").read_text()
CHECK = """
import json, sys
from tasks.processes.helper import build_catalogue, check_model, list_layers
from secateur.cli import app
names = [entry["name"] for entry in build_catalogue({})["architectures"]]
payload = {"path": "tiny_net.pth", "architecture": "tiny_net", "kwargs": {}, "output": "state"}
answer = check_model(payload)
layers = list_layers(answer)
print(json.dumps([names, answer, layers]))
app(["models", "check", "tiny_net.pth"])
"""


def find_block(name: str) -> str:
    """The code block of the page after this mark."""
    match = re.search(rf"<!-- plugin: {re.escape(name)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None, name
    return match[1]


@pytest.mark.slow
def test_a_network_of_ones_own_is_registered_checked_and_listed(tmp_path: Path) -> None:
    source = find_block("tiny_net.py")
    folder = find_block("start").split("SECATEUR_PLUGIN_PATH=")[1].split()[0]
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "tiny_net.py").write_text(source)
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5))
    net = nn.ModuleDict({"stem": stem, "head": nn.Linear(20, 3)})
    torch.save({"model": net.state_dict()}, tmp_path / "tiny_net.pth")
    run = subprocess.run(
        [sys.executable, "-c", CHECK],
        cwd=tmp_path,
        env=os.environ | {"SECATEUR_PLUGIN_PATH": folder, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    first, *lines = run.stdout.splitlines()
    names, answer, layers = json.loads(first)
    assert "tiny_net" in names
    assert (answer["kwargs"], answer["rewritten"]) == ({"width": 5, "classes": 3}, True)
    assert lines[-1] == "usable"
    assert any(line.startswith('tiny_net {"width": 5, "classes": 3}: fits') for line in lines)
    assert [row["name"] for row in layers["layers"] if row["prunable"]] == [
        "stem.0.weight",
        "head.weight",
    ]
    commands = find_block("upload").splitlines()
    assert [" ".join(line.split()[:3]) for line in commands] == [
        "secateur models check",
        "secateur models upload",
        "secateur models layers",
    ]
