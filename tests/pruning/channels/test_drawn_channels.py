"""Channels that are drawn: what reads them is right on average, and the network is cut where none
was drawn.
"""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pruning import seeding
from pruning.channels.drawn_channels import DrawnChannels
from pruning.channels.graph import ChannelGraph
from pruning.criteria.mussay import Mussay
from pruning.errors import BudgetError, ParameterError
from pruning.evidence.evidence import Evidence
from pruning.granularities.channel import Channel
from pruning.masks import build_full_masks, density, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import mask_scores, prune_
from pruning.sparsifiers._signed_rows import SignedRows
from pruning.sparsifiers.sample import Sample
from pruning.sparsifiers.top_k import TopK
from pruning.sparsifiers.top_sample import TopSample
from pruning.types import DrawLaw, Selected, Selection, Sparsifier
from tests.support import cases


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def example() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    net.get_parameter("1.weight").data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    net.get_parameter("3.weight").data.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.25]]))
    return net.double()


class Block(nn.Module):
    """A residual addition between convolutions with BatchNorm, a depthwise one behind, then a
    flattening.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.inner, self.norm2 = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.outer, self.norm3 = nn.Conv2d(5, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.depth, self.head = nn.Conv2d(6, 6, 3, groups=6), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.stem(x)))
        x = F.relu(x + self.norm3(self.outer(F.relu(self.norm2(self.inner(x))))))
        return self.head(F.relu(self.depth(x)).flatten(1))


def block() -> nn.Module:
    with seeding.seeded(0):
        net = Block().double().eval()
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if "norm" in name and tensor.is_floating_point():
                tensor.data.uniform_(0.5, 1.5)
    return net


def selection(
    model: nn.Module,
    kept: float,
    sparsifier: Sparsifier,
    seed: int = 0,
    beta: float = 1.0,
    shape: tuple[int, int, int] = (1, 4, 4),
) -> Selected:
    evidence = Evidence(model, shape=shape)
    method = PruningMethod.of(
        cases.recipe(0.5), cases.recipe(criterion={"name": "mussay"}).criteria[0]
    )
    scores = mask_scores(evidence, Mussay(beta=beta).score(evidence))
    return Channel().select(
        Selection(
            model=model,
            weights=evidence.weights,
            scores=scores,
            masks=evidence.masks,
            density=kept,
            allocation=method.allocation,
            sparsifier=sparsifier,
            generator=seeded(seed),
            shape=lambda: shape,
        )
    )


def test_the_worked_example(monkeypatch: pytest.MonkeyPatch) -> None:
    net = example()
    graph = ChannelGraph.of(net, (1, 1, 2), list(find_prunable(net)))
    importance = {"1": Mussay().score(Evidence(net, shape=(1, 1, 2)))["3.weight"][0]}
    assert importance["1"].tolist() == [5.0, 2.0]
    law = DrawLaw(torch.tensor([[5 / 7, 2 / 7]], dtype=torch.float64), torch.tensor([10]))
    times = torch.tensor([[7.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    monkeypatch.setattr(
        SignedRows,
        "build_law",
        lambda self, counts: DrawLaw(
            torch.cat([law.probabilities, 0 * law.probabilities]), torch.tensor([10, -1])
        ),
    )
    monkeypatch.setattr(
        "pruning.sparsifiers._signed_rows.draw_multiplicities", lambda p, draws, generator: times
    )
    drawn = DrawnChannels.of(
        graph, importance, torch.ones(graph.size, dtype=torch.bool), Sample(), seeded()
    )
    reweighted = drawn.reweighted(
        net, {name: weight.detach() for name, weight in find_prunable(net).items()}
    )
    torch.testing.assert_close(
        reweighted["3.weight"], torch.tensor([[0.98, -2.1], [0.49, 0.2625]], dtype=torch.float64)
    )
    assert torch.equal(reweighted["1.weight"], net.get_parameter("1.weight"))
    laws = drawn.laws(net, find_prunable(net))
    assert list(laws) == ["3.weight"]
    torch.testing.assert_close(laws["3.weight"].probabilities, law.probabilities)
    assert laws["3.weight"].draws.tolist() == [10]


@pytest.mark.slow
@pytest.mark.parametrize("sparsifier", [Sample(), TopSample()])
def test_what_a_layer_reads_is_right_on_average(sparsifier: Sparsifier) -> None:
    """The outputs of every layer that sums over channels are right on average, behind BatchNorm, an
    addition and a flattening, on the inputs of the dense network: within five standard errors of 64
    draws.
    """
    net, images = block(), torch.rand(3, 1, 4, 4, generator=seeded(), dtype=torch.float64)
    weights = {name: weight.detach() for name, weight in find_prunable(net).items()}
    graph = ChannelGraph.of(net, (1, 4, 4), weights)
    keep = torch.ones(graph.size, dtype=torch.bool)
    for group in graph.removable:
        keep[group.start + group.size // 2 : group.span.stop] = False
    importance = {
        group.name: torch.rand(group.size, generator=seeded(group.start), dtype=torch.float64) + 0.1
        for group in graph.removable
    }
    layer_inputs: dict[str, Tensor] = {}
    hooks = [
        net.get_submodule(name[:-7]).register_forward_hook(
            lambda module, inputs, output, name=name: layer_inputs.__setitem__(name, inputs[0])
        )
        for name in weights
    ]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    reweighted: dict[str, list[Tensor]] = {name: [] for name in weights}
    for seed in range(64):
        drawn = DrawnChannels.of(graph, importance, keep, sparsifier, seeded(seed)).reweighted(
            net, weights
        )
        for name, weight in drawn.items():
            reweighted[name].append(weight)
    for name, weight in weights.items():
        all_ = torch.stack(reweighted[name])
        if name in ("stem.weight", "depth.weight"):
            assert torch.equal(all_[0], weight), "it sums over nothing that was drawn"
            continue
        layer = net.get_submodule(name[:-7])

        def outputs(w: Tensor, layer: nn.Module = layer, name: str = name) -> Tensor:
            return torch.func.functional_call(layer, {"weight": w}, (layer_inputs[name],)).detach()

        drawn_outputs = torch.stack([outputs(drawn_weight) for drawn_weight in all_])
        error = (drawn_outputs.mean(0) - outputs(weight)).abs()
        assert bool((error <= 5 * drawn_outputs.std(0) / 8 + 1e-9).all())
        assert float(drawn_outputs.std(0).max()) > 0


def test_channels_are_cut_where_they_were_not_drawn() -> None:
    net = block()
    for sparsifier in (Sample(), TopSample(), TopK()):
        selected = selection(net, 0.5, sparsifier)
        kept = selected.masks["stem.weight"].flatten(1).any(1)
        assert torch.equal(selected.masks["outer.weight"].flatten(1).any(1), kept)
        assert torch.equal(selected.masks["inner.weight"].amax((0, 2, 3)), kept)
        assert bool(selected.laws) == (sparsifier != TopK())
        assert 0.2 < density(selected.masks) < 0.8
    law = selection(net, 0.5, Sample()).laws["head.weight"]
    assert law.probabilities.shape == (1, 24)
    assert law.probabilities[0].reshape(6, 4).std(1).max() == 0, (
        "a channel's inputs have its probability"
    )
    assert set(selection(net, 0.5, Sample()).laws) == {
        "inner.weight",
        "outer.weight",
        "head.weight",
    }


@pytest.mark.parametrize("name", ["mussay", "pfp"])
@pytest.mark.parametrize("variant", [0, 1, 2])
def test_rounds_are_nested(name: str, variant: int) -> None:
    net = block()
    choices = {
        "mussay": ("importance", "uniform", "top_k"),
        "pfp": ("deterministic", "randomized", "top"),
    }[name]
    recipe = cases.recipe(0.5, criterion={"name": name, "params": {"variant": choices[variant]}})
    method = PruningMethod.of(recipe, recipe.criteria[0])
    batches = [(torch.rand(9, 1, 4, 4, generator=seeded(), dtype=torch.float64), torch.zeros(9))]
    masks = build_full_masks(find_prunable(net))
    for target in (0.7, 0.5):
        after = prune_(
            net,
            masks,
            target,
            method,
            lambda masks, stage: Evidence(net, masks, batches),
            generator=seeded(),
        )
        assert not any(bool((after[key] & ~masks[key]).any()) for key in masks)
        masks = after
    assert bool(torch.isfinite(net(batches[0][0])).all())


def test_budgets_at_the_edges() -> None:
    net = block()
    assert density(selection(net, 1.0, Sample()).masks) == 1
    with pytest.raises(BudgetError, match="with one of each group"):
        selection(net, 0.01, Sample())
    least = selection(net, 0.16, Sample())
    assert int(least.masks["inner.weight"].flatten(1).any(1).sum()) == 1
    with torch.no_grad():
        net.get_parameter("head.weight").zero_()
        net.get_parameter("inner.weight").zero_()
    dead = selection(net, 0.5, Sample())
    assert bool(dead.masks["stem.weight"].any()), (
        "where nothing can be drawn, the first channel stays"
    )
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.ReLU(), nn.Linear(1, 3))
    with pytest.raises(BudgetError, match="there is only one"):
        selection(net, 0.5, Sample())
    with pytest.raises(ParameterError, match="none below 0"):
        DrawnChannels.of(
            ChannelGraph.of(block(), (1, 4, 4), list(find_prunable(block()))),
            {"stem": -torch.ones(6), "inner": -torch.ones(5)},
            torch.ones(99, dtype=torch.bool),
            Sample(),
            seeded(),
        )
