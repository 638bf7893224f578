"""Coresets of weights and neurons: every fixed number of draws is right on average, by enumeration; what is not is told."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import cases
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pruning.bounds.sipp import coefficient, epsilon
from pruning.channels import ChannelGraph
from pruning.criteria.mussay import Mussay
from pruning.errors import BudgetError, EvidenceError, ParameterError
from pruning.evidence import Evidence
from pruning.granularities.channel import Channel
from pruning.masks import density, full_masks, prunable
from pruning.reweighting import Drawn
from pruning.round import Seams, alive_scores, prune_
from pruning.sides import Sides, factors, spread
from pruning.sparsifiers.amplified import Amplified
from pruning.sparsifiers.hybrid import Hybrid
from pruning.sparsifiers.sample import Sample
from pruning.sparsifiers.top_k import TopK
from pruning.sparsifiers.top_sample import TopSample
from pruning.types import Law, Selected, Selection, Sparse, Sparsifier, View


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def drawn_counts(places: list[int], draws: int) -> Iterator[dict[int, int]]:
    """Every way in which so many draws divide over the places."""
    if len(places) == 1:
        yield {places[0]: draws}
        return
    for first in range(draws + 1):
        for rest in drawn_counts(places[1:], draws - first):
            yield {places[0]: first} | rest


def outcomes(law: Law) -> Iterator[tuple[float, Tensor]]:
    """Every outcome of the draws of every row: its probability, and how often it drew what."""
    rows = []
    for row, draws in enumerate(law.draws.tolist()):
        p = law.probabilities[row].tolist()
        places = [j for j, value in enumerate(p) if 0 < value < 1] or [0]
        if draws > 0:
            rows.append([(row, found, math.factorial(draws) * math.prod(
                (p[j] if 0 < p[j] < 1 else 1)**n / math.factorial(n) for j, n in found.items()))
                for found in drawn_counts(places, draws)])
    for outcome in itertools.product(*rows):
        times = torch.zeros_like(law.probabilities)
        for row, found, _ in outcome:
            for j, n in found.items():
                times[row, j] = n
        yield math.prod(chance for *_, chance in outcome), times


def expectation(monkeypatch: pytest.MonkeyPatch, sparse: Sparse, weight: Tensor) -> Tensor:
    """The mean of the weight, over all outcomes of the draws; `sparse`, drawn with seed 0, is one of them."""
    assert sparse.law is not None
    law, mean, total = sparse.law, torch.zeros_like(weight), 0.0
    assert torch.equal(spread(weight, factors(law, seeded()), law).weight, sparse.weight)
    for chance, times in outcomes(law):
        monkeypatch.setattr("pruning.sides.multiplicities", lambda p, draws, generator, times=times: times)
        mean += chance * spread(weight, factors(law, seeded()), law).weight
        total += chance
    assert total == pytest.approx(1)
    monkeypatch.undo()
    return mean


WEIGHT = torch.tensor([[3.0, -2.0, 0.5, 1.0, -4.0, 2.0], [1.0, 2.0, 3.0, 4.0, -1.0, 0.0]], dtype=torch.float64)
SCORE = torch.tensor([[0.6, 0.5, 0.1, 0.8, 0.4, 0.3], [0.05, 0.1, 0.1, 0.9, 0.3, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(("sparsifier", "keep"), [
    (Sample(), 5), (Sample(division="proportional"), 5), (TopSample(), 6), (TopSample(division="proportional"), 7)])
def test_weights_are_right_on_average(monkeypatch: pytest.MonkeyPatch, sparsifier: Sparsifier, keep: int) -> None:
    sparse = sparsifier.sparsify(WEIGHT, SCORE, keep, seeded())
    assert sparse.law is not None
    assert bool((sparse.law.draws != 0)[(sparse.law.probabilities > 0).any(1)].all()), "each side is drawn or kept"
    mean = expectation(monkeypatch, sparse, WEIGHT)
    torch.testing.assert_close(mean, WEIGHT, rtol=1e-12, atol=1e-12)


def test_hybrid_is_right_on_average_where_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first filter's sensitivities are alike, and drawn; the second's are not, and its best remain."""
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]], dtype=torch.float64)
    score = torch.tensor([[1.0, 1, 1, 1, 1], [1.0, 0.9, 1e-6, 1e-6, 1e-6]], dtype=torch.float64)
    hybrid = Hybrid(c=100.0, delta=0.999)
    alpha = coefficient(3, 1, hybrid.delta, hybrid.c)
    view, sides, marks = View(3, lambda: weight), Sides.of(weight, score), score / score.max() * 1e-3 * alpha

    sparse = hybrid.sparsify_seeing(weight, marks, 5, seeded(), view)
    law = sparse.law
    assert law is not None
    counts = Sides.of(weight, marks).counts(5)
    for row in range(2):
        kept = int(counts[row])
        lost = 100.0 * float(marks[row].sort().values[:5 - kept].sum()) / alpha
        drawn = float(epsilon(marks[row].sum()[None], torch.tensor([kept]))[0])
        assert (lost > drawn) == (int(law.draws[row]) > 0)
    assert sides.drawable.tolist() == [5, 5, 0, 0]
    mean = expectation(monkeypatch, sparse, weight)
    for row in range(2):
        torch.testing.assert_close(mean[row] if int(law.draws[row]) > 0 else weight[row], weight[row])


@pytest.mark.parametrize("sparsifier", [Sample(), TopSample()])
@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_channels_are_right_on_average(monkeypatch: pytest.MonkeyPatch, sparsifier: Sparsifier, keep: int) -> None:
    ones, score = torch.ones(4, dtype=torch.float64), torch.tensor([0.7, 0.05, 0.2, 0.1], dtype=torch.float64)
    sparse = sparsifier.sparsify(ones, score, keep, seeded())
    mean = expectation(monkeypatch, sparse, ones)
    torch.testing.assert_close(mean, ones, rtol=1e-12, atol=1e-12)


def test_stopping_at_a_number_of_distinct_ones_is_biased() -> None:
    """The rule of Mussay's released code, until 2 of 3 are drawn: all sequences, up to a probability of 1e-30."""
    p = [0.7, 0.2, 0.1]
    mean = [0.0, 0.0, 0.0]
    for first, last in itertools.permutations(range(3), 2):
        for repeats in range(1, 200):
            chance, draws = p[first]**repeats * p[last], repeats + 1
            mean[first] += chance * repeats / (draws * p[first])
            mean[last] += chance / (draws * p[last])
    assert max(abs(value - 1) for value in mean) > 0.1


def test_the_best_of_several_draws_is_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    view = View(1, lambda: torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64).reshape(1, 1, 3, 1))
    law = Sample().sparsify(weight, weight, 2, seeded()).law
    assert law is not None
    found, mean = list(outcomes(law)), torch.zeros(1, 3, dtype=torch.float64)
    for one, other in itertools.product(found, repeat=2):
        queue = iter((one[1], other[1]))
        monkeypatch.setattr("pruning.sides.multiplicities", lambda p, draws, generator, queue=queue: next(queue))
        sparse = Amplified(repeats=2).sparsify_seeing(weight, weight, 2, seeded(), view)
        factors = [times[0] / (int(law.draws[0]) * law.probabilities[0]) for times in (one[1], other[1])]
        errors = [abs(float((weight[0] * (factor - 1)) @ view.patches().flatten())) for factor in factors]
        torch.testing.assert_close(sparse.weight[0], weight[0] * factors[int(errors[1] < errors[0] - 1e-12)])
        mean += one[0] * other[0] * sparse.weight
    assert float((mean - weight).abs().max()) > 0.05
    monkeypatch.undo()
    assert Amplified(repeats=2).sparsify_seeing(weight, weight, 3, seeded(), view).weight.tolist() == weight.tolist()
    with pytest.raises(EvidenceError, match="needs data"):
        Amplified().sparsify(weight, weight, 2, seeded())


# channels in networks


def example() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    net[1].weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    net[3].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.25]]))
    return net.double()


class Block(nn.Module):
    """A residual addition between convolutions with BatchNorm, a depthwise one behind, then a flattening."""

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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Block().double().eval()
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if "norm" in name and tensor.is_floating_point():
                tensor.data.uniform_(0.5, 1.5)
    return net


def selection(model: nn.Module, kept: float, sparsifier: Sparsifier, seed: int = 0, beta: float = 1.0,
              shape: tuple[int, int, int] = (1, 4, 4)) -> Selected:
    evidence = Evidence(model, shape=shape)
    seams = Seams.of(cases.recipe(0.5), cases.recipe(criterion={"name": "mussay"}).criteria[0])
    scores = alive_scores(evidence, Mussay(beta=beta).score(evidence))
    return Channel().select(Selection(model, evidence.weights, scores, evidence.masks, kept, seams.allocation, sparsifier,
                                      seeded(seed), lambda: shape))


def test_the_worked_example(monkeypatch: pytest.MonkeyPatch) -> None:
    net = example()
    graph = ChannelGraph.of(net, (1, 1, 2), list(prunable(net)))
    importance = {"1": Mussay().score(Evidence(net, shape=(1, 1, 2)))["3.weight"][0]}
    assert importance["1"].tolist() == [5.0, 2.0]
    law = Law(torch.tensor([[5 / 7, 2 / 7]], dtype=torch.float64), torch.tensor([10]))
    times = torch.tensor([[7.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    monkeypatch.setattr(Sides, "law", lambda self, counts: Law(
        torch.cat([law.probabilities, 0 * law.probabilities]), torch.tensor([10, -1])))
    monkeypatch.setattr("pruning.sides.multiplicities", lambda p, draws, generator: times)
    drawn = Drawn.of(graph, importance, torch.ones(graph.size, dtype=torch.bool), Sample(), seeded())
    found = drawn.reweighted(net, {name: weight.detach() for name, weight in prunable(net).items()})
    torch.testing.assert_close(found["3.weight"], torch.tensor([[0.98, -2.1], [0.49, 0.2625]], dtype=torch.float64))
    assert torch.equal(found["1.weight"], net[1].weight)
    laws = drawn.laws(net, prunable(net))
    assert list(laws) == ["3.weight"]
    torch.testing.assert_close(laws["3.weight"].probabilities, law.probabilities)
    assert laws["3.weight"].draws.tolist() == [10]


@pytest.mark.parametrize("sparsifier", [Sample(), TopSample()])
def test_what_a_layer_reads_is_right_on_average(sparsifier: Sparsifier) -> None:
    """Of every layer that sums over channels, behind BatchNorm, an addition and a flattening, on the dense one's inputs."""
    net, images = block(), torch.rand(3, 1, 4, 4, generator=seeded(), dtype=torch.float64)
    weights = {name: weight.detach() for name, weight in prunable(net).items()}
    graph = ChannelGraph.of(net, (1, 4, 4), weights)
    keep = torch.ones(graph.size, dtype=torch.bool)
    for group in graph.removable:
        keep[group.start + group.size // 2:group.span.stop] = False
    importance = {group.name: torch.rand(group.size, generator=seeded(group.start), dtype=torch.float64) + 0.1
                  for group in graph.removable}
    seen: dict[str, Tensor] = {}
    hooks = [net.get_submodule(name[:-7]).register_forward_hook(
        lambda module, inputs, output, name=name: seen.__setitem__(name, inputs[0])) for name in weights]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    found: dict[str, list[Tensor]] = {name: [] for name in weights}
    for seed in range(200):
        drawn = Drawn.of(graph, importance, keep, sparsifier, seeded(seed)).reweighted(net, weights)
        for name, weight in drawn.items():
            found[name].append(weight)
    for name, weight in weights.items():
        all_ = torch.stack(found[name])
        if name in ("stem.weight", "depth.weight"):
            assert torch.equal(all_[0], weight), "it sums over nothing that was drawn"
            continue
        layer = net.get_submodule(name[:-7])

        def outputs(w: Tensor, layer: nn.Module = layer, name: str = name) -> Tensor:
            return torch.func.functional_call(layer, {"weight": w}, (seen[name],)).detach()

        each = torch.stack([outputs(one) for one in all_])
        error = (each.mean(0) - outputs(weight)).abs()
        assert bool((error <= 5 * each.std(0) / 14 + 1e-9).all())
        assert float(each.std(0).max()) > 0


def test_channels_are_cut_where_they_were_not_drawn() -> None:
    net = block()
    for sparsifier in (Sample(), TopSample(), TopK()):
        found = selection(net, 0.5, sparsifier)
        kept = found.masks["stem.weight"].flatten(1).any(1)
        assert torch.equal(found.masks["outer.weight"].flatten(1).any(1), kept)
        assert torch.equal(found.masks["inner.weight"].amax((0, 2, 3)), kept)
        assert bool(found.laws) == (sparsifier != TopK())
        assert 0.2 < density(found.masks) < 0.8
    law = selection(net, 0.5, Sample()).laws["head.weight"]
    assert law.probabilities.shape == (1, 24)
    assert law.probabilities[0].reshape(6, 4).std(1).max() == 0, "a channel's inputs have its probability"
    assert set(selection(net, 0.5, Sample()).laws) == {"inner.weight", "outer.weight", "head.weight"}


@pytest.mark.parametrize("name", ["mussay", "pfp"])
@pytest.mark.parametrize("variant", [0, 1, 2])
def test_rounds_are_nested(name: str, variant: int) -> None:
    net = block()
    choices = {"mussay": ("importance", "uniform", "top_k"), "pfp": ("deterministic", "randomized", "top")}[name]
    recipe = cases.recipe(0.5, criterion={"name": name, "params": {"variant": choices[variant]}})
    seams = Seams.of(recipe, recipe.criteria[0])
    batches = [(torch.rand(9, 1, 4, 4, generator=seeded(), dtype=torch.float64), torch.zeros(9))]
    masks = full_masks(prunable(net))
    for target in (0.7, 0.5):
        after = prune_(net, masks, target, seams, lambda masks, stage: Evidence(net, masks, batches), generator=seeded())
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
        net.head.weight.zero_()
        net.inner.weight.zero_()
    dead = selection(net, 0.5, Sample())
    assert bool(dead.masks["stem.weight"].any()), "where nothing can be drawn, the first channel stays"
    one = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.ReLU(), nn.Linear(1, 3))
    with pytest.raises(BudgetError, match="there is only one"):
        selection(one, 0.5, Sample())
    with pytest.raises(ParameterError, match="none below 0"):
        Drawn.of(ChannelGraph.of(block(), (1, 4, 4), list(prunable(block()))),
                 {"stem": -torch.ones(6), "inner": -torch.ones(5)}, torch.ones(99, dtype=torch.bool), Sample(), seeded())


def test_empty_sides_and_one_weight() -> None:
    for sparsifier in (Sample(), TopSample(), Hybrid()):
        for weight in (torch.zeros(2, 3), torch.ones(1, 1), -torch.ones(2, 2)):
            for keep in range(weight.numel() + 1):
                sparse = sparsifier.sparsify(weight, weight.abs(), keep, seeded())
                assert bool(torch.isfinite(sparse.weight).all())
                assert int(sparse.mask.sum()) <= int((weight != 0).sum())
