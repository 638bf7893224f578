"""Checkpoints, downloaded whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from os import PathLike
from pathlib import Path

from pruning.schemas.outputs import FileFormat
from secateur.errors import ChecksumMismatch
from secateur.flow import ConnectionBroken, Flow, Read, Request, opened, retrying, route


def download(
    job_id: str,
    checkpoint_id: str,
    target: str | PathLike[str],
    *,
    format: FileFormat = "sparse",
    sha256: str | None = None,
) -> Flow[Path]:
    """Download a checkpoint to the file `target`, checked against its ETag and, where given,
    against `sha256`.

    The bytes go to a temporary file beside the target, which takes its name once they are checked;
    `ChecksumMismatch` leaves nothing behind.
    """
    request = Request(
        method="GET",
        path=route("v1", "jobs", job_id, "checkpoints", checkpoint_id),
        params={"format": format},
        headers={"Accept-Encoding": "identity"},
    )
    return (yield from retrying(request, lambda: _fetch(request, Path(target), sha256)))


def _fetch(request: Request, target: Path, sha256: str | None) -> Flow[Path]:
    """Download once to a temporary file, check it, rename it to `target` and return `target`.

    What it yields are requests to the client that runs the flow. Raises `ConnectionBroken` where
    bytes are missing, and `ChecksumMismatch` where they are others, or nothing says which they are.
    """
    reply = yield from opened(request)
    # Where both the caller and the service name a digest, they must name the same.
    expected = {
        digest.lower() for digest in (sha256, _read_digest(reply.headers.get("etag"))) if digest
    }
    if not expected:
        raise ChecksumMismatch(
            f"{target.name}: the service named no SHA-256 to check the bytes against"
        )
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with partial.open("xb") as file:
            hasher = hashlib.sha256()
            size = 0
            while (chunk := (yield Read())) is not None:
                file.write(chunk)
                hasher.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        if size < int(reply.headers.get("content-length", 0)):
            raise ConnectionBroken(f"{target.name}: the connection ended after {size} bytes")
        received = hasher.hexdigest()
        if expected != {received}:
            raise ChecksumMismatch(
                f"{target.name}: received {received}, announced {' and '.join(sorted(expected))}"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)  # already gone after the renaming
    return target


def _read_digest(etag: str | None) -> str | None:
    match = re.fullmatch(r'(?:W/)?"(?:sha256[:-])?([0-9a-fA-F]{64})"', etag or "")
    return match[1] if match else None
