"""A client that a tool generates from the committed description: a script type-checks against it,
and reads what the service answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import family_world, reports
from tests.support.api_world import World
from tests.support.imitation import Answer, Imitation

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "generated_client.py"
MYPY = """\
[mypy]
strict = true

[mypy-secateur_api.*]
follow_imports = silent
"""
"""The types of the generated package are used, and mistakes inside it are its tool's own."""


def run(folder: Path, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])} | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_generated_client_reads_recommendation_gates_and_curves(
    world: World, tmp_path: Path
) -> None:
    generate = ["--path", str(ROOT / "docs" / "openapi.json"), "--meta", "none"]
    where = ["--output-path", str(tmp_path / "secateur_api")]
    output = run(tmp_path, "-m", "openapi_python_client", "generate", *generate, *where)
    assert "WARNING parsing" not in output
    assert "Unable to parse" not in output
    (tmp_path / "script.py").write_text(SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(MYPY, encoding="utf-8")
    (tmp_path / "secateur_api" / "py.typed").touch()
    run(tmp_path, "-m", "mypy", "script.py")

    family = family_world.reported()
    printed = []
    service = Imitation()
    try:
        for report in (reports.realistic(), family):
            job = world.job("succeeded")
            world.result(job, "report", "json", report.model_dump_json().encode())
            body = world.client.get(f"/v1/jobs/{job}/results").json()
            service.on(f"GET /v1/jobs/{job}/results", Answer(200, json.loads(json.dumps(body))))
            address = (service.url, job)
            printed.append(run(tmp_path, "script.py", *address, SECATEUR_API_KEY="key"))
    finally:
        service.close()
    assert printed[0].startswith("ship: magnitude-0.8. Of the checkpoints within")
    assert "Of magnitude-0.8 this holds at 95 % together" in printed[0]
    assert "gate max_error_increase: passed, None against 0.01" in printed[0]
    assert "robustness: fog (sparsity, test error): 0 -> 0.16 [" in printed[0]
    assert f"{family.recommendation.verdict}: {family.recommendation.checkpoint} of" in printed[1]
    assert "gate max_error: " in printed[1]
