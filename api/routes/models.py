"""Uploaded networks."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool

from api.access import Id, Reader, Writer
from api.checks import check_architecture, expand_architecture
from api.errors import Fault, build_problem
from api.http.multipart import Upload
from api.http.pointers import parse_field
from api.schemas.assets import ModelPage, ModelView
from api.schemas.problem import describe_problems
from api.services import Services, ServicesDep
from api.uploads import (
    CLASSES,
    PREPROCESSING_FIELD,
    check_digest,
    read_classes,
    read_json_field,
    read_name,
    read_normalize,
    read_preprocessing,
    receive_form,
    remove,
    store_upload,
)
from pruning.schemas.layers import LayerTable
from tasks.store import assets, new_id
from tasks.store.tables import Model

router = APIRouter(prefix="/v1/models", tags=["models"])
KWARGS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
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
                            "description": (
                                "A state dict as safetensors, as a checkpoint of this service "
                                "(sparse, dense or compressed), or as torch.save writes it (.pt, "
                                ".pth, .bin), which is read with weights_only and kept as "
                                "safetensors. What wraps it, prefixes of names, masks of "
                                "torch.nn.utils.prune and names of earlier releases are "
                                "understood, and said in `warnings`. Or a zip of a folder as "
                                "transformers saves it (config.json, model.safetensors, "
                                "preprocessor_config.json), which says itself what it is."
                            ),
                        },
                        "architecture": {
                            "type": "string",
                            "description": (
                                "A registered architecture, see /v1/methods, or the name of a "
                                "network of torchvision (resnet18). A checkpoint of this service "
                                "says itself what it is, and its arguments, classes and "
                                "normalisation; what the form says goes first. Where neither says "
                                "it, the only architecture that fits by names and shapes is taken."
                            ),
                        },
                        "kwargs": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": (
                                "JSON object: arguments of the architecture. The number of "
                                "classes is read off the weights where it is not given."
                            ),
                        },
                        "arch": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": (
                                "The arch.json of a checkpoint that has lost channels, which says "
                                "how wide each layer is. Such a network can be judged "
                                "(`evaluate`), not pruned."
                            ),
                        },
                        "name": {"type": "string", "maxLength": 255},
                        "sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
                        "preprocessing": PREPROCESSING_FIELD,
                        "normalize": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": "JSON object: mean and std of each channel.",
                        },
                        "classes": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": "JSON list: the classes in the order of the outputs.",
                        },
                    },
                }
            }
        },
    }
}
ModelForm = Annotated[
    Upload,
    Depends(
        receive_form(
            "architecture",
            "kwargs",
            "arch",
            "name",
            "sha256",
            "normalize",
            "preprocessing",
            "classes",
        )
    ),
]


@router.post(
    "",
    operation_id="create_model",
    summary="Upload a network",
    status_code=201,
    openapi_extra=FORM,
    responses=describe_problems(400, 413, 415, 422, 500, 503, 507),
)
async def create_model(
    response: Response, services: ServicesDep, caller: Writer, upload: ModelForm
) -> ModelView:
    """Check a state dict against its architecture and store it; one that does not fit leaves
    nothing behind.
    """
    check_digest(upload)
    architecture = upload.fields.get("architecture") or None
    kwargs = parse_field(KWARGS, read_json_field(upload, "kwargs") or {}, "kwargs")
    name = read_name(upload)
    normalize, resizing = read_preprocessing(upload, read_normalize(upload))
    classes = read_classes(upload)
    if architecture is not None:
        architecture, kwargs = await run_in_threadpool(
            _check_architecture, services, architecture, kwargs
        )
    converted = upload.path.with_name("state.safetensors")
    network = await services.helpers.ask(
        "model",
        {
            "path": str(upload.path),
            "filename": upload.filename,
            "architecture": architecture,
            "kwargs": kwargs,
            "arch": upload.fields.get("arch"),
            "normalize": normalize,
            "classes": classes,
            "output": str(converted),
            "max_bytes": services.settings.max_upload_bytes,
        },
        base="/kwargs",
        subject="/file",
    )
    architecture = architecture or network.get("architecture")
    if architecture is None:
        message = "the form has no field 'architecture', and the file does not say"
        raise build_problem([Fault("/architecture", "missing", message)])
    source = "given"
    if normalize is None and network.get("normalize") is not None:
        normalize, source = network["normalize"], network.get("source", "model")
    if classes is None and network.get("classes") is not None:
        classes = parse_field(CLASSES, network["classes"], "file")
    _check_sizes(network, normalize, classes)
    id = new_id("mdl")
    row = Model(
        id=id,
        project=caller.project,
        name=name,
        architecture=architecture,
        kwargs=network["kwargs"],
        normalize=normalize,
        classes=classes,
        sha256=upload.sha256,
        size_bytes=upload.size_bytes,
        parameters=network["parameters"],
        prunable=network["prunable"],
        source=source,
        preprocessing=resizing or network.get("preprocessing"),
        zeros=network.get("zeros"),
        modules=network.get("modules"),
        notes=network.get("notes", []),
        artifact=f"models/{id}/state.safetensors",
    )
    file = converted if network.get("rewritten") else upload.path
    await run_in_threadpool(store_upload, services, row, file)
    response.headers["Location"] = f"/v1/models/{id}"
    return ModelView.from_row(row)


def _check_sizes(
    network: dict[str, Any], normalize: dict[str, Any] | None, classes: list[str] | None
) -> None:
    """Check that the constants fit the input channels, and the classes the outputs."""
    means = None if normalize is None else normalize["mean"]
    for place, values, size in (
        ("/normalize/mean", means, "channels"),
        ("/classes", classes, "outputs"),
    ):
        needed = network[size]
        if values is not None and needed is not None and len(values) != needed:
            message = f"{len(values)} values for {needed} {size}"
            raise build_problem([Fault(place, "wrong_length", message)])


def _check_architecture(
    services: Services, architecture: str, kwargs: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Check the architecture by the catalogue, if there is one, without starting a helper.

    Returns its registered name and its arguments.
    """
    with services.store.read() as session:
        catalogue = assets.read_catalogue(session)
    if catalogue is None:
        return architecture, kwargs
    document, _ = catalogue
    architecture, kwargs = expand_architecture(document, architecture, kwargs)
    faults = check_architecture(document, architecture, kwargs)
    if faults:
        raise build_problem(faults)
    return architecture, kwargs


@router.get(
    "", operation_id="list_models", summary="List networks", responses=describe_problems(400, 422)
)
def list_models(
    services: ServicesDep,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> ModelPage:
    """List the networks, newest first."""
    with services.store.read() as session:
        page = assets.read_page(session, Model, caller.project, limit=limit, cursor=cursor)
        return ModelPage(
            data=[ModelView.from_row(row) for row in page.data],
            has_more=page.next_cursor is not None,
            next_cursor=page.next_cursor,
        )


@router.get(
    "/{id}", operation_id="get_model", summary="Show a network", responses=describe_problems(404)
)
def get_model(id: Id, services: ServicesDep, caller: Reader) -> ModelView:
    """Show what is known of a network."""
    with services.store.read() as session:
        return ModelView.from_row(assets.get(session, Model, caller.project, id))


@router.get(
    "/{id}/layers",
    operation_id="list_layers",
    summary="Show the layers of a network",
    responses=describe_problems(404, 422, 500, 503),
)
async def list_layers(id: Id, services: ServicesDep, caller: Reader) -> LayerTable:
    """Show every parameter of a network, whether it can be pruned or why not, and which channels
    are coupled, so that they can only be removed together.
    """
    row = await run_in_threadpool(_read_model, services, caller.project, id)
    answer = await services.helpers.list_layers(row.architecture, row.kwargs, row.modules)
    table = LayerTable.model_validate(answer)
    zeros = row.zeros or {}
    layers = tuple(
        layer.model_copy(update={"zeros": zeros.get(layer.name, 0)}) for layer in table.layers
    )
    return table.model_copy(update={"layers": layers})


def _read_model(services: Services, project: str, id: str) -> Model:
    with services.store.read() as session:
        return assets.get(session, Model, project, id)


@router.delete(
    "/{id}",
    operation_id="delete_model",
    summary="Delete a network",
    status_code=204,
    responses=describe_problems(404, 409),
)
def delete_model(id: Id, services: ServicesDep, caller: Writer) -> None:
    """Delete the network and its file; 409 while a live job uses it."""
    remove(services, Model, caller.project, id)
