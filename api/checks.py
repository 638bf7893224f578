"""Checks of a job against the catalogue and the store, before anything is stored."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from sqlalchemy.orm import Session

from api.errors import Fault, Problem, build_problem
from api.http.pointers import build_pointer, list_schema_faults, parse
from pruning.schemas.evaluate import EvaluateSpec
from pruning.schemas.family import FamilySpec
from pruning.schemas.job import JobSpec
from pruning.schemas.recipe import Method
from pruning.schemas.training import Training
from tasks.store import assets
from tasks.store.errors import NotFoundError
from tasks.store.tables import Dataset, Model

Spec = JobSpec | FamilySpec | EvaluateSpec
SPECS: dict[str, type[JobSpec] | type[FamilySpec] | type[EvaluateSpec]] = {
    "prune": JobSpec,
    "family": FamilySpec,
    "evaluate": EvaluateSpec,
}


def parse_spec(body: Any) -> Spec:
    """Return the job of the body by its `type`, or raise a 422 that points at every fault."""
    kind = body.get("type", "prune") if isinstance(body, dict) else "prune"
    if not isinstance(kind, str) or kind not in SPECS:
        message = f"type {kind!r}; there are {', '.join(map(repr, SPECS))}"
        raise build_problem([Fault("/type", "unknown_type", message)])
    return parse(SPECS[kind], body)


def read_catalogue(session: Session) -> tuple[dict[str, Any], str]:
    """Return the catalogue and its digest; raise a 503 before a worker has published it."""
    catalogue = assets.read_catalogue(session)
    if catalogue is None:
        raise Problem(
            503,
            "catalogue_unpublished",
            "no worker has published its catalogue yet",
            headers={"Retry-After": "5"},
        )
    return catalogue


def check_methods(spec: Spec, catalogue: dict[str, Any]) -> None:
    """Raise a 422 with every unknown method and every parameter that does not validate."""
    faults: list[Fault] = []
    if not isinstance(spec, FamilySpec):
        for kind, section, place, method in _list_methods(spec):
            faults += _check_method(catalogue[section], kind, method, place)
    for place, name in _list_corruptions(spec):
        faults += check_name(catalogue["corruptions"], "corruption", name, place)
    if not isinstance(spec, EvaluateSpec) and spec.model.architecture is not None:
        faults += check_architecture(
            catalogue, spec.model.architecture, spec.model.kwargs, "/model", complete=False
        )
    if spec.dataset.builtin is not None:
        faults += check_name(
            catalogue["datasets"], "dataset", spec.dataset.builtin, "/dataset/builtin"
        )
    if faults:
        raise build_problem(faults)


def check_architecture(
    catalogue: dict[str, Any],
    name: str,
    kwargs: dict[str, Any],
    prefix: str = "",
    *,
    complete: bool = True,
) -> list[Fault]:
    """Return the faults of an architecture and its arguments.

    Without `complete`, missing arguments are no faults: the data may supply them.
    """
    faults = check_name(catalogue["architectures"], "architecture", name, f"{prefix}/architecture")
    if faults:
        return faults
    schema = _find_entry(catalogue["architectures"], name)["params"]
    return list(
        list_schema_faults(
            schema, kwargs, f"{prefix}/kwargs", "invalid_parameter", complete=complete
        )
    )


def expand_architecture(
    catalogue: dict[str, Any], name: str, kwargs: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the registered architecture and its arguments; a name that one of them has for its
    argument `name` (`resnet18` of `torchvision`) stands for both.
    """
    entries = catalogue["architectures"]
    if any(entry["name"] == name for entry in entries):
        return name, kwargs
    for entry in entries:
        names = entry["params"].get("properties", {}).get("name", {}).get("enum", ())
        if name in names and kwargs.get("name", name) == name:
            return entry["name"], {"name": name, **kwargs}
    return name, kwargs


def name_architecture(spec: Spec, catalogue: dict[str, Any]) -> Spec:
    """Return the job with the registered name of its network's architecture."""
    if not isinstance(spec, JobSpec):
        return spec
    model = spec.model
    if model.architecture is None:
        return spec
    name, kwargs = expand_architecture(catalogue, model.architecture, model.kwargs)
    if name == model.architecture:
        return spec
    named = model.model_copy(update={"architecture": name, "kwargs": kwargs})
    return spec.model_copy(update={"model": named})


def check_name(entries: list[dict[str, Any]], kind: str, name: str, place: str) -> list[Fault]:
    """Return a fault with the nearest known name when the name is unknown."""
    names = [entry["name"] for entry in entries]
    if name in names:
        return []
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
    return [Fault(place, f"unknown_{kind}", f"unknown {kind} {name!r}; {hint}")]


def _list_methods(spec: JobSpec | EvaluateSpec) -> Iterator[tuple[str, str, str, Method]]:
    """Yield kind, section of the catalogue, pointer and method of every method of the job."""
    if isinstance(spec, JobSpec):
        yield from _list_pruning_methods(spec)
    for index, method in enumerate(spec.recipe().named_evaluations):
        yield "evaluation", "evaluations", build_pointer("evaluations", index), method


def _list_pruning_methods(spec: JobSpec) -> Iterator[tuple[str, str, str, Method]]:
    """Yield the same of the methods that prune."""
    for index, method in enumerate(spec.recipe().criteria):
        place = (
            "/criterion"
            if isinstance(spec.criterion, Method)
            else build_pointer("criterion", index)
        )
        yield "criterion", "criteria", place, method
    if spec.allocation is not None:
        yield "allocation", "allocations", "/allocation", spec.allocation
    if spec.granularity is not None:
        yield "granularity", "granularities", "/granularity", spec.granularity
    if spec.sparsifier is not None:
        yield "sparsifier", "sparsifiers", "/sparsifier", spec.sparsifier
    yield "schedule", "schedules", "/schedule", spec.schedule


def _list_corruptions(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield pointer and name of every corruption that a training of the job draws from."""
    if isinstance(spec, EvaluateSpec):
        return
    trainings: list[tuple[str, Training | None]] = [("/model/train", spec.model.train)]
    if isinstance(spec, JobSpec):
        trainings.append(("/retrain", spec.retrain))
    for place, training in trainings:
        if training is None or training.corrupt is None:
            continue
        if "names" not in training.corrupt.model_fields_set:
            continue  # the default of the paper
        for index, name in enumerate(training.corrupt.names):
            yield f"{place}/corrupt/names/{index}", name


def _check_method(
    entries: list[dict[str, Any]], kind: str, method: Method, place: str
) -> Iterator[Fault]:
    unknown = check_name(entries, kind, method.name, f"{place}/name")
    if unknown:
        yield from unknown
    else:
        schema = _find_entry(entries, method.name)["params"]
        yield from list_schema_faults(schema, method.params, f"{place}/params", "invalid_parameter")


def _find_entry(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def find_inputs(session: Session, project: str, spec: Spec) -> tuple[Model | None, Dataset | None]:
    """Return the uploaded model and dataset of a job, once they are known to fit each other.

    Raises a 404 that points at an id which is not this project's, or a 422.
    """
    model_id = read_model_id(spec)
    model = None
    if model_id is not None:
        model = _find_whole_model(session, project, model_id, "/model/id")
    second_id = read_second_model_id(spec)
    if second_id is not None and model is not None:
        place = "/retrain/rewind/model/id"
        second = _find_whole_model(session, project, second_id, place)
        _check_same_network(model, second, read_catalogue(session)[0], place)
    dataset = None
    if spec.dataset.id is not None:
        dataset = _find_input(session, Dataset, project, spec.dataset.id, "/dataset/id")
        if not dataset.counts.get("train"):
            message = (
                f"dataset {dataset.id} has no training images: it can only be one of "
                "/dataset/shifted"
            )
            raise build_problem([Fault("/dataset/id", "no_training_images", message)])
    if model is not None and dataset is not None:
        _check_same_classes(model, dataset)
    return model, dataset


def find_backbone(session: Session, project: str, spec: Spec) -> Model | None:
    """Return the uploaded model that the network's backbone starts from; a 404 for another's id."""
    if not isinstance(spec, JobSpec) or spec.model.backbone is None:
        return None
    return _find_whole_model(session, project, spec.model.backbone, "/model/backbone")


def find_pruned_models(
    session: Session, project: str, spec: Spec, dense: Model | None
) -> list[Model]:
    """Return the uploaded models that a job judges, in its order; none for other jobs.

    Raises a 404 that points at an id which is not this project's, or a 422 for the dense model
    itself.
    """
    if not isinstance(spec, EvaluateSpec):
        return []
    rows = []
    for index, reference in enumerate(spec.pruned):
        place = build_pointer("pruned", index, "id")
        row = _find_input(session, Model, project, reference.id, place)
        if dense is not None and row.sha256 == dense.sha256 and row.modules == dense.modules:
            message = f"model {row.id} is the same file as the dense model {dense.id}"
            raise build_problem([Fault(place, "same_model", message)])
        rows.append(row)
    return rows


def _check_same_network(model: Model, rewind: Model, catalogue: dict[str, Any], place: str) -> None:
    defaults = _read_defaults(catalogue, model.architecture)
    same_arguments = defaults | rewind.kwargs == defaults | model.kwargs
    if rewind.architecture != model.architecture or not same_arguments:
        message = f"model {rewind.id} is another network than {model.id}"
        raise build_problem([Fault(place, "rewind_mismatch", message)])


def _read_defaults(catalogue: dict[str, Any], architecture: str) -> dict[str, Any]:
    """The defaults of an architecture's parameters: an upload from before a parameter was added
    does not name it.
    """
    entries = {entry["name"]: entry["params"] for entry in catalogue["architectures"]}
    properties = entries.get(architecture, {}).get("properties", {})
    return {name: schema["default"] for name, schema in properties.items() if "default" in schema}


def _check_same_classes(model: Model, dataset: Dataset) -> None:
    if model.classes is None or set(model.classes) == set(dataset.classes):
        return
    different = sorted(set(model.classes) ^ set(dataset.classes))
    names = ", ".join(map(repr, different[:5]))
    if len(different) > 5:
        names += " …"
    message = f"model and dataset do not have the same classes: {names}"
    raise build_problem([Fault("/dataset/id", "class_mismatch", message)])


def find_shifted_sets(session: Session, project: str, spec: Spec) -> list[Dataset]:
    """Return the uploaded datasets of shifted images, in the order of the job.

    Raises a 404 that points at an id which is not this project's.
    """
    return [
        _find_input(
            session,
            Dataset,
            project,
            reference.id,
            build_pointer("dataset", "shifted", index, "id"),
        )
        for index, reference in enumerate(spec.dataset.shifted)
    ]


def read_model_id(spec: Spec) -> str | None:
    """Return the id of the model that a job starts from, if it was uploaded."""
    return None if isinstance(spec, FamilySpec) else spec.model.id


def read_second_model_id(spec: Spec) -> str | None:
    """Return the id of the other model that a job reads, if there is one: the weights that it
    rewinds to, or the backbone that its network starts from.
    """
    if not isinstance(spec, JobSpec):
        return None
    if spec.model.backbone is not None:
        return spec.model.backbone
    if spec.retrain is None or spec.retrain.rewind is None:
        return None
    return spec.retrain.rewind.model["id"]


def _find_whole_model(session: Session, project: str, id: str, place: str) -> Model:
    """Return an uploaded model; refuse one that has lost channels."""
    row = _find_input(session, Model, project, id, place)
    if row.modules is None:
        return row
    message = (
        f"model {id} has lost channels (arch.json): it can be judged, as one of /pruned of a job "
        "of the type evaluate, and not be pruned or trained further"
    )
    raise build_problem([Fault(place, "cut_model", message)])


def _find_input(
    session: Session, kind: type[assets.Asset], project: str, id: str, place: str
) -> assets.Asset:
    try:
        row = assets.get(session, kind, project, id)
        if isinstance(row, Dataset) and row.state != "ready":
            raise _refuse_unfetched(row, place)
        return row
    except NotFoundError as error:
        raise Problem(
            404, "not_found", str(error), errors=[Fault(place, "not_found", str(error))]
        ) from None


def _refuse_unfetched(row: Dataset, place: str) -> Problem:
    """The refusal of a dataset that has not been fetched, or could not be."""
    reason = "" if row.failure is None else f": {row.failure['message']}"
    message = f"dataset {row.id} is {row.state}{reason}"
    return Problem(
        409, "dataset_not_ready", message, errors=[Fault(place, "dataset_not_ready", message)]
    )
