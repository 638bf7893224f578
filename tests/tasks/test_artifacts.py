"""Bytes by key, in a folder and in S3."""

from __future__ import annotations

import errno
import io
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts import (
    CHUNK,
    Artifacts,
    LocalArtifacts,
    MissingArtifactError,
    copy_durably,
    hash_file,
    open_artifacts,
)
from tests.support.job_world import together
from tests.support.servers import Bucket, free_port


def file(tmp_path: Path, content: bytes, name: str = "source") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def read(artifacts: Artifacts, key: str, *window: int) -> bytes:
    return b"".join(artifacts.stream(key, *window))


def test_what_is_put_comes_back(artifacts: Artifacts, tmp_path: Path) -> None:
    for content in (b"", b"x", os.urandom(3 * CHUNK + 17)):
        source = file(tmp_path, content)
        artifacts.put("jobs/a/one.bin", source)
        assert source.read_bytes() == content
        assert artifacts.size("jobs/a/one.bin") == len(content)
        assert read(artifacts, "jobs/a/one.bin") == content
        target = tmp_path / "target"
        artifacts.fetch("jobs/a/one.bin", target)
        assert target.read_bytes() == content
        assert hash_file(target) == hash_file(source)


def test_fetching_replaces_and_makes_folders(artifacts: Artifacts, tmp_path: Path) -> None:
    artifacts.put("k", file(tmp_path, b"new"))
    old = file(tmp_path, b"an older, longer file", "old")
    artifacts.fetch("k", old)
    assert old.read_bytes() == b"new"
    deep = tmp_path / "not" / "yet" / "there"
    artifacts.fetch("k", deep)
    assert deep.read_bytes() == b"new"


def test_ranges(artifacts: Artifacts, tmp_path: Path) -> None:
    content = bytes(range(256)) * (CHUNK // 128)
    artifacts.put("k", file(tmp_path, content))
    size = len(content)
    windows = (
        (0, 1),
        (0, size),
        (5, 10),
        (size - 1, 1),
        (CHUNK - 1, 2),
        (7, CHUNK),
        (size - 3, 100),
        (3, 0),
    )
    for start, length in windows:
        assert read(artifacts, "k", start, length) == content[start : start + length], (
            start,
            length,
        )
    assert read(artifacts, "k", 100) == content[100:]
    assert read(artifacts, "k", size) == b""
    assert max(map(len, artifacts.stream("k"))) < len(content)


def test_a_missing_key_says_so(artifacts: Artifacts, tmp_path: Path) -> None:
    artifacts.put("jobs/a/x", file(tmp_path, b"1"))
    for key in ("nothing", "jobs/b", "jobs/a/y"):
        with pytest.raises(MissingArtifactError):
            artifacts.size(key)
        with pytest.raises(MissingArtifactError):
            artifacts.fetch(key, tmp_path / "target")
        with pytest.raises(MissingArtifactError):
            read(artifacts, key)
        with pytest.raises(MissingArtifactError):
            read(artifacts, key, 0, 4)
        assert not (tmp_path / "target").exists()
        artifacts.delete(key)
    assert read(artifacts, "jobs/a/x") == b"1"


def test_deleting_takes_what_is_below_and_no_neighbour(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    keys = ["jobs/a/1/x", "jobs/a/2/deep/y", "jobs/ab/x", "jobs/b", "models/a"]
    for key in keys:
        artifacts.put(key, file(tmp_path, key.encode()))
    artifacts.delete("jobs/a")
    for key in keys[:2]:
        with pytest.raises(MissingArtifactError):
            artifacts.size(key)
    for key in keys[2:]:
        assert read(artifacts, key) == key.encode()
    artifacts.delete("jobs/b")
    artifacts.delete("jobs/b")
    with pytest.raises(MissingArtifactError):
        artifacts.size("jobs/b")


def test_listing_is_by_folder(artifacts: Artifacts, tmp_path: Path) -> None:
    for key in ("jobs/a/1/x", "jobs/a/2/deep/y", "jobs/ab/x"):
        artifacts.put(key, file(tmp_path, b"."))
    assert sorted(artifacts.keys("jobs/a")) == ["jobs/a/1/x", "jobs/a/2/deep/y"]
    assert list(artifacts.keys("jobs/nothing")) == []


def test_puts_of_one_key_at_once_leave_one_of_them_whole(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    contents = [bytes([number]) * (CHUNK // 2 + number) for number in range(6)]
    sources = [file(tmp_path, content, f"s{number}") for number, content in enumerate(contents)]
    assert together([partial(artifacts.put, "k", path) for path in sources]) == [None] * 6
    assert read(artifacts, "k") in contents


def test_a_reader_sees_all_or_nothing(artifacts: Artifacts, tmp_path: Path) -> None:
    contents = [bytes([number]) * (2 * CHUNK) for number in (1, 2)]
    sources = [file(tmp_path, content, f"s{number}") for number, content in enumerate(contents)]
    artifacts.put("k", sources[0])
    stop = threading.Event()

    def write() -> None:
        for number in range(20):
            artifacts.put("k", sources[number % 2])
        stop.set()

    def look() -> int:
        reads = 0
        while not stop.is_set():
            target = tmp_path / f"t{threading.get_ident()}"
            artifacts.fetch("k", target)
            assert target.read_bytes() in contents
            target.unlink()
            assert artifacts.size("k") == len(contents[0])
            reads += 1
        return reads

    answers = together([write, look, look])
    assert answers[0] is None
    assert all(isinstance(answer, int) for answer in answers[1:]), answers


def test_ping(artifacts: Artifacts) -> None:
    artifacts.ping()


def test_a_missing_source_stores_nothing(artifacts: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        artifacts.put("k", tmp_path / "nothing")
    with pytest.raises(MissingArtifactError):
        artifacts.size("k")


@pytest.fixture
def folder(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(tmp_path / "artifacts")


def everything(folder: LocalArtifacts) -> list[Path]:
    return [path for path in folder.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "..", "a/../.."])
def test_keys_cannot_leave_the_folder(folder: LocalArtifacts, tmp_path: Path, key: str) -> None:
    (tmp_path / "x").write_bytes(b"outside")
    calls: list[Any] = [
        lambda: folder.put(key, tmp_path / "x"),
        lambda: folder.fetch(key, tmp_path / "y"),
        lambda: folder.size(key),
        lambda: list(folder.stream(key)),
        lambda: folder.delete(key),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="leaves the artifact folder"):
            call()
    assert (tmp_path / "x").read_bytes() == b"outside"


def test_a_link_cannot_lead_out_of_the_folder(folder: LocalArtifacts, tmp_path: Path) -> None:
    folder.root.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (folder.root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="leaves the artifact folder"):
        folder.size("link")


@pytest.mark.parametrize("key", ["", ".", "jobs/.."])
def test_no_key_means_the_whole_store(folder: LocalArtifacts, tmp_path: Path, key: str) -> None:
    folder.put("jobs/a", file(tmp_path, b"1"))
    with pytest.raises(ValueError, match="key"):
        folder.delete(key)
    assert read(folder, "jobs/a") == b"1"


@pytest.mark.parametrize("when", ["copy", "fsync"])
def test_a_full_disk_leaves_no_part_of_a_file(
    folder: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    folder.put("k", file(tmp_path, b"before"))

    def full(*args: Any) -> None:
        if when == "copy":
            args[1].write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*(("shutil.copyfileobj", full) if when == "copy" else ("os.fsync", full)))
    for key in ("k", "new"):
        with pytest.raises(OSError, match="No space left"):
            folder.put(key, file(tmp_path, b"after"))
    monkeypatch.undo()
    assert [path.name for path in everything(folder)] == ["k"]
    assert read(folder, "k") == b"before"


def test_an_interrupted_copy_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_durably(Interrupted(), tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("why", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOENT])
def test_fetching_copies_where_it_cannot_link(
    folder: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    # ENOENT: the file was replaced between looking it up and linking it
    folder.put("k", file(tmp_path, b"content"))

    def refuse(*args: Any) -> None:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(os, "link", refuse)
    folder.fetch("k", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"content"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        LocalArtifacts(tmp_path / "file" / "artifacts").ping()


def test_a_deleted_file_is_read_to_its_end(folder: LocalArtifacts, tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK)
    folder.put("k", file(tmp_path, content))
    stream = folder.stream("k")
    first = next(stream)
    folder.delete("k")
    assert first + b"".join(stream) == content


def test_urls(tmp_path: Path) -> None:
    for url in (f"file:{tmp_path}", f"file://{tmp_path}"):
        assert open_artifacts(url) == LocalArtifacts(tmp_path)
    for url in ("", "/tmp/x", "ftp://x", "s3:bucket"):
        with pytest.raises(ValueError, match="artifact URL"):
            open_artifacts(url)


def test_a_server_that_is_away_is_an_os_error(s3: Bucket, tmp_path: Path) -> None:
    nobody = open_artifacts(s3.url, s3_endpoint=f"http://127.0.0.1:{free_port()}")
    nothing = open_artifacts(s3.url.replace("bucket", "no-such-bucket"), s3_endpoint=s3.endpoint)
    for bad in (nothing, nobody):
        with pytest.raises(OSError, match=r"S3|not found"):
            bad.ping()
    with pytest.raises(OSError, match=r"S3|not found"):
        nothing.put("k", file(tmp_path, b"x"))
