"""Heads of attention as structured groups: what goes with a head, and what remains."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pruning.architectures._attention import open_attention_
from pruning.architectures._attention_heads import AttentionHeads
from pruning.channels.compaction import (
    build_compact,
    describe_widths,
    expand_,
    load_compact,
    rebuild_,
    write_arch,
)
from pruning.channels.graph import ChannelGraph
from pruning.errors import CheckpointError
from pruning.masks import apply_masks_, build_full_masks, find_prunable
from pruning.measurement.costs import count_flops
from pruning.measurement.onnx_network import OnnxNetwork
from pruning.networks.layers import forward_hooks, record_uses
from pruning.networks.loading import build_network, build_outline, load_state_, resolve
from pruning.storage.checkpoints import write_dense
from pruning.storage.onnx_files import write_onnx
from pruning.types import Masks
from tests.support.attention_nets import (
    SHAPE,
    TRANSFORMERS,
    Encoder,
    FusedAttention,
    InterleavedAttention,
    Transformer,
    build_disturbed,
    build_transformer,
    draw_images,
)
from tests.support.channel_nets import select
from tests.support.known_networks import VIT_CONFIG

every_transformer = pytest.mark.parametrize("name", TRANSFORMERS)


def remove_units(
    model: nn.Module, *, heads_only: bool = False, shape: tuple[int, int, int] = SHAPE
) -> tuple[ChannelGraph, Masks]:
    """Masks without the first unit of every group that can lose any, and the graph."""
    graph = ChannelGraph.of(model, shape, find_prunable(model))
    keep = torch.ones(graph.size, dtype=torch.bool)
    for group in graph.removable:
        if group.head_size is not None or not heads_only:
            keep[group.start] = False
    return graph, build_full_masks(find_prunable(model)) | graph.masks(model, keep)


@every_transformer
def test_numbers_stay_when_attention_is_opened(name: str) -> None:
    theirs = build_disturbed(TRANSFORMERS[name])
    ours = open_attention_(copy.deepcopy(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert torch.allclose(ours(draw_images()), theirs(draw_images()), rtol=1e-10, atol=1e-10)
    with torch.no_grad(), record_uses(ours, list(find_prunable(ours))) as uses:
        ours(draw_images())
    assert all(calls and len(calls[0].inputs) == 4 for calls in uses.values())


@every_transformer
def test_a_network_without_heads_is_the_masked_one(name: str, tmp_path: Path) -> None:
    model = build_transformer(name)
    graph, masks = remove_units(model)
    cores = {
        name: module for name, module in model.named_modules() if isinstance(module, AttentionHeads)
    }
    heads = [group for group in graph.removable if group.head_size is not None]
    assert [group.size for group in heads] == [core.total for core in cores.values()]
    apply_masks_(model, masks)
    small = build_compact(model, masks, SHAPE)
    for core, module in cores.items():
        assert small.get_submodule(core).kept == tuple(range(1, module.total))
    with torch.no_grad():
        expected, outputs = model(draw_images()), small(draw_images())
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    learnt = copy.deepcopy(small)
    with torch.no_grad():
        for parameter in learnt.parameters():
            parameter.mul_(1.5)
    expand_(model, masks, learnt, SHAPE)
    again = build_compact(model, masks, SHAPE)
    with torch.no_grad():
        assert torch.equal(again(draw_images()), learnt(draw_images()))
    rebuilt = rebuild_(build_transformer(name).float(), describe_widths(small))
    load_state_(rebuilt, small.float().state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(draw_images().float()), small(draw_images().float()))


@every_transformer
def test_flops_are_those_of_the_products(name: str) -> None:
    model = build_transformer(name).float()
    for network in (model, build_compact(model, remove_units(model)[1], SHAPE)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, *SHAPE))
        assert count_flops(network, SHAPE) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("vit", ["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"],
         "encoder.layers.encoder_layer_0.self_attention.out_proj.weight"),
        ("fused", ["blocks.0.attn.qkv.weight"], "blocks.0.attn.proj.weight"),
        ("separate",
         [f"blocks.0.attn.attention.{part}.weight" for part in ("query", "key", "value")],
         "blocks.0.attn.output.dense.weight"),
    ],
)  # fmt: skip
def test_a_head_leaves_its_rows_and_columns(name: str, rows: list[str], columns: str) -> None:
    model = build_transformer(name)
    _, masks = remove_units(model, heads_only=True)
    kept = torch.ones(12, dtype=torch.bool)
    kept[:4] = False  # the first of three heads of size 4
    packed = kept.repeat(3 // len(rows))
    for row in rows:
        assert torch.equal(masks[row], packed[:, None].expand(len(packed), 12))
        bias = row.removesuffix("weight") + "bias"
        assert torch.equal(masks[bias], packed)
    assert torch.equal(masks[columns], kept.expand(12, 12))
    assert columns.removesuffix("weight") + "bias" not in masks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "swin", "fused"])
def test_a_network_without_heads_is_exported_and_rebuilt(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    model = build_transformer(name).float()
    _, masks = remove_units(model)
    apply_masks_(model, masks)
    small = build_compact(model, masks, SHAPE).eval()
    with torch.no_grad():
        expected = model(draw_images().float())
    write_onnx(tmp_path / "small.onnx", small, SHAPE)
    network = OnnxNetwork(tmp_path / "small.onnx", 1)
    for count in (4, 1):
        outputs = network(draw_images().float()[:count])
        torch.testing.assert_close(outputs, expected[:count], rtol=1e-4, atol=1e-5)

    class Own:
        """An architecture of a user's own, that opens nothing."""

        def build(self) -> nn.Module:
            return TRANSFORMERS[name]().float()

    monkeypatch.setattr("pruning.channels.compaction.resolve", lambda *_: Own())
    write_arch(tmp_path / "arch.json", small, "own", {})
    write_dense(tmp_path / "dense.safetensors", small.state_dict())
    rebuilt = load_compact(tmp_path / "arch.json", tmp_path / "dense.safetensors")
    with torch.no_grad():
        assert torch.equal(rebuilt(draw_images().float()), small(draw_images().float()))


def test_half_of_three_heads_is_one_or_two() -> None:
    model = build_transformer("fused")
    masks = select(model, SHAPE, 0.6, allocation="uniform").masks
    small = build_compact(model, masks, SHAPE)
    counts = {len(core.kept) for core in small.modules() if isinstance(core, AttentionHeads)}
    assert counts <= {1, 2}
    assert small.get_submodule("blocks.0.attn.qkv").out_features < 36  # type: ignore[operator]


def test_heads_are_rounded_by_the_channels_that_they_are() -> None:
    """Heads of 4 channels in multiples of 8: two remain, or all."""
    model = build_transformer("fused")
    masks = select(model, SHAPE, 0.8, round_to=8, allocation="uniform").masks
    small = build_compact(model, masks, SHAPE)
    assert {len(core.kept) for core in small.modules() if isinstance(core, AttentionHeads)} == {2}
    assert small.get_submodule("blocks.0.fc1").out_features == 8


def test_attention_that_computes_in_another_way_keeps_its_heads_and_says_why() -> None:
    model = open_attention_(build_disturbed(lambda: Transformer(InterleavedAttention)))
    assert not any(isinstance(module, AttentionHeads) for module in model.modules())
    graph = ChannelGraph.of(model, SHAPE, find_prunable(model))
    assert {group.name for group in graph.removable} == {"blocks.0.fc1", "blocks.1.fc1"}
    reasons = graph.left_dense(model, ["blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight"])
    assert len(reasons) == 2
    assert all("computes in another way" in reason for reason in reasons.values())


def test_an_opened_attention_takes_masks_as_long_as_it_is_whole() -> None:
    theirs = build_disturbed(lambda: FusedAttention(12, 3))
    ours = open_attention_(copy.deepcopy(theirs))
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    mask = torch.ones(5, 5).tril().bool()
    assert torch.equal(ours(x, attn_mask=mask), theirs(x, attn_mask=mask))
    ours.get_submodule("attention_heads").keep_([0])  # type: ignore[operator]
    with pytest.raises(ValueError, match="takes no masks"):
        ours(x, attn_mask=mask)


def test_outlines_are_recognised_as_networks_are() -> None:
    class Architecture:
        def build(self) -> nn.Module:
            return Transformer(FusedAttention)

    outline = build_outline(Architecture())  # type: ignore[arg-type]
    cores = [module for module in outline.modules() if isinstance(module, AttentionHeads)]
    assert len(cores) == 2
    assert next(outline.parameters()).is_meta


def test_descriptions_of_other_heads_are_refused_and_old_ones_are_read() -> None:
    model = build_transformer("vit")
    _, masks = remove_units(model)
    described = describe_widths(build_compact(model, masks, SHAPE))
    name = "encoder.layers.encoder_layer_0.self_attention.attention_heads"
    assert described[name] == {"type": "heads", "kept": [1, 2], "total": 3, "size": 4}
    for kept in ([0, 3], [2, 1]):
        wrong = described | {name: described[name] | {"kept": kept}}
        with pytest.raises(CheckpointError, match="attention_heads"):
            rebuild_(build_transformer("vit"), wrong)
    whole = describe_widths(model)
    assert not [name for name in whole if name.endswith(("attention_heads", "in_proj"))]
    old = whole | {
        name.replace("attention_heads", "in_proj"): {
            "type": "layer", "inputs": 12, "outputs": 36, "groups": 1,
        }
    }  # fmt: skip
    assert describe_widths(rebuild_(build_transformer("vit"), old)) == whole


def test_encoder_layers_call_their_attention_in_inference_too() -> None:
    model = open_attention_(build_disturbed(Encoder))
    calls = []
    cores = [module for module in model.modules() if isinstance(module, AttentionHeads)]
    with torch.no_grad(), forward_hooks(cores, lambda *call: calls.append(call)):
        model(draw_images())
    assert len(calls) == 2


@pytest.mark.slow
def test_a_vision_transformer_of_transformers_without_heads_is_exported(tmp_path: Path) -> None:
    """Traced, its attention is given a mask, which all heads share."""
    model = build_network(resolve("huggingface", {"config": VIT_CONFIG, "classes": 3})).eval()
    _, masks = remove_units(model, shape=(3, 32, 32))
    apply_masks_(model, masks)
    small = build_compact(model, masks, (3, 32, 32)).eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    write_onnx(tmp_path / "small.onnx", small, (3, 32, 32))
    with torch.no_grad():
        expected = model(images)
    for count in (3, 1):
        outputs = OnnxNetwork(tmp_path / "small.onnx", 1)(images[:count])
        torch.testing.assert_close(outputs, expected[:count], rtol=1e-4, atol=1e-5)
