"""The description `arch.json` of a network with channels removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pruning.channels.compaction import (
    build_compact,
    describe_widths,
    load_compact,
    rebuild_,
)
from pruning.errors import (
    CheckpointError,
    ModelError,
)
from pruning.masks import (
    apply_masks_,
)
from pruning.networks.loading import load_model
from tests.support.channel_nets import (
    build,
    images,
    pruned,
    select,
)


def document(model: nn.Module, **kwargs: Any) -> dict[str, Any]:
    return {
        "format": "arch",
        "version": 1,
        "architecture": "cifar_resnet",
        "kwargs": kwargs,
        "modules": describe_widths(model),
    }


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_description_rebuilds_the_very_network(shortcut: str, tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {
        "depth": 8,
        "width": 0.5,
        "shortcut": shortcut,
        "channels": 2,
        "classes": 3,
    }
    model = load_model("cifar_resnet", **kwargs)
    masks = select(model, (2, 8, 8), 0.4).masks
    apply_masks_(model, masks)
    small = build_compact(model, masks, (2, 8, 8))
    arch, state = tmp_path / "arch.json", tmp_path / "state.safetensors"
    arch.write_text(json.dumps(document(small, **kwargs)))
    save_file(small.state_dict(), state)
    x = images((2, 8, 8)).float()
    for weights in (state, small.state_dict()):
        again = load_compact(arch, weights)
        assert not again.training
        assert torch.equal(again(x), small(x))
        assert describe_widths(again) == describe_widths(small)
    with pytest.raises(ModelError, match="the architecture needs"):
        load_compact(arch, model.state_dict())


@pytest.mark.parametrize("net", ["grouped", "whole_groups", "separable", "concatenated"])
def test_descriptions_cover_every_kind_of_layer(net: str) -> None:
    model, masks, shape = pruned(net)
    small = build_compact(model, masks, shape)
    again = rebuild_(build(net)[0], json.loads(json.dumps(describe_widths(small))))
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(images(shape)), small(images(shape)))


def test_a_description_of_the_full_network_cuts_nothing() -> None:
    model, _ = build("resnet_a")
    before = model.state_dict()
    after = rebuild_(model, describe_widths(model)).state_dict()
    assert all(
        after[name] is not None and torch.equal(after[name], value)
        for name, value in before.items()
    )


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing layer": (
        lambda d: d["modules"].pop("linear"),
        "another network: it lists .* layers.*linear",
    ),
    "unknown layer": (
        lambda d: d["modules"].update(extra=d["modules"]["linear"]),
        "another network.*extra",
    ),
    "too wide": (
        lambda d: d["modules"]["conv1"].update(outputs=1000),
        "conv1: .* is not a part of",
    ),
    "too many inputs": (
        lambda d: d["modules"]["conv1"].update(inputs=3),
        "conv1: .* is not a part of",
    ),
    "no width": (lambda d: d["modules"]["conv1"].update(outputs=0), "conv1"),
    "no number": (lambda d: d["modules"]["conv1"].update(outputs="many"), "conv1"),
    "groups": (lambda d: d["modules"]["conv1"].update(groups=2), "conv1: .* is not a part of"),
    "uneven norm": (lambda d: d["modules"]["bn1"].update(inputs=1), "bn1: .* is not a part of"),
    "other kind": (
        lambda d: d["modules"].update(conv1={"type": "map", "inputs": 1, "sources": [0]}),
        "conv1: .* is not a part of",
    ),
    "source": (
        lambda d: d["modules"]["layer2.0.shortcut"].update(sources=[99]),
        r"layer2\.0\.shortcut: .* is not a part of",
    ),
    "below": (lambda d: d["modules"]["layer2.0.shortcut"].update(sources=[-2]), "shortcut"),
    "version": (lambda d: d.update(version=2), "version"),
    "format": (lambda d: d.update(format="sparse"), "format"),
    "stranger": (lambda d: d.update(more=1), "more"),
    "no modules": (lambda d: d.pop("modules"), "modules"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_descriptions_that_do_not_fit_are_refused(fault: str, tmp_path: Path) -> None:
    model, _ = build("resnet_a")
    kwargs = {"depth": 8, "width": 0.5, "channels": 2, "classes": 3}
    spoiled = json.loads(json.dumps(document(model, **kwargs)))
    spoil, message = BROKEN[fault]
    spoil(spoiled)
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(spoiled))
    with pytest.raises(CheckpointError, match=message):
        load_compact(arch, model.state_dict())


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\xff", "[" * 100_000])
def test_a_file_that_is_no_description_is_refused(text: str, tmp_path: Path) -> None:
    arch = tmp_path / "arch.json"
    arch.write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"arch\.json"):
        load_compact(arch, {})
