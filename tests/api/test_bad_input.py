"""Requests that the API refuses by itself: with the right problem, and with nothing stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import tasks.helper
from tasks.store.tables import Job
from tests.support.api_world import SPEC, World, fault


def changed(**fields: Any) -> dict[str, Any]:
    return {**SPEC, **fields}


BODIES: list[tuple[dict[str, Any], str, str]] = [
    (changed(targets={"sparsity": [1.0]}), "invalid_request", "/targets/sparsity/0"),
    (changed(targets={"sparsity": [0.5, -0.1]}), "invalid_request", "/targets/sparsity/1"),
    (changed(targets={"sparsity": ["a"]}), "invalid_request", "/targets/sparsity/0"),
    (changed(targets={"sparsity": [[0.5]]}), "invalid_request", "/targets/sparsity/0"),
    (changed(targets={"sparsity": []}), "invalid_request", "/targets/sparsity"),
    (changed(targets={"sparsity": [0.5, 0.5]}), "invalid_request", "/targets/sparsity"),
    (changed(targets={}), "invalid_request", "/targets"),
    (changed(targets={"flops": [0.5, 0.5]}), "invalid_request", "/targets/flops"),
    (changed(targets={"flops": [0.5, 1000]}), "invalid_request", "/targets/flops"),
    (changed(targets={"flops": [1]}), "invalid_request", "/targets/flops/0"),
    (changed(targets={"sparsity": [0.5], "flops": [0.5]}), "invalid_request", "/targets"),
    ({"type": "prune"}, "invalid_request", "/targets"),
    (changed(colour="red"), "invalid_request", "/colour"),
    (changed(**{"a/b~c": 1}), "invalid_request", "/a~1b~0c"),
    (changed(criterion=5), "invalid_request", "/criterion"),
    (changed(criterion={"name": "Magnitude!"}), "invalid_request", "/criterion/name"),
    (
        changed(criterion=[{"name": "magnitude"}, {"nom": "x"}]),
        "invalid_request",
        "/criterion/1/name",
    ),
    (changed(exclude=["fc1", 5]), "invalid_request", "/exclude/1"),
    (changed(include=[""]), "invalid_request", "/include/0"),
    (changed(include=[{"kind": "Linear", "name": "fc1"}]), "invalid_request", "/include/0/name"),
    (changed(overrides={"fc1/*": 1.0}), "invalid_request", "/overrides/fc1~1*"),
    (changed(overrides=["fc1"]), "invalid_request", "/overrides"),
    (changed(when="before_training", retrain={"mode": "fine_tune"}), "invalid_request", "/retrain"),
    (changed(retrain={"mode": "none", "epochs": 2}), "invalid_request", "/retrain"),
    (
        changed(model={"id": "mdl_06apt1c3nvg28o2e8b5hkq9s40"}, retrain={"mode": "weight_rewind"}),
        "invalid_request",
        "/retrain",
    ),
    (
        changed(gates={"min_certified_accuracy": 0.9}, evaluations=[{"name": "accuracy"}]),
        "invalid_request",
        "/gates/min_certified_accuracy",
    ),
    (
        changed(gates={"min_prune_potential": {"fog 3": 2}}),
        "invalid_request",
        "/gates/min_prune_potential/fog 3",
    ),
    (changed(criterion={"name": "magnitud"}), "unknown_criterion", "/criterion/name"),
    (
        changed(criterion=[{"name": "magnitude"}, {"name": "magnitud"}]),
        "unknown_criterion",
        "/criterion/1/name",
    ),
    (changed(allocation={"name": "globl"}), "unknown_allocation", "/allocation/name"),
    (changed(sparsifier={"name": "topk"}), "unknown_sparsifier", "/sparsifier/name"),
    (changed(schedule={"name": "geometrc"}), "unknown_schedule", "/schedule/name"),
    (changed(evaluations=[{"name": "accurcy"}]), "unknown_evaluation", "/evaluations/0/name"),
    (changed(dataset={"builtin": "digit"}), "unknown_dataset", "/dataset/builtin"),
    (
        changed(model={"architecture": "mlp", "train": {"corrupt": {"names": ["snow", "fogg"]}}}),
        "unknown_corruption",
        "/model/train/corrupt/names/1",
    ),
    (
        changed(retrain={"mode": "fine_tune", "corrupt": {"names": ["smog"]}}),
        "unknown_corruption",
        "/retrain/corrupt/names/0",
    ),
    (
        changed(model={"architecture": "mpl", "train": {}}),
        "unknown_architecture",
        "/model/architecture",
    ),
    (
        changed(model={"architecture": "mlp", "kwargs": {"hidden": ["a"]}, "train": {}}),
        "invalid_parameter",
        "/model/kwargs/hidden/0",
    ),
    (
        changed(criterion={"name": "magnitude", "params": {"p": 0}}),
        "invalid_parameter",
        "/criterion/params/p",
    ),
    (
        changed(criterion={"name": "magnitude", "params": {"q": 1}}),
        "invalid_parameter",
        "/criterion/params/q",
    ),
    (
        changed(schedule={"name": "geometric", "params": {"fraction": "x"}}),
        "invalid_parameter",
        "/schedule/params/fraction",
    ),
]


@pytest.mark.parametrize(("body", "code", "pointer"), BODIES)
def test_a_body_with_a_fault_is_a_422_that_points_at_it(
    untouched: World, body: Any, code: str, pointer: str
) -> None:
    fault(untouched.client.post("/v1/jobs", json=body), 422, code, pointer)
    with untouched.services.store.read() as session:
        assert session.query(Job).count() == 0
    assert untouched.helper.questions == []


def test_the_nearest_name_is_offered(world: World) -> None:
    body = fault(
        world.client.post("/v1/jobs", json=changed(criterion={"name": "magnitud"})),
        422,
        "unknown_criterion",
    )
    assert body["detail"] == "unknown criterion 'magnitud'; did you mean 'magnitude'?"


def test_one_fault_is_reported_once(world: World) -> None:
    body = fault(
        world.client.post("/v1/jobs", json=changed(criterion={"name": "magnitude", "p": 1})),
        422,
        "invalid_request",
    )
    assert [item["pointer"] for item in body["errors"]] == ["/criterion/p"]


def test_several_faults_are_reported_together(world: World) -> None:
    wrong = changed(criterion={"name": "x"}, schedule={"name": "y"})
    body = fault(world.client.post("/v1/jobs", json=wrong), 422, "invalid_request")
    assert [item["code"] for item in body["errors"]] == ["unknown_criterion", "unknown_schedule"]


def test_an_argument_that_the_data_supply_may_be_missing(world: World) -> None:
    assert (
        world.client.post(
            "/v1/jobs", json=changed(model={"architecture": "odd", "train": {}})
        ).status_code
        == 202
    )


TEXTS = [
    b"",
    b"{",
    b"[" * 100_000,
    json.dumps(SPEC).replace("0.5", "NaN").encode(),
    json.dumps(SPEC).replace("0.5", "1e999").encode(),
    b"\xff\xfe{",
    b'{"type": "\\ud800"}',
    b'{"labels": {"a\\u0000": "b"}}',
    b'{"a": ' * 40 + b"1" + b"}" * 40,
    b'{"seed": ' + b"9" * 5000 + b"}",
    b'{"type": "prune", "type": "prune"}',
    b'{"labels": {"a": "b", "\\u0061": "b"}}',
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_what_is_not_json_is_a_400(world: World, text: bytes) -> None:
    response = world.client.post(
        "/v1/jobs", content=text, headers={"Content-Type": "application/json"}
    )
    fault(response, 400, "invalid_json")


def test_a_key_given_twice_is_named(world: World) -> None:
    text = json.dumps(SPEC).replace('"type"', '"seed": 1, "seed": 2, "type"')
    response = world.client.post(
        "/v1/jobs", content=text, headers={"Content-Type": "application/json"}
    )
    assert (
        fault(response, 400, "invalid_json")["detail"]
        == "the body has the key 'seed' twice in one object"
    )


@pytest.mark.parametrize("value", [1.0, -0.1, "a"])
def test_a_bad_item_does_not_make_its_list_too_short(world: World, value: object) -> None:
    body = fault(
        world.client.post("/v1/jobs", json=changed(targets={"sparsity": [value]})),
        422,
        "invalid_request",
    )
    assert [item["pointer"] for item in body["errors"]] == ["/targets/sparsity/0"]


def test_another_content_type_is_a_415(world: World) -> None:
    fault(
        world.client.post("/v1/jobs", content=b"{}", headers={"Content-Type": "text/plain"}),
        415,
        "unsupported_media_type",
    )
    fault(world.client.post("/v1/jobs", data={"type": "prune"}), 415, "unsupported_media_type")


def test_a_body_of_20_mb_is_refused_by_its_length_and_while_it_streams(world: World) -> None:
    headers = {"Content-Type": "application/json"}
    fault(
        world.client.post("/v1/jobs", content=b" " * 20_000_000, headers=headers),
        413,
        "payload_too_large",
    )
    sent = []

    def stream() -> Iterator[bytes]:
        for _ in range(20):
            sent.append(1)
            yield b" " * 1_000_000

    fault(
        world.client.post("/v1/jobs", content=stream(), headers=headers), 413, "payload_too_large"
    )


def test_ids_of_nothing_are_a_404_that_points(world: World) -> None:
    nothing = "06apt1c3nvg28o2e8b5hkq9s40"
    fault(
        world.client.post("/v1/jobs", json=changed(model={"id": f"mdl_{nothing}"})),
        404,
        "not_found",
        "/model/id",
    )
    fault(
        world.client.post("/v1/jobs", json=changed(dataset={"id": f"dst_{nothing}"})),
        404,
        "not_found",
        "/dataset/id",
    )
    rewind = changed(
        model={"id": world.model()},
        retrain={"mode": "weight_rewind", "rewind": {"model": {"id": f"mdl_{nothing}"}}},
    )
    fault(world.client.post("/v1/jobs", json=rewind), 404, "not_found", "/retrain/rewind/model/id")
    backbone = changed(model=SPEC["model"] | {"backbone": f"mdl_{nothing}"})
    fault(world.client.post("/v1/jobs", json=backbone), 404, "not_found", "/model/backbone")


def test_model_and_data_must_have_the_same_classes(world: World) -> None:
    spec = changed(
        model={"id": world.model(classes=["cat", "cow"])}, dataset={"id": world.dataset()}
    )
    body = fault(world.client.post("/v1/jobs", json=spec), 422, "class_mismatch", "/dataset/id")
    assert "'cow', 'dog'" in body["detail"]


def test_weights_rewind_to_the_same_network_only(world: World) -> None:
    spec = changed(
        model={"id": world.model()},
        retrain={
            "mode": "weight_rewind",
            "rewind": {"model": {"id": world.model(kwargs={"hidden": [3]})}},
        },
    )
    fault(
        world.client.post("/v1/jobs", json=spec), 422, "rewind_mismatch", "/retrain/rewind/model/id"
    )


def test_an_upload_from_before_a_parameter_was_added_is_the_same_network(world: World) -> None:
    spec = changed(
        model={"id": world.model(kwargs={})},
        retrain={
            "mode": "weight_rewind",
            "rewind": {"model": {"id": world.model(kwargs={"activation": "relu"})}},
        },
    )
    assert world.client.post("/v1/jobs", json=spec).status_code == 202


def test_what_the_helper_refuses_is_a_422_with_its_code(world: World) -> None:
    world.helper.error = tasks.helper.HelperError(
        "impossible_budget", "cannot keep 0 of 9", "/targets/sparsity/1"
    )
    fault(world.client.post("/v1/jobs", json=SPEC), 422, "impossible_budget", "/targets/sparsity/1")
    world.helper.error = tasks.helper.HelperError(
        "invalid_parameter", "depth 7 is not 6n + 2", "depth"
    )
    fault(world.client.post("/v1/jobs", json=SPEC), 422, "invalid_parameter", "/model/kwargs/depth")
    world.helper.error = None
    assert world.client.post("/v1/jobs", json=SPEC).status_code == 202


def test_a_fault_of_the_helper_is_none_of_the_request(world: World) -> None:
    world.helper.error = tasks.helper.HelperError(
        "helper_crashed", "ended with SIGSEGV at /opt/x.so"
    )
    response = world.client.post("/v1/jobs", json=SPEC)
    assert fault(response, 500, "helper_crashed")["errors"] == []
    assert "SIGSEGV" not in response.text
    world.helper.error = tasks.helper.HelperError(
        "helper_timeout", "reading this took more than 1 s"
    )
    response = world.client.post("/v1/jobs", json=SPEC)
    assert fault(response, 503, "helper_timeout")["detail"] == "reading this took more than 1 s"
    assert response.headers["retry-after"]


def test_an_unforeseen_error_leaks_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.helper.error = RuntimeError("postgresql://user:secret@host")
    response = world.client.post("/v1/jobs", json=SPEC, headers={"X-Request-Id": "mine-1"})
    body = fault(response, 500, "internal")
    assert "secret" not in response.text
    assert body["request_id"] == "mine-1"
    assert "mine-1" in caplog.text


@pytest.mark.parametrize("request_id", ["a b", "x" * 200, "<script>", ""])
def test_an_odd_request_id_is_replaced(world: World, request_id: str) -> None:
    response = world.client.get("/healthz", headers={"X-Request-Id": request_id})
    assert response.headers["x-request-id"].startswith("req_")


def test_unknown_paths_and_methods_are_problems(world: World) -> None:
    fault(world.client.get("/v1/nothing"), 404, "not_found")
    response = world.client.put("/v1/jobs")
    fault(response, 405, "method_not_allowed")
    assert "GET" in response.headers["allow"] or "POST" in response.headers["allow"]
    for odd in ("job_x", "..%2f", "job_%00aaaaaaaaa", "JOB_06apt1c3nvg28o2e8b5hkq9s40"):
        fault(world.client.get(f"/v1/jobs/{odd}"), 404, "not_found")


def test_a_database_without_space_is_a_507(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import text

    with world.services.store.read() as session:
        pages = session.scalar(text("PRAGMA page_count"))
    write = world.services.store.write

    @contextmanager
    def full() -> Iterator[Any]:
        with write() as session:
            session.execute(text(f"PRAGMA max_page_count={pages}"))
            yield session

    monkeypatch.setattr(world.services.store, "write", full)
    fault(
        world.client.post(
            "/v1/jobs",
            json=changed(
                labels={f"k{number}": "x" * 255 for number in range(16)}, exclude=["y" * 1000] * 100
            ),
        ),
        507,
        "disk_full",
    )


def test_a_database_that_is_away_is_a_503(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    world = build()

    def away() -> None:
        raise OperationalError("SELECT 1", {}, Exception("no route to host 10.0.0.1"))

    monkeypatch.setattr(world.services.store, "read", away)
    response = world.client.get("/v1/jobs")
    body = fault(response, 503, "database_unavailable")
    assert response.headers["retry-after"]
    assert "10.0.0.1" not in json.dumps(body)
