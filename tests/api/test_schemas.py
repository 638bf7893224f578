"""The OpenAPI document beside what the routes answer: which objects stay free, and that answers fit
their schemas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api import openapi
from api.main import create_app
from pruning.schemas.family_report import FamilyReport
from pruning.schemas.report import Report
from tasks.store import jobs
from tests.support import family_world, reports
from tests.support.api_families import submit_family, take_turn
from tests.support.api_world import SPEC, World

ARCHITECTURE = "the arguments of an architecture, which plugins define"
METHOD = "the parameters of a method, which plugins define; GET /v1/methods has their schemas"
FREE = {
    "ArchFile.kwargs": ARCHITECTURE,
    "Catalogue": "a kind of method may come with a newer worker; the known kinds are declared",
    "CandidateRow.kwargs": ARCHITECTURE,
    "Entry.params": "a JSON Schema",
    "FamilyModel.kwargs": ARCHITECTURE,
    "Method.params": METHOD,
    "ModelInfo.kwargs": ARCHITECTURE,
    "ModelRef.kwargs": ARCHITECTURE,
    "ModelView.kwargs": ARCHITECTURE,
    "PresetEntry.kwargs": ARCHITECTURE,
    "Section.details": "the tables of an evaluation, which plugins define",
}
"""Every object of the document whose fields are not declared, and why."""


@cache
def document() -> dict[str, Any]:
    return openapi.describe(create_app())


def list_free(schema: Any, place: str) -> Iterator[str]:
    """Yield the places of a schema that accept any value, or objects with any fields."""
    if not isinstance(schema, dict):
        return
    says = set(schema) - {"title", "description", "default", "examples"}
    names_fields = bool({"properties", "patternProperties"} & says)
    others = schema.get("additionalProperties", not names_fields)
    if not says or (schema.get("type") == "object" and others is True):
        yield place
    for keyword in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(keyword, ()):
            yield from list_free(part, place)
    for keyword in ("items", "additionalProperties"):
        yield from list_free(schema.get(keyword), place)
    for keyword in ("properties", "patternProperties"):
        for field, part in schema.get(keyword, {}).items():
            yield from list_free(part, f"{place}.{field}")


def list_answers() -> Iterator[tuple[str, Any]]:
    """Yield the place and the schema of every answer of every route."""
    for path, operations in document()["paths"].items():
        for verb, operation in operations.items():
            for status, answer in operation["responses"].items():
                for media, content in answer.get("content", {}).items():
                    yield f"{path} {verb} {status} {media}", content.get("schema", {})


def test_every_free_object_has_a_reason() -> None:
    schemas = [*document()["components"]["schemas"].items(), *list_answers()]
    free_places = [free for place, schema in schemas for free in list_free(schema, place)]
    assert sorted(free_places) == sorted(FREE)


def fits(name: str, value: Any) -> None:
    """Assert that a value is what the document says of a component."""
    whole = {
        "$ref": f"#/components/schemas/{name}",
        "components": document()["components"],
    }
    errors = [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}"
        for error in Draft202012Validator(whole).iter_errors(value)
    ]
    assert not errors, errors[:5]


def earlier(report: Report) -> dict[str, Any]:
    """Return a report as version 0.1 wrote it, without what was added since."""
    body = report.model_dump(mode="json")
    for name in ("joint", "controls"):
        del body[name]
    for name in ("verdict", "needed", "confidence"):
        del body["recommendation"][name]
    for gate in body["gates"]:
        for name in set(gate) - {"name", "limit", "checkpoint", "measured", "passed", "message"}:
            del gate[name]
    for checkpoint in body["checkpoints"]:
        for name in ("label", "control", "guesses", "val_counts", "load_snippet"):
            del checkpoint[name]
        del checkpoint["error"]["unit"]
    for name in ("preprocessing",):
        del body["model"][name]
    del body["data"]["guessing_error"]
    return body


@cache
def stored_reports() -> dict[str, dict[str, Any]]:
    family = family_world.reported()
    families: Sequence[FamilyReport] = (family, family.model_copy(update={"law": None}))
    documents = {
        "realistic": reports.realistic(),
        "hostile": reports.hostile().model_copy(update={"spec": reports.realistic().spec}),
        "empty": reports.empty(),
        "not retrained": reports.unretrained(),
        "family": families[0],
        "family without a law": families[1],
    }
    bodies = {name: report.model_dump(mode="json") for name, report in documents.items()}
    return bodies | {"earlier version": earlier(reports.realistic())}


@pytest.mark.parametrize(
    "kind",
    [
        "realistic",
        "hostile",
        pytest.param("empty", marks=pytest.mark.slow),
        pytest.param("not retrained", marks=pytest.mark.slow),
        "family",
        pytest.param("family without a law", marks=pytest.mark.slow),
        "earlier version",
    ],
)
def test_results_of_every_kind_of_report_fit_their_schema(world: World, kind: str) -> None:
    report = stored_reports()[kind]
    id = world.job("succeeded")
    world.result(id, "report", "json", json.dumps(report).encode())
    response = world.client.get(f"/v1/jobs/{id}/results")
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["report"] == report
    assert body["joint"] == report.get("joint")
    assert [gate["message"] for gate in body["gates"]] == [
        gate["message"] for gate in report["gates"]
    ]
    fits("Results", body)
    fits("FamilyReport" if "family" in kind else "Report", report)


def test_jobs_and_their_checks_fit_their_schemas(world: World) -> None:
    id = world.job("running")
    fits("JobView", world.client.get(f"/v1/jobs/{id}").json())
    answer = world.client.post("/v1/jobs?validate_only=true", json=SPEC)
    fits("Validation", answer.json())
    family = submit_family(world)
    take_turn(world, family, "member")
    (member,) = world.client.get(f"/v1/jobs?parent={family}").json()["data"]
    member["spec"] = SPEC
    with pytest.raises(AssertionError, match="member"):
        fits("JobView", member)  # the member of this test has no fraction, which jobs have
    member["member"] |= {"fraction": 1.0, "seed": 0, "rounds": 3, "density": 0.1}
    fits("JobView", member)


def test_the_laws_of_a_family_are_described_as_they_are_stored() -> None:
    body = stored_reports()["family"]
    fits("JointLaw", body["law"])
    fits("DenseLaw", body["dense_law"])
    early = {name: value for name, value in body["law"].items() if name != "seed_effect"}
    fits("FamilyReport", body | {"law": early})
    with pytest.raises(AssertionError, match="theta"):
        fits("JointLaw", body["law"] | {"fit": {**body["law"]["fit"], "theta": "0.6"}})


def test_the_file_of_widths_is_described_as_it_is_sent() -> None:
    (schema,) = (
        schema
        for place, schema in list_answers()
        if place == "/v1/jobs/{id}/checkpoints/{cid} get 200 application/json"
    )
    assert schema == {"$ref": "#/components/schemas/ArchFile"}
    modules: dict[str, Any] = {
        "conv1": {"type": "layer", "inputs": 3, "outputs": 11, "groups": 1},
        "shortcut": {"type": "map", "inputs": 11, "sources": [-1, 0, 1]},
        "attention": {"type": "heads", "kept": [0, 2], "total": 3, "size": 64},
    }
    sent = {"format": "arch", "version": 1, "architecture": "cifar_resnet", "kwargs": {"depth": 20}}
    fits("ArchFile", sent | {"modules": modules})
    with pytest.raises(AssertionError, match="modules"):
        fits("ArchFile", sent | {"modules": {"conv1": {"type": "layer", "inputs": 3}}})


def test_events_of_every_kind_fit_their_schema(world: World) -> None:
    id = world.job("running")
    place = {"role": "answer", "depth": 1.0, "width": 8.0, "fraction": 1.0, "seed": 1}
    data_by_kind: dict[str, dict[str, Any]] = {
        "stage": {"stage": "prune"},
        "progress": {"done": 1.0, "total": 2.0, "eta_s": None},
        "attempt": {"attempt": 2, "reason": "the worker was lost"},
        "warning": {"message": "few images"},
        "checkpoint": {"id": "magnitude-0.5", "sparsity": 0.5, "error": 0.1},
        "member": {"job": id, "status": "queued", **place, "rounds": 3, "density": 0.1},
    }
    with world.services.store.write() as session:
        job = jobs.lock_job(session, id)
        assert job is not None
        for kind, data in data_by_kind.items():
            jobs.add_event(session, job, kind, data)
    page = world.client.get(f"/v1/jobs/{id}/events").json()
    assert {row["type"] for row in page["data"]} == {"status", *data_by_kind}
    fits("EventPage", page)
    page["data"][0]["data"] = {"status": "vanished"}
    with pytest.raises(AssertionError, match="vanished"):
        fits("EventPage", page)
