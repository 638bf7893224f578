"""Bounds of networks with pre-activation, where a BatchNorm stands before what reads a sum of
layers: the points of channels against inputs that look for the worst, and certified forms against
drawn networks.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.channels.channel_norms import ChannelNorms
from pruning.channels.graph import ChannelGraph
from pruning.channels.normalised_channels import BatchNorms
from pruning.criteria.mussay import Incoming, Mussay
from pruning.errors import StructureError
from pruning.evidence.evidence import Evidence
from pruning.library import load_model
from pruning.masks import find_prunable
from pruning.networks.layers import extract_patches, record_uses
from pruning.seeding import seeded
from tests.pruning.bounds.test_coverage import (
    bound_prunings,
    count_broken,
    list_certified,
    make_study,
)
from tests.support.bound_cases import DETERMINISTIC, SAMPLERS, randomise
from tests.support.bound_cases import seeded as make_rng

SHAPE = (1, 4, 4)


class PreActivation(nn.Module):
    """Two blocks of BatchNorm, ReLU and convolution with biases, on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(5))
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in (0, 2):
            out = self.convs[block](F.relu(self.norms[block](x)))
            x = x + self.convs[block + 1](F.relu(self.norms[block + 1](out)))
        return self.fc(F.avg_pool2d(F.relu(self.norms[4](x)), 2).flatten(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "pre-activation": PreActivation,
    "wide_resnet": lambda: load_model("wide_resnet", depth=10, width=0.2, channels=1, classes=3),
    "densenet22": lambda: load_model("densenet22", growth=2, channels=1, classes=3),
}


def build(name: str, seed: int = 0) -> nn.Module:
    with seeded(seed):
        net = randomise(NETWORKS[name]())
        for module in net.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.data.normal_()
    return net


def measure_reach(net: nn.Module, incoming: Incoming, x: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """Measure the largest size of every channel that a layer reads, (N, in), and the norms of the
    inputs of the layers that write them, with the one for the bias, (N,).
    """
    with record_uses(net, list(find_prunable(net))) as uses:
        net(x)
    squares = {}
    for name, (use,) in uses.items():
        patches = extract_patches(use.layer, use.inputs)
        squares[name] = patches.square().sum(2).flatten(1).amax(1)
    reach: dict[str, tuple[Tensor, ...]] = {}
    for name, (use,) in uses.items():
        writers = [writer for writer in incoming.find_writers(name) if writer in squares]
        if writers:
            inputs = use.inputs.abs()
            largest = inputs.flatten(2).amax(2) if inputs.dim() > 2 else inputs
            radius = (1 + torch.stack([squares[writer] for writer in writers]).sum(0)).sqrt()
            reach[name] = largest, radius
    return reach


@pytest.mark.parametrize("name", NETWORKS)
def test_no_input_takes_a_channel_beyond_its_point(name: str) -> None:
    """Random inputs of many sizes, and inputs that climb towards the worst channel."""
    closest = 0.0
    for seed in (0, 1) if name == "pre-activation" else (0,):
        net = build(name, seed)
        evidence = Evidence(net, shape=SHAPE)
        incoming = Mussay().prepare(evidence)
        bounds = {}
        for layer in incoming.graph.inputs:
            inputs = incoming.graph.inputs[layer]
            points = torch.stack(incoming.channel_norms.read_by(layer, inputs))
            bounds[f"{layer}.weight"] = points.norm(dim=0)
        sizes = torch.logspace(-2, 2, 24, dtype=torch.float64)[:, None, None, None]
        x = torch.randn(24, *SHAPE, generator=make_rng(seed), dtype=torch.float64) * sizes
        for step in range(6):
            x = x.detach().requires_grad_()
            ratios = []
            with torch.enable_grad():
                for layer, (values, radius) in measure_reach(net, incoming, x).items():
                    ratio = values / (radius[:, None] * bounds[layer].clamp_min(1e-300))
                    assert float(ratio.max()) <= 1 + 1e-9, layer
                    ratios.append(ratio.amax(1))
            closest = max(closest, float(torch.stack(ratios).max()))
            if step < 5:
                output = net(x).abs().amax(1).sum()
                (slope,) = torch.autograd.grad(output, x)
                x = x + sizes * slope.sign() * 0.3
    assert closest > 0.1, "the bound is so loose that nothing was tested"


@pytest.mark.parametrize(
    "name",
    ["pre-activation", "wide_resnet", pytest.param("densenet22", marks=pytest.mark.slow)],
)
def test_certified_forms_cover_drawn_networks_and_those_not_drawn(name: str) -> None:
    for method in (SAMPLERS["mussay importance"], DETERMINISTIC["mussay top_k"]):
        study = make_study(build(name), method, 3.0)
        outcomes = bound_prunings(study, 2 if study.sampled else 1, True, 0.3)
        certified = list_certified(outcomes)
        assert "ball" in certified
        for form in certified:
            assert count_broken(outcomes, form) == 0, (method, form)
            assert all(
                bool((outcome[form] >= outcome["error"] * (1 - 1e-9)).all()) for outcome in outcomes
            )


def test_the_points_are_those_of_the_batchnorm_before_the_reader() -> None:
    """By hand: (s p, |s b| + |t|) with b the sizes of all biases that a sum may hold."""
    net = build("pre-activation")
    graph = ChannelGraph.of(net, SHAPE, list(find_prunable(net)))
    points = ChannelNorms.of(net, graph, torch.zeros(1, *SHAPE).double())
    writers = ("stem", "convs.1", "convs.3")
    p = torch.cat([net.get_parameter(f"{name}.weight").detach().flatten(1) for name in writers], 1)
    b = torch.stack([net.get_parameter(f"{name}.bias").detach().abs() for name in writers]).sum(0)
    for layer, norm in (("convs.0", "norms.0"), ("convs.2", "norms.2"), ("fc", "norms.4")):
        module = net.get_submodule(norm)
        assert isinstance(module, nn.BatchNorm2d)
        assert module.running_var is not None
        assert module.running_mean is not None
        scale = module.weight.detach() / (module.running_var + module.eps).sqrt()
        shift = module.bias.detach() - module.running_mean * scale
        norms, biases = points.read_by(layer, graph.inputs[layer])
        repeats = len(norms) // 4
        expected = p.norm(dim=1) * scale.abs(), (scale * b).abs() + shift.abs()
        torch.testing.assert_close(norms, expected[0].repeat_interleave(repeats))
        torch.testing.assert_close(biases, expected[1].repeat_interleave(repeats))
    assert set(points.before) == {"convs.0", "convs.2", "fc"}  # the others are folded


class Odd(nn.Module):
    """A BatchNorm whose output is added, or that normalises what another one has."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.head = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1)
        self.norm, self.second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        if self.kind == "added":
            return self.head(self.norm(h) + h)
        if self.kind == "twice":
            return self.head(F.relu(self.second(self.norm(h))))
        return self.head(self.norm(h) + self.head(self.second(h)).sum())


def test_what_is_normalised_in_other_ways_is_refused_by_name() -> None:
    image = torch.zeros(1, 1, 2, 2)
    with pytest.raises(StructureError, match="norm cannot be folded into a layer"):
        BatchNorms.of(Odd("added").eval(), image)
    with pytest.raises(StructureError, match="second does not follow a layer directly"):
        BatchNorms.of(Odd("twice").eval(), image)
    with pytest.raises(StructureError, match="norm cannot be folded into a layer"):
        BatchNorms.of(Odd("two readers").eval(), image)
