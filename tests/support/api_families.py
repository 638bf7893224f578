"""Families over HTTP: submit them, take their turns, read the statuses of their jobs."""

from __future__ import annotations

from typing import Any

from tasks.store import claims, families
from tests.support.api_world import World

SPEC: dict[str, Any] = {
    "type": "family",
    "model": {"architecture": "mlp", "train": {"epochs": 2}},
    "dataset": {"builtin": "digits"},
    "members": {"depths": [1, 2], "widths": [8, 16]},
    "keep": 0.5,
    "floor_density": 0.1,
}


def submit_family(world: World, **changes: Any) -> str:
    """Submit the small family with these fields changed and return its id."""
    answer = world.client.post("/v1/jobs", json={**SPEC, **changes})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def take_turn(world: World, id: str, *roles: str) -> list[str]:
    """Take a turn that starts these members, and return all members."""
    wanted = [
        {
            "key": f"{role}-{index}",
            "member": {"role": role, "depth": 1.0, "width": float(index)},
            "units": 8.0,
            "spec": {"type": "prune", "dataset": {"builtin": "digits"}},
        }
        for index, role in enumerate(roles)
    ]
    with world.services.store.write() as session:
        claim = claims.claim(session, id, "turn", 60.0, max_attempts=5)
        assert claim is not None
        ids = families.start_members(session, claim, wanted)
        families.park(session, claim, dict.fromkeys(ids, "queued"))
        return ids


def read_statuses(world: World, *ids: str) -> list[str]:
    """Return the statuses of these jobs, as a client sees them."""
    return [world.client.get(f"/v1/jobs/{id}").json()["status"] for id in ids]
