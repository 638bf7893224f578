"""The scores by which coresets of neurons draw, against explicit sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pruning.channels.channel_norms import ChannelNorms
from pruning.channels.graph import ChannelGraph
from pruning.criteria.mussay import Mussay
from pruning.errors import EvidenceError, ParameterError, StructureError
from pruning.evidence.evidence import Evidence
from pruning.library import load_model
from pruning.masks import build_full_masks, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.seeding import seeded
from pruning.types import Masks
from tests.support import cases
from tests.support.seeds import make_generator


def build_conv_net(activation: nn.Module) -> nn.Sequential:
    with seeded(0):
        net = (
            nn.Sequential(
                nn.Conv2d(2, 4, 3),
                nn.BatchNorm2d(4),
                activation,
                nn.Conv2d(4, 3, 2),
                activation,
                nn.Flatten(),
                nn.Linear(3, 2),
            )
            .double()
            .eval()
        )
        norm = net[1]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        for tensor in [*norm.parameters(), norm.running_mean, norm.running_var]:
            tensor.data.uniform_(0.5, 1.5)
    return net


@pytest.mark.parametrize(
    ("activation", "sup"),
    [
        (nn.ReLU(), lambda r: r),
        (nn.Tanh(), math.tanh),
        (nn.Sigmoid(), lambda r: 1 / (1 + math.exp(-r))),
        (nn.Softplus(), lambda r: math.log1p(math.exp(r))),
        (nn.LeakyReLU(), lambda r: r),
        (nn.Identity(), lambda r: r),
    ],
)
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_importance_is_the_most_a_channel_can_give(
    activation: nn.Module, sup: Callable[[float], float], beta: float
) -> None:
    net = build_conv_net(activation)
    score = Mussay(beta=beta).score(Evidence(net, shape=(2, 4, 4)))["3.weight"]
    assert score.shape == (1, 4, 1, 1)
    net.requires_grad_(False)
    conv, norm = net[0], net[1]
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight = net.get_parameter("3.weight")
    for j in range(4):
        scale = float(norm.weight[j] / (norm.running_var[j] + norm.eps).sqrt())
        point = [float(w) * scale for w in conv.weight[j].flatten()]
        point.append(float(norm.bias[j]) + scale * float(conv.bias[j] - norm.running_mean[j]))
        largest = max(sum(abs(float(w)) for w in weight[i, j].flatten()) for i in range(3))
        expected = largest * sup(beta * math.hypot(*point))
        assert float(score[0, j, 0, 0]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.GELU(), nn.SiLU()]
)
def test_no_input_of_the_ball_gives_more(activation: nn.Module) -> None:
    net = build_conv_net(activation)
    score = Mussay(beta=3.0).score(Evidence(net, shape=(2, 4, 4)))["3.weight"].flatten()
    x = torch.randn(500, 2, 3, 3, generator=make_generator(), dtype=torch.float64)
    x = (
        x / x.flatten(1).norm(dim=1)[:, None, None, None] * math.sqrt(8)
    )  # with the one for the bias, 3
    weight = net.get_parameter("3.weight")
    contributions = net[:3](x).abs()[:, :, 0, 0] * weight.abs().sum((2, 3)).amax(0)
    assert bool((contributions <= score + 1e-9).all())


def test_a_flattened_channel_counts_all_its_inputs() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    ).double()
    score = Mussay().score(Evidence(net, shape=(1, 4, 4)))["3.weight"]
    norms = net.get_parameter("0.weight").flatten(1).norm(dim=1)
    largest = net.get_parameter("3.weight").abs().reshape(2, 2, 4).sum(2).amax(0)
    expected = (largest * norms).repeat_interleave(4)
    torch.testing.assert_close(score[0], expected.detach())
    top = Mussay(variant="top_k").score(Evidence(net, shape=(1, 4, 4)))["3.weight"]
    torch.testing.assert_close(top[0], norms.repeat_interleave(4).detach())


def test_a_residual_channel_is_all_that_writes_it() -> None:
    net = (
        load_model("cifar_resnet", depth=8, width=0.5, channels=2, classes=3, shortcut="A")
        .double()
        .eval()
    )
    graph = ChannelGraph.of(net, (2, 8, 8), list(find_prunable(net)))
    points = ChannelNorms.of(net, graph, torch.zeros(1, 2, 8, 8, dtype=torch.float64))

    def folded(conv: str, norm: str) -> Tensor:
        batch = net.get_submodule(norm)
        assert isinstance(batch, nn.BatchNorm2d)
        assert batch.running_var is not None
        scale = batch.weight / (batch.running_var + batch.eps).sqrt()
        return net.get_parameter(f"{conv}.weight").flatten(1).norm(dim=1) * scale

    first = [folded("conv1", "bn1"), folded("layer1.0.conv2", "layer1.0.bn2")]
    torch.testing.assert_close(
        points.norms[graph.outputs["conv1"]], torch.stack(first).norm(dim=0).detach()
    )
    second = folded("layer2.0.conv2", "layer2.0.bn2")
    carried = torch.zeros(16, dtype=torch.float64)
    carried[4:12] = torch.stack(first).norm(dim=0)
    torch.testing.assert_close(
        points.norms[graph.outputs["layer2.0.conv2"]], torch.hypot(second, carried).detach()
    )


def test_what_cannot_be_told_is_refused() -> None:
    mixed = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)
    )
    with pytest.raises(
        ParameterError,
        match="activations are relu, tanh; choose the one to go by: relu, identity, sigmoid",
    ):
        Mussay().score(Evidence(mixed, shape=(1, 2, 2)))
    assert set(Mussay(activation="tanh").score(Evidence(mixed, shape=(1, 2, 2)))) == set(
        find_prunable(mixed)
    )
    with pytest.raises(ParameterError, match="activations are elu"):
        Mussay().score(
            Evidence(
                nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ELU(), nn.Linear(3, 2)),
                shape=(1, 2, 2),
            )
        )
    loose = nn.Sequential(
        nn.Conv2d(1, 3, 1),
        nn.ReLU(),
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 2, 1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    with pytest.raises(StructureError, match="2 does not follow a layer directly"):
        Mussay().score(Evidence(loose, shape=(1, 2, 2)))
    with pytest.raises(EvidenceError):
        Mussay().score(Evidence(mixed))


def test_beta_does_not_matter_for_relu() -> None:
    net = build_conv_net(nn.ReLU())
    small, large = (
        Mussay(beta=beta).score(Evidence(net, shape=(2, 4, 4)))["3.weight"] for beta in (1.0, 45.0)
    )
    torch.testing.assert_close(small / small.sum(), large / large.sum())


def test_the_baselines_are_biased() -> None:
    """Half of the neurons as they are: where all give the same, half of it remains."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False)
    ).double()
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    for variant in ("importance", "uniform", "top_k"):
        recipe = cases.recipe(0.5, criterion={"name": "mussay", "params": {"variant": variant}})
        method = PruningMethod.of(recipe, recipe.criteria[0])
        outputs = []
        for seed in range(12):
            for parameter in net.parameters():
                nn.init.ones_(parameter)

            def build_evidence(masks: Masks, stage: int, seed: int = seed) -> Evidence:
                return Evidence(net, masks, shape=(1, 2, 2), generator=make_generator(seed))

            prune_(
                net,
                build_full_masks(find_prunable(net)),
                0.5,
                method,
                generator=make_generator(seed),
                evidence=build_evidence,
            )
            outputs.append(float(net(x).detach()[0, 0]))
        assert outputs == pytest.approx([32.0 if variant == "importance" else 16.0] * 12)
