"""JSON bodies: limited in size while they arrive, then parsed strictly."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, NoReturn

from fastapi import Depends, Request

from api.access import Writer
from api.errors import Problem
from api.services import Services, ServicesDep

MAX_DEPTH = 32
MAX_VALUES = 50_000
"""The number of values in a body: checking them takes time, however short they are."""


async def receive_json(request: Request, services: ServicesDep, caller: Writer) -> Any:
    """Return the parsed body of a caller who may write."""
    return await read_json(request, services)


async def read_json(request: Request, services: Services) -> Any:
    """Return the parsed body: 413 above the limit, 415 for another type, 400 for invalid JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Problem(
            415, "unsupported_media_type", f"content type {kind!r}: send application/json"
        )
    limit = services.settings.max_json_bytes
    refuse_length(request, limit)
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise build_too_large_problem(limit)
        body += chunk
    return parse_json(bytes(body))


JsonBody = Annotated[Any, Depends(receive_json)]


def refuse_length(request: Request, limit: int) -> None:
    """Raise a 413 when the announced length is above the limit already."""
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise build_too_large_problem(limit)


def build_too_large_problem(limit: int) -> Problem:
    """Return the refusal of a body above the limit."""
    return Problem(413, "payload_too_large", f"the body is larger than {limit} bytes")


def parse_json(text: bytes | str) -> Any:
    """Parse strict JSON.

    It has no NaN, no number beyond a double, no NUL, no half of a surrogate pair, no key twice in
    one object, and no deep nesting.
    """
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_parse_finite,
            object_pairs_hook=_build_object,
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise Problem(400, "invalid_json", f"the body is not JSON: {reason}") from None
    _check_storable(value)
    return value


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if name in document:
            raise Problem(
                400, "invalid_json", f"the body has the key {name[:100]!r} twice in one object"
            )
        document[name] = value
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _parse_finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"number out of range: {text[:40]}")
    return value


def _check_storable(value: Any) -> None:
    """Refuse what JSON allows and the database cannot hold, and bodies of too many values."""
    level, depth, count = [value], 0, 0
    while level:
        count += len(level)
        if depth > MAX_DEPTH:
            raise Problem(400, "invalid_json", f"the body is nested deeper than {MAX_DEPTH} levels")
        if count > MAX_VALUES:
            raise Problem(400, "invalid_json", f"the body has more than {MAX_VALUES:,} values")
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, dict):
                for name in item:
                    _check_text(name)
                inner += item.values()
        level, depth = inner, depth + 1


def _check_text(text: str) -> None:
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Problem(400, "invalid_json", "a string holds U+0000 or half of a surrogate pair")
