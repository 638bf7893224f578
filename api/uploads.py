"""From a received form to a stored artifact and its row, or to nothing at all."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import Request
from pydantic import TypeAdapter

from api.bodies import loads
from api.deps import Writer
from api.errors import Fault, Problem, invalid
from api.multipart import Upload, receive
from api.pointers import parse_field
from api.schemas.assets import Label, Normalize
from api.services import Services, ServicesDep

NAME: TypeAdapter[str] = TypeAdapter(Label)
NORMALIZE: TypeAdapter[Normalize] = TypeAdapter(Normalize)


def form(*names: str) -> Callable[..., AsyncIterator[Upload]]:
    """The dependency that receives a form with these fields beside `file`; its folder goes with the request."""
    async def received(request: Request, services: ServicesDep, caller: Writer) -> AsyncIterator[Upload]:
        settings = services.settings
        if settings.work_dir is not None:
            settings.work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="secateur-upload-", dir=settings.work_dir) as folder:
            yield await receive(request, Path(folder), frozenset(names), settings.max_upload_bytes,
                                settings.max_json_bytes)

    return received


def check_digest(upload: Upload) -> None:
    """422 when the client's `sha256` is not that of the bytes received."""
    given = upload.fields.get("sha256")
    if given is None:
        return
    if not re.fullmatch(r"[0-9a-fA-F]{64}", given):
        raise invalid([Fault("/sha256", "invalid_sha256", "sha256: 64 hexadecimal digits")])
    if given.lower() != upload.sha256:
        raise invalid([Fault("/sha256", "checksum_mismatch",
                             f"the {upload.size_bytes} bytes received have the sha256 {upload.sha256}")])


def name_of(upload: Upload) -> str:
    """The name given, or the file's."""
    name: str = parse_field(NAME, upload.fields.get("name", upload.filename), "name")
    return name


def normalize_of(upload: Upload) -> dict[str, Any] | None:
    """The constants of normalisation, validated."""
    value = json_field(upload, "normalize")
    return None if value is None else parse_field(NORMALIZE, value, "normalize").model_dump()


def json_field(upload: Upload, name: str) -> Any:
    """A form field that holds JSON; None when it is absent."""
    text = upload.fields.get(name)
    if text is None:
        return None
    try:
        return loads(text)
    except Problem as problem:
        detail = problem.detail.replace("the body", f"the field {name!r}")
        raise invalid([Fault(f"/{name}", "invalid_json", detail)]) from None


@contextmanager
def stored(services: Services, key: str, source: Path) -> Iterator[None]:
    """Put the file under `key`; take it away again when the row cannot be written."""
    try:
        services.artifacts.put(key, source)
        yield
    except BaseException:
        services.artifacts.delete(key.rsplit("/", 1)[0])
        raise
