"""The API with the real helper process and the real catalogue."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tasks.helper
from tests.support.api_world import World, fault

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def catalogue() -> dict[str, Any]:
    """Return the catalogue that a worker publishes."""
    return tasks.helper.run_helper("catalogue", {}, timeout_s=120)


@pytest.fixture
def real(build: Callable[..., World], catalogue: dict[str, Any]) -> World:
    """An open service with its real helper."""
    world = build(real=True)
    world.publish(catalogue)
    return world


def network(path: Path, classes: int = 2) -> bytes:
    """A small network for images of 1 x 4 x 4."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    widths = (16, 5, classes)
    state = {}
    for index in (1, 2):
        state[f"fc{index}.weight"] = torch.rand(
            widths[index], widths[index - 1], generator=generator
        )
        state[f"fc{index}.bias"] = torch.zeros(widths[index])
    save_file(state, path)
    return path.read_bytes()


KWARGS = json.dumps({"hidden": [5], "channels": 1, "height": 4, "width": 4, "classes": 2})


def images(path: Path, size: int = 4) -> bytes:
    import numpy as np

    shape = (1, size, size)
    np.savez(
        path,
        train_x=np.zeros((20, *shape), "uint8"),
        train_y=np.arange(20) % 2,
        test_x=np.zeros((6, *shape), "uint8"),
        test_y=np.arange(6) % 2,
    )
    return path.read_bytes()


def test_upload_and_estimate(real: World, tmp_path: Path) -> None:
    weights = network(tmp_path / "net.safetensors")
    made = real.client.post(
        "/v1/models",
        files={"file": ("net.safetensors", weights)},
        data={"architecture": "mlp", "kwargs": KWARGS},
    )
    assert made.status_code == 201, made.text
    model = made.json()
    assert (model["parameters"], model["prunable"]) == (16 * 5 + 5 + 5 * 2 + 2, 90)
    assert model["kwargs"]["activation"] == "relu"
    archive = images(tmp_path / "data.npz")
    made = real.client.post(
        "/v1/datasets",
        files={"file": ("data.npz", archive)},
        data={"normalize": '{"mean": [0.5], "std": [0.5]}'},
    )
    assert made.status_code == 201, made.text
    dataset = made.json()
    assert dataset["shape"] == [1, 4, 4]
    assert dataset["sha256"] == hashlib.sha256(archive).hexdigest()
    spec = {
        "type": "prune",
        "model": {"id": model["id"]},
        "dataset": {"id": dataset["id"]},
        "targets": {"sparsity": [0.5, 0.9]},
    }
    validation = real.client.post("/v1/jobs?validate_only=true", json=spec)
    assert validation.status_code == 200, validation.text
    assert validation.json()["estimate"]["rounds"] == 2
    job = real.client.post("/v1/jobs", json=spec)
    assert job.status_code == 202
    assert job.json()["progress"]["total"] == validation.json()["estimate"]["units"] > 0
    other = real.client.post(
        "/v1/datasets", files={"file": ("data.npz", images(tmp_path / "o.npz", size=5))}
    ).json()
    response = real.client.post("/v1/jobs", json={**spec, "dataset": {"id": other["id"]}})
    assert response.status_code == 422, response.text
    response = real.client.post("/v1/jobs", json={**spec, "exclude": ["fc9.weight"]})
    assert response.status_code == 422, response.text
    for fields, pointer, words in (
        ({"include": ["fc1", {"kind": "linear"}]}, "/include/1", "the nearest: Linear"),
        ({"exclude": ["Fc1.*"]}, "/exclude/0", "the nearest: fc1"),
        ({"overrides": {"fc3": 0.5}}, "/overrides/fc3", "the nearest: fc2"),
        ({"overrides": {"fc1": 0.25}}, "/targets/sparsity", "can be reached"),
    ):
        for path in ("/v1/jobs", "/v1/jobs?validate_only=true"):
            response = real.client.post(path, json=spec | fields)
            assert response.status_code == 422, response.text
            (error,) = response.json()["errors"]
            assert error["pointer"] == pointer
            assert words in error["message"]
    chosen = {"include": [{"kind": "Linear"}], "exclude": ["fc2"], "overrides": {"fc1": 0.5}}
    response = real.client.post(
        "/v1/jobs?validate_only=true", json={**spec, **chosen, "targets": {"sparsity": [0.5]}}
    )
    assert response.status_code == 200, response.text


def test_files_that_are_not_what_they_claim_leave_nothing(real: World, tmp_path: Path) -> None:
    good = network(tmp_path / "net.safetensors")
    form = {"architecture": "mlp", "kwargs": KWARGS}
    bad = {
        "pickle": pickle.dumps({"fc1.weight": [0.0]}),
        "truncated": good[:-40],
        "empty": b"",
        "wrong shapes": network(tmp_path / "wide.safetensors", classes=3),
    }
    for name, content in bad.items():
        response = real.client.post(
            "/v1/models", files={"file": ("net.safetensors", content)}, data=form
        )
        assert response.status_code == 422, (name, response.text)
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../x.png", b"x")
    for content in (path.read_bytes(), b"not a zip"):
        assert (
            real.client.post("/v1/datasets", files={"file": ("set.zip", content)}).status_code
            == 422
        )
    assert real.files() == []
    assert (
        real.client.get("/v1/models").json()["data"]
        == real.client.get("/v1/datasets").json()["data"]
        == []
    )


def test_presets_by_the_real_catalogue(real: World) -> None:
    job = {
        "type": "prune",
        "preset": "resnet20",
        "epochs_scale": 0.05,
        "dataset": {"builtin": "digits"},
    }
    validation = real.client.post("/v1/jobs?validate_only=true", json=job)
    assert validation.status_code == 200, validation.text
    assert validation.json()["estimate"]["rounds"] == 23
    small = real.client.post("/v1/jobs?validate_only=true", json={**job, "preset": "vgg16"})
    assert small.status_code == 422, small.text
    assert small.json()["errors"][0]["pointer"] == "/dataset"
    assert "at least 32 x 32 pixels, the dataset's have 8 x 8" in small.json()["detail"]


def test_an_unknown_criterion_and_parameter_by_the_real_catalogue(real: World) -> None:
    spec = {
        "type": "prune",
        "model": {"architecture": "mlp", "train": {}},
        "dataset": {"builtin": "digits"},
        "targets": {"sparsity": [0.5]},
    }
    response = real.client.post("/v1/jobs", json={**spec, "criterion": {"name": "magnitud"}})
    fault(response, 422, "unknown_criterion", "/criterion/name")
    response = real.client.post(
        "/v1/jobs", json={**spec, "criterion": {"name": "magnitude", "params": {"q": 1}}}
    )
    fault(response, 422, "invalid_parameter", "/criterion/params/q")
    evaluations = [
        {"name": "accuracy"},
        {"name": "robustness", "params": {"corruptions": ["fog", "fogg"]}},
    ]
    response = real.client.post("/v1/jobs", json={**spec, "evaluations": evaluations})
    body = fault(response, 422, "invalid_parameter", "/evaluations/1/params/corruptions/1")
    assert "'fogg' is not one of" in body["detail"]
    response = real.client.post("/v1/jobs?validate_only=true", json=spec)
    assert response.status_code == 200, response.text


def test_a_family_by_the_real_catalogue(real: World) -> None:
    spec = {
        "type": "family",
        "model": {"architecture": "mlp", "train": {"epochs": 1}},
        "dataset": {"builtin": "digits"},
        "members": {"depths": [1, 2], "widths": [4, 8]},
        "keep": 0.7,
        "floor_density": 0.1,
    }
    validation = real.client.post("/v1/jobs?validate_only=true", json=spec)
    assert validation.status_code == 200, validation.text
    assert validation.json()["estimate"]["rounds"] == 24
    made = real.client.post("/v1/jobs", json=spec)
    assert made.status_code == 202
    assert made.json()["progress"]["total"] == validation.json()["estimate"]["units"] > 0
    train = {"epochs": 1}
    for change, pointer, text in (
        (
            {"model": {"architecture": "lenet_300_100", "train": train}},
            "/model/architecture",
            "those that do: ",
        ),
        (
            {
                "model": {"architecture": "vgg", "train": train},
                "members": {"depths": [11], "widths": [1]},
            },
            "/dataset",
            "32 x 32",
        ),
    ):
        body = real.client.post("/v1/jobs", json={**spec, **change})
        assert body.status_code == 422, body.text
        assert [item["pointer"] for item in body.json()["errors"]] == [pointer]
        assert text in body.json()["detail"] + body.json()["errors"][0]["message"]
