"""Bytes by key: a local folder or S3, through one interface. Free of torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

CHUNK = 2**20


class MissingArtifactError(Exception):
    """There are no bytes under this key."""


class Artifacts(Protocol):
    """A store of bytes by key.

    Keys are relative paths such as `models/mdl_.../state.safetensors`.
    """

    def put(self, key: str, source: Path) -> None:
        """Store the file under `key`; readers see all of it or nothing."""

    def fetch(self, key: str, target: Path) -> None:
        """Copy the bytes to the file `target`."""

    def size(self, key: str) -> int:
        """Return the size in bytes; raise `MissingArtifactError` if the key is not there."""

    def stream(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start`, in chunks."""

    def delete(self, prefix: str) -> None:
        """Remove the key, or every key below it."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key below the folder `prefix`."""

    def ping(self) -> None:
        """Raise when the store cannot be written."""


def open_artifacts(url: str, *, s3_endpoint: str | None = None) -> Artifacts:
    """Return the store at `file:PATH` or `s3://bucket/prefix`."""
    if url.startswith("file:"):
        return LocalArtifacts(Path(url.removeprefix("file:").removeprefix("//")))
    if url.startswith("s3://"):
        return S3Artifacts(url, s3_endpoint)
    raise ValueError(f"artifact URL {url!r}: give file:PATH or s3://bucket/prefix")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_durably(source: IO[bytes], target: Path) -> None:
    """Write `source` to a temporary file beside `target`, flush it to disk, and rename it to
    `target`.

    After a power cut `target` is as it was before, or has all of the new content.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself must survive a power cut.
    folder_descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder_descriptor)
    finally:
        os.close(folder_descriptor)


@dataclass(frozen=True)
class LocalArtifacts:
    """A store in a local folder."""

    root: Path

    def path(self, key: str) -> Path:
        """Return the file of a key; a key that leaves the folder is refused."""
        path = (self.root / key).resolve()
        if self.root.resolve() not in path.parents:
            raise ValueError(f"key {key!r} leaves the artifact folder, or is the folder itself")
        return path

    def put(self, key: str, source: Path) -> None:
        """Store the file under `key`."""
        with source.open("rb") as file:
            copy_durably(file, self.path(key))

    def fetch(self, key: str, target: Path) -> None:
        """Put the bytes at `target`, as a hard link on the same file system.

        A link is safe, since a finished file is never written to.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.path(key), target)
        except OSError:
            # The file is on another file system, or missing, or is being replaced at this very
            # moment, which looks to a link like a missing file.
            with self._open(key) as file:
                copy_durably(file, target)

    def size(self, key: str) -> int:
        """Return the size in bytes."""
        with self._open(key) as file:
            return os.fstat(file.fileno()).st_size

    def stream(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start`, in chunks."""
        with self._open(key) as file:
            file.seek(start)
            remaining = length
            while remaining is None or remaining > 0:
                chunk = file.read(CHUNK if remaining is None else min(CHUNK, remaining))
                if not chunk:
                    return
                if remaining is not None:
                    remaining -= len(chunk)
                yield chunk

    def delete(self, prefix: str) -> None:
        """Remove the file or the folder."""
        path = self.path(prefix)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key below the folder, with those that an interrupted `put` left behind."""
        root = self.root.resolve()
        for path in self.path(prefix).rglob("*"):
            if path.is_file():
                yield str(path.relative_to(root))

    def ping(self) -> None:
        """Raise when the folder cannot be written."""
        self.root.mkdir(parents=True, exist_ok=True)
        probe = self.root / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()

    def _open(self, key: str) -> IO[bytes]:
        try:
            return self.path(key).open("rb")
        except FileNotFoundError:
            raise MissingArtifactError(key) from None


class S3Artifacts:
    """A store in a bucket of S3, or of a server with the same interface.

    An object is replaced as a whole. A refusal of the server is an `OSError`.
    """

    def __init__(self, url: str, endpoint: str | None) -> None:
        from obstore.store import S3Store

        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
        options: dict[str, Any] = {"region": region}
        if endpoint is not None:
            options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
            if endpoint.startswith("http://"):
                options["client_options"] = {"allow_http": True}
        self._store = S3Store.from_url(url, **options)
        self._impatient = S3Store.from_url(url, **options, retry_config={"max_retries": 0})

    def put(self, key: str, source: Path) -> None:
        """Store the file under `key`, in parts."""
        import obstore

        with _translate_errors():
            obstore.put(self._store, key, source)

    def fetch(self, key: str, target: Path) -> None:
        """Copy the bytes to `target`, which is whole or absent."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as file:
                for chunk in self.stream(key):
                    file.write(chunk)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def size(self, key: str) -> int:
        """Return the size in bytes."""
        import obstore

        with _translate_errors(key):
            return int(obstore.head(self._store, key)["size"])

    def stream(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start`, in chunks."""
        import obstore

        end = self.size(key) if length is None else start + length
        if start >= end:
            return
        with _translate_errors(key):
            reply = obstore.get(self._store, key, options={"range": (start, end)})
            for chunk in reply.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    def delete(self, prefix: str) -> None:
        """Remove the key and every key below it."""
        import obstore

        with _translate_errors():
            for key in {prefix, *self.keys(prefix)}:
                try:
                    obstore.delete(self._store, key)
                except FileNotFoundError:
                    continue

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key below the folder."""
        import obstore

        with _translate_errors():
            for batch in obstore.list(self._store, prefix=prefix):
                for item in batch:
                    yield item["path"]

    def ping(self) -> None:
        """Raise when the bucket does not answer; it is tried only once."""
        import obstore

        with _translate_errors():
            next(iter(obstore.list(self._impatient, prefix="probe", chunk_size=50)), None)


@contextmanager
def _translate_errors(key: str | None = None) -> Iterator[None]:
    """Raise S3's errors as `OSError`; with `key`, one not found as `MissingArtifactError`."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        if key is None:
            raise
        raise MissingArtifactError(key) from None
    except BaseError as error:
        first_line = str(error).partition("\n")[0]
        raise OSError(f"S3: {first_line}") from error
