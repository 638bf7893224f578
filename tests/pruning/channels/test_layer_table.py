"""The layers of a network as a document."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from pruning.channels import layer_table
from pruning.channels.layer_table import tabulate_layers
from pruning.networks.loading import resolve
from tests.support.attention_nets import FusedAttention, Transformer
from tests.support.known_networks import VIT_CONFIG


def test_coupled_layers_are_named() -> None:
    table = tabulate_layers(resolve("cifar_resnet", {"depth": 8, "width": 0.25, "shortcut": "B"}))
    layers = {layer.name: layer for layer in table.layers}
    assert table.note is None
    assert layers["conv1.weight"].coupled == ("layer1.0.conv2.weight",)
    assert layers["layer1.0.conv1.weight"].coupled == ()
    assert layers["layer1.0.conv1.weight"].prunable
    assert layers["bn1.weight"].reason == "parameter of BatchNorm2d"
    assert layers["linear.bias"].reason == "bias"
    groups = {group.name: group for group in table.groups}
    assert groups["conv1"].readers == (
        "layer1.0.conv1.weight",
        "layer2.0.conv1.weight",
        "layer2.0.shortcut.0.weight",
    )
    assert groups["linear"].reason == "they are the network's outputs"
    assert sum(layer.parameters for layer in table.layers) == sum(
        parameter.numel()
        for parameter in resolve("cifar_resnet", {"depth": 8, "width": 0.25, "shortcut": "B"})
        .build()
        .parameters()
    )


def test_channels_that_cannot_be_followed_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    table = tabulate_layers(resolve("shufflenet_v2_x0_5", {}))
    assert table.groups == ()
    assert table.note is not None
    assert "after the layer 'stage" in table.note
    assert "Error" not in table.note
    monkeypatch.setattr(layer_table, "MOST_PARAMETERS", 10)
    assert "at most 10 parameters" in str(tabulate_layers(resolve("mlp", {})).note)


class Own:
    """An architecture with an attention like timm's."""

    input_shape = (3, 8, 8)
    outputs = 3

    def build(self) -> nn.Module:
        return Transformer(FusedAttention)


def test_heads_are_told_as_groups() -> None:
    table = tabulate_layers(Own())
    groups = {group.name: group for group in table.groups}
    heads = groups["blocks.0.attn.qkv"]
    assert (heads.channels, heads.head_size, heads.reason) == (3, 4, None)
    assert heads.writers == ("blocks.0.attn.qkv.weight",)
    assert heads.readers == ("blocks.0.attn.proj.weight",)
    assert (groups["blocks.0.fc1"].channels, groups["blocks.0.fc1"].head_size) == (10, None)
    reasons = {layer.name: layer.channels_reason for layer in table.layers}
    assert reasons["blocks.0.attn.qkv.weight"] is None


@pytest.mark.parametrize(
    ("architecture", "kwargs", "heads"),
    [
        ("huggingface", {"config": VIT_CONFIG}, 2),
        (
            "timm",
            {
                "name": "vit_tiny_patch16_224",
                "image_size": 32,
                "options": {"depth": 1, "embed_dim": 24, "num_heads": 3},
            },
            3,
        ),
    ],
)
def test_heads_of_the_libraries_own_networks_are_groups(
    architecture: str, kwargs: dict[str, Any], heads: int
) -> None:
    table = tabulate_layers(resolve(architecture, kwargs))
    (group,) = [group for group in table.groups if group.head_size is not None]
    assert group.reason is None
    assert group.head_size == 24 // heads
