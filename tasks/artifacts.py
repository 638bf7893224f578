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
    """No bytes under this key."""


class Artifacts(Protocol):
    """What both stores do. Keys are relative paths such as `models/mdl_.../state.safetensors`."""

    def put(self, key: str, source: Path) -> None:
        """Store the file under `key`; readers see all of it or nothing."""

    def fetch(self, key: str, target: Path) -> None:
        """Copy the bytes to the file `target`."""

    def size(self, key: str) -> int:
        """Size in bytes; `MissingArtifactError` when there is none."""

    def stream(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `start`, in chunks."""

    def delete(self, prefix: str) -> None:
        """Remove the key, or every key below it."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key below the folder `prefix`."""

    def ping(self) -> None:
        """Raise when the store cannot be written."""


def open_artifacts(url: str, *, s3_endpoint: str | None = None) -> Artifacts:
    """The store at `file:PATH` or `s3://bucket/prefix`."""
    if url.startswith("file:"):
        return LocalArtifacts(Path(url.removeprefix("file:").removeprefix("//")))
    if url.startswith("s3://"):
        return S3Artifacts(url, s3_endpoint)
    raise ValueError(f"artifact URL {url!r}: give file:PATH or s3://bucket/prefix")


def hash_file(path: Path) -> str:
    """SHA-256 of a file (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_durably(source: IO[bytes], target: Path) -> None:
    """Write aside, flush to disk, rename: the target is whole or absent, also after a power cut."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(frozen=True)
class LocalArtifacts:
    """A folder."""

    root: Path

    def path(self, key: str) -> Path:
        """The file of a key; keys cannot leave the folder."""
        path = (self.root / key).resolve()
        if self.root.resolve() not in path.parents:
            raise ValueError(f"key {key!r} leaves the artifact folder, or is the folder itself")
        return path

    def put(self, key: str, source: Path) -> None:
        """Store the file under `key`."""
        with source.open("rb") as file:
            copy_durably(file, self.path(key))

    def fetch(self, key: str, target: Path) -> None:
        """Put the bytes at `target`: a hard link on the same file system (nobody writes into a
        finished file).
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.path(key), target)
        except OSError:  # another file system, missing, or replaced at this very moment (which a link takes for missing)
            with self._open(key) as file:
                copy_durably(file, target)

    def size(self, key: str) -> int:
        """Size in bytes."""
        with self._open(key) as file:
            return os.fstat(file.fileno()).st_size

    def stream(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `start`, in chunks."""
        with self._open(key) as file:
            file.seek(start)
            left = length
            while left is None or left > 0:
                chunk = file.read(CHUNK if left is None else min(CHUNK, left))
                if not chunk:
                    return
                left = None if left is None else left - len(chunk)
                yield chunk

    def delete(self, prefix: str) -> None:
        """Remove the file or the folder."""
        path = self.path(prefix)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key below the folder, what an interrupted `put` left aside included."""
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
    """A bucket of S3 or of a server that speaks it; an object is replaced whole. What S3 refuses is
    an `OSError`.
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
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with aside.open("wb") as file:
                for chunk in self.stream(key):
                    file.write(chunk)
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def size(self, key: str) -> int:
        """Size in bytes."""
        import obstore

        with _translate_errors(key):
            return int(obstore.head(self._store, key)["size"])

    def stream(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `start`, in chunks."""
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
        """Every key below the folder."""
        import obstore

        with _translate_errors():
            for batch in obstore.list(self._store, prefix=prefix):
                for item in batch:
                    yield item["path"]

    def ping(self) -> None:
        """Raise when the bucket does not answer; asks once."""
        import obstore

        with _translate_errors():
            next(iter(obstore.list(self._impatient, prefix="probe", chunk_size=50)), None)


@contextmanager
def _translate_errors(key: str | None = None) -> Iterator[None]:
    """S3's errors as callers know errors; with `key`, what is not found is a missing artifact."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        if key is None:
            raise
        raise MissingArtifactError(key) from None
    except BaseError as error:
        raise OSError(f"S3: {str(error).partition(chr(10))[0]}") from error
