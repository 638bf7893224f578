"""Helpers for tests of families in the store: turns, members and their ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from tasks.store import Store, assets, claims, families, jobs, outbox
from tasks.store.tables import Outbox
from tests.support.job_world import change, claimed, create, messages, read_job, sweep

SPEC = {"type": "family", "dataset": {"builtin": "digits"}}
MEMBER = {"type": "prune", "dataset": {"builtin": "digits"}}


def write(store: Store, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run `action(session, ...)` in one transaction."""
    with store.write() as session:
        return action(session, *args, **kwargs)


def create_family(store: Store, project: str = "default", **fields: Any) -> str:
    """Create a family and return its id."""
    return create(store, project, **{"spec": SPEC, **fields}).id


def describe_members(*keys: str) -> list[dict[str, Any]]:
    """Return members to start, one for each key."""
    return [
        {
            "key": key,
            "member": {"role": "member", "depth": 1.0, "width": float(index)},
            "spec": MEMBER,
            "units": 5.0,
        }
        for index, key in enumerate(keys)
    ]


def take_turn(store: Store, id: str, *keys: str) -> list[str]:
    """Take a turn that starts these members and waits; return the members, oldest first."""
    claim = claimed(store, id, "turn")
    write(store, families.start_members, claim, describe_members(*keys))
    write(store, families.park, claim, read_statuses(store, id))
    return list(read_statuses(store, id))


def read_statuses(store: Store, id: str) -> dict[str, str]:
    """Return the status of every member's job, as a turn sees it."""
    with store.read() as session:
        return {job.id: job.status for _, job in families.list_members(session, id)}


def ask(store: Store, id: str, verb: str) -> None:
    """Ask for a transition as the service does: the job first, then a family's members."""
    write(store, jobs.request, "default", id, verb)
    if jobs.is_parent(read_job(store, id)):
        write(store, families.follow, "default", id, verb)


def end_member(store: Store, id: str, status: str) -> None:
    """Run a member to its end."""
    if status == "cancelled while queued":
        return ask(store, id, "cancel")
    held = claimed(store, id, "worker")
    if status == "cancelled":
        ask(store, id, "cancel")
    elif status == "failed by the reaper":
        change(store, id, lease_until=1.0)
        sweep(store, max_attempts=1)
        return None
    error = {"code": "x", "message": "x"} if status == "failed" else None
    return write(store, claims.settle, held, status, error=error)


def publish_messages(store: Store, *ids: str) -> None:
    """Publish the messages that wait in the outbox."""
    for id in ids:
        for message in messages(store, id):
            write(store, outbox.mark_published, message)


def make_old(store: Store, id: str, seconds: float) -> None:
    """Let the last turn and the last message be this long ago."""
    then = write(store, assets.read_clock) - seconds
    change(
        store,
        id,
        updated_at=then,
        **({"published_at": then} if read_job(store, id).published_at else {}),
    )


def is_due(store: Store, id: str) -> bool:
    """Return whether a message of the job may be published now."""
    with store.read() as session:
        return id in [message.job_id for message in outbox.list_due_messages(session)]


def take_last_turn(store: Store) -> tuple[str, str, claims.Claim, dict[str, str]]:
    """Return a family, its member that failed, the claim of a turn, and the statuses it knows.

    Both members have ended before the turn.
    """
    id = create_family(store)
    first, second = take_turn(store, id, "a", "b")
    end_member(store, first, "succeeded")
    end_member(store, second, "failed")
    return id, second, claimed(store, id), read_statuses(store, id)


def end_family(store: Store, id: str, *ends: str) -> list[str]:
    """End the members with these statuses, then their family as succeeded; return the members."""
    members = take_turn(store, id, *map(str, range(len(ends))))
    for member, status in zip(members, ends, strict=True):
        end_member(store, member, status)
    held = claimed(store, id)
    write(store, families.finish, held, read_statuses(store, id), {"x": 1})
    assert read_job(store, id).status == "succeeded"
    return members


def lose_messages(session: Session, id: str) -> None:
    """Delete the messages of a job, as if they had been lost."""
    session.execute(delete(Outbox).where(Outbox.job_id == id))
