"""Multipart uploads in constant memory: the file goes to disk and through SHA-256 as it arrives."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool

from api.errors import Fault, Problem, build_problem
from api.http.bodies import build_too_large_problem, refuse_length

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

BUFFER = 2**20


@dataclass
class Upload:
    """One received form: the file on disk and the other fields as text."""

    path: Path
    filename: str = ""
    size_bytes: int = 0
    sha256: str = ""
    fields: dict[str, str] = field(default_factory=dict)


async def receive(
    request: Request, folder: Path, names: frozenset[str], max_bytes: int, max_field: int
) -> Upload:
    """Read the whole form into `folder`; 413 as soon as it is too large."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise Problem(415, "unsupported_media_type", "send the file as multipart/form-data")
    refuse_length(request, max_bytes)
    upload = Upload(folder / "upload")
    with upload.path.open("wb") as target:
        form = _Form(upload, target, names, max_field)
        received = 0
        try:
            parser = MultipartParser(options[b"boundary"], form.callbacks())
            async for chunk in request.stream():
                received += len(chunk)
                if received > max_bytes:
                    raise build_too_large_problem(max_bytes)
                parser.write(chunk)
                if len(form.pending) >= BUFFER:
                    await run_in_threadpool(form.flush)
        except FormParserError as error:
            raise Problem(400, "invalid_multipart", f"the form cannot be read: {error}") from None
        await run_in_threadpool(form.flush)
    form.finish()
    return upload


class _Form:
    """What the parser calls."""

    def __init__(
        self, upload: Upload, target: IO[bytes], names: frozenset[str], max_field: int
    ) -> None:
        self.pending = bytearray()
        self._upload, self._target, self._names, self._max_field = upload, target, names, max_field
        self._digest = hashlib.sha256()
        self._header, self._value = b"", b""
        self._disposition = b""
        self._part: bytearray | None = None
        self._name = ""
        self._files = 0
        self._ended = False

    def callbacks(self) -> MultipartCallbacks:
        """The parser's hooks."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def flush(self) -> None:
        """Write and hash what has arrived of the file."""
        self._digest.update(self.pending)
        self._target.write(self.pending)
        self.pending.clear()

    def finish(self) -> None:
        """Refuse a form that stopped early or brought no file."""
        if not self._ended:
            raise Problem(400, "invalid_multipart", "the form ends before its last boundary")
        if not self._files:
            raise build_problem(
                [
                    Fault(
                        "/file",
                        "missing",
                        "the form has no file: send a part named 'file' with a filename",
                    )
                ]
            )
        self._upload.sha256 = self._digest.hexdigest()

    def _begin(self) -> None:
        self._disposition = b""

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == "file" and b"filename" in options:
            self._files += 1
            if self._files > 1:
                raise build_problem(
                    [Fault("/file", "duplicate", "the form has more than one file")]
                )
            self._part = None
            self._upload.filename = _clean_filename(options[b"filename"].decode("utf-8", "replace"))
        elif self._name not in self._names:
            known = ", ".join(sorted(self._names | {"file"}))
            raise build_problem(
                [Fault("", "unknown_field", f"unknown form field {self._name!r}; known: {known}")]
            )
        elif self._name in self._upload.fields:
            raise build_problem(
                [Fault(f"/{self._name}", "duplicate", f"the form has {self._name!r} twice")]
            )
        else:
            self._part = bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part is None:
            self.pending += memoryview(data)[start:end]
            self._upload.size_bytes += end - start
        elif len(self._part) + end - start > self._max_field:
            raise build_too_large_problem(self._max_field)
        else:
            self._part += data[start:end]

    def _part_end(self) -> None:
        if self._part is not None:
            try:
                self._upload.fields[self._name] = self._part.decode()
            except UnicodeDecodeError:
                raise Problem(
                    400, "invalid_multipart", f"the field {self._name!r} is not UTF-8"
                ) from None

    def _end(self) -> None:
        self._ended = True


def _clean_filename(filename: str) -> str:
    """The last part of a client's path, without control characters."""
    last = re.split(r"[/\\]", filename)[-1]
    return "".join(char for char in last if char.isprintable())[:255]
