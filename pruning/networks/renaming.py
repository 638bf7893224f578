"""Names of tensors in state dicts as they were saved, turned into those of a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that wrappers put in: DataParallel, torch.compile, FSDP, checkpointing."""
AUXILIARY = ("aux_classifier.", "AuxLogits.", "aux1.", "aux2.")
"""Beginnings of the names of heads that help in training alone, which a network may lack."""
COUNTERS = ("total_ops", "total_params", "n_averaged", "_extra_state")
"""Last parts of the names of tensors that tools leave in a state dict."""
OLD_NAMES: tuple[tuple[str, str], ...] = (
    (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
    (r"\.mlp\.linear_1\.", r".mlp.0."),
    (r"\.mlp\.linear_2\.", r".mlp.3."),
    (r"\.gamma$", r".weight"),
    (r"\.beta$", r".bias"),
    (r"(^|\.)last_linear\.", r"\1fc."),
    (r"(^|\.)last_linear\.", r"\1classifier."),
    (r"(^|\.)fc\.", r"\1linear."),
    (r"(^|\.)linear\.", r"\1fc."),
    (r"(^|\.)shortcut\.", r"\1downsample."),
    (r"(^|\.)downsample\.", r"\1shortcut."),
)
"""Names of earlier releases and of other repositories, and their names of today.

DenseNet before torchvision 0.2, its vision transformers before 0.13, LayerNorm as TensorFlow names
it, the classifier of Cadene's pretrained-models.pytorch, heads and shortcuts of ResNets for CIFAR.
"""


def fold_reparametrised(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict with one tensor for each weight that is stored in parts.

    torch.nn.utils.prune stores w as `w_orig` and `w_mask`, whose product it is; weight
    normalisation as `w_g` and `w_v`, with w = g v / |v| over all dimensions in which g has size 1.

    >>> state, notes = fold_reparametrised(
    ...     {"w_orig": torch.tensor([1.0, 2.0]), "w_mask": torch.tensor([0.0, 1.0])}
    ... )
    >>> state, len(notes)
    ({'w': tensor([0., 2.])}, 1)
    """
    folded = dict(state)
    pruned = normalised = 0
    for name in state:
        stem = name.removesuffix("_orig")
        if stem != name and f"{stem}_mask" in state:
            mask = folded.pop(f"{stem}_mask") != 0
            folded[stem] = folded.pop(name).masked_fill(~mask, 0)
            pruned += 1
        for direction, size in (("_v", "_g"), ("original1", "original0")):
            stem = name.removesuffix(direction)
            if stem == name or f"{stem}{size}" not in state:
                continue
            weight = _normalise_weight(folded.pop(name), folded.pop(f"{stem}{size}"))
            folded[stem.replace("parametrizations.", "").removesuffix(".")] = weight
            normalised += 1
    notes = []
    if pruned:
        notes.append(
            f"{pruned} weights of torch.nn.utils.prune were multiplied by their masks: what these "
            "prune is zero"
        )
    if normalised:
        notes.append(f"{normalised} weights were put together from the parts of weight_norm")
    return folded, notes


def _normalise_weight(direction: Tensor, size: Tensor) -> Tensor:
    """The weight g v / |v| of weight normalisation."""
    axes = [axis for axis, length in enumerate(size.shape) if length == 1]
    norm: Tensor = torch.linalg.vector_norm(direction, dim=axes or None, keepdim=True)
    return direction * (size / norm)


def rename_to_fit(
    wanted: Collection[str], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict under the names of a network, where another name of a tensor is one of them.

    What has not the prefix that is taken off, heads for training alone that the network lacks, and
    what tools left are left out, each with a note. Names that fit stay.

    >>> state, notes = rename_to_fit({"fc.weight"}, {"module.fc.weight": torch.zeros(1)})
    >>> list(state), notes
    (['fc.weight'], ["'module.' was taken off 1 name"])
    """
    names = {
        name: name for name in state if name in wanted or name.rpartition(".")[2] not in COUNTERS
    }
    notes = [
        *_strip_wrappers(wanted, names),
        *_strip_prefix(wanted, names),
        *_replace_old_names(wanted, names),
        *_unwrap_head(wanted, names),
        *_leave_out(
            names,
            [
                name
                for name, new in names.items()
                if new not in wanted and new.startswith(AUXILIARY)
            ],
        ),
    ]
    return {new: state[name] for name, new in names.items()}, notes


def _leave_out(names: dict[str, str], left_out: Sequence[str]) -> list[str]:
    """Forget these tensors; returns a note where there are any."""
    for name in left_out:
        del names[name]
    if not left_out:
        return []
    others = f" and {len(left_out) - 1} more were" if len(left_out) > 1 else " was"
    return [f"{left_out[0]!r}{others} left out: the network has no such tensor"]


def _count_fitting(wanted: Collection[str], names: Iterable[str]) -> int:
    return sum(name in wanted for name in names)


def _rename(names: dict[str, str], wanted: Collection[str], new_names: Mapping[str, str]) -> int:
    """Rename what thereby becomes a name of the network that no other tensor has; returns how
    many.
    """
    taken = set(names.values())
    count = 0
    for name, new in new_names.items():
        if names[name] not in wanted and new in wanted and new not in taken:
            names[name] = new
            taken.add(new)
            count += 1
    return count


def _strip_wrappers(wanted: Collection[str], names: dict[str, str]) -> list[str]:
    """Take the parts of wrappers out of names, at their beginning and between."""
    new_names = {name: _drop_wrappers(current) for name, current in names.items()}
    changed = [name for name, new in new_names.items() if new != name and name not in wanted]
    before = _count_fitting(wanted, names.values())
    if not changed or _count_fitting(wanted, new_names.values()) <= before:
        return []
    taken = {new for name, new in new_names.items() if name not in changed}
    for name in changed:
        if new_names[name] not in taken:
            names[name] = new_names[name]
    parts = sorted({part for name in changed for part in name.split(".") if part in WRAPPERS})
    return [_describe_stripped(", ".join(f"{part + '.'!r}" for part in parts), len(changed))]


def _drop_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _describe_stripped(prefix: str, count: int) -> str:
    return f"{prefix} was taken off {count} name{'s' if count > 1 else ''}"


def _strip_prefix(wanted: Collection[str], names: dict[str, str]) -> list[str]:
    """Take off the beginning without which most names are those of the network."""
    prefixes: Counter[str] = Counter()
    plain = {name: _drop_wrappers(current) for name, current in names.items()}
    for current in plain.values():
        parts = current.split(".")
        for start in range(1, len(parts)):
            if ".".join(parts[start:]) in wanted:
                prefixes[".".join(parts[:start]) + "."] += 1
    if not prefixes:
        return []
    prefix, count = prefixes.most_common(1)[0]
    if count <= _count_fitting(wanted, names.values()):
        return []
    outside = []
    for name, current in plain.items():
        if current.startswith(prefix):
            names[name] = current.removeprefix(prefix)
        elif names[name] not in wanted:
            outside.append(name)
    first = next(name for name, new in names.items() if new in wanted and new != name)
    whole = first.removesuffix(names[first])  # with the parts of wrappers
    return [_describe_stripped(repr(whole), count), *_leave_out(names, outside)]


def _replace_old_names(wanted: Collection[str], names: dict[str, str]) -> list[str]:
    """Replace names of earlier releases and of other repositories."""
    count = 0
    example = ""
    for pattern, replacement in OLD_NAMES:
        new_names = {name: re.sub(pattern, replacement, current) for name, current in names.items()}
        changed = _rename(names, wanted, new_names)
        if changed and not example:
            first = next(name for name, new in new_names.items() if names[name] == new != name)
            example = f"{first!r} is {names[first]!r}"
        count += changed
    return [f"{count} names of other releases were replaced: {example}"] if count else []


def _unwrap_head(wanted: Collection[str], names: dict[str, str]) -> list[str]:
    """Take a linear layer out of the Sequential that was put in the place of a head."""
    numbers: dict[str, set[str]] = {}
    for current in names.values():
        match = re.fullmatch(r"(.+)\.(\d+)\.(weight|bias)", current)
        if match and current not in wanted and f"{match[1]}.weight" in wanted:
            numbers.setdefault(match[1], set()).add(match[2])
    notes = []
    for stem, layers in numbers.items():
        if len(layers) != 1:
            continue
        inner = f"{stem}.{next(iter(layers))}"
        new_names = {
            name: f"{stem}.{current.rpartition('.')[2]}"
            for name, current in names.items()
            if current.startswith(f"{inner}.")
        }
        if _rename(names, wanted, new_names):
            notes.append(
                f"the layer {inner} was taken as {stem}: what lies around it there (dropout, an "
                "activation) is not in the file"
            )
    return notes
