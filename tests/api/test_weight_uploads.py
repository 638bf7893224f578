"""Uploads of weights: rewritten, recognised, with their preprocessing; layers of a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tasks.helper
from tests.support.api_world import CATALOGUE, FILE, MODEL, SPEC, WEIGHTS, World, fault, schema


def test_a_preprocessing_comes_with_an_upload(world: World) -> None:
    given = {"resize": 40, "crop": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}
    form = {"preprocessing": json.dumps(given)}
    body = world.client.post("/v1/models", files=FILE, data=MODEL | form).json()
    assert body["normalize"] == {"mean": [0, 0, 0], "std": [1, 1, 1]}
    known = body["preprocessing"]
    assert (known["resize"], known["crop"], known["interpolation"]) == (40, 32, "bilinear")
    assert (known["source"], known["size_source"]) == ("given", "given")
    file = {"file": ("set.zip", b"zip")}
    body = world.client.post("/v1/datasets", files=file, data=form).json()
    assert body["preprocessing"] == {"resize": 40, "crop": 32, "interpolation": "bilinear"}
    assert body["normalize"]["std"] == [1, 1, 1]


@pytest.mark.parametrize(
    ("form", "code", "pointer"),
    [
        ({"preprocessing": '{"resize": 40}'}, None, "/preprocessing/resize"),
        ({"preprocessing": '{"croop": 40}'}, None, "/preprocessing/croop"),
        ({"preprocessing": '{"input_size": 3}'}, "invalid", "/preprocessing"),
        (
            {
                "preprocessing": '{"mean": [0, 0, 0], "std": [1, 1, 1]}',
                "normalize": '{"mean": [0, 0, 0], "std": [1, 1, 1]}',
            },
            "conflict",
            "/preprocessing/mean",
        ),
    ],
)
def test_a_preprocessing_that_cannot_be_meant_is_refused(
    world: World, form: dict[str, str], code: str | None, pointer: str
) -> None:
    problem = world.client.post("/v1/models", files=FILE, data=MODEL | form)
    assert problem.status_code == 422, problem.text
    (error,) = problem.json()["errors"]
    assert error["pointer"] == pointer
    assert code in (None, error["code"])
    assert world.files() == []


def test_a_model_may_be_uploaded_before_a_worker_has_booted(build: Callable[..., World]) -> None:
    world = build(catalogue=False)
    assert world.client.post("/v1/models", files=FILE, data=MODEL).status_code == 201


def test_weights_that_were_rewritten_are_stored_and_the_notes_shown(world: World) -> None:
    world.helper.model = {"rewritten": True, "notes": ["'module.' was taken off 4 names"]}

    def write(verb: str, payload: dict[str, Any], **limits: Any) -> dict[str, Any]:
        Path(payload["output"]).write_bytes(b"rewritten")
        return world.helper(verb, payload, **limits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.helper, "run_helper", write)
        body = world.client.post("/v1/models", files=FILE, data=MODEL).json()
    assert body["warnings"][0] == "'module.' was taken off 4 names"
    assert (world.folder / world.files()[0]).read_bytes() == b"rewritten"
    assert body["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()


def test_the_name_of_a_network_stands_for_its_architecture(world: World) -> None:
    names = {"type": "string", "enum": ["resnet18"]}
    params = schema(classes={"type": "integer"}, name=names)
    named = {"name": "zoo", "summary": "A zoo.", "params": params}
    world.publish({**CATALOGUE, "architectures": [*CATALOGUE["architectures"], named]})
    form = {"architecture": "resnet18", "kwargs": '{"classes": 3}'}
    body = world.client.post("/v1/models", files=FILE, data=form).json()
    assert (body["architecture"], body["kwargs"]["name"]) == ("zoo", "resnet18")
    job = {**SPEC, "model": {"architecture": "resnet18", "train": {"epochs": 1}}}
    checked = world.client.post("/v1/jobs?validate_only=true", json=job).json()
    assert checked["spec"]["model"]["architecture"] == "zoo"
    assert checked["spec"]["model"]["kwargs"] == {"name": "resnet18"}
    form = {"architecture": "resnet18", "kwargs": '{"name": "vgg11"}'}
    response = world.client.post("/v1/models", files=FILE, data=form)
    fault(response, 422, "unknown_architecture", "/architecture")


def test_layers_are_asked_for_once(world: World) -> None:
    table = {
        "layers": [
            {
                "name": "fc1.weight",
                "kind": "Linear",
                "shape": [2, 2],
                "parameters": 4,
                "prunable": True,
            }
        ]
    }

    def answer(verb: str, payload: dict[str, Any], **limits: Any) -> dict[str, Any]:
        world.helper.questions.append((verb, payload))
        return table

    id = world.model(zeros={"fc1.weight": 3})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.helper, "run_helper", answer)
        bodies = [world.client.get(f"/v1/models/{id}/layers").json() for _ in range(2)]
    assert bodies[0] == bodies[1]
    assert bodies[0]["layers"][0]["zeros"] == 3
    assert [verb for verb, _ in world.helper.questions] == ["layers"]
    fault(world.client.get("/v1/models/mdl_0000000000/layers"), 404, "not_found")
