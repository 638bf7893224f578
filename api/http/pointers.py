"""Validation errors as JSON pointers into the body as the client sent it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import jsonschema
from jsonschema.exceptions import best_match
from pydantic import BaseModel, TypeAdapter, ValidationError

from api.errors import Fault, Problem, build_problem

M = TypeVar("M", bound=BaseModel)
KIND_ERRORS = ("tuple_type", "list_type", "dict_type", "model_type", "model_attributes_type")


def build_pointer(*parts: str | int) -> str:
    """RFC 6901.

    >>> pointer("targets", "sparsity", 0)
    '/targets/sparsity/0'
    >>> pointer("a/b", "~")
    '/a~1b/~0'
    """
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def parse(model: type[M], body: Any) -> M:
    """The document, or a 422 that points at every fault."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _to_problem(list_faults(error, body)) from None


def parse_field(adapter: TypeAdapter[Any], value: Any, name: str) -> Any:
    """The value of one form field, or a 422 that points below `/name`."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise _to_problem(list_faults(error, value, build_pointer(name))) from None


def _to_problem(found: list[Fault]) -> Problem:
    problem = build_problem(found)
    problem.code = "invalid_request"
    return problem


def list_faults(error: ValidationError, body: Any, prefix: str = "") -> list[Fault]:
    """Every fault once: of a union, the branch that matches the kind of value the client sent.

    A list whose items are at fault counts as too short as well, since pydantic counts the valid
    ones: that says nothing.
    """
    found: list[tuple[Fault, bool]] = []
    for item in error.errors(include_url=False, include_input=False):
        parts, tagged = _locate(item["loc"], body, missing=item["type"] == "missing")
        here = prefix + build_pointer(*parts)
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ValidationError):
            found += [(fault, False) for fault in list_faults(cause, body, here)]
            continue
        message = item["msg"].removeprefix("Value error, ")
        named = re.match(r"([a-z_]+): ", message)
        if (
            item["type"] == "value_error"
            and not parts
            and named
            and isinstance(body, dict)
            and named[1] in body
        ):
            here += build_pointer(named[1])
        found.append((Fault(here, item["type"], message), tagged and item["type"] in KIND_ERRORS))
    deeper = [fault.pointer for fault, kind in found if not kind]
    kept = [
        fault
        for fault, kind in found
        if not (kind and any(other.startswith(fault.pointer) for other in deeper))
        and not (
            fault.code == "too_short"
            and any(other.pointer.startswith(f"{fault.pointer}/") for other, _ in found)
        )
    ]
    return list(dict.fromkeys(kept))


def _locate(
    loc: tuple[str | int, ...], body: Any, *, missing: bool
) -> tuple[list[str | int], bool]:
    """The parts of a pydantic location that exist in the body, and whether it named a union's
    branch.
    """
    parts: list[str | int] = []
    tagged = False
    here = body
    for index, part in enumerate(loc):
        inside = (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and 0 <= part < len(here)
        )
        if inside:
            here = here[part]
            parts.append(part)
        elif missing and index == len(loc) - 1:
            parts.append(part)
        else:
            tagged = True
    return parts, tagged


def list_schema_faults(
    schema: dict[str, Any], value: Any, prefix: str, code: str, *, complete: bool = True
) -> Iterable[Fault]:
    """Where the value departs from a JSON schema; without `complete`, missing properties are left
    to others.
    """
    for found in jsonschema.Draft202012Validator(schema).iter_errors(value):
        error = best_match([found]) or found  # of alternatives, what is wrong in the nearest
        here = prefix + build_pointer(*error.absolute_path)
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            known = sorted(error.schema.get("properties", {}))
            hint = f"known: {', '.join(known)}" if known else "there are none"
            for name in sorted(set(error.instance) - set(known)):
                yield Fault(here + build_pointer(name), code, f"unknown parameter {name!r}; {hint}")
        elif error.validator == "required":
            if complete:
                yield Fault(here, code, error.message)
        else:
            yield Fault(here, code, error.message)
