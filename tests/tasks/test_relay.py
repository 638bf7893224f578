"""The way from the outbox to a real Valkey."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError
from sqlalchemy import delete

from tasks import queue
from tasks.queue import QUEUE, make_app, ping_broker
from tasks.relay import relay_forever, relay_once
from tasks.settings import Settings
from tasks.store import Store, leaders, outbox
from tasks.store.assets import read_clock
from tasks.store.tables import Outbox
from tests.support.job_world import change, claim, claimed, create, messages, read_job, sweep
from tests.support.servers import Valkey, until, valkey_server


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A Valkey server that the test may stop."""
    with valkey_server() as server:
        yield server


def settings(server: Valkey) -> Settings:
    return Settings(broker_url=server.url, relay_s=0.05)


def waiting(server: Valkey) -> list[str]:
    """Return the ids of the jobs in the queue, in the order in which a worker gets them."""
    app = make_app(settings(server))
    published: list[str] = []
    try:
        with app.connection_for_read() as connection, connection.SimpleQueue(QUEUE) as messages:
            while True:
                try:
                    message = messages.get(block=False)
                except messages.Empty:
                    return published
                [args, kwargs, _] = message.payload
                assert kwargs == {}
                published.append(args[0])
                message.ack()
    finally:
        app.close()


def queued(server: Valkey) -> int:
    with server.client() as client:
        return sum(int(client.llen(key)) for key in client.keys(f"{QUEUE}*"))


def test_what_is_due_is_published_and_removed(store: Store, valkey: Valkey) -> None:
    ids = [create(store).id for _ in range(3)]
    app = make_app(settings(valkey))
    assert relay_once(store, app) == 3
    assert relay_once(store, app) == 0
    for id in ids:
        assert messages(store, id) == []
        assert read_job(store, id).published_at is not None
    assert waiting(valkey) == ids
    app.close()


def test_a_message_holds_the_id_and_nothing_else(lite: Store, valkey: Valkey) -> None:
    id = create(lite, spec={"secret": "sesame"}).id
    app = make_app(settings(valkey))
    relay_once(lite, app)
    app.close()
    with valkey.client() as client:
        [key] = client.keys(f"{QUEUE}*")
        [raw] = client.lrange(key, 0, -1)
    assert isinstance(raw, bytes)
    envelope = json.loads(raw)
    assert envelope["headers"]["task"] == queue.RUN_JOB
    assert json.loads(base64.b64decode(envelope["body"]))[:2] == [[id], {}]
    assert b"sesame" not in raw + base64.b64decode(envelope["body"])
    assert waiting(valkey) == [id]


def test_urgent_jobs_come_first(lite: Store, valkey: Valkey) -> None:
    ids = {priority: create(lite, priority=priority).id for priority in (4, 0, 9, 5, 1)}
    ids |= {14: create(lite, priority=4).id}
    app = make_app(settings(valkey))
    relay_once(lite, app)
    app.close()
    assert waiting(valkey) == [ids[priority] for priority in (9, 5, 4, 14, 1, 0)]


def test_a_crash_between_publishing_and_removing_is_harmless(
    lite: Store, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = create(lite).id
    app = make_app(settings(valkey))

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outbox, "mark_published", crash)
    with pytest.raises(KeyboardInterrupt):
        relay_once(lite, app)
    monkeypatch.undo()
    assert relay_once(lite, app) == 1
    app.close()
    assert waiting(valkey) == [id, id]
    assert claim(lite, id, "one") is not None
    assert claim(lite, id, "two") is None


def test_a_flushed_broker_loses_nothing(lite: Store, valkey: Valkey) -> None:
    id = create(lite).id
    app = make_app(settings(valkey))
    relay_once(lite, app)
    valkey.flush()
    assert queued(valkey) == 0
    published_at = read_job(lite, id).published_at
    assert published_at is not None
    assert sweep(lite) == 0
    change(lite, id, published_at=published_at - 61.0)
    assert sweep(lite) == 1
    relay_once(lite, app)
    app.close()
    assert waiting(valkey) == [id]


def test_a_job_claimed_meanwhile_is_not_published_again(lite: Store, valkey: Valkey) -> None:
    id = create(lite).id
    claimed(lite, id)
    app = make_app(settings(valkey))
    assert relay_once(lite, app) == 0
    app.close()


def test_the_broker_is_pinged(own_valkey: Valkey) -> None:
    ping_broker(settings(own_valkey))
    own_valkey.stop()
    with pytest.raises(OperationalError):
        ping_broker(settings(own_valkey))


@contextmanager
def relaying(store: Store, server: Valkey) -> Iterator[None]:
    """Run a relay that sweeps once and then not for an hour; another process leads."""
    with store.write() as session:
        assert leaders.lead(session, "relay", "other-host/boot/1/1", 3600.0)
    rare = Settings(broker_url=server.url, relay_s=3600.0)
    stop, wake = threading.Event(), threading.Event()
    thread = threading.Thread(target=relay_forever, args=(store, rare, stop, wake))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        wake.set()
        thread.join(30)
    assert not thread.is_alive()


def test_a_message_is_published_by_the_process_that_left_it(lite: Store, valkey: Valkey) -> None:
    earlier = create(lite).id
    with relaying(lite, valkey):
        own = create(lite).id
        until(lambda: messages(lite, own) == [], "the relay to publish its own message")
    assert own in waiting(valkey)
    assert messages(lite, earlier) == []


def test_a_message_for_later_is_published_when_it_is_due(lite: Store, valkey: Valkey) -> None:
    id = create(lite).id
    with lite.write() as session:
        session.execute(delete(Outbox))
    with relaying(lite, valkey):
        with lite.write() as session:
            session.add(Outbox(job_id=id, priority=4, due_at=read_clock(session) + 0.7))
        until(lambda: messages(lite, id) == [], "the message to be due")
    assert waiting(valkey) == [id]


def test_the_relay_outlives_an_absent_broker(lite: Store, own_valkey: Valkey) -> None:
    stop, wake = threading.Event(), threading.Event()
    thread = threading.Thread(target=relay_forever, args=(lite, settings(own_valkey), stop, wake))
    thread.start()
    try:
        first = create(lite).id
        wake.set()
        until(lambda: queued(own_valkey) == 1, "the first message")
        assert waiting(own_valkey) == [first]
        own_valkey.stop()  # with a connection in use
        second = create(lite).id
        failing = threading.Event()
        wake.set()
        failing.wait(0.5)  # a while without a broker; nothing depends on its length
        assert thread.is_alive()
        assert len(messages(lite, second)) == 1
        assert read_job(lite, second).published_at is None
        own_valkey.start()
        until(lambda: messages(lite, second) == [], "the relay to find the broker again")
        assert waiting(own_valkey) == [second]
    finally:
        stop.set()
        wake.set()
        thread.join(30)
    assert not thread.is_alive()


def test_the_relay_outlives_an_absent_database(
    lite: Store, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError as DatabaseError

    stop, wake, tried = threading.Event(), threading.Event(), threading.Event()
    real = leaders.lead

    def away(*args: object) -> bool:
        tried.set()
        raise DatabaseError("SELECT", {}, Exception("the database is away"))

    monkeypatch.setattr(leaders, "lead", away)
    thread = threading.Thread(target=relay_forever, args=(lite, settings(valkey), stop, wake))
    thread.start()
    try:
        id = create(lite).id
        wake.set()
        assert tried.wait(30)
        monkeypatch.setattr(leaders, "lead", real)
        until(lambda: messages(lite, id) == [], "the relay to find the database again")
    finally:
        stop.set()
        wake.set()
        thread.join(30)
    assert not thread.is_alive()
    assert waiting(valkey) == [id]


def test_a_restarted_broker_keeps_its_queue(lite: Store, own_valkey: Valkey) -> None:
    id = create(lite).id
    app = make_app(settings(own_valkey))
    relay_once(lite, app)
    app.close()
    with own_valkey.client() as client:
        client.execute_command("WAITAOF", 1, 0, 10_000)
    own_valkey.stop()
    own_valkey.start()
    assert waiting(own_valkey) == [id]


def test_the_app_is_set_for_late_acknowledgement() -> None:
    app = make_app(Settings(broker_url="redis://127.0.0.1:1/0"))
    conf = app.conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.task_ignore_result
    assert list(conf.accept_content) == ["json"]
    assert conf.broker_transport_options["visibility_timeout"] > 7 * 24 * 3600
    app.close()
