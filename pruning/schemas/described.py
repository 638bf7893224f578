"""Stored documents on the wire: described by a schema, and sent as they were stored."""

from __future__ import annotations

from typing import Any

from pydantic import GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class DescribedBy:
    """Annotates a stored object with the type that describes it.

    The OpenAPI document has the schema of that type. The object itself is sent as it was stored and
    is not validated again: it was when it was written, and one of an earlier version may lack
    fields. A field that may be null has a type that may be None: pydantic repeats a lone model in
    the place of a reference to it.
    """

    def __init__(self, described_type: Any) -> None:
        self.described_type = described_type

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(TypeAdapter(self.described_type).core_schema)
