"""Validation errors as JSON pointers into the body as the client sent it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import jsonschema
from jsonschema.exceptions import best_match
from pydantic import BaseModel, TypeAdapter, ValidationError

from api.errors import Fault, Problem, build_problem

Document = TypeVar("Document", bound=BaseModel)
KIND_ERRORS = ("tuple_type", "list_type", "dict_type", "model_type", "model_attributes_type")
"""The errors of a value that is of another kind than a branch of a union expects."""
MOST_READ = 500
"""The number of a body's errors that are looked at; faults are few in what a person wrote."""


def build_pointer(*parts: str | int) -> str:
    """Return the JSON pointer (RFC 6901) of a place.

    >>> build_pointer("targets", "sparsity", 0)
    '/targets/sparsity/0'
    >>> build_pointer("a/b", "~")
    '/a~1b/~0'
    """
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def parse(model: type[Document], body: Any) -> Document:
    """Return the document, or raise a 422 that points at every fault."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _to_problem(list_faults(error, body)) from None


def parse_field(adapter: TypeAdapter[Any], value: Any, name: str) -> Any:
    """Return the value of a form field, or raise a 422 that points below `/name`."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise _to_problem(list_faults(error, value, build_pointer(name))) from None


def _to_problem(faults: list[Fault]) -> Problem:
    problem = build_problem(faults)
    problem.code = "invalid_request"
    return problem


def list_faults(error: ValidationError, body: Any, prefix: str = "") -> list[Fault]:
    """Return every fault once.

    Of a union, only the branch is reported that matches the kind of value that the client sent.
    pydantic counts the valid items of a list, so a list whose items are at fault may also count as
    too short; that is left out. Of very many faults the first are reported.
    """
    faults: list[tuple[Fault, bool]] = []
    for item in error.errors(include_url=False, include_input=False)[:MOST_READ]:
        parts, in_union = _locate(item["loc"], body, missing=item["type"] == "missing")
        place = prefix + build_pointer(*parts)
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ValidationError):
            faults += [(fault, False) for fault in list_faults(cause, body, place)]
            continue
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "value_error" and not parts:
            place += _find_named_field(message, body)
        is_other_branch = in_union and item["type"] in KIND_ERRORS
        faults.append((Fault(place, item["type"], message), is_other_branch))
    return _drop_consequences(faults)


def _find_named_field(message: str, body: Any) -> str:
    """Return the pointer to the field that a message begins with (`name: ...` or `outer.name:
    ...`), as far as the body has it.
    """
    name = re.match(r"([a-z_.]+): ", message)
    if name is None:
        return ""
    parts: list[str] = []
    for part in name[1].split("."):
        if not isinstance(body, dict) or part not in body:
            break
        parts.append(part)
        body = body[part]
    return build_pointer(*parts)


def _drop_consequences(faults: list[tuple[Fault, bool]]) -> list[Fault]:
    """Return the faults, each once, without those that only follow from a fault deeper inside.

    The second value says whether a fault is that of another branch of a union.
    """
    outside = {place for fault, _ in faults for place in _list_parents(fault.pointer)}
    real_places = {fault.pointer for fault, is_other_branch in faults if not is_other_branch}
    outside_real = {parent for place in real_places for parent in _list_parents(place)}
    kept = []
    for fault, is_other_branch in faults:
        if is_other_branch and fault.pointer in real_places | outside_real:
            continue
        if fault.code == "too_short" and fault.pointer in outside:
            continue
        kept.append(fault)
    return list(dict.fromkeys(kept))


def _list_parents(pointer: str) -> list[str]:
    """Return the pointers to what lies around a place.

    >>> _list_parents("/targets/sparsity/0")
    ['', '/targets', '/targets/sparsity']
    """
    parts = pointer.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _locate(
    loc: tuple[str | int, ...], body: Any, *, missing: bool
) -> tuple[list[str | int], bool]:
    """Return the parts of a pydantic location that exist in the body, and whether it named the
    branch of a union.
    """
    parts: list[str | int] = []
    in_union = False
    value = body
    for index, part in enumerate(loc):
        is_key = isinstance(value, dict) and part in value
        is_index = isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value)
        if is_key or is_index:
            value = value[part]
            parts.append(part)
        elif missing and index == len(loc) - 1:
            parts.append(part)
        else:  # pydantic inserts the name of the branch of a union
            in_union = True
    return parts, in_union


def list_schema_faults(
    schema: dict[str, Any], value: Any, prefix: str, code: str, *, complete: bool = True
) -> Iterable[Fault]:
    """Yield the faults of a value under a JSON schema.

    Without `complete`, missing properties are left out: other checks report them.
    """
    for violation in jsonschema.Draft202012Validator(schema).iter_errors(value):
        # Where a schema has alternatives, the nearest of them says best what is wrong.
        error = best_match([violation]) or violation
        place = prefix + build_pointer(*error.absolute_path)
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            known = sorted(error.schema.get("properties", {}))
            hint = f"known: {', '.join(known)}" if known else "there are none"
            for name in sorted(set(error.instance) - set(known)):
                message = f"unknown parameter {name!r}; {hint}"
                yield Fault(place + build_pointer(name), code, message)
        elif complete or error.validator != "required":
            yield Fault(place, code, error.message)
