"""Networks that were pruned elsewhere, judged from the command line and from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruning.schemas.evaluate import EvaluateSpec
from secateur import Client
from tests.support.commands import Run
from tests.support.imitation import Answer, Imitation, job

DENSE, FIRST, SECOND = "mdl_12345678", "mdl_00000001", "mdl_00000002"
SPEC: dict[str, Any] = {
    "type": "evaluate",
    "model": {"id": DENSE},
    "pruned": [{"id": FIRST, "name": "tp-0.5"}, {"id": SECOND}],
    "dataset": {"builtin": "digits"},
}


def test_a_command_judges_networks(finished: Imitation, run: Run) -> None:
    code, out, _ = run(
        *("jobs", "evaluate", DENSE, f"tp-0.5={FIRST}", SECOND, "--dataset", "builtin:digits"),
        *("--evaluation", "accuracy", "--evaluation", "prune_potential", "--seed", "3"),
        *("--gate", "max_error_increase=0.01", "--gate", "min_prune_potential.fog 3=0.5"),
        *("--gate", "max_size_bytes=4000", "--shifts", "unexpected", "--export", "onnx"),
    )
    assert code == 0
    assert out.split()[1] == "queued"
    sent = finished.seen("POST /v1/jobs")[-1].json
    assert sent == SPEC | {
        "evaluations": [{"name": "accuracy"}, {"name": "prune_potential"}],
        "gates": {
            "max_error_increase": 0.01,
            "min_prune_potential": {"fog 3": 0.5},
            "max_size_bytes": 4000,
        },
        "shifts": {"knowledge": "unexpected"},
        "export": ["onnx"],
        "seed": 3,
    }
    EvaluateSpec.model_validate(sent)


def test_files_are_uploaded_as_the_dense_model_was(
    finished: Imitation, run: Run, tmp_path: Path
) -> None:
    finished.on(
        f"GET /v1/models/{DENSE}",
        {"id": DENSE, "architecture": "mlp", "kwargs": {"hidden": [4]}, "classes": ["a", "b"]},
    )
    for name in ("net 1.pth", "job_1-filter_norm-0.5-dense.safetensors"):
        (tmp_path / name).write_bytes(b"weights")
    (tmp_path / "job_1-filter_norm-0.5-arch.json").write_text("{}")
    files = [str(path) for path in sorted(tmp_path.iterdir()) if path.suffix != ".json"]
    assert run("jobs", "evaluate", DENSE, *files, "--dataset", "builtin:digits")[0] == 0
    cut, plain = (call.body.decode() for call in finished.seen("POST /v1/models"))
    assert 'name="arch"' in cut
    assert 'name="architecture"' not in cut
    assert 'name="architecture"' in plain
    assert '{"hidden": [4]}' in plain
    assert '["a", "b"]' in plain
    sent = finished.seen("POST /v1/jobs")[-1].json
    assert [network["name"] for network in sent["pruned"]] == ["job_1-filter_norm-0.5", "net-1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((FIRST, "--gate", "max_error=0.1"), "there are confidence"),
        ((FIRST, "--gate", "max_flops=much"), "write NAME=LIMIT"),
        (("nothing.pth",), "nothing.pth: neither the id of a model nor a file"),
        ((FIRST, "--validate-only", "--watch"), "starts no job"),
    ],
)
def test_odd_arguments_are_refused(
    finished: Imitation, run: Run, arguments: tuple[str, ...], words: str
) -> None:
    code, _, err = run("jobs", "evaluate", DENSE, *arguments, "--dataset", "builtin:digits")
    assert code == 2
    assert words in " ".join(err.replace("│", " ").split())
    assert finished.seen("POST /v1/jobs") == []


def test_a_file_describes_such_a_job(finished: Imitation, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "judge.json"
    file.write_text(json.dumps(SPEC))
    assert run("jobs", "submit", str(file), "--dataset", "dst_12345678")[0] == 0
    assert finished.seen("POST /v1/jobs")[-1].json == SPEC | {"dataset": {"id": "dst_12345678"}}
    code, _, err = run("jobs", "submit", str(file), "--sparsity", "0.5")
    assert code == 2
    assert "for a job of the type evaluate" in " ".join(err.replace("│", " ").split())


def test_the_client_judges_networks(service: Imitation, client: Client) -> None:
    service.on("POST /v1/jobs", Answer(202, job("queued")))
    dataset = {"builtin": "digits"}
    client.jobs.evaluate(DENSE, {"tp-0.5": FIRST}, dataset, gates={"max_flops": 9})
    client.jobs.evaluate(DENSE, [FIRST], "dst_00000000")
    client.jobs.submit(EvaluateSpec.model_validate(SPEC))
    named, listed, given = (call.json for call in service.seen("POST /v1/jobs"))
    assert named["pruned"] == [{"id": FIRST, "name": "tp-0.5"}]
    assert named["gates"] == {"max_flops": 9}
    assert (listed["pruned"], listed["dataset"]) == ([{"id": FIRST}], {"id": "dst_00000000"})
    assert given == SPEC
