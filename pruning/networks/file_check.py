"""The check of a file of weights before it is sent: what it holds, and what takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pruning.errors import SecateurError
from pruning.networks.loading import build_outline, check_state, resolve
from pruning.networks.recognition import NEAREST, Candidate, find_weights, recognise
from pruning.networks.state_dicts import read_weights
from pruning.schemas.weights import StateDictEntry, Suggestion, WeightsReport
from pruning.storage.file_info import read_file_info

States = Mapping[str, Mapping[str, Tensor]]


def check_weights_file(
    path: Path, architecture: str | None = None, kwargs: Mapping[str, Any] | None = None
) -> WeightsReport:
    """The report on a file, with the same code by which the service takes it."""
    try:
        states = read_weights(path)
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
        for place, state in states.items()
    )
    info = read_file_info(path)
    name = architecture or info.architecture
    own_kwargs = (info.arguments or {}) if name == info.architecture else {}
    try:
        candidate, notes = find_weights(name, {**own_kwargs, **(kwargs or {})}, states)
        network = build_outline(resolve(candidate.architecture, candidate.kwargs))
        check_state(network.state_dict(), candidate.fitted.state)
    except SecateurError as error:
        return WeightsReport(
            usable=False,
            problem=error.message,
            state_dicts=entries,
            suggestions=_suggest_nearest(states),
        )
    return WeightsReport(
        usable=True,
        state_dicts=entries,
        notes=tuple(notes),
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
