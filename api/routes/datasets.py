"""Uploaded datasets."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from fastapi import APIRouter, Depends, Query, Response
from starlette.concurrency import run_in_threadpool

from api.access import Id, Reader, Writer
from api.errors import Fault, build_problem
from api.http.bodies import JsonBody
from api.http.multipart import Upload
from api.http.pointers import parse
from api.schemas.assets import DatasetPage, DatasetView, NewSource
from api.schemas.problem import describe_problems
from api.services import ServicesDep
from api.uploads import (
    PREPROCESSING_FIELD,
    check_digest,
    read_classes,
    read_name,
    read_normalize,
    read_preprocessing,
    receive_form,
    refuse_grey_levels,
    remove,
    store_upload,
)
from pruning.schemas.preprocessing import keep_resizing
from tasks.store import assets, new_id
from tasks.store.tables import Dataset

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "A zip in ImageFolder layout (train/<class>/*, "
                            "test/<class>/*; val/ alone counts as test/, and without splits a "
                            "fifth of each class is drawn), or of images/<split>/* with "
                            "masks/<split>/*.png for segmentation (the value of a pixel is its "
                            "class, 255 is ignored), or npz or "
                            "safetensors with train_x, train_y, test_x, test_y; or arrays of "
                            "images by shift with labels, as CIFAR-10-C. Columns that "
                            "group the test images: groups.csv in the zip of classes (path, "
                            "then a column each), or arrays test_group_<column>; images of "
                            "one value of the column cluster count once in tests.",
                        },
                        "name": {"type": "string", "maxLength": 255},
                        "sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
                        "preprocessing": PREPROCESSING_FIELD,
                        "normalize": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": "JSON object: mean and std of each channel, of "
                            "images scaled to 0..1.",
                        },
                        "classes": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": "JSON list: the names of numbered classes, in the "
                            "order of the labels, where the file does not name them.",
                        },
                    },
                }
            }
        },
    }
}
SOURCE = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/NewSource"},
                "example": {"url": "https://example.org/photos.zip", "sha256": 64 * "0"},
            }
        },
    }
}
DatasetForm = Annotated[
    Upload, Depends(receive_form("name", "sha256", "normalize", "preprocessing", "classes"))
]


@router.post(
    "",
    operation_id="create_dataset",
    summary="Upload a dataset",
    status_code=201,
    openapi_extra=FORM,
    responses=describe_problems(400, 413, 415, 422, 500, 503, 507),
)
async def create_dataset(
    response: Response, services: ServicesDep, caller: Writer, upload: DatasetForm
) -> DatasetView:
    """Decode images once and store the tensors; an unreadable file leaves nothing behind."""
    check_digest(upload)
    name = read_name(upload)
    normalize, resizing = read_preprocessing(upload, read_normalize(upload))
    classes = read_classes(upload)
    decoded = upload.path.with_name("data.safetensors")
    contents = await services.helpers.ask(
        "dataset",
        {
            "path": str(upload.path),
            "filename": upload.filename,
            "output": str(decoded),
            "max_values": services.settings.max_pixels,
            "classes": classes,
        },
        subject="/file",
        timeout_s=services.settings.decode_timeout_s,
    )
    _check_channels(normalize, contents["shape"][0])
    id = new_id("dst")
    row = Dataset(
        id=id,
        project=caller.project,
        name=name,
        sha256=upload.sha256,
        size_bytes=upload.size_bytes,
        classes=contents["classes"],
        shape=contents["shape"],
        counts=contents["counts"],
        sizes=contents.get("sizes"),
        normalize=normalize,
        preprocessing=resizing,
        task=contents["task"],
        notes=contents["notes"],
        groups=contents["groups"],
        guessing_error=contents.get("guessing_error"),
        artifact=f"datasets/{id}/data.safetensors",
    )
    await run_in_threadpool(store_upload, services, row, decoded)
    response.headers["Location"] = f"/v1/datasets/{id}"
    return DatasetView.from_row(row)


@router.post(
    "/fetch",
    operation_id="fetch_dataset",
    summary="Fetch a dataset by URL",
    status_code=202,
    openapi_extra=SOURCE,
    responses=describe_problems(400, 413, 415, 422),
)
def fetch_dataset(
    response: Response, services: ServicesDep, caller: Writer, body: JsonBody
) -> DatasetView:
    """Note a dataset that a worker fetches, checks against its digest, and decodes.

    Its `state` is `fetching` until it can be used. While its source does not answer it is tried
    again, and `error` says why the last try failed.
    """
    source = parse(NewSource, body)
    place = _check_url(source.url, private=services.settings.source_private)
    normalize = None if source.normalize is None else source.normalize.model_dump()
    resizing = None
    if source.preprocessing is not None:
        resizing = keep_resizing(source.preprocessing.resizing, "given")
        constants = source.preprocessing.constants
        if constants is not None:
            normalize = {name: list(values) for name, values in constants.items()}
    if normalize is not None:
        refuse_grey_levels(normalize["mean"], normalize["std"], "normalize")
    id = new_id("dst")
    row = Dataset(
        id=id,
        project=caller.project,
        name=source.name or place.path.rpartition("/")[2] or place.netloc,
        sha256=source.sha256.lower(),
        size_bytes=0,
        classes=[],
        shape=[],
        counts={},
        normalize=normalize,
        preprocessing=resizing,
        artifact=f"datasets/{id}/data.safetensors",
        state="fetching",
        source={"url": source.url, "classes": source.classes},
        due_at=0.0,
    )
    with services.store.write() as session:
        assets.add(session, row)
    response.headers["Location"] = f"/v1/datasets/{id}"
    return DatasetView.from_row(row)


def _check_url(url: str, *, private: bool) -> SplitResult:
    """Return the parts of a URL; raise a 422 for one that no worker would fetch."""
    schemes = ("https", "s3", "http") if private else ("https", "s3")
    try:
        place = urlsplit(url)
        valid = bool(place.hostname) and place.username is None and place.port != 0
    except ValueError:
        valid = False
    if not valid or place.scheme not in schemes or (place.scheme == "s3" and not place.path[1:]):
        message = "a URL https://host/path or s3://bucket/key, without a user"
        raise build_problem([Fault("/url", "invalid_url", message)])
    return place


def _check_channels(normalize: dict[str, Any] | None, channels: int) -> None:
    if normalize is not None and len(normalize["mean"]) != channels:
        message = f"{len(normalize['mean'])} values for images of {channels} channels"
        raise build_problem([Fault("/normalize/mean", "wrong_length", message)])


@router.get(
    "", operation_id="list_datasets", summary="List datasets", responses=describe_problems(400, 422)
)
def list_datasets(
    services: ServicesDep,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> DatasetPage:
    """List the datasets, newest first."""
    with services.store.read() as session:
        page = assets.read_page(session, Dataset, caller.project, limit=limit, cursor=cursor)
        return DatasetPage(
            data=[DatasetView.from_row(row) for row in page.data],
            has_more=page.next_cursor is not None,
            next_cursor=page.next_cursor,
        )


@router.get(
    "/{id}", operation_id="get_dataset", summary="Show a dataset", responses=describe_problems(404)
)
def get_dataset(id: Id, services: ServicesDep, caller: Reader) -> DatasetView:
    """Show what is known of a dataset."""
    with services.store.read() as session:
        return DatasetView.from_row(assets.get(session, Dataset, caller.project, id))


@router.delete(
    "/{id}",
    operation_id="delete_dataset",
    summary="Delete a dataset",
    status_code=204,
    responses=describe_problems(404, 409),
)
def delete_dataset(id: Id, services: ServicesDep, caller: Writer) -> None:
    """Delete the dataset and its tensors; 409 while a live job uses it."""
    remove(services, Dataset, caller.project, id)
