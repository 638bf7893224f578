"""Datasets by URL: fetched by a worker, checked against their digest, never from inside."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pruning.data.arrays import Arrays
from tasks import fetch_datasets, sources
from tasks.artifacts import open_artifacts
from tasks.fetch_datasets import build_fetcher, fetch_next
from tasks.helper import HelperError
from tasks.sources import Fetcher, SourceError, is_public
from tasks.store import assets, new_id
from tasks.store import sources as source_store
from tasks.store.claims import LostError
from tasks.store.tables import Dataset
from tests.support.job_world import World
from tests.support.photo_world import make_files, write_zip
from tests.support.servers import Bucket
from tests.support.web_server import Answer, WebServer, web_server

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
INSIDE = Fetcher(max_bytes=2**24, private=True)
OUTSIDE = Fetcher(max_bytes=2**24)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


def refusal(fetcher: Fetcher, url: str, folder: Path, sha256: str = DIGEST) -> tuple[str, str]:
    """The code and the message with which a URL is refused."""
    with pytest.raises(SourceError) as caught:
        fetcher.fetch(url, sha256, folder / "file")
    assert caught.value.retryable == (caught.value.code == "source_unavailable")
    return caught.value.code, caught.value.message


def test_a_file_is_fetched_over_redirects_and_checked(web: WebServer, tmp_path: Path) -> None:
    web.answers["/file"] = Answer(CONTENT)
    web.answers["/old"] = Answer(status=302, headers={"Location": "/older?x=1"})
    web.answers["/older?x=1"] = Answer(status=308, headers={"Location": f"{web.url}/file"})
    parts: list[int] = []
    size = INSIDE.fetch(
        f"{web.url}/old", DIGEST.upper(), tmp_path / "file", lambda: parts.append(1)
    )
    assert size == len(CONTENT)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert web.asked == ["/old", "/older?x=1", "/file"]
    assert len(parts) > 1
    code, message = refusal(INSIDE, f"{web.url}/file", tmp_path, sha256=64 * "0")
    assert code == "digest_mismatch"
    assert DIGEST in message


def test_sources_that_do_not_answer_may_come_back(web: WebServer, tmp_path: Path) -> None:
    web.answers["/busy"] = Answer(b"later", status=503)
    web.answers["/short"] = Answer(CONTENT, sent=1000)
    for path, reason in (("busy", "503"), ("gone", "404"), ("short", "ended after 1000 of")):
        code, message = refusal(INSIDE, f"{web.url}/{path}", tmp_path)
        assert code == "source_unavailable"
        assert reason in message
    slow = Fetcher(max_bytes=2**24, private=True, longest_s=-1)
    web.answers["/slow"] = Answer(CONTENT)
    assert "takes too long" in refusal(slow, f"{web.url}/slow", tmp_path)[1]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        assert refusal(INSIDE, url, tmp_path)[0] == "source_unavailable"
    assert refusal(INSIDE, "https://no-such-host.invalid/", tmp_path)[0] == "source_unavailable"


def test_limits_hold_with_and_without_an_announced_length(web: WebServer, tmp_path: Path) -> None:
    small = Fetcher(max_bytes=len(CONTENT) - 1, private=True)
    web.answers["/file"] = Answer(CONTENT)
    assert refusal(small, f"{web.url}/file", tmp_path)[0] == "source_too_large"
    web.answers["/loop"] = Answer(status=301, headers={"Location": "/loop"})
    assert refusal(small, f"{web.url}/loop", tmp_path)[0] == "source_refused"
    assert len(web.asked) == 1 + 6


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x",
        "https://localhost/x",
        "https://[::1]/x",
        "https://169.254.169.254/latest/meta-data",
        "https://10.1.2.3/x",
        "https://0/x",
        "https://2130706433/x",
        "https://[::ffff:10.0.0.1]/x",
        "https://[64:ff9b::a00:1]/x",
        "http://8.8.8.8/x",
        "ftp://8.8.8.8/x",
        "https://user@8.8.8.8/x",
        "https://8.8.8.8:x/x",
        "file:///etc/passwd",
    ],
)
def test_what_lies_inside_is_refused(url: str, tmp_path: Path) -> None:
    assert refusal(OUTSIDE, url, tmp_path)[0] == "source_refused"


def test_every_address_of_a_name_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: int, **options: Any) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (address, port)) for address in ("8.8.8.8", "192.168.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    code, message = refusal(OUTSIDE, "https://example.org/x", tmp_path)
    assert code == "source_refused"
    assert "example.org is at the private address 192.168.0.1" in message


def test_every_redirect_is_resolved_and_checked_again(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = web.url.rpartition(":")[2]
    web.answers["/"] = Answer(status=302, headers={"Location": f"http://localhost:{port}/file"})
    web.answers["/file"] = Answer(CONTENT)
    hosts = []
    opened = Fetcher._open

    def watch(self: Fetcher, url: str, host: str, port: int) -> socket.socket:
        hosts.append(host)
        if host == "localhost":
            return opened(OUTSIDE, url, host, port)
        return opened(self, url, host, port)

    monkeypatch.setattr(Fetcher, "_open", watch)
    assert refusal(INSIDE, f"{web.url}/", tmp_path)[0] == "source_refused"
    assert hosts == ["127.0.0.1", "localhost"]
    web.answers["/"] = Answer(status=302, headers={"Location": "file:///etc/passwd"})
    assert refusal(INSIDE, f"{web.url}/", tmp_path)[0] == "source_refused"


def test_a_signed_url_is_asked_for_as_it_was_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(Fetcher, "_open", lambda *args: ours)
    context = SimpleNamespace(wrap_socket=lambda opened, server_hostname: opened)
    monkeypatch.setattr(ssl, "create_default_context", lambda: context)
    connection = OUTSIDE._connect("https://bucket.example.org/a%20b?signature=x%2Fy")
    connection.request("GET", "/")
    with theirs:
        assert b"Host: bucket.example.org\r\n" in theirs.recv(1000), "a signature has the host"
    connection.close()


def test_addresses_of_the_internet_are_public() -> None:
    assert all(map(is_public, ("8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8")))
    assert not any(
        map(is_public, ("224.0.0.1", "100.64.0.1", "fe80::1%eth0", "2002:a00:1::", "::"))
    )


def test_objects_of_a_bucket_are_fetched_but_not_those_of_the_service(
    s3: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    open_artifacts(s3.url, s3_endpoint=s3.endpoint).put("photos.zip", tmp_path / "source")
    fetcher = Fetcher(max_bytes=2**24, s3_endpoint=s3.endpoint)
    url = f"{s3.url}/photos.zip"
    assert fetcher.fetch(url, DIGEST, tmp_path / "file") == len(CONTENT)
    assert refusal(fetcher, f"{s3.url}/other.zip", tmp_path)[0] == "source_unavailable"
    own = Fetcher(max_bytes=2**24, s3_endpoint=s3.endpoint, own_bucket="bucket")
    assert refusal(own, url, tmp_path)[0] == "source_refused"


def declare(world: World, url: str, sha256: str = DIGEST, **fields: Any) -> str:
    """Store a dataset that is to be fetched."""
    id = new_id("dst")
    row = Dataset(
        id=id,
        project="default",
        name="photos",
        sha256=sha256,
        size_bytes=0,
        classes=[],
        shape=[],
        counts={},
        normalize=fields.pop("normalize", None),
        artifact=f"datasets/{id}/data.safetensors",
        state="fetching",
        source={"url": url},
        due_at=0.0,
    )
    with world.store.write() as session:
        assets.add(session, row)
    return id


def read(world: World, id: str) -> Dataset:
    with world.store.read() as session:
        return assets.get(session, Dataset, "default", id)


def try_once(world: World, stopping: threading.Event | None = None, **settings: Any) -> bool:
    changes = {"source_private": True, "source_delay_s": 0.0, **settings}
    return fetch_next(
        world.store,
        world.artifacts,
        world.settings.model_copy(update=changes),
        stopping or threading.Event(),
    )


def test_a_worker_fetches_checks_and_stores_a_dataset(
    world: World, web: WebServer, tmp_path: Path
) -> None:
    packed = write_zip(make_files(20, test=8), tmp_path / "photos.zip").read_bytes()
    web.answers["/photos.zip"] = Answer(packed)
    id = declare(world, f"{web.url}/photos.zip", hashlib.sha256(packed).hexdigest())
    assert try_once(world)
    row = read(world, id)
    assert (row.state, row.failure, row.due_at) == ("ready", None, None)
    assert (row.size_bytes, row.shape) == (len(packed), [3, None, None])
    assert row.counts == {"train": 12, "val": 0, "test": 8}
    world.artifacts.fetch(row.artifact, tmp_path / "data")
    assert Arrays.load(tmp_path / "data").counts == row.counts
    assert not try_once(world), "nothing is left to fetch"
    assert world.settings.work_dir is not None
    assert list(world.settings.work_dir.iterdir()) == []


def test_a_source_that_goes_away_is_tried_again_and_then_fails(
    world: World, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = declare(world, f"{web.url}/photos.zip")
    for tries in (1, 2):
        assert try_once(world, source_tries=3)
        row = read(world, id)
        assert (row.state, row.tries) == ("fetching", tries)
        assert row.failure is not None
        assert (row.failure["code"], row.failure["retryable"]) == ("source_unavailable", True)
        assert "404" in row.failure["message"]
    assert try_once(world, source_tries=3)
    row = read(world, id)
    assert (row.state, row.tries, row.due_at) == ("failed", 3, None)
    assert row.failure is not None
    assert row.failure["code"] == "source_unavailable"
    other = declare(world, f"{web.url}/photos.zip")
    assert try_once(world, source_delay_s=60.0)
    assert read(world, other).state == "fetching"
    assert not try_once(world), "it waits before the next try"


def test_what_will_not_mend_fails_at_once(
    world: World, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.answers["/file"] = Answer(CONTENT)
    id = declare(world, f"{web.url}/file", 64 * "0")
    assert try_once(world)
    assert (read(world, id).failure or {})["code"] == "digest_mismatch"
    id = declare(world, f"{web.url}/file")
    assert try_once(world, source_private=False)
    assert (read(world, id).failure or {})["code"] == "source_refused"

    def refuse(verb: str, payload: dict[str, Any], **limits: Any) -> dict[str, Any]:
        raise HelperError("invalid_dataset", "x.jpg: not a readable image")

    monkeypatch.setattr(fetch_datasets, "run_helper", refuse)
    id = declare(world, f"{web.url}/file")
    assert try_once(world)
    row = read(world, id)
    assert row.state == "failed"
    assert row.failure == {
        "code": "invalid_dataset",
        "message": "x.jpg: not a readable image",
        "retryable": False,
    }


def test_a_worker_that_stops_hands_the_dataset_back(world: World, web: WebServer) -> None:
    web.answers["/file"] = Answer(CONTENT)
    id = declare(world, f"{web.url}/file")
    stopping = threading.Event()
    stopping.set()
    assert try_once(world, stopping)
    row = read(world, id)
    assert (row.state, row.tries, row.failure) == ("fetching", 0, None)


def test_one_worker_fetches_a_dataset_and_a_dead_one_is_followed(world: World) -> None:
    id = declare(world, "https://example.org/x")
    with world.store.write() as session:
        dead = source_store.claim_source(session, 0.0)
    assert dead is not None
    with world.store.write() as session:
        living = source_store.claim_source(session, 60.0)
    assert living is not None
    assert living.dataset.id == id
    with world.store.write() as session:
        assert source_store.claim_source(session, 60.0) is None
    with pytest.raises(LostError), world.store.write() as session:
        source_store.fail(session, dead, {"code": "x"})
    assert read(world, id).state == "fetching"
    with world.store.write() as session:
        source_store.renew(session, living, 90.0)
        source_store.postpone(session, living, 5.0, None)
    assert read(world, id).tries == 1


def test_a_worker_holds_what_it_fetches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    id = declare(world, "https://example.org/x")
    renewed = threading.Event()
    renew = source_store.renew

    def renew_and_note(*args: Any) -> None:
        renew(*args)
        renewed.set()

    def fetch(*args: Any) -> int:
        assert renewed.wait(60)
        with world.store.write() as session:
            assert source_store.claim_source(session, 60.0) is None
        raise SourceError("source_unavailable", "away", retryable=True)

    monkeypatch.setattr(source_store, "renew", renew_and_note)
    monkeypatch.setattr(Fetcher, "fetch", fetch)
    assert try_once(world, heartbeat_s=0.01)
    assert (read(world, id).failure or {})["message"] == "away"


def test_a_worker_knows_its_own_bucket(world: World) -> None:
    settings = world.settings.model_copy(update={"artifact_url": "s3://own/prefix"})
    assert build_fetcher(settings).own_bucket == "own"
    assert build_fetcher(world.settings).own_bucket is None
    assert sources.MOST_REDIRECTS == 5
