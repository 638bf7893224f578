"""Which architecture a state dict belongs to, by its names and shapes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pruning.architectures import architectures
from pruning.errors import ModelError, SecateurError
from pruning.networks.loading import build_outline, expand_architecture, resolve
from pruning.networks.renaming import WRAPPERS
from pruning.networks.state_dicts import SHOWN, FittedState, fit_state

PROBES: Mapping[str, tuple[int, int]] = {"classes": (2, 3), "channels": (1, 2)}
"""Two values of each parameter that is read off shapes: what differs between them shows it."""
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


def recognise(states: Mapping[str, Mapping[str, Tensor]]) -> list[Candidate]:
    """The architectures that the state dicts of a file may belong to, the nearest first."""
    candidates: dict[str, Candidate] = {}
    for state in states.values():
        for name, kwargs in _suggest(state):
            candidate = _measure(name, kwargs, states)
            if candidate is not None:
                candidates.setdefault(candidate.describe(), candidate)
    return sorted(candidates.values(), key=lambda each: each.fitted.differences.count)


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


def _measure(
    name: str, kwargs: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]
) -> Candidate | None:
    """The architecture with what else follows from the shapes; None where there is no such one."""
    try:
        complete = infer_parameters(name, kwargs, states)
        outline = build_outline(resolve(name, complete))
    except SecateurError:
        return None
    return Candidate(name, complete, fit_state(outline.state_dict(), states))


def infer_parameters(
    name: str, kwargs: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Any]:
    """`kwargs` with what is not among them and follows from the shapes: classes, channels, and
    what the architecture itself reads off (`infer`).

    >>> import torch
    >>> weights = {"fc1.weight": torch.zeros(7, 784), "fc1.bias": torch.zeros(7)}
    >>> infer_parameters("mlp", {"hidden": []}, {"": weights})
    {'hidden': [], 'classes': 7}
    """
    architecture = architectures.get(name)
    fields = {field.name for field in dataclasses.fields(architecture)}  # type: ignore[arg-type]
    complete = dict(kwargs)
    for parameter, values in PROBES.items():
        if parameter in fields and parameter not in complete:
            size = _read_size(name, complete, parameter, values, states)
            if size is not None:
                complete[parameter] = size
    infer = getattr(architecture, "infer", None)
    if infer is not None:
        wanted = build_outline(resolve(name, complete)).state_dict()
        fitted = fit_state(wanted, states).state
        shapes = {key: tuple(tensor.shape) for key, tensor in fitted.items()}
        complete = infer(complete, shapes) | complete
    return complete


def _read_size(
    name: str,
    kwargs: Mapping[str, Any],
    parameter: str,
    values: Sequence[int],
    states: Mapping[str, Mapping[str, Tensor]],
) -> int | None:
    """The value of a parameter, from a tensor that has it as the length of an axis."""
    first, second = (
        build_outline(resolve(name, {**kwargs, parameter: value})).state_dict() for value in values
    )
    state = fit_state(first, states).state
    for key, tensor in first.items():
        lengths = list(zip(tensor.shape, second[key].shape, strict=True))
        axes = [axis for axis, pair in enumerate(lengths) if pair == tuple(values)]
        if axes and key in state and state[key].dim() == tensor.dim():
            return int(state[key].shape[axes[0]])
    return None


def choose_architecture(states: Mapping[str, Mapping[str, Tensor]]) -> Candidate:
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


def find_weights(
    name: str | None, kwargs: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]
) -> tuple[Candidate, list[str]]:
    """The architecture of a file's weights, given or recognised, with the weights that fit it, and
    notes.

    Raises `ModelError` where no architecture is given and not exactly one fits, and what `resolve`
    raises. That the weights fit is for `check_state` to say.
    """
    if name is None:
        candidate = choose_architecture(states)
        note = f"nobody gave the architecture; names and shapes are those of {candidate.describe()}"
        return candidate, [note, *candidate.fitted.notes]
    name, kwargs = expand_architecture(name, kwargs)
    complete = infer_parameters(name, kwargs, states)
    outline = build_outline(resolve(name, complete))
    candidate = Candidate(name, complete, fit_state(outline.state_dict(), states))
    notes = [
        f"{parameter} {value} was read off the weights"
        for parameter, value in complete.items()
        if parameter not in kwargs
    ]
    return candidate, [*notes, *candidate.fitted.notes]
