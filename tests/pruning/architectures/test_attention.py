"""Attention whose projections are called: torchvision's numbers, and seen by what reads inputs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pruning.architectures import _torchvision_shim  # noqa: F401 (goes before torchvision)
from pruning.architectures._attention import open_attention_
from pruning.criteria.magnitude import Magnitude
from pruning.criteria.wanda import Wanda
from pruning.errors import EvidenceError
from pruning.evidence.evidence import Evidence
from pruning.masks import explain_dense, find_prunable
from pruning.networks.layers import forward_hooks, record_uses

ATTENTION = "encoder.layers.encoder_layer_0.self_attention."


def build_vit() -> nn.Module:
    """A vision transformer of two blocks."""
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12,
        num_classes=3,
    )  # fmt: skip


def build_swin(v2: bool) -> nn.Module:
    """A Swin transformer of two stages, with windows of 2 x 2."""
    from torchvision.models import swin_transformer as swin

    torch.manual_seed(0)
    second = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return swin.SwinTransformer(
        **(second if v2 else {}),
        patch_size=[2, 2], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[2, 2],
        num_classes=3,
    )  # fmt: skip


def disturb_(net: nn.Module) -> None:
    """Give every parameter random values, also those that begin as zeros."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


@pytest.mark.parametrize("case", ["vit", "swin", "swin_v2"])
@pytest.mark.parametrize("side", [8, 11])
def test_numbers_and_names_are_torchvisions(case: str, side: int) -> None:
    if case == "vit" and side != 8:
        return
    theirs = build_vit() if case == "vit" else build_swin(case == "swin_v2")
    disturb_(theirs)
    theirs.double().eval()
    ours = open_attention_(copy.deepcopy(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    assert torch.allclose(ours(images), theirs(images), rtol=1e-9, atol=1e-9)
    again = copy.deepcopy(ours)
    disturb_(again)
    assert not torch.equal(again(images), ours(images))
    with record_uses(ours, list(find_prunable(ours))) as uses:
        ours(images)
    assert all(calls and all(len(use.inputs) == 2 for use in calls) for calls in uses.values())


def test_other_attention_is_pytorchs_own() -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    ours = open_attention_(copy.deepcopy(theirs))
    x, y = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    assert torch.equal(ours(x, y, y)[0], theirs(x, y, y)[0])
    assert torch.equal(ours(x, x, x)[1], theirs(x, x, x)[1])
    mask = torch.ones(3, 3).triu(1).bool()
    masked = ours(x, x, x, attn_mask=mask, need_weights=False)[0]
    assert torch.allclose(masked, theirs(x, x, x, attn_mask=mask)[0], atol=1e-6)


def test_the_packed_weight_is_prunable_and_the_rest_says_why_not() -> None:
    net = open_attention_(build_vit())
    weights = find_prunable(net)
    assert weights[f"{ATTENTION}in_proj_weight"].shape == (24, 8)
    assert f"{ATTENTION}out_proj.weight" in weights
    reasons = {
        name: explain_dense(net, name, ()) for name, _ in net.named_parameters()
        if name not in weights
    }  # fmt: skip
    assert reasons["class_token"].startswith("the class token")
    assert reasons["encoder.pos_embedding"].startswith("position embeddings")
    assert reasons["encoder.ln.weight"] == "parameter of LayerNorm"
    assert reasons[f"{ATTENTION}in_proj_bias"] == "bias"
    swin = open_attention_(build_swin(True))
    assert explain_dense(swin, "features.1.0.attn.cpb_mlp.0.weight", ()).startswith("it computes")


def test_weight_criteria_see_the_packed_weight_of_any_attention() -> None:
    """Also of a module whose attention is PyTorch's own; what it reads is then not known."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2))
    images = torch.randn(4, 3, 4)
    evidence = Evidence(net, batches=[(images, torch.zeros(4, dtype=torch.long))])
    scores = Magnitude().score(evidence)
    assert torch.equal(scores["0.self_attn.in_proj_weight"], layer.self_attn.in_proj_weight.abs())
    with pytest.raises(EvidenceError, match="self_attn"):
        Wanda().score(evidence)


def test_criteria_see_what_the_packed_projection_reads() -> None:
    """Wanda of queries, keys and values is |w| times the norm of the block's normalised input."""
    net = open_attention_(build_vit()).eval()
    images = torch.randn(4, 3, 8, 8)
    seen = []
    block = net.get_submodule("encoder.layers.encoder_layer_0")
    with forward_hooks([block.get_submodule("ln_1")], lambda *call: seen.append(call[2])):
        net(images)
    norms = seen[0].double().square().sum((0, 1)).sqrt()
    labels = torch.zeros(4, dtype=torch.long)
    scores = Wanda(per_row=False).score(Evidence(net, batches=[(images, labels)]))
    weight = net.get_parameter(f"{ATTENTION}in_proj_weight")
    ratio = scores[f"{ATTENTION}in_proj_weight"] / (weight.abs() * norms)
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio))
