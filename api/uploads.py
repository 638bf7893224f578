"""The way from a received form to a stored artifact and its row; a failure leaves nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import Request
from pydantic import TypeAdapter

from api.access import Writer
from api.errors import Fault, Problem, build_problem
from api.http.bodies import parse_json
from api.http.multipart import Upload, receive
from api.http.pointers import parse_field
from api.schemas.assets import Classes, Label, Normalize
from api.services import Services, ServicesDep
from pruning.schemas.preprocessing import GivenPreprocessing, keep_resizing
from pruning.schemas.published_preprocessing import translate_published
from pruning.schemas.unicode_names import compose
from tasks.store import assets
from tasks.store.errors import NotFoundError
from tasks.store.tables import Dataset, Model

PREFIX = "secateur-upload-"
STARTED = time.time()
NAME: TypeAdapter[str] = TypeAdapter(Label)
PREPROCESSING: TypeAdapter[GivenPreprocessing] = TypeAdapter(GivenPreprocessing)
PREPROCESSING_FIELD: dict[str, Any] = {
    "type": "string",
    "contentMediaType": "application/json",
    "description": "JSON object: resize, crop, interpolation, mean, std, each optional; or a "
    "pretrained_cfg of timm, or a preprocessor_config.json of transformers.",
}
"""The schema of the field `preprocessing` in the forms of models and datasets."""
NORMALIZE: TypeAdapter[Normalize] = TypeAdapter(Normalize)
CLASSES: TypeAdapter[list[str]] = TypeAdapter(Classes)
GREATEST_CONSTANT = 2.0
"""The largest mean or standard deviation of images scaled to 0..1 that is not taken for another
unit's; networks with constants of their own stay below."""


def receive_form(*names: str) -> Callable[..., AsyncIterator[Upload]]:
    """Return the dependency that receives a form with these fields beside `file`.

    The form's folder is removed at the end of the request.
    """

    async def receive_into_folder(
        request: Request, services: ServicesDep, caller: Writer
    ) -> AsyncIterator[Upload]:
        settings = services.settings
        if settings.work_dir is not None:
            settings.work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f"{PREFIX}{os.getpid()}-", dir=settings.work_dir
        ) as folder:
            yield await receive(
                request,
                Path(folder),
                names=frozenset(names),
                max_bytes=settings.max_upload_bytes,
                max_field_bytes=settings.max_json_bytes,
            )

    return receive_into_folder


def remove_abandoned(work_dir: Path | None) -> None:
    """Remove the upload folders of killed processes, which could not do so themselves."""
    for folder in Path(work_dir or tempfile.gettempdir()).glob(f"{PREFIX}*"):
        name = re.fullmatch(rf"{PREFIX}(\d{{1,9}})-.+", folder.name)
        if name and _is_abandoned(folder, int(name[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path, pid: int) -> bool:
    try:
        if pid == os.getpid():  # in a container the API has the same id after every start
            return folder.stat().st_mtime < STARTED
        os.kill(pid, 0)
    except (ProcessLookupError, FileNotFoundError):
        return True
    except PermissionError:  # the process of another user
        return False
    return False


def check_digest(upload: Upload) -> None:
    """Raise a 422 when the client's `sha256` is not that of the bytes received."""
    announced = upload.fields.get("sha256")
    if announced is None:
        return
    if not re.fullmatch(r"[0-9a-fA-F]{64}", announced):
        raise build_problem([Fault("/sha256", "invalid_sha256", "sha256: 64 hexadecimal digits")])
    if announced.lower() != upload.sha256:
        message = f"the {upload.size_bytes} bytes received have the sha256 {upload.sha256}"
        raise build_problem([Fault("/sha256", "checksum_mismatch", message)])


def read_name(upload: Upload) -> str:
    """Return the name in the form, or else the file's."""
    name: str = parse_field(NAME, upload.fields.get("name", upload.filename), "name")
    return name


def read_normalize(upload: Upload) -> dict[str, Any] | None:
    """Return the constants of normalisation, validated; None when the form has none."""
    value = read_json_field(upload, "normalize")
    if value is None:
        return None
    normalize: Normalize = parse_field(NORMALIZE, value, "normalize")
    refuse_grey_levels(normalize.mean, normalize.std, "normalize")
    return normalize.model_dump()


def refuse_grey_levels(mean: Sequence[float], std: Sequence[float], field: str) -> None:
    """Raise a 422 for constants in grey levels (0..255), which says them in the unit of 0..1.

    Images are scaled to 0..1: no mean of theirs is above 1, and no standard deviation above .5.
    """
    if max(*map(abs, mean), *std) <= GREATEST_CONSTANT:
        return
    proposal = {
        name: [float(f"{value / 255:.4g}") for value in values]
        for name, values in (("mean", mean), ("std", std))
    }
    constant = "mean" if max(map(abs, mean)) > GREATEST_CONSTANT else "std"
    message = (
        "mean and std are of images scaled to 0..1; these look like those of grey levels 0..255: "
        f"send {json.dumps(proposal)}"
    )
    raise build_problem([Fault(f"/{field}/{constant}", "grey_levels", message)])


def read_classes(upload: Upload) -> list[str] | None:
    """Return the names of the classes in the form, all different; None when the form has none."""
    value = read_json_field(upload, "classes")
    if value is None:
        return None
    classes: list[str] = [compose(name) for name in parse_field(CLASSES, value, "classes")]
    if len(set(classes)) != len(classes):
        raise build_problem([Fault("/classes", "duplicate", "a class is listed twice")])
    return classes


def read_preprocessing(
    upload: Upload, normalize: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the constants and the resizing in the form, each None where the form has none.

    `normalize` are the constants of the field of that name, which may not be given twice.
    """
    value = read_json_field(upload, "preprocessing")
    if value is None:
        return normalize, None
    try:
        value = translate_published(value)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        message = f"not a preprocessing of timm or transformers that can be read: {error}"
        raise build_problem([Fault("/preprocessing", "invalid", message)]) from None
    given: GivenPreprocessing = parse_field(PREPROCESSING, value, "preprocessing")
    constants = given.constants
    if constants is not None:
        if normalize is not None:
            message = "mean and std are given twice, here and in normalize"
            raise build_problem([Fault("/preprocessing/mean", "conflict", message)])
        refuse_grey_levels(constants["mean"], constants["std"], "preprocessing")
        normalize = {name: list(values) for name, values in constants.items()}
    return normalize, keep_resizing(given.resizing, "given")


def read_json_field(upload: Upload, name: str) -> Any:
    """Return the value of a form field that holds JSON; None when it is absent."""
    text = upload.fields.get(name)
    if text is None:
        return None
    try:
        return parse_json(text)
    except Problem as problem:
        detail = problem.detail.replace("the body", f"the field {name!r}")
        raise build_problem([Fault(f"/{name}", "invalid_json", detail)]) from None


def store_upload(services: Services, row: assets.Asset, source: Path) -> None:
    """Store the file and its row; remove the file again when the row cannot be written."""
    try:
        services.artifacts.put(row.artifact, source)
        with services.store.write() as session:
            assets.add(session, row)
    except BaseException:
        services.artifacts.delete(_find_folder(row))
        raise


def remove(services: Services, kind: type[assets.Asset], project: str, id: str) -> None:
    """Delete an asset of this project: its row, then its files.

    Raises a 404 when there is none, and a 409 while a job that has not ended uses it.
    """
    with services.store.write() as session:
        row = session.get(kind, id, with_for_update=True)
        if row is None or row.project != project:
            raise NotFoundError(kind.NOUN, id)
        assets.remove(session, row)
    services.artifacts.delete(_find_folder(row))


def _find_folder(row: Model | Dataset) -> str:
    return row.artifact.rpartition("/")[0]
