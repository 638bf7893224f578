"""The check of a file of weights before it is sent: what it holds, and what takes it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pruning.errors import SecateurError
from pruning.networks.loading import build_outline, check_state, resolve
from pruning.networks.recognition import NEAREST, Candidate, find_weights, recognise
from pruning.networks.uploads import read_upload
from pruning.schemas.weights import StateDictEntry, Suggestion, WeightsReport

States = Mapping[str, Mapping[str, Tensor]]


def check_weights_file(
    path: Path, architecture: str | None = None, kwargs: Mapping[str, Any] | None = None
) -> WeightsReport:
    """The report on a file or a Hugging Face folder, read with the service's own code."""
    try:
        with tempfile.TemporaryDirectory(prefix="secateur-check-") as scratch:
            upload = read_upload(path, Path(scratch))
    except SecateurError as error:
        return WeightsReport(usable=False, problem=error.message)
    except MemoryError:
        return WeightsReport(usable=False, problem="reading this takes more memory than there is")
    entries = tuple(
        StateDictEntry(
            place=place,
            tensors=len(state),
            values=sum(tensor.numel() for tensor in state.values()),
        )
        for place, state in upload.states.items()
    )
    name = architecture or upload.architecture
    try:
        candidate, notes = find_weights(name, upload.merge_kwargs(name, kwargs), upload.states)
        network = build_outline(resolve(candidate.architecture, candidate.kwargs))
        check_state(network.state_dict(), candidate.fitted.state)
    except SecateurError as error:
        return WeightsReport(
            usable=False,
            problem=error.message,
            state_dicts=entries,
            suggestions=_suggest_nearest(upload.states),
        )
    return WeightsReport(
        usable=True,
        state_dicts=entries,
        notes=(*upload.notes, *notes),
        suggestions=(_describe(candidate),),
    )


def _suggest_nearest(states: States) -> tuple[Suggestion, ...]:
    """The architectures that fit, or else the nearest."""
    candidates = recognise(states)
    exact = [candidate for candidate in candidates if candidate.exact]
    return tuple(_describe(candidate) for candidate in exact or candidates[:NEAREST])


def _describe(candidate: Candidate) -> Suggestion:
    return Suggestion(
        architecture=candidate.architecture,
        kwargs=candidate.kwargs,
        exact=candidate.exact,
        differences=candidate.describe_differences(),
    )
