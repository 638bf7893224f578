"""The description of the API (OpenAPI 3.1).

`python -m api.openapi` writes the committed copy; with `--check` it compares it instead.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.schemas.assets import NewKey, NewSource
from api.schemas.predictions import Question
from api.schemas.problem import ProblemDocument
from pruning.schemas.arch_file import ArchFile
from pruning.schemas.evaluate import EvaluateSpec
from pruning.schemas.family import FamilySpec
from pruning.schemas.job import JobSpec

COPY = Path(__file__).parent.parent / "docs" / "openapi.json"
PREFIX = "#/components/schemas/"
HEADER = {
    "X-Request-Id": {
        "description": "Quote it when you report a problem.",
        "schema": {"type": "string"},
    }
}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the document, with the schemas of the bodies that the routes parse themselves, and of
    the laws in the reports of families.
    """
    # The laws take scipy with them, which no request needs.
    from pruning.laws.dense import DenseLaw
    from pruning.laws.joint import JointLaw

    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    _, definitions = models_json_schema(
        [
            (JobSpec, "validation"),
            (FamilySpec, "validation"),
            (EvaluateSpec, "validation"),
            (NewKey, "validation"),
            (NewSource, "validation"),
            (Question, "validation"),
            (ProblemDocument, "serialization"),
            (ArchFile, "serialization"),
            # As they are read: laws of earlier versions lack what was added since.
            (JointLaw, "validation"),
            (DenseLaw, "validation"),
        ],
        ref_template=PREFIX + "{model}",
    )
    schemas = document["components"]["schemas"]
    schemas.update(definitions["$defs"])
    schemas["Problem"] = schemas.pop("ProblemDocument")
    for field, law in (("law", "JointLaw"), ("dense_law", "DenseLaw")):
        described = schemas["FamilyReport"]["properties"][field]
        described["anyOf"] = [{"$ref": PREFIX + law}, {"type": "null"}]
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    for path in document["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in json.dumps(operation["responses"].get("422", {})):
                del operation["responses"]["422"]
            for response in operation["responses"].values():
                response.setdefault("headers", {}).update(HEADER)
    _drop_unused_schemas(document)
    return document


def _drop_unused_schemas(document: dict[str, Any]) -> None:
    """Remove the schemas that nothing refers to."""
    schemas = document["components"]["schemas"]
    unused = set(schemas)
    while unused:
        text = json.dumps(document)
        unused = {name for name in schemas if f'"{PREFIX}{name}"' not in text}
        for name in unused:
            del schemas[name]


def render(app: FastAPI) -> str:
    """Return the document as the committed text."""
    return json.dumps(describe(app), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    from api.main import create_app

    current = render(create_app())
    if "--check" not in sys.argv[1:]:
        COPY.parent.mkdir(parents=True, exist_ok=True)
        COPY.write_text(current, encoding="utf-8")
    elif not COPY.is_file() or COPY.read_text(encoding="utf-8") != current:
        sys.exit(f"{COPY} is out of date; run: python -m api.openapi")
