"""Which architecture a state dict belongs to, by its names and shapes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from pruning.architectures import architectures
from pruning.errors import MissingPackageError, ModelError, SecateurError
from pruning.networks.loading import build_outline, expand_architecture, resolve
from pruning.networks.renaming import WRAPPERS
from pruning.networks.state_dicts import SHOWN, FittedState, fit_state

States: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""The state dicts of a file, by their places."""
PROBES: Mapping[str, int] = {"classes": 251, "channels": 241}
"""A value of each parameter that is read off shapes: primes, which no width of a layer has."""
PREFIXES = ("model.", "net.", "network.", "backbone.", "encoder.", "model.net.", "model.model.")
"""Beginnings of names that are taken off before shapes are looked at, if they are there."""
NEAREST = 3
"""The number of architectures that are named where none fits."""


@dataclass(frozen=True)
class Candidate:
    """An architecture with its parameters, and how far a state dict is from it."""

    architecture: str
    kwargs: dict[str, Any]
    fitted: FittedState

    @property
    def exact(self) -> bool:
        """Whether every name and every shape is that of the network."""
        return not self.fitted.differences.count

    def describe(self) -> str:
        """The architecture and its parameters, as they are given to the service."""
        return f"{self.architecture} {json.dumps(self.kwargs)}"

    def describe_differences(self) -> str:
        """The first names that differ, by kind."""
        differences = self.fitted.differences
        kinds = {
            "missing": differences.missing,
            "unexpected": differences.unexpected,
            "of another shape": differences.other_shape,
        }
        parts = []
        for kind, names in kinds.items():
            ellipsis = " ..." if len(names) > SHOWN else ""
            if names:
                parts.append(f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{ellipsis})")
        return "; ".join(parts) or "none"


def recognise(states: States) -> list[Candidate]:
    """The architectures that the state dicts of a file may belong to, the nearest first.

    Those that are `suggested_last` are looked at where no other fits. Raises `MissingPackageError`
    where one of them needs a package that is not installed.
    """
    suggested = {
        f"{name} {json.dumps(kwargs, sort_keys=True)}": (name, kwargs)
        for state in states.values()
        for name, kwargs in _suggest(state)
    }
    first = [option for option in suggested.values() if not _is_suggested_last(option[0])]
    last = [option for option in suggested.values() if _is_suggested_last(option[0])]
    measured = [_measure(name, kwargs, states) for name, kwargs in first]
    if not any(candidate is not None and candidate.exact for candidate in measured):
        measured += [_measure(name, kwargs, states) for name, kwargs in last]
    candidates = {
        candidate.describe(): candidate for candidate in measured if candidate is not None
    }
    return sorted(candidates.values(), key=lambda each: each.fitted.differences.count)


def _is_suggested_last(name: str) -> bool:
    return getattr(architectures.get(name), "suggested_last", False)


def _suggest(state: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The architectures that know a network of such shapes, with the parameters they read off."""
    for shapes in _list_spellings(state):
        for name in architectures.names():
            suggest = getattr(architectures.get(name), "suggest", None)
            if suggest is not None:
                for kwargs in suggest(shapes):
                    yield name, kwargs


def _list_spellings(state: Mapping[str, Tensor]) -> list[dict[str, tuple[int, ...]]]:
    """The shapes by name, without what wraps networks, and without each of the usual prefixes."""
    plain = {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): tuple(tensor.shape)
        for name, tensor in state.items()
    }
    spellings = [plain]
    for prefix in PREFIXES:
        inner = {
            name.removeprefix(prefix): shape
            for name, shape in plain.items()
            if name.startswith(prefix)
        }
        if inner:
            spellings.append(inner)
    return spellings


def _measure(name: str, kwargs: Mapping[str, Any], states: States) -> Candidate | None:
    """The architecture with what else follows from the shapes; None where there is no such one."""
    try:
        return complete_architecture(name, kwargs, states)
    except MissingPackageError:
        raise
    except SecateurError:
        return None


def complete_architecture(name: str, kwargs: Mapping[str, Any], states: States) -> Candidate:
    """An architecture with `kwargs` and what is not among them and follows from the shapes:
    classes, channels, and what the architecture itself reads off (`infer`).

    >>> import torch
    >>> weights = {"fc1.weight": torch.zeros(7, 784), "fc1.bias": torch.zeros(7)}
    >>> complete_architecture("mlp", {"hidden": []}, {"": weights}).kwargs
    {'hidden': [], 'classes': 7}
    """
    architecture = architectures.get(name)
    fields = {field.name for field in dataclasses.fields(architecture)}  # type: ignore[arg-type]
    probes = {key: value for key, value in PROBES.items() if key in fields and key not in kwargs}
    wanted = _outline_state(name, {**kwargs, **probes})
    state = fit_state(wanted, states).state
    sizes = {
        parameter: size
        for parameter, probe in probes.items()
        for size in [_read_size(wanted, state, probe)]
        if size is not None
    }
    complete = {**kwargs, **sizes}
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    infer = getattr(architecture, "infer", None)
    inferred = {} if infer is None else infer(complete, shapes)
    added = {key: value for key, value in inferred.items() if key not in complete}
    if added or len(sizes) < len(probes):
        wanted = _outline_state(name, {**complete, **added})
    else:
        wanted = _replace_sizes(wanted, {probes[key]: size for key, size in sizes.items()})
    return Candidate(name, {**complete, **added}, fit_state(wanted, states))


def _outline_state(name: str, kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    return dict(build_outline(resolve(name, kwargs)).state_dict())


def _read_size(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], probe: int) -> int | None:
    """The length in a state dict of the first axis that has the probe's length in the network."""
    for key, tensor in wanted.items():
        if probe in tensor.shape and key in state and state[key].dim() == tensor.dim():
            return int(state[key].shape[list(tensor.shape).index(probe)])
    return None


def _replace_sizes(wanted: Mapping[str, Tensor], sizes: Mapping[int, int]) -> dict[str, Tensor]:
    """The tensors of a network, with other lengths in place of those of the probes."""
    replaced = {}
    for key, tensor in wanted.items():
        shape = [sizes.get(length, length) for length in tensor.shape]
        replaced[key] = tensor.new_empty(shape) if shape != list(tensor.shape) else tensor
    return replaced


def choose_architecture(states: States) -> Candidate:
    """The only architecture that fits; `ModelError` with the candidates where there is not one."""
    candidates = recognise(states)
    exact = [candidate for candidate in candidates if candidate.exact]
    if len(exact) == 1:
        return exact[0]
    if exact:
        raise ModelError(
            "several architectures fit; give 'architecture' and 'kwargs' of one: "
            + "; ".join(candidate.describe() for candidate in exact),
            pointer="/architecture",
        )
    nearest = "; ".join(
        f"{candidate.describe()}: {candidate.describe_differences()}"
        for candidate in candidates[:NEAREST]
    )
    hint = f"; the nearest: {nearest}" if nearest else ""
    raise ModelError(
        f"no registered architecture has these names and shapes{hint}. Give 'architecture' and "
        "'kwargs', or register the network's own (see docs/plugins.md)",
        pointer="/architecture",
    )


def _complete_nearest(name: str, kwargs: Mapping[str, Any], states: States) -> Candidate:
    """The architecture with `kwargs`, and with what it suggests for those that are not given where
    this fits better than the defaults.
    """
    nearest = complete_architecture(name, kwargs, states)
    if nearest.exact:
        return nearest
    options = {
        json.dumps({**suggested, **kwargs}, sort_keys=True): {**suggested, **kwargs}
        for state in states.values()
        for other, suggested in _suggest(state)
        if other == name
    }
    for option in options.values():
        candidate = _measure(name, option, states) if option != kwargs else None
        if candidate is not None and (
            candidate.fitted.differences.count < nearest.fitted.differences.count
        ):
            nearest = candidate
    return nearest


def find_weights(
    name: str | None, kwargs: Mapping[str, Any], states: States
) -> tuple[Candidate, list[str]]:
    """The architecture of a file's weights, given or recognised, with the weights that fit it, and
    notes.

    Raises `ModelError` where no architecture is given and not exactly one fits, and what `resolve`
    raises. That the weights fit is for `check_state` to say.
    """
    if name is None:
        candidate = choose_architecture(states)
        note = f"nobody gave the architecture; names and shapes are those of {candidate.describe()}"
        return candidate, [note, *_list_guesses(candidate, {}), *candidate.fitted.notes]
    name, kwargs = expand_architecture(name, kwargs)
    candidate = _complete_nearest(name, kwargs, states)
    notes = [
        f"{parameter} {value} was read off the weights"
        for parameter, value in candidate.kwargs.items()
        if parameter not in kwargs
    ]
    return candidate, [*notes, *_list_guesses(candidate, kwargs), *candidate.fitted.notes]


def _list_guesses(candidate: Candidate, given: Mapping[str, Any]) -> list[str]:
    """Notes on parameters that change the network, are not in its weights and were not given."""
    architecture = resolve(candidate.architecture, candidate.kwargs)
    unread: Mapping[str, str] = getattr(architecture, "not_in_weights", {})
    return [
        f"{name} is not in the file: {text}" for name, text in unread.items() if name not in given
    ]
