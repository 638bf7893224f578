"""The helper process: checks uploads, estimates jobs, lists the methods. One request on stdin, one answer on stdout."""

from __future__ import annotations

import errno
import inspect
import json
import resource
import sys
from pathlib import Path
from typing import Any

from pruning.errors import SecateurError


def check_model(payload: dict[str, Any]) -> dict[str, Any]:
    """Whether a state dict fits its architecture; counts its parameters."""
    from pruning.masks import parameter_count, prunable
    from pruning.networks import check_state, parameters_of, read_state, resolve

    architecture = resolve(payload["architecture"], payload["kwargs"])
    model = _outline(architecture)
    check_state(model.state_dict(), read_state(Path(payload["path"])))
    return {"parameters": parameter_count(model),
            "prunable": sum(w.numel() for w in prunable(model).values()), "kwargs": parameters_of(architecture),
            "outputs": architecture.outputs, "channels": architecture.input_shape[0]}


def check_dataset(payload: dict[str, Any]) -> dict[str, Any]:
    """Decode a dataset once and write its tensors to `output`. Runs without torch."""
    from pruning.data import uploads

    arrays = uploads.read(Path(payload["path"]), payload["filename"], payload["max_values"])
    arrays.save(Path(payload["output"]))
    return {"classes": list(arrays.classes), "shape": list(arrays.shape), "counts": arrays.counts, "task": arrays.task,
            "notes": list(arrays.notes)}


def estimate(payload: dict[str, Any]) -> dict[str, Any]:
    """What a job will do, and whether model, data and targets fit each other."""
    from pruning.data.builtin import datasets
    from pruning.data.shifted import check_alike, sizes
    from pruning.errors import DataError
    from pruning.evaluations import evaluations
    from pruning.masks import prunable
    from pruning.measure import traced
    from pruning.networks import check_fits, parameters_of, resolve
    from pruning.plan import cautions, split_sizes
    from pruning.plan import estimate as plan
    from pruning.rehearsal import rehearse
    from pruning.scale import Scale, evaluation_units
    from pruning.schemas.job import JobSpec
    from pruning.trial import check_task

    if payload["spec"]["type"] == "family":
        from tasks.family_estimate import estimate_family

        return estimate_family(payload)
    spec = JobSpec.model_validate(payload["spec"])
    dataset = payload["dataset"]
    if dataset is None:
        assert spec.dataset.builtin is not None
        arrays = datasets.create(spec.dataset.builtin).load()
        dataset = {"classes": arrays.classes, "shape": arrays.shape, "counts": arrays.counts, "task": arrays.task}
    shape = (int(dataset["shape"][0]), int(dataset["shape"][1]), int(dataset["shape"][2]))
    model = payload["model"] or {"architecture": spec.model.architecture, "kwargs": spec.model.kwargs}
    architecture = resolve(model["architecture"], model["kwargs"], shape=shape, classes=len(dataset["classes"]))
    check_fits(architecture, shape, dataset["classes"], dataset["task"])
    for index, (one, known) in enumerate(zip(spec.dataset.shifted, payload["shifted"], strict=True)):
        pointer = f"/dataset/shifted/{index}/id"
        if known["task"] != dataset["task"]:
            raise DataError(f"the shifted set {one.name!r} is for {known['task']}, the dataset for {dataset['task']}",
                            pointer=pointer)
        check_alike(one.name, known["shape"], known["classes"], known["counts"], shape, dataset["classes"], pointer=pointer)
    network, recipe = _outline(architecture).eval(), spec.recipe()
    forward, kept = traced(model["architecture"], json.dumps(parameters_of(architecture), sort_keys=True), shape)
    for index, method in enumerate(recipe.evaluations or ()):
        check_task(evaluations.get(method.name), method.name, segmentation=dataset["task"] == "segmentation",
                   pointer=f"/evaluations/{index}")
    images = split_sizes(recipe, dataset["counts"])
    work = evaluation_units(Scale(recipe, images, shape, max(1, forward // 2), {
        one.name: sizes(known["counts"]) for one, known in zip(spec.dataset.shifted, payload["shifted"], strict=True)},
        dataset["task"] == "segmentation"))
    found = plan(recipe, dataset["counts"], parameters=sum(p.numel() for p in network.parameters()),
                 prunable=[tuple(w.shape) for w in prunable(network, recipe.exclude).values()],
                 forward_flops=forward, activations=kept, classes=len(dataset["classes"]), evaluations=work)
    return found | {"warnings": cautions(recipe) + rehearse(_built(architecture, network), recipe, shape)}


def _outline(architecture: Any) -> Any:
    """The network without its numbers: shapes alone, however large they are."""
    import torch

    with torch.device("meta"):
        return architecture.build()


def _built(architecture: Any, outline: Any) -> Any:
    """The network with its numbers, where they are few enough to be rehearsed; else the outline."""
    from pruning.rehearsal import LARGEST

    return architecture.build() if sum(p.numel() for p in outline.parameters()) <= LARGEST else outline


def catalogue(payload: dict[str, Any]) -> dict[str, Any]:
    """Every registered method, by kind; an architecture that has families says what depth and width are."""
    from pruning.allocations import allocations
    from pruning.architectures import architectures
    from pruning.criteria import criteria
    from pruning.data.builtin import datasets
    from pruning.data.corruptions import corruptions
    from pruning.evaluations import evaluations
    from pruning.family.sizes import member_of
    from pruning.granularities import granularities
    from pruning.schedules import schedules
    from pruning.sparsifiers import sparsifiers

    return {"criteria": criteria.catalogue(), "allocations": allocations.catalogue(),
            "granularities": granularities.catalogue(),
            "sparsifiers": sparsifiers.catalogue(), "schedules": schedules.catalogue(),
            "evaluations": evaluations.catalogue(), "architectures": [
                entry | ({"family": inspect.getdoc(scaled)} if (scaled := member_of(entry["name"])) is not None else {})
                for entry in architectures.catalogue()],
            "datasets": datasets.catalogue(), "corruptions": corruptions.catalogue()}


VERBS = {"model": check_model, "dataset": check_dataset, "estimate": estimate, "catalogue": catalogue}


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    limit = request["memory_limit_bytes"]
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        reply = {"result": VERBS[sys.argv[1]](request["payload"])}
    except SecateurError as error:
        reply = {"error": {"code": error.code, "message": error.message, "pointer": error.pointer}}
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        code, message = ("too_large", "reading this takes more memory than allowed") if isinstance(error, MemoryError) \
            else ("disk_full", "no space is left to decode this")
        reply = {"error": {"code": code, "message": message, "pointer": None}}
    sys.stdout.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
