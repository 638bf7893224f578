"""The README's session with curl, executed as it stands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pruning.architectures import architectures
from pruning.storage.checkpoints import read_sparse
from tests.support.running import Running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def session(name: str = "session") -> str:
    """Return the block that follows the mark in the README."""
    block = re.search(
        rf"<!-- {name}:[^\n]*-->\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert block is not None
    return block[1]


@pytest.mark.timeout(1300)
@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_session_with_curl_on_resnet20(fresh: Callable[..., Running], tmp_path: Path) -> None:
    running = fresh(SECATEUR_CHECKPOINT_STEPS="200").start()
    environment = os.environ | {
        "URL": running.url,
        "DATA": str(DATA),
        "OUT": str(tmp_path),
        "TRAIN_IMAGES": "1000",
        "TEST_IMAGES": "2000",
        "SHIFTED_IMAGES": "20",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", session()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(" succeeded")

    results = json.loads((tmp_path / "results.json").read_text())
    report = results["report"]
    assert report["baseline"]["error"]["value"] == pytest.approx(0.19, abs=0.025)
    assert report["baseline"]["error"]["n"] == 2000
    assert report["control"]["error"]["value"] < report["baseline"]["error"]["value"]
    for checkpoint, sparsity in zip(report["checkpoints"], (0.5, 0.8, 0.9, 0.95), strict=True):
        assert checkpoint["sparsity"] == pytest.approx(sparsity, abs=2e-6)
        increase = checkpoint["error_increase"]
        counts = {"given_counts", "control_counts"}
        assert set(increase) == {"given", "control", "given_variance", "control_variance"} | counts
    errors = [checkpoint["pruned"]["error"]["value"] for checkpoint in report["checkpoints"]]
    assert errors == sorted(errors)

    sparse, dense = (
        tmp_path / "magnitude-0.95.sparse.safetensors",
        tmp_path / "magnitude-0.95.dense.safetensors",
    )
    assert sparse.stat().st_size <= 0.11 * (DATA / "resnet20-cifar10.safetensors").stat().st_size
    rebuilt, plain = read_sparse(sparse), load_file(dense)
    assert rebuilt.keys() == plain.keys()
    assert all((rebuilt[name] == plain[name]).all() for name in plain)
    architectures.create("cifar_resnet", {"depth": 20}).build().load_state_dict(plain)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert "magnitude-0.95" in text
