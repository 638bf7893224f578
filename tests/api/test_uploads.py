"""Uploads of models and datasets: stored whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy.orm import Session

import api.http.multipart
import tasks.helper
from tasks.store import assets
from tests.support.api_world import FILE, MODEL, WEIGHTS, World, fault


def test_a_model_is_checked_then_kept(world: World) -> None:
    form = {
        **MODEL,
        "kwargs": '{"hidden": [4]}',
        "name": "mine",
        "sha256": hashlib.sha256(WEIGHTS).hexdigest().upper(),
        "normalize": '{"mean": [0, 0, 0], "std": [1, 1, 0.5]}',
        "classes": '["cat", "dog"]',
    }
    response = world.client.post("/v1/models", files=FILE, data=form)
    assert response.status_code == 201, response.text
    body = response.json()
    assert response.headers["location"] == f"/v1/models/{body['id']}"
    assert body == {
        "id": body["id"],
        "state": "ready",
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
        "name": "mine",
        "size_bytes": len(WEIGHTS),
        "architecture": "mlp",
        "parameters": 100,
        "prunable": 90,
        "kwargs": {"hidden": [4], "classes": 2},
        "normalize": {"mean": [0, 0, 0], "std": [1, 1, 0.5]},
        "preprocessing": {
            "mean": [0, 0, 0],
            "std": [1, 1, 0.5],
            "source": "given",
            "resize": None,
            "crop": None,
            "interpolation": None,
            "size_source": None,
        },
        "sparsity": 0.0,
        "has_arch": False,
        "warnings": [],
        "classes": ["cat", "dog"],
        "created_at": body["created_at"],
    }
    verb, payload = world.helper.questions[0]
    assert verb == "model"
    assert payload["filename"] == "net.safetensors"
    assert world.files() == [f"artifacts/models/{body['id']}/state.safetensors"]
    assert (world.folder / world.files()[0]).read_bytes() == WEIGHTS
    assert world.client.get(f"/v1/models/{body['id']}").json() == body
    assert world.client.get("/v1/models").json() == {
        "data": [body],
        "has_more": False,
        "next_cursor": None,
    }
    assert world.client.delete(f"/v1/models/{body['id']}").status_code == 204
    assert world.files() == []
    fault(world.client.get(f"/v1/models/{body['id']}"), 404, "not_found")


def test_a_dataset_is_decoded_then_kept(world: World) -> None:
    form = {"normalize": '{"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}'}
    response = world.client.post(
        "/v1/datasets", files={"file": ("a/b\\set.zip", b"zip")}, data=form
    )
    assert response.status_code == 201, response.text
    body = response.json()
    assert body == {
        "id": body["id"],
        "state": "ready",
        "source": None,
        "error": None,
        "name": "set.zip",
        "sha256": hashlib.sha256(b"zip").hexdigest(),
        "size_bytes": 3,
        "classes": ["cat", "dog"],
        "shape": [3, 8, 8],
        "counts": {"train": 4, "test": 2},
        "task": "classification",
        "notes": [],
        "groups": {"sex": {"f": 1, "m": 1}},
        "guessing_error": 0.5,
        "normalize": {"mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0]},
        "sizes": None,
        "preprocessing": None,
        "created_at": body["created_at"],
    }
    assert world.helper.questions[0][1]["max_values"] == world.services.settings.max_pixels
    assert world.files() == [f"artifacts/datasets/{body['id']}/data.safetensors"]
    assert (world.folder / world.files()[0]).read_bytes() == b"tensors"
    assert world.client.get("/v1/datasets").json()["data"] == [body]
    assert world.client.get(f"/v1/datasets/{body['id']}").json() == body
    assert world.client.delete(f"/v1/datasets/{body['id']}").status_code == 204
    assert world.files() == []


def test_a_normalisation_that_nobody_gave_is_warned_of(world: World) -> None:
    body = world.client.post("/v1/models", files=FILE, data=MODEL).json()
    assert (body["normalize"], body["preprocessing"]) == (None, None)
    (warning,) = body["warnings"]
    assert "nobody gave the normalisation" in warning
    assert "mean and standard deviation of the training images" in warning
    assert world.client.get(f"/v1/models/{body['id']}").json() == body


def test_a_file_says_itself_what_it_is_and_the_form_goes_first(world: World) -> None:
    own = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}
    world.helper.model = {
        "architecture": "mlp",
        "normalize": own,
        "classes": ["dog", "cat"],
        "zeros": {"fc1.weight": 30, "fc2.weight": 6},
    }
    body = world.client.post("/v1/models", files=FILE).json()
    assert (body["architecture"], body["classes"]) == ("mlp", ["dog", "cat"])
    assert body["normalize"] == own
    assert (body["preprocessing"]["source"], body["sparsity"]) == ("model", 36 / 90)
    assert body["warnings"] == []
    given = {"classes": '["a", "b"]', "normalize": '{"mean": [0, 0, 0], "std": [1, 1, 1]}'}
    body = world.client.post("/v1/models", files=FILE, data=given).json()
    assert body["classes"] == ["a", "b"]
    assert (body["normalize"]["mean"], body["preprocessing"]["source"]) == ([0, 0, 0], "given")
    world.helper.model = {"classes": ["a", "a", "a"]}
    fault(world.client.post("/v1/models", files=FILE, data=MODEL), 422, "wrong_length", "/classes")


def test_what_a_live_job_uses_is_not_deleted(world: World) -> None:
    model, rewind, dataset = world.model(), world.model(), world.dataset()
    job = world.job("running", model_id=model, rewind_model_id=rewind, dataset_id=dataset)
    urls = (f"/v1/models/{model}", f"/v1/models/{rewind}", f"/v1/datasets/{dataset}")
    for url in urls:
        fault(world.client.delete(url), 409, "in_use")
    world.move(job, "succeeded")
    assert [world.client.delete(url).status_code for url in urls] == [204, 204, 204]


FORMS: list[tuple[dict[str, str], str, str]] = [
    ({}, "missing", "/architecture"),
    ({**MODEL, "sha256": "0" * 64}, "checksum_mismatch", "/sha256"),
    ({**MODEL, "sha256": "abc"}, "invalid_sha256", "/sha256"),
    ({"architecture": "mpl"}, "unknown_architecture", "/architecture"),
    ({**MODEL, "kwargs": "{"}, "invalid_json", "/kwargs"),
    ({**MODEL, "kwargs": '{"hidden": [1], "hidden": [2]}'}, "invalid_json", "/kwargs"),
    ({**MODEL, "kwargs": "[1]"}, "invalid_request", "/kwargs"),
    ({**MODEL, "kwargs": '{"depth": 20}'}, "invalid_parameter", "/kwargs/depth"),
    ({**MODEL, "normalize": '{"mean": [0]}'}, "invalid_request", "/normalize/std"),
    ({**MODEL, "normalize": '{"mean": [0], "std": [0]}'}, "invalid_request", "/normalize"),
    ({**MODEL, "normalize": '{"mean": [NaN], "std": [1]}'}, "invalid_json", "/normalize"),
    ({**MODEL, "normalize": '{"mean": [0, 1], "std": [1]}'}, "invalid_request", "/normalize"),
    ({**MODEL, "normalize": '{"mean": [0], "std": [1]}'}, "wrong_length", "/normalize/mean"),
    ({**MODEL, "normalize": '{"mean": ["a"], "std": [1]}'}, "invalid_request", "/normalize/mean/0"),
    ({**MODEL, "classes": '["a", "a"]'}, "duplicate", "/classes"),
    ({**MODEL, "classes": '["a", 1]'}, "invalid_request", "/classes/1"),
    ({**MODEL, "classes": '["a", "b", "c"]'}, "wrong_length", "/classes"),
    ({**MODEL, "name": "x" * 256}, "invalid_request", "/name"),
    ({**MODEL, "name": "a\x00b"}, "invalid_request", "/name"),
    ({**MODEL, "colour": "red"}, "unknown_field", ""),
]


@pytest.mark.parametrize(("form", "code", "pointer"), FORMS)
def test_a_form_with_a_fault_leaves_nothing(
    untouched: World, form: dict[str, str], code: str, pointer: str
) -> None:
    fault(untouched.client.post("/v1/models", files=FILE, data=form), 422, code, pointer)
    assert untouched.files() == []
    assert untouched.client.get("/v1/models").json()["data"] == []


def test_constants_of_another_number_of_channels_are_refused(world: World) -> None:
    response = world.client.post(
        "/v1/datasets",
        files={"file": ("d.zip", b"zip")},
        data={"normalize": '{"mean": [0], "std": [1]}'},
    )
    fault(response, 422, "wrong_length", "/normalize/mean")
    assert world.files() == []


def test_constants_in_grey_levels_are_refused_with_the_right_ones(world: World) -> None:
    uploads: list[tuple[str, dict[str, str]]] = [("datasets", {}), ("models", MODEL)]
    for (kind, form), field in itertools.product(uploads, ("normalize", "preprocessing")):
        response = world.client.post(
            f"/v1/{kind}",
            files={"file": ("d.zip", b"zip")},
            data={**form, field: '{"mean": [123.675, 116.28, 103.53], "std": [1, 1, 1]}'},
        )
        (error,) = fault(response, 422, "grey_levels", f"/{field}/mean")["errors"]
        assert '{"mean": [0.485, 0.456, 0.406], "std": [0.003922' in error["message"]
    assert world.files() == []


def test_the_classes_of_a_form_go_to_the_reader(world: World) -> None:
    files = {"file": ("d.npz", b"zip")}
    response = world.client.post("/v1/datasets", files=files, data={"classes": '["cat", "dog"]'})
    assert response.status_code == 201
    assert world.helper.questions[0][1]["classes"] == ["cat", "dog"]
    twice = world.client.post("/v1/datasets", files=files, data={"classes": '["cat", "cat"]'})
    fault(twice, 422, "duplicate", "/classes")


def test_what_the_helper_refuses_leaves_nothing(world: World) -> None:
    world.helper.error = tasks.helper.HelperError("unsafe_format", "a pickle could run code", None)
    fault(world.client.post("/v1/models", files=FILE, data=MODEL), 422, "unsafe_format", "/file")
    fault(world.client.post("/v1/datasets", files=FILE), 422, "unsafe_format", "/file")
    assert world.files() == []


def test_a_row_that_cannot_be_written_takes_the_file_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(session: Session, row: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(assets, "add", broken)
    fault(world.client.post("/v1/models", files=FILE, data=MODEL), 500, "internal")
    assert world.files() == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("place", ["receive", "close", "helper", "put"])
def test_a_full_disk_is_a_507_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int, place: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(number, os.strerror(number), "/srv/secret")

    def half(source: IO[bytes], target: IO[bytes], length: int) -> None:
        target.write(source.read(length))
        full()

    if place == "receive":
        monkeypatch.setattr(api.http.multipart._Form, "flush", full)
    elif place == "close":
        monkeypatch.setattr(api.http.multipart._Form, "finish", full)
    elif place == "helper":
        world.helper.error = tasks.helper.HelperError("disk_full", "no space for /srv/secret")
    else:
        monkeypatch.setattr(shutil, "copyfileobj", half)
    for url, form in (("/v1/models", MODEL), ("/v1/datasets", {})):
        response = world.client.post(url, files=FILE, data=form)
        assert "delete jobs, models or datasets" in fault(response, 507, "disk_full")["detail"]
        assert "secret" not in response.text
    assert world.files() == []
    assert list((world.folder / "work").iterdir()) == []
    assert (
        world.client.get("/v1/models").json()["data"]
        == world.client.get("/v1/datasets").json()["data"]
        == []
    )


def test_upload_folders_of_processes_that_are_gone_are_removed_at_the_start(
    build: Callable[..., World], tmp_path: Path
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {
        "gone": f"secateur-upload-{gone.pid}-a",
        "alive": f"secateur-upload-{os.getppid()}-b",
        "before": f"secateur-upload-{os.getpid()}-c",
        "mine": f"secateur-upload-{os.getpid()}-d",
        "unnamed": "secateur-upload-x",
        "job": f"secateur-{gone.pid}-e",
    }
    for name in names.values():
        (tmp_path / "work" / name).mkdir(parents=True)
        (tmp_path / "work" / name / "upload").write_bytes(b"x")
    os.utime(tmp_path / "work" / names["before"], (1, 1))
    world = build()
    assert {path.name for path in (tmp_path / "work").iterdir()} == {
        names[name] for name in ("alive", "mine", "unnamed", "job")
    }
    folders = []

    def look(verb: str, payload: dict[str, Any], **_: Any) -> dict[str, Any]:
        folders.append(Path(payload["path"]).parent.name)
        raise tasks.helper.HelperError("unreadable", "no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.helper, "run_helper", look)
        world.client.post("/v1/models", files=FILE, data=MODEL)
    assert folders[0].startswith(f"secateur-upload-{os.getpid()}-")


def multipart(*parts: bytes, end: bytes = b"--XX--\r\n") -> dict[str, Any]:
    body = (
        b"".join(b"--XX\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts)
        + end
    )
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=XX"}}


ODD = [
    (multipart(b'name="architecture"\r\n\r\nmlp'), 422, "missing"),
    (
        multipart(b'name="file"; filename="a"\r\n\r\nx', b'name="file"; filename="b"\r\n\r\nx'),
        422,
        "duplicate",
    ),
    (multipart(b'name="name"\r\n\r\nx', b'name="name"\r\n\r\ny'), 422, "duplicate"),
    (multipart(b'name="file"\r\n\r\nno filename'), 422, "unknown_field"),
    (multipart(b'name="file"; filename="a"\r\n\r\nx', end=b""), 400, "invalid_multipart"),
    (
        multipart(b'name="name"\r\n\r\n\xff\xfe', b'name="file"; filename="a"\r\n\r\nx'),
        400,
        "invalid_multipart",
    ),
    (multipart(end=b"nonsense"), 400, "invalid_multipart"),
    (
        multipart(b'name="name"\r\nX-Long: ' + b"x" * 100_000 + b"\r\n\r\nx"),
        400,
        "invalid_multipart",
    ),
    ({"json": {"upload_id": "x"}}, 415, "unsupported_media_type"),
    (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        415,
        "unsupported_media_type",
    ),
]


@pytest.mark.parametrize(("request_", "status", "code"), ODD, ids=range(len(ODD)))
def test_odd_forms(world: World, request_: dict[str, Any], status: int, code: str) -> None:
    fault(world.client.post("/v1/models", **request_), status, code)
    assert world.files() == []


def test_an_upload_above_the_limit_stops_early_and_leaves_nothing(
    build: Callable[..., World],
) -> None:
    world = build(max_upload_bytes=1_000_000)
    fault(world.client.post("/v1/models", files=FILE, data=MODEL), 413, "payload_too_large")
    parts = [
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n',
        *[b"x" * 100_000] * 50,
    ]

    def stream() -> Iterator[bytes]:
        yield from parts

    response = world.client.post(
        "/v1/models", content=stream(), headers={"Content-Type": "multipart/form-data; boundary=XX"}
    )
    fault(response, 413, "payload_too_large")
    assert world.files() == []


def test_a_field_above_the_limit_is_refused(build: Callable[..., World]) -> None:
    world = build(max_json_bytes=1000)
    form = {**MODEL, "classes": json.dumps(["x" * 100] * 20)}
    fault(world.client.post("/v1/models", files=FILE, data=form), 413, "payload_too_large")
    assert world.files() == []


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"filename*=utf-8''donn%C3%A9es.npz", "données.npz"),
        (b"filename*=iso-8859-1'fr'donn%E9es.npz", "données.npz"),
        (b"filename=\"x.npz\"; filename*=UTF-8''a%20b.npz", "a b.npz"),
    ],
)
def test_filenames_with_their_encoding_are_read(world: World, header: bytes, name: str) -> None:
    request = multipart(b'name="architecture"\r\n\r\nmlp', b'name="file"; ' + header + b"\r\n\r\nx")
    assert world.client.post("/v1/models", **request).json()["name"] == name
