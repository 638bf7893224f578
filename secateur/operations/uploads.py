"""Models and datasets: upload, list, get, delete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar

from secateur.answers import Answer
from secateur.flow import Digest, Flow, Pack, Request, Stream, call, route
from secateur.operations.paging import pages
from secateur.wire import Dataset, LayerTable, Model

A = TypeVar("A", bound=Answer)
Normalize = Mapping[str, Sequence[float]]
UPLOAD_TIMEOUT_S = 600.0


def upload_model(  # noqa: PLR0913 - the fields of the form, by keyword
    file: str | PathLike[str],
    architecture: str | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    name: str | None = None,
    normalize: Normalize | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    arch: str | PathLike[str] | None = None,
) -> Flow[Model]:
    """Upload a state dict of a registered architecture, streamed from disk, or a folder as
    transformers saves it.

    A checkpoint of this service and such a folder say themselves what their architecture is.
    `preprocessing` has `resize`, `crop`, `interpolation`, `mean` and `std`, or is a
    `pretrained_cfg` of timm or a `preprocessor_config.json` of transformers. `arch` is the
    `arch.json` of a checkpoint that has lost channels.
    """
    form = {} if architecture is None else {"architecture": architecture}
    if kwargs is not None:
        form["kwargs"] = json.dumps(dict(kwargs))
    if classes is not None:
        form["classes"] = json.dumps(list(classes))
    if arch is not None:
        form["arch"] = Path(arch).read_text(encoding="utf-8")
    _add_preprocessing(form, normalize, preprocessing)
    return (yield from _upload_path("models", Model, path=Path(file), form=form, name=name))


def upload_dataset(
    file: str | PathLike[str],
    *,
    name: str | None = None,
    normalize: Normalize | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> Flow[Dataset]:
    """Upload a dataset, streamed from disk: a folder or a zip in ImageFolder layout or of images/
    and masks/, npz or safetensors.

    A folder is packed into a temporary zip first. `classes` names numbered classes, in the order of
    the labels.
    """
    form = {} if classes is None else {"classes": json.dumps(list(classes))}
    _add_preprocessing(form, normalize, preprocessing)
    return (yield from _upload_path("datasets", Dataset, path=Path(file), form=form, name=name))


def fetch_dataset(
    url: str,
    sha256: str,
    *,
    name: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> Flow[Dataset]:
    """Have the service fetch a dataset from `https://…` or `s3://…`.

    `sha256` is the digest of the file. The `state` of the dataset is `fetching` until it can be
    used; `get` shows it.
    """
    given = {"name": name, "preprocessing": preprocessing, "classes": classes}
    body: dict[str, Any] = {"url": url, "sha256": sha256}
    body |= {field: value for field, value in given.items() if value is not None}
    request = Request(method="POST", path="/v1/datasets/fetch", json=body, retry="unsent")
    return (yield from call(request)).parse(Dataset)


def list_models(*, limit: int | None = None) -> Stream[Model]:
    """Yield every uploaded model, fetched `limit` at a time."""
    return (yield from pages("/v1/models", Model, {"limit": limit}))


def list_datasets(*, limit: int | None = None) -> Stream[Dataset]:
    """Yield every uploaded dataset, fetched `limit` at a time."""
    return (yield from pages("/v1/datasets", Dataset, {"limit": limit}))


def get_model(model_id: str) -> Flow[Model]:
    """Return an uploaded model."""
    return (yield from call(Request(method="GET", path=route("v1", "models", model_id)))).parse(
        Model
    )


def list_layers(model_id: str) -> Flow[LayerTable]:
    """Return the layers of a model: what can be pruned or why not, and which channels are
    coupled.
    """
    request = Request(method="GET", path=route("v1", "models", model_id, "layers"))
    return (yield from call(request)).parse(LayerTable)


def get_dataset(dataset_id: str) -> Flow[Dataset]:
    """Return an uploaded dataset."""
    return (yield from call(Request(method="GET", path=route("v1", "datasets", dataset_id)))).parse(
        Dataset
    )


def delete_model(model_id: str) -> Flow[None]:
    """Delete a model; raises `ApiError` 409 while a live job uses it."""
    yield from call(Request(method="DELETE", path=route("v1", "models", model_id)))


def delete_dataset(dataset_id: str) -> Flow[None]:
    """Delete a dataset; raises `ApiError` 409 while a live job uses it."""
    yield from call(Request(method="DELETE", path=route("v1", "datasets", dataset_id)))


def _add_preprocessing(
    form: dict[str, str], normalize: Normalize | None, preprocessing: Mapping[str, Any] | None
) -> None:
    """Add the fields that say how images are preprocessed to a form."""
    if normalize is not None:
        form["normalize"] = json.dumps({key: list(values) for key, values in normalize.items()})
    if preprocessing is not None:
        form["preprocessing"] = json.dumps(dict(preprocessing))


def _upload_path(
    kind: Literal["models", "datasets"],
    answer: type[A],
    *,
    path: Path,
    form: dict[str, str],
    name: str | None,
) -> Flow[A]:
    """Upload a file, or a folder as a zip that is removed afterwards."""
    packed: Path | None = None
    if path.is_dir():
        packed = yield Pack(path, "model" if kind == "models" else "dataset")
    try:
        return (yield from _upload(kind, answer, file=packed or path, form=form, name=name))
    finally:
        if packed is not None:
            shutil.rmtree(packed.parent, ignore_errors=True)


def _upload(
    kind: str,
    answer: type[A],
    *,
    file: Path,
    form: dict[str, str],
    name: str | None,
) -> Flow[A]:
    if name is not None:
        form["name"] = name
    form["sha256"] = yield Digest(file)
    request = Request(
        method="POST",
        path=route("v1", kind),
        form=form,
        file=file,
        retry="unsent",
        timeout_s=UPLOAD_TIMEOUT_S,
    )
    return (yield from call(request)).parse(answer)
