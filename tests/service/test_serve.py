"""`secateur serve` as a user sees it: start, refuse, stop, extend."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.running import Running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DIGITS = {
    "type": "prune",
    "model": {"architecture": "mlp", "train": {"epochs": 2}},
    "dataset": {"builtin": "digits", "limit": {"train": 300, "test": 100}},
    "targets": {"sparsity": [0.5]},
    "retrain": {"mode": "none"},
    "evaluations": [{"name": "accuracy"}],
}


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "secateur.cli", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = serve("--port", str(taken.getsockname()[1]), "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert "--port" in done.stderr


def test_a_data_folder_in_use_is_a_clear_error(service: Running) -> None:
    done = serve("--port", "0", "--data-dir", str(service.folder / "data"))
    assert done.returncode == 2
    assert "another service is running" in done.stderr


def test_other_than_loopback_needs_a_key(tmp_path: Path) -> None:
    done = serve("--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "key" in done.stderr


def test_a_criterion_is_one_file(fresh: Callable[..., Running], tmp_path: Path) -> None:
    """The file that CONTRIBUTING shows is listed, validated and used, from a plugin folder."""
    from secateur import ApiError

    block = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert block is not None
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "inverse.py").write_text(block[1])
    running = fresh(SECATEUR_PLUGIN_PATH=str(plugins)).start()
    entry = next(
        entry for entry in running.client.methods()["criteria"] if entry["name"] == "inverse"
    )
    assert entry["params"]["properties"]["power"]["exclusiveMinimum"] == 0
    with pytest.raises(ApiError) as refused:
        running.client.jobs.submit(
            DIGITS | {"criterion": {"name": "inverse", "params": {"power": -1}}}
        )
    assert refused.value.errors[0].pointer == "/criterion/params/power"
    both = [{"name": "inverse", "params": {"power": 2}}, {"name": "magnitude"}]
    job = running.client.jobs.submit(DIGITS | {"criterion": both})
    running.client.jobs.wait(job.id, timeout_s=120, interval_s=0.2)
    results = running.client.jobs.results(job.id)
    errors = {
        checkpoint.id: checkpoint.error.value
        for checkpoint in results.checkpoints
        if checkpoint.error is not None
    }
    assert errors["inverse-0.5"] > errors["magnitude-0.5"]


def test_methods_over_http_are_those_registered(service: Running) -> None:
    from pruning.criteria import criteria
    from pruning.schedules import schedules

    catalogue = service.client.methods()
    assert [entry["name"] for entry in catalogue["criteria"]] == criteria.names()
    assert [entry["name"] for entry in catalogue["schedules"]] == schedules.names()
    assert all(
        entry["summary"] and entry["params"]["type"] == "object"
        for kind in catalogue.values()
        for entry in kind
    )
