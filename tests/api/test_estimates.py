"""Estimates of jobs: asked for once, by few helpers, remembered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from httpx2 import Response

import tasks.helper
from api.helper_pool import HelperPool
from tests.support.api_world import SPEC, World, fault


def test_an_estimate_is_asked_for_once(world: World) -> None:
    for fields in (
        {"labels": {"n": "1"}},
        {"labels": {"n": "2"}},
        {"seed": 7},
        {"device": "cpu"},
        {"priority": 9},
    ):
        assert world.client.post("/v1/jobs", json={**SPEC, **fields}).status_code == 202
    assert [verb for verb, _ in world.helper.questions] == ["estimate"]
    world.client.post("/v1/jobs", json={**SPEC, "targets": {"sparsity": [0.7]}})
    assert len(world.helper.questions) == 2


def until(true: Callable[[], object]) -> None:
    """Wait for what another thread brings about."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def estimate(world: World, sparsity: float = 0.5) -> Response:
    return world.client.post(
        "/v1/jobs?validate_only=true", json={**SPEC, "targets": {"sparsity": [sparsity]}}
    )


def test_the_same_estimate_at_once_is_one_helper(world: World) -> None:
    world.helper.gate = threading.Event()
    with ThreadPoolExecutor(48) as pool:
        answers = [pool.submit(estimate, world) for _ in range(48)]
        until(lambda: world.helper.questions)
        assert (
            world.client.get("/healthz").status_code
            == world.client.get("/v1/jobs").status_code
            == 200
        )
        world.helper.gate.set()
        assert {answer.result().status_code for answer in answers} == {200}
    assert len(world.helper.questions) == 1


def test_an_estimate_that_failed_is_asked_for_again(world: World) -> None:
    world.helper.error = tasks.helper.HelperError("helper_timeout", "slow")
    fault(estimate(world), 503, "helper_timeout")
    world.helper.error = None
    assert estimate(world).status_code == 200
    assert len(world.helper.questions) == 2


def test_who_finds_no_free_helper_is_told_soon_and_blocks_nobody(
    build: Callable[..., World],
) -> None:
    world = build(helpers=2, helper_wait_s=0.3)
    world.helper.gate = threading.Event()
    with ThreadPoolExecutor(48) as pool:
        first = [pool.submit(estimate, world, 0.1 + number / 10) for number in range(2)]
        until(lambda: len(world.helper.questions) == 2)
        rest = [pool.submit(estimate, world, 0.5 + number / 100) for number in range(46)]
        assert (
            world.client.get("/healthz").status_code
            == world.client.get("/v1/jobs").status_code
            == 200
        )
        refused = [answer.result() for answer in rest]  # while both helpers are still at work
        for response in refused:
            fault(response, 503, "busy")
            assert response.headers["retry-after"]
        upload = pool.submit(world.client.post, "/v1/datasets", files={"file": ("a.zip", b"zip")})
        until(lambda: len(world.helper.questions) == 3)  # another kind has helpers of its own
        world.helper.gate.set()
        assert upload.result().status_code == 201
        assert {answer.result().status_code for answer in first} == {200}
    assert estimate(world, 0.9).status_code == 200
    assert len(world.helper.questions) == 4


def test_the_newest_estimates_are_remembered() -> None:
    questions = []

    class Counting(HelperPool):
        async def ask(self, verb: str, payload: dict[str, Any], **_: Any) -> dict[str, Any]:
            questions.append(payload["spec"]["n"])
            return {"units": payload["spec"]["n"]}

    async def run() -> None:
        helpers = Counting(1, timeout_s=1, wait_s=1, size=2)
        for number in (1, 2, 1, 3, 1, 2):
            assert await helpers.estimate({"spec": {"n": number}}) == {"units": number}

    asyncio.run(run())
    assert questions == [1, 2, 3, 2]


def test_the_estimate_gets_model_and_dataset(world: World) -> None:
    model = world.model(kwargs={"hidden": [4]}, classes=["dog", "cat"])
    dataset = world.dataset()
    spec = {**SPEC, "model": {"id": model}, "dataset": {"id": dataset}}
    assert world.client.post("/v1/jobs", json=spec).status_code == 202
    _, payload = world.helper.questions[0]
    assert payload["model"] == {
        "architecture": "mlp",
        "kwargs": {"hidden": [4]},
        "normalize": None,
        "classes": ["dog", "cat"],
        "preprocessing": None,
        "source": None,
        "zeros": None,
        "parameters": 100,
        "prunable": 90,
        "modules": None,
    }
    assert payload["dataset"] == {
        "shape": [3, 8, 8],
        "classes": ["cat", "dog"],
        "counts": {"train": 4, "test": 2},
        "task": "classification",
        "guessing_error": None,
        "normalize": None,
        "preprocessing": None,
        "sizes": None,
        "groups": {},
    }
    assert payload["spec"] == spec
