"""The one among many processes that leads."""

from __future__ import annotations

from functools import partial

from sqlalchemy import update

from tasks.store import Store, leaders
from tasks.store.tables import Leader
from tests.support.job_world import together


def test_one_leads_and_another_follows_when_it_is_gone(store: Store) -> None:
    def lead(owner: str, lease_s: float = 60.0, role: str = "relay") -> bool:
        with store.write() as session:
            return leaders.lead(session, role, owner, lease_s)

    assert lead("one")
    assert not lead("two")
    assert lead("one")
    assert lead("two", role="reaper")
    with store.write() as session:
        session.execute(update(Leader).where(Leader.role == "relay").values(lease_until=0.0))
    assert lead("two")
    assert not lead("one")


def test_a_leader_known_to_be_dead_is_replaced_at_once(store: Store) -> None:
    def lead(owner: str, dead: str = "") -> bool:
        with store.write() as session:
            return leaders.lead(session, "reaper", owner, 3600.0, lambda other: other == dead)

    assert lead("one")
    assert not lead("two")
    assert lead("two", dead="one")
    assert not lead("three", dead="one")
    assert lead("two", dead="two")


def test_of_many_candidates_one_leads(store: Store) -> None:
    def lead(owner: str) -> bool:
        with store.write() as session:
            return leaders.lead(session, "relay", owner, 60.0)

    answers = together([partial(lead, str(number)) for number in range(8)])
    assert sorted(answers, key=str) == [False] * 7 + [True], answers
