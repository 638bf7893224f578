"""Stored files over HTTP: streamed, conditional and resumable by range."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastapi import Request, Response
from starlette.responses import StreamingResponse

from api.errors import Problem
from tasks.artifacts import Artifacts, MissingArtifactError
from tasks.store.tables import ResultFile

PRIVATE = "private, no-cache"


def matches_etag(header: str | None, etag: str) -> bool:
    """Return whether an If-None-Match header names this entity tag (weak comparison)."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    return etag in {tag.strip().removeprefix("W/") for tag in header.split(",")}


def parse_byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first and the last byte of a single range; None for the whole file.

    Raises a 416 for a range that begins beyond the end.

    >>> parse_byte_range("bytes=0-9", 100), parse_byte_range("bytes=90-", 100)
    ((0, 9), (90, 99))
    >>> parse_byte_range("bytes=-10", 100)
    (90, 99)
    """
    match = re.fullmatch(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", header or "")
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:  # the last bytes, as many as the number says
        start, end = max(0, size - int(last)), size - 1
    elif not last:
        start, end = int(first), size - 1
    elif int(last) < int(first):
        return None
    else:
        start, end = int(first), min(int(last), size - 1)
    if start > end:
        raise Problem(
            416,
            "range_not_satisfiable",
            f"the file has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end


def send_file(
    request: Request,
    artifacts: Artifacts,
    row: ResultFile,
    media_type: str,
    headers: Mapping[str, str],
) -> Response:
    """Answer with the file of a result.

    The status is 200, 206 for a range, 304 for a file that the client has; 410 is raised when its
    bytes are gone.
    """
    etag = f'"{row.sha256}"'
    common = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": PRIVATE, **headers}
    if matches_etag(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers={"ETag": etag, "Cache-Control": PRIVATE})
    if artifacts.size(row.artifact) != row.size_bytes:
        raise MissingArtifactError(row.artifact)
    condition = request.headers.get("if-range")
    requested_range = None
    if request.method == "GET" and (condition is None or condition.strip() == etag):
        requested_range = parse_byte_range(request.headers.get("range"), row.size_bytes)
    start, end = requested_range or (0, row.size_bytes - 1)
    common["Content-Length"] = str(end - start + 1)
    if request.method == "HEAD":
        return Response(headers=common, media_type=media_type)
    if requested_range is not None:
        common["Content-Range"] = f"bytes {start}-{end}/{row.size_bytes}"
    return StreamingResponse(
        artifacts.stream(row.artifact, start, end - start + 1),
        206 if requested_range else 200,
        headers=common,
        media_type=media_type,
    )


def read_file(artifacts: Artifacts, row: ResultFile) -> bytes:
    """Return the bytes of a small file."""
    return b"".join(artifacts.stream(row.artifact))
