"""Multipart uploads in constant memory: the file goes to disk and through SHA-256 as it arrives."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote

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
EXTENDED_FILENAME = re.compile(
    rb";\s*filename\*\s*=\s*\"?([\w.:-]+)'[^']*'([^;\"\s]*)", re.IGNORECASE
)
"""A filename with its encoding in front of it, as `filename*=utf-8''donn%C3%A9es.npz`."""


@dataclass
class Upload:
    """A received form: the file on disk and the other fields as text."""

    path: Path
    filename: str = ""
    size_bytes: int = 0
    sha256: str = ""
    fields: dict[str, str] = field(default_factory=dict)


async def receive(
    request: Request,
    folder: Path,
    *,
    names: frozenset[str],
    max_bytes: int,
    max_field_bytes: int,
) -> Upload:
    """Read the whole form into `folder`; 413 as soon as it is too large.

    `names` are the fields that it may have beside `file`.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise Problem(415, "unsupported_media_type", "send the file as multipart/form-data")
    refuse_length(request, max_bytes)
    upload = Upload(folder / "upload")
    with upload.path.open("wb") as target:
        form = _Form(upload, target, names, max_field_bytes)
        received = 0
        try:
            parser = MultipartParser(options[b"boundary"], form.list_callbacks())
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
    """The state of a form while the parser reads it; the parser calls its hooks."""

    def __init__(
        self, upload: Upload, target: IO[bytes], names: frozenset[str], max_field_bytes: int
    ) -> None:
        self.pending = bytearray()
        """The bytes of the file that are not written yet."""
        self._upload = upload
        self._target = target
        self._names = names
        self._max_field_bytes = max_field_bytes
        self._digest = hashlib.sha256()
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._field: bytearray | None = None
        """The field that is being read; None while it is the file."""
        self._name = ""
        self._files = 0
        self._ended = False

    def list_callbacks(self) -> MultipartCallbacks:
        """Return the parser's hooks."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_to_header,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": self._add_content,
            "on_part_end": self._end_part,
            "on_end": self._end_form,
        }

    def flush(self) -> None:
        """Write and hash what has arrived of the file."""
        self._digest.update(self.pending)
        self._target.write(self.pending)
        self.pending.clear()

    def finish(self) -> None:
        """Check that the form is complete and brought a file, and set the file's SHA-256."""
        if not self._ended:
            raise Problem(400, "invalid_multipart", "the form ends before its last boundary")
        if not self._files:
            message = "the form has no file: send a part named 'file' with a filename"
            raise build_problem([Fault("/file", "missing", message)])
        self._upload.sha256 = self._digest.hexdigest()

    def _begin_part(self) -> None:
        self._disposition = b""

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = b""
        self._value = b""

    def _begin_content(self) -> None:
        """Decide by its headers what a part is: the file or a field."""
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = _read_filename(self._disposition, options)
        if self._name == "file" and filename is not None:
            self._files += 1
            if self._files > 1:
                message = "the form has more than one file"
                raise build_problem([Fault("/file", "duplicate", message)])
            self._field = None
            self._upload.filename = _clean_filename(filename)
        elif self._name == "file":
            message = (
                "the part 'file' has no filename, so it is a field and not a file; give it one "
                "(curl: -F file=@path)"
            )
            raise build_problem([Fault("/file", "unknown_field", message)])
        elif self._name not in self._names:
            known = ", ".join(sorted(self._names | {"file"}))
            message = f"unknown form field {self._name!r}; known: {known}"
            raise build_problem([Fault("", "unknown_field", message)])
        elif self._name in self._upload.fields:
            message = f"the form has {self._name!r} twice"
            raise build_problem([Fault(f"/{self._name}", "duplicate", message)])
        else:
            self._field = bytearray()

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self.pending += memoryview(data)[start:end]
            self._upload.size_bytes += end - start
        elif len(self._field) + end - start > self._max_field_bytes:
            raise build_too_large_problem(self._max_field_bytes)
        else:
            self._field += data[start:end]

    def _end_part(self) -> None:
        if self._field is not None:
            try:
                self._upload.fields[self._name] = self._field.decode()
            except UnicodeDecodeError:
                raise Problem(
                    400, "invalid_multipart", f"the field {self._name!r} is not UTF-8"
                ) from None

    def _end_form(self) -> None:
        self._ended = True


def _read_filename(disposition: bytes, options: dict[bytes, bytes]) -> str | None:
    """Return the filename of a part: plain, or with its encoding (`filename*`, RFC 5987); None for
    a part without.
    """
    encoded = EXTENDED_FILENAME.search(disposition)
    if encoded is not None:
        charset, value = encoded[1].decode("latin-1"), encoded[2].decode("latin-1")
        try:
            return unquote(value, encoding=charset, errors="replace")
        except LookupError:  # an encoding that nobody knows
            return unquote(value, errors="replace")
    plain = options.get(b"filename")
    return None if plain is None else plain.decode("utf-8", "replace")


def _clean_filename(filename: str) -> str:
    """Return the last part of a client's path, without control characters."""
    last = re.split(r"[/\\]", filename)[-1]
    return "".join(character for character in last if character.isprintable())[:255]
