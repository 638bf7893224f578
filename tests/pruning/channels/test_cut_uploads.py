"""Networks that have lost channels, as they are uploaded: a state dict and its `arch.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruning.channels.compaction import build_compact, build_cut, read_arch, write_arch
from pruning.errors import CheckpointError, ModelError, ParameterError, SecateurError
from pruning.masks import apply_masks_
from pruning.networks.loading import load_model, load_state_, read_state, resolve
from tasks.processes.helper import check_model, list_layers
from tests.support.channel_nets import images, select

SHAPE = (2, 32, 32)
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "weightless shortcuts": ("cifar_resnet", {"depth": 8, "width": 0.5, "shortcut": "A"}),
    "projections": ("cifar_resnet", {"depth": 8, "width": 0.5, "shortcut": "B"}),
    "grouped": ("vgg", {"depth": 11, "width": 0.125}),
}


def cut(name: str, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A network without some of its channels, and the payload of its upload."""
    architecture, kwargs = NETWORKS[name]
    kwargs = kwargs | {"channels": 2, "classes": 3}
    model = load_model(architecture, **kwargs)
    masks = select(model, SHAPE, 0.4).masks
    apply_masks_(model, masks)
    small = build_compact(model, masks, SHAPE).eval()
    write_arch(folder / "arch.json", small, architecture, kwargs)
    torch.save({"state_dict": small.state_dict()}, folder / "small.pth")
    return small, {
        "path": str(folder / "small.pth"),
        "architecture": None,
        "kwargs": {},
        "arch": (folder / "arch.json").read_text(),
        "output": str(folder / "kept.safetensors"),
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_an_upload_is_the_very_network(name: str, tmp_path: Path) -> None:
    small, payload = cut(name, tmp_path)
    checked = check_model(payload)
    assert checked["architecture"] == NETWORKS[name][0]
    assert checked["parameters"] == sum(parameter.numel() for parameter in small.parameters())
    network = build_cut(resolve(checked["architecture"], checked["kwargs"]), checked["modules"])
    load_state_(network, read_state(tmp_path / "kept.safetensors"))
    x = images(SHAPE).float()
    assert torch.equal(network.eval()(x), small(x))
    table = list_layers({key: checked[key] for key in ("architecture", "kwargs", "modules")})
    shapes = {name: list(parameter.shape) for name, parameter in small.named_parameters()}
    assert {row["name"]: row["shape"] for row in table["layers"]} == shapes


def test_weights_of_another_width_do_not_fit(tmp_path: Path) -> None:
    _, payload = cut("projections", tmp_path)
    architecture, kwargs, _ = read_arch(payload["arch"])
    torch.save(load_model(architecture, **kwargs).state_dict(), tmp_path / "small.pth")
    with pytest.raises(ModelError, match="the architecture needs"):
        check_model(payload)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"arch": "{"}, CheckpointError, "arch is not JSON"),
        ({"arch": "[1]"}, CheckpointError, "arch does not describe a network"),
        ({"architecture": "vgg"}, ParameterError, "say otherwise"),
        ({"kwargs": {"depth": 20}}, ParameterError, "say otherwise"),
    ],
)
def test_a_description_that_cannot_be_meant_is_pointed_at(
    tmp_path: Path, change: dict[str, Any], error: type[SecateurError], words: str
) -> None:
    _, payload = cut("projections", tmp_path)
    with pytest.raises(error, match=words) as caught:
        check_model(payload | change)
    assert caught.value.pointer == "/arch"


def test_a_description_of_more_than_there_is_is_pointed_at(tmp_path: Path) -> None:
    _, payload = cut("projections", tmp_path)
    document = json.loads(payload["arch"])
    document["modules"]["conv1"]["outputs"] = 10**6
    with pytest.raises(CheckpointError, match="is not a part of") as caught:
        check_model(payload | {"arch": json.dumps(document)})
    assert caught.value.pointer == "/arch"


def test_what_is_said_twice_alike_is_taken(tmp_path: Path) -> None:
    _, payload = cut("projections", tmp_path)
    alike = {"architecture": "cifar_resnet", "kwargs": {"depth": 8}}
    assert check_model(payload | alike)["modules"]
