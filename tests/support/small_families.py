"""Small families in real job processes: create them, take their turns, end their members."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tasks import supervise
from tasks.store import claims, families
from tasks.store.jobs import PARKED
from tests.support.job_world import World, create, due_now, gapless, history, processes

LIMIT = {"train": 200, "test": 100}
FAMILY: dict[str, Any] = {
    "type": "family",
    "model": {"architecture": "mlp", "train": {"epochs": 2, "batch_size": 32}},
    "members": {"depths": [1, 2], "widths": [4, 8]},
    "keep": 0.5,
    "floor_density": 0.1,
    "confirm": False,
}
KEYS = {f"depth{depth}.0-width{width}.0-fraction1.0-seed0" for depth in (1, 2) for width in (4, 8)}
DENSITIES = (0.5, 0.25, 0.125)


def create_small_family(world: World, **changes: Any) -> str:
    """Create the small family, on the digits as an uploaded dataset."""
    dataset = world.dataset()
    spec = {**FAMILY, "dataset": {"id": dataset, "limit": LIMIT}, **changes}
    return create(world.store, spec=spec, dataset_id=dataset, deadline_s=spec.get("deadline_s")).id


def read_members(world: World, id: str) -> dict[str, str]:
    """Return the job of every member, by its key."""
    with world.store.read() as session:
        return {row.key: job.id for row, job in families.list_members(session, id)}


def end_member(world: World, id: str, status: str = "succeeded") -> None:
    """End a member's job without running it; its measurements follow from its network's size."""
    with world.store.write() as session:
        claim = claims.claim(session, id, "worker", 60.0, max_attempts=5)
        assert claim is not None
        hidden = claim.spec["model"]["kwargs"]["hidden"]
        size = 64 * hidden[0] + hidden[0] * hidden[-1] * (len(hidden) - 1) + 10 * hidden[-1]
        unpruned = 0.1 + 20 / size
        errors = [min(0.85, unpruned * (1 + 0.02 / density / len(hidden))) for density in DENSITIES]
        curve = {
            "unpruned_error": unpruned,
            "densities": DENSITIES,
            "errors": errors,
            "images": 200,
            "test_images": 100,
            "classes": 10,
            "parameters": size + sum(hidden) + 10,
            "prunable": size,
            "final": None,
        }
        error = (
            {"code": "out_of_memory", "message": "no memory left"} if status == "failed" else None
        )
        claims.settle(session, claim, status, summary={"curve": curve}, error=error)


def take_turn(world: World, id: str, **how: Any) -> None:
    """Take a turn at once, whatever delay was due."""
    due_now(world.store, id)
    assert world.runner(**how).run(id)


def act_after(monkeypatch: pytest.MonkeyPatch, kind: str, act: Callable[[str], bool]) -> list[int]:
    """Call `act` on the job after the first message of this kind.

    Where `act` returns True, no later message of that turn is handled.
    """
    handle, acted, deaf = supervise.Supervisor._handle, list[int](), set[tuple[str, int]]()

    def handled(self: supervise.Supervisor, message: dict[str, Any]) -> None:
        name, turn = message["type"], (self.claim.job_id, self.claim.fence)
        if turn in deaf:
            return
        handle(self, message)
        if name == kind and not acted:
            acted.append(self.claim.fence)
            if act(self.claim.job_id):
                deaf.add(turn)

    monkeypatch.setattr(supervise.Supervisor, "_handle", handled)
    return acted


def kill_processes(id: str) -> bool:
    """Kill the job's process; later messages of it are not handled."""
    for pid in processes(id):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return True


def assert_waiting(world: World, id: str) -> None:
    """Check that every member was created once, and that the family waits for them."""
    jobs_by_key, job = read_members(world, id), world.job(id)
    assert set(jobs_by_key) == KEYS
    assert len({*jobs_by_key.values()}) == len(jobs_by_key)
    assert (job.status, job.owner, job.attempt) == ("running", PARKED, 1), job.error
    events = [event.data for event in history(world.store, id) if event.type == "member"]
    assert sorted(event["job"] for event in events if event["status"] == "queued") == sorted(
        jobs_by_key.values()
    )
    assert gapless(world.store, id)
    world.assert_tidy(id)
