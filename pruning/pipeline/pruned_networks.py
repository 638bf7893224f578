"""Networks that were pruned elsewhere: built as their uploads say, and checked to fit beside the
dense network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pruning.channels.compaction import build_cut
from pruning.data.preprocessing import ChosenPreprocessing
from pruning.errors import ModelError, SecateurError
from pruning.networks.loading import (
    check_fits,
    read_parameters,
    read_state,
    resolve,
)
from pruning.pipeline.judging import PrunedNetwork
from pruning.schemas.evaluate import EvaluateSpec
from pruning.types import Architecture, Task


def find_pruned_network(
    name: str,
    described: Mapping[str, Any],
    dense: Architecture,
    *,
    shape: Sequence[int],
    classes: Sequence[str],
    path: Path,
) -> PrunedNetwork:
    """The network of an upload: `described` has its `architecture`, `kwargs`, and as `modules` the
    widths of an `arch.json` where it came with one; `path` is the file of its weights.
    """
    architecture = resolve(
        described["architecture"], described["kwargs"], shape=shape, classes=len(classes)
    )
    modules = described.get("modules")
    parameters = read_parameters(architecture)
    same = type(architecture) is type(dense) and parameters == read_parameters(dense)
    return PrunedNetwork(
        name=name,
        build=partial(build_cut, architecture, modules),
        load=partial(read_state, path),
        architecture=described["architecture"],
        kwargs=parameters,
        is_other=modules is not None or not same,
        has_arch=modules is not None,
    )


def check_pruned_networks(
    spec: EvaluateSpec,
    pruned: Sequence[Mapping[str, Any]],
    dense: Mapping[str, Any],
    *,
    preprocessing: ChosenPreprocessing,
    classes: Sequence[str],
    task: Task,
) -> None:
    """Raise a `SecateurError` that points at the pruned network that does not fit.

    `pruned` and `dense` are what the store knows of their uploads, `preprocessing` is that of the
    job, `classes` are the dataset's in the order of the dense network's outputs.
    """
    given = (spec.model.preprocessing, spec.dataset.preprocessing)
    constants_given = any(document is not None and document.constants for document in given)
    for index, (name, described) in enumerate(zip(spec.names, pruned, strict=True)):
        pointer = f"/pruned/{index}/id"
        shape = preprocessing.shape
        try:
            architecture = resolve(
                described["architecture"], described["kwargs"], shape=shape, classes=len(classes)
            )
            check_fits(architecture, shape, classes, task)
        except SecateurError as error:
            raise type(error)(f"{name}: {error.message}", pointer=pointer) from None
        reason = _find_difference(described, dense, classes)
        if reason is None and not constants_given:
            reason = _compare_constants(described, preprocessing)
        if reason is not None:
            raise ModelError(f"{name}: {reason}", pointer=pointer)


def _find_difference(
    described: Mapping[str, Any], dense: Mapping[str, Any], classes: Sequence[str]
) -> str | None:
    """Why a network cannot be one that was pruned from the dense one; None where it may be."""
    own = described.get("classes")
    if own is not None and list(own) != list(classes):
        order = "in another order" if sorted(own) == sorted(classes) else "others"
        return (
            f"its classes are {order} than those of the dense network; upload it with the same "
            "`classes`"
        )
    for count, noun in (("parameters", "parameters"), ("prunable", "prunable weights")):
        if described[count] > dense[count]:
            return (
                f"it has {described[count]:,} {noun}, more than the {dense[count]:,} of the dense "
                "network: it was not pruned from it"
            )
    return None


def _compare_constants(
    described: Mapping[str, Any], preprocessing: ChosenPreprocessing
) -> str | None:
    """Why the images of the job are not normalised as those of a network's upload; None where they
    are, or where its upload says nothing.
    """
    own, chosen = described.get("normalize"), preprocessing.constants
    if own is None or chosen is None:
        return None
    for name in ("mean", "std"):
        pairs = zip(own[name], chosen[name], strict=True)
        if not all(math.isclose(first, second, rel_tol=1e-6) for first, second in pairs):
            return (
                f"its upload normalises images with {name} {list(own[name])}, the dense network's "
                f"with {list(chosen[name])}; upload both alike, or give model.preprocessing"
            )
    return None
