"""Results, reports and checkpoints."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tests.support.api_world import World, fault

CONTENT = bytes(range(256)) * 20
ERROR = {"value": 0.1, "low": 0.08, "high": 0.12, "n": 1000}
REPORT: dict[str, Any] = {
    "schema_version": 1,
    "recommendation": {
        "checkpoint": "magnitude-0.5",
        "sparsity": 0.5003,
        "margin": 0.005,
        "reason": "Within the margin.",
    },
    "gates": [
        {
            "name": "max_error_increase",
            "limit": 0.005,
            "checkpoint": "magnitude-0.5",
            "measured": None,
            "passed": True,
            "message": "Within the limit.",
        }
    ],
    "checkpoints": [
        {
            "id": "magnitude-0.5",
            "criterion": {"name": "magnitude", "params": {}},
            "partial": False,
            "requested_sparsity": 0.5,
            "sparsity": 0.5003,
            "density": 0.4997,
            "error": ERROR,
        }
    ],
}


@pytest.fixture
def job(world: World) -> str:
    """A finished job with one checkpoint and a report."""
    id = world.job("succeeded")
    for format in ("sparse", "dense"):
        world.result(id, "magnitude-0.5", format, format.encode() + CONTENT)
    world.result(id, "report", "json", json.dumps(REPORT).encode())
    for format in ("html", "md", "junit"):
        world.result(id, "report", format, f"as {format}".encode())
    return id


def test_results(world: World, job: str) -> None:
    body = world.client.get(f"/v1/jobs/{job}/results").json()
    assert set(body) == {"job", "report", "checkpoints", "recommendation", "gates", "joint"}
    assert body["report"] == REPORT
    assert body["job"]["id"] == job
    # A report of an earlier version has no verdict, and gates with two outcomes.
    assert body["recommendation"].items() >= REPORT["recommendation"].items()
    assert body["recommendation"]["verdict"] is None
    (gate,) = body["gates"]
    assert gate.items() >= REPORT["gates"][0].items()
    assert gate["outcome"] == "passed"
    assert body["joint"] is None
    (checkpoint,) = body["checkpoints"]
    files = {format: format.encode() + CONTENT for format in ("dense", "sparse")}
    assert checkpoint == {
        **REPORT["checkpoints"][0],
        "job": job,
        "requested": None,
        "formats": ["dense", "sparse"],
        "size_bytes": {format: len(content) for format, content in files.items()},
        "sha256": {
            format: hashlib.sha256(content).hexdigest() for format, content in files.items()
        },
        "links": {
            format: f"/v1/jobs/{job}/checkpoints/magnitude-0.5?format={format}" for format in files
        },
    }
    for format, content in files.items():
        assert world.client.get(checkpoint["links"][format]).content == content


def test_undecided_gates_are_skipped_in_junit_or_fail(world: World) -> None:
    id = world.job("succeeded")
    suite = (
        '<testsuite failures="0" skipped="2"><testcase><skipped type="undecided" /></testcase>'
        '<testcase><skipped type="other" /></testcase></testsuite>'
    )
    world.result(id, "report", "json", json.dumps(REPORT).encode())
    world.result(id, "report", "junit", suite.encode())
    path = f"/v1/jobs/{id}/report?format=junit"
    for query in ("", "&undecided=skip"):
        assert world.client.get(path + query).text == suite
    failed = world.client.get(f"{path}&undecided=fail")
    assert failed.headers["content-type"] == "application/xml"
    assert failed.text == (
        '<testsuite failures="1" skipped="1"><testcase><failure type="undecided" /></testcase>'
        '<testcase><skipped type="other" /></testcase></testsuite>'
    )
    fault(world.client.get(f"{path}&undecided=never"), 422, "invalid_parameter")


def test_before_the_end_there_are_checkpoints_only(world: World) -> None:
    id = world.job("running")
    world.result(id, "magnitude-0.5", "sparse", CONTENT)
    world.result(id, "report", "json", json.dumps(REPORT).encode())
    for name in ("results", "report"):
        response = world.client.get(f"/v1/jobs/{id}/{name}")
        fault(response, 409, "job_not_finished")
        assert response.headers["retry-after"]
    assert world.client.get(f"/v1/jobs/{id}/checkpoints/magnitude-0.5").content == CONTENT
    (listed,) = world.client.get(f"/v1/jobs/{id}/checkpoints").json()["data"]
    assert (listed["id"], listed["job"], listed["formats"]) == ("magnitude-0.5", id, ["sparse"])
    assert listed["error"] == ERROR
    assert world.client.get(listed["links"]["sparse"]).content == CONTENT


def test_a_finished_job_lists_the_checkpoints_of_its_results(world: World, job: str) -> None:
    listed = world.client.get(f"/v1/jobs/{job}/checkpoints").json()
    results = world.client.get(f"/v1/jobs/{job}/results").json()
    assert listed == {"data": results["checkpoints"]}
    assert world.client.get(f"/v1/jobs/{world.job('queued')}/checkpoints").json() == {"data": []}
    fault(world.client.get("/v1/jobs/job_00000000/checkpoints"), 404, "not_found")


def test_fields_of_results(world: World, job: str) -> None:
    url = f"/v1/jobs/{job}/results"
    whole = world.client.get(url).json()
    body = world.client.get(f"{url}?fields=recommendation,gates").json()
    assert body == {name: whole[name] for name in ("recommendation", "gates")}
    body = world.client.get(f"{url}?fields=job.status,report.checkpoints,job.id").json()
    assert body == {
        "job": {"status": "succeeded", "id": job},
        "report": {"checkpoints": REPORT["checkpoints"]},
    }
    for fields in ("job,job.id", "job.id,job"):
        assert world.client.get(f"{url}?fields={fields}").json() == {"job": whole["job"]}


@pytest.mark.parametrize("fields", ["", "reports", "report.", "gates.name", "job.id.x", "a,gates"])
def test_fields_that_results_do_not_have(world: World, job: str, fields: str) -> None:
    response = world.client.get(f"/v1/jobs/{job}/results", params={"fields": fields})
    fault(response, 422, "unknown_field")
    assert response.json()["errors"][0]["parameter"] == "fields"


def test_times_are_declared_as_times(world: World) -> None:
    schemas = world.client.get("/openapi.json").json()["components"]["schemas"]
    times = {
        (schema, name): field
        for schema, content in schemas.items()
        for name, field in content.get("properties", {}).items()
        if name == "at" or name.endswith("_at")
    }
    assert len(times) >= 7
    for field in times.values():
        declared = field.get("anyOf", [field])[0]
        assert declared["format"] == "date-time", times


def test_a_job_that_failed_shows_what_it_finished(world: World) -> None:
    id = world.job("failed")
    world.result(id, "magnitude-0.5", "sparse", CONTENT)
    body = world.client.get(f"/v1/jobs/{id}/results").json()
    assert (body["report"], body["recommendation"], body["gates"]) == (None, None, [])
    assert body["checkpoints"][0]["partial"]
    assert body["checkpoints"][0]["error"] is None
    fault(world.client.get(f"/v1/jobs/{id}/report"), 404, "no_report")


@pytest.mark.parametrize(
    ("query", "accept", "media", "content"),
    [
        ("?format=html", "*/*", "text/html", b"as html"),
        ("?format=md", "application/json", "text/markdown", b"as md"),
        ("?format=junit", "*/*", "application/xml", b"as junit"),
        ("", "text/html", "text/html", b"as html"),
        ("", "text/html,application/xhtml+xml,*/*;q=0.8", "text/html", b"as html"),
        ("", "text/html;q=0.5, text/markdown", "text/markdown", b"as md"),
        ("", "*/*", "application/json", json.dumps(REPORT).encode()),
    ],
)
def test_reports_by_format_and_accept(
    world: World, job: str, query: str, accept: str, media: str, content: bytes
) -> None:
    response = world.client.get(f"/v1/jobs/{job}/report{query}", headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == media
    assert response.content == content


def test_other_formats_are_not_acceptable(world: World, job: str) -> None:
    fault(world.client.get(f"/v1/jobs/{job}/report?format=pdf"), 406, "not_acceptable")
    fault(
        world.client.get(f"/v1/jobs/{job}/report", headers={"Accept": "image/png"}),
        406,
        "not_acceptable",
    )
    fault(
        world.client.get(f"/v1/jobs/{job}/report", headers={"Accept": "text/html;q=0"}),
        406,
        "not_acceptable",
    )


def test_the_html_report_runs_no_script(world: World, job: str) -> None:
    response = world.client.get(f"/v1/jobs/{job}/report?format=html")
    policy = response.headers["content-security-policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.fixture
def url(job: str) -> str:
    """The dense checkpoint."""
    return f"/v1/jobs/{job}/checkpoints/magnitude-0.5?format=dense"


WHOLE = b"dense" + CONTENT
ETAG = f'"{hashlib.sha256(WHOLE).hexdigest()}"'


def test_a_checkpoint_comes_with_its_digest_and_a_name(world: World, job: str, url: str) -> None:
    response = world.client.get(url)
    assert (response.status_code, response.content) == (200, WHOLE)
    assert response.headers["etag"] == ETAG
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-length"] == str(len(WHOLE))
    assert (
        response.headers["content-disposition"]
        == f'attachment; filename="{job}-magnitude-0.5.dense.safetensors"'
    )
    head = world.client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "content-disposition", "content-type"):
        assert head.headers[name] == response.headers[name]


@pytest.mark.parametrize(
    ("range_", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=5-", 5, len(WHOLE)),
        ("bytes=-7", len(WHOLE) - 7, len(WHOLE)),
        ("bytes=100-99999999", 100, len(WHOLE)),
        ("bytes=-99999999", 0, len(WHOLE)),
    ],
)
def test_ranges(world: World, url: str, range_: str, start: int, end: int) -> None:
    response = world.client.get(url, headers={"Range": range_})
    assert (response.status_code, response.content) == (206, WHOLE[start:end])
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{len(WHOLE)}"
    assert response.headers["content-length"] == str(end - start)
    assert response.headers["etag"] == ETAG


@pytest.mark.parametrize("range_", [f"bytes={len(WHOLE)}-", "bytes=-0", "bytes=99999-999999"])
def test_ranges_beyond_the_file(world: World, url: str, range_: str) -> None:
    response = world.client.get(url, headers={"Range": range_})
    fault(response, 416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{len(WHOLE)}"


@pytest.mark.parametrize("range_", ["bytes=0-1,5-6", "lines=0-1", "bytes=9-5", "bytes=-", "x"])
def test_other_ranges_are_ignored(world: World, url: str, range_: str) -> None:
    response = world.client.get(url, headers={"Range": range_})
    assert (response.status_code, response.content) == (200, WHOLE)


def test_conditions(world: World, url: str) -> None:
    for tag in (ETAG, f"W/{ETAG}", f'"other", {ETAG}', "*"):
        response = world.client.get(url, headers={"If-None-Match": tag})
        assert (response.status_code, response.content) == (304, b"")
    assert world.client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200
    part = {"Range": "bytes=0-1"}
    assert world.client.get(url, headers={**part, "If-Range": ETAG}).status_code == 206
    assert world.client.get(url, headers={**part, "If-Range": '"other"'}).status_code == 200


def test_checkpoints_that_are_not_there(world: World, job: str) -> None:
    base = f"/v1/jobs/{job}/checkpoints"
    fault(world.client.get(f"{base}/magnitude-0.9"), 404, "not_found")
    fault(world.client.get(f"{base}/magnitude-0.5?format=masks"), 404, "not_found")
    fault(world.client.get(f"{base}/report?format=sparse"), 404, "not_found")
    fault(world.client.get(f"{base}/..%2f..%2fx"), 404, "not_found")
    fault(world.client.get(f"{base}/magnitude-0.5?format=tflite"), 422, "invalid_parameter")
    absent = world.client.get(f"{base}/magnitude-0.5?format=onnx")
    fault(absent, 404, "not_found")
    assert "\"export\" lists 'onnx'" in absent.json()["detail"]
    world.services.artifacts.delete(f"jobs/{job}")
    fault(world.client.get(f"{base}/magnitude-0.5"), 410, "artifact_gone")
    fault(world.client.get(f"/v1/jobs/{job}/results"), 410, "artifact_gone")
