"""The helper process: it checks uploads, estimates jobs and lists the methods.

It reads one request from stdin and writes one answer to stdout.
"""

from __future__ import annotations

import errno
import inspect
import json
import resource
import sys
from pathlib import Path
from typing import Any

from pruning.errors import SecateurError
from pruning.registry import Registry
from tasks.helper import TORCH_FREE


def check_model(payload: dict[str, Any]) -> dict[str, Any]:
    """Check that a state dict fits its architecture, and count its parameters and its zeros.

    A file of this service says itself what it is; the payload goes first. The text of an
    `arch.json` (`arch`) says it of a network that has lost channels. Without an architecture the
    only one that fits is taken. Weights that are not stored in the file as the network has them
    are written to `output` (`rewritten`), each change with a note.
    """
    from pruning.channels.cut_uploads import find_cut_weights
    from pruning.masks import count_parameters, find_prunable
    from pruning.networks.loading import build_outline, check_state, read_parameters, resolve
    from pruning.networks.published import read_published_preprocessing
    from pruning.networks.recognition import find_weights
    from pruning.networks.state_dicts import is_stored, write_weights
    from pruning.networks.uploads import read_upload

    path = Path(payload["path"])
    output = Path(payload.get("output") or path.with_name("rewritten"))
    upload = read_upload(path, output.parent, payload.get("max_bytes"))
    modules = None
    if payload.get("arch") is not None:
        cut = find_cut_weights(
            payload["arch"], payload["architecture"], payload["kwargs"], upload.states
        )
        kind, architecture, modules = cut.name, cut.architecture, cut.modules
        model, fitted, notes = cut.network, cut.fitted, list(cut.fitted.notes)
    else:
        name = payload["architecture"] or upload.architecture
        kwargs = upload.merge_kwargs(name, payload["kwargs"])
        candidate, notes = find_weights(name, kwargs, upload.states)
        kind, fitted = candidate.architecture, candidate.fitted
        architecture = resolve(kind, candidate.kwargs)
        model = build_outline(architecture)
    state = fitted.state
    check_state(model.state_dict(), state)
    rewritten = not is_stored(path, state, upload.states)
    if rewritten:
        write_weights(output, state)
    prunable = find_prunable(model)
    zeros = {name: int((state[name] == 0).sum()) for name in prunable}
    return {
        "parameters": count_parameters(model),
        "prunable": sum(weight.numel() for weight in prunable.values()),
        "zeros": {name: count for name, count in zeros.items() if count},
        "architecture": kind,
        "modules": modules,
        "notes": [*upload.notes, *notes],
        "rewritten": rewritten,
        "normalize": None,
        **read_published_preprocessing(architecture),
        **upload.known,
        "classes": upload.classes,
        "kwargs": read_parameters(architecture),
        "outputs": architecture.outputs,
        "channels": architecture.input_shape[0],
    }


def list_layers(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the layers of a network: what can be pruned, and which channels are coupled."""
    from pruning.channels.layer_table import tabulate_layers
    from pruning.networks.loading import resolve

    architecture = resolve(payload["architecture"], payload["kwargs"])
    return tabulate_layers(architecture, payload.get("modules")).model_dump(mode="json")


def check_dataset(payload: dict[str, Any]) -> dict[str, Any]:
    """Decode a dataset once and write its tensors to `output`. Runs without torch."""
    from pruning.data import uploads

    arrays = uploads.read_dataset(
        Path(payload["path"]),
        payload["filename"],
        payload["max_values"],
        tuple(payload.get("classes") or ()),
        scratch=Path(payload["output"]).parent,
    )
    arrays.save(Path(payload["output"]))
    return uploads.describe_dataset(arrays)


def estimate(payload: dict[str, Any]) -> dict[str, Any]:
    """Return what a job with its replicates, or a family, will cost; check that model, data and
    targets fit together.
    """
    if payload["spec"]["type"] == "family":
        from tasks.processes.estimates import estimate_family

        return estimate_family(payload)
    from tasks.processes.estimates import estimate_replicates

    return estimate_replicates(payload)


def build_catalogue(payload: dict[str, Any]) -> dict[str, Any]:
    """Return every registered method, by kind.

    An architecture that has families says under `family` what depth and width mean; criteria and
    evaluations say under `segmentation` whether they support it.
    """
    from pruning.allocations import allocations
    from pruning.architectures import architectures
    from pruning.criteria import criteria
    from pruning.data.builtin import datasets
    from pruning.data.corruptions import corruptions
    from pruning.evaluations import evaluations
    from pruning.granularities import granularities
    from pruning.schedules import schedules
    from pruning.sparsifiers import sparsifiers

    return {
        "criteria": _mark_segmentation(criteria, default=True),
        "allocations": allocations.catalogue(),
        "granularities": granularities.catalogue(),
        "sparsifiers": sparsifiers.catalogue(),
        "schedules": schedules.catalogue(),
        "evaluations": _mark_segmentation(evaluations, default=False),
        "architectures": [_add_family(entry) for entry in architectures.catalogue()],
        "datasets": datasets.catalogue(),
        "corruptions": corruptions.catalogue(),
    }


def _mark_segmentation(registry: Registry[Any], *, default: bool) -> list[dict[str, Any]]:
    """Return the entries of a registry, each with whether the method supports segmentation."""
    return [
        entry
        | {"segmentation": getattr(registry.get(entry["name"]), "supports_segmentation", default)}
        for entry in registry.catalogue()
    ]


def _add_family(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an architecture's entry with what depth and width of a family mean, if it has any."""
    from pruning.family.sizes import find_member_method

    method = find_member_method(entry["name"])
    if method is None:
        return entry
    return entry | {"family": inspect.getdoc(method)}


VERBS = {
    "model": check_model,
    "layers": list_layers,
    "dataset": check_dataset,
    "estimate": estimate,
    "catalogue": build_catalogue,
}


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    limit = request["memory_limit_bytes"]
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    verb = sys.argv[1]
    try:
        if verb not in TORCH_FREE:
            _use_single_thread()
        reply = {"result": VERBS[verb](request["payload"])}
    except SecateurError as error:
        reply = _refuse(error.code, error.message, error.pointer)
    except MemoryError:
        reply = _refuse("too_large", "reading this takes more memory than allowed")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        reply = _refuse("disk_full", "no space is left to decode this")
    sys.stdout.write(json.dumps(reply) + "\n")


def _use_single_thread() -> None:
    """Leave the other cores to jobs: what a helper computes is small."""
    import torch

    torch.set_num_threads(1)


def _refuse(code: str, message: str, pointer: str | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "pointer": pointer}}


if __name__ == "__main__":
    main()
