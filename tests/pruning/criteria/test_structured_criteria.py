"""Criteria that score filters and input channels, against explicit sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.channels.compaction import build_compact
from pruning.criteria import criteria
from pruning.criteria.filter_norm import FilterNorm
from pruning.criteria.taylor_filter import TaylorFilter
from pruning.criteria.thinet import ThiNet, order_channels, sample_windows
from pruning.errors import BudgetError, EvidenceError
from pruning.evidence.calibration import choose_calibration, count_units
from pruning.evidence.evidence import Evidence
from pruning.masks import apply_masks_, build_full_masks, density, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Method
from pruning.seeding import seeded
from pruning.types import Masks
from tests.support import cases

STRUCTURED = ("filter_norm", "taylor_filter", "thinet")


def build_net(seed: int = 0) -> nn.Module:
    """Build a float64 network with convolutions of all kinds."""
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, (3, 2), stride=(2, 1), groups=2, dilation=(1, 2)),
            nn.ReLU(),
            nn.Conv2d(6, 3, 1, padding="same", padding_mode="reflect", bias=False),
            nn.Flatten(),
            nn.Linear(24, 3),
        ).double()


def draw_batches(
    sizes: Sequence[int] = (5, 2), shape: tuple[int, int, int] = (2, 6, 6)
) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(0)
    return [
        (torch.randn(n, *shape, generator=rng, dtype=torch.float64), torch.arange(n) % 3)
        for n in sizes
    ]


@pytest.mark.parametrize("p", [1, 2])
def test_filter_norm_is_a_sum_over_the_filter(p: int) -> None:
    model = build_net()
    scores = criteria.create("filter_norm", {"p": p}).score(Evidence(model))
    for name, weight in find_prunable(model).items():
        expected = [sum(abs(w) ** p for w in row.flatten().tolist()) ** (1 / p) for row in weight]
        assert scores[name].flatten().tolist() == pytest.approx(expected)
        assert scores[name].shape == (len(weight), *[1] * (weight.dim() - 1))


def test_taylor_is_the_mean_square_of_the_change_per_mini_batch() -> None:
    """Against the derivative of each batch's loss with respect to a factor on one filter."""
    model = build_net()
    mini_batches = draw_batches()
    scores = TaylorFilter().score(Evidence(model, batches=mini_batches))
    for name, weight in find_prunable(model).items():
        for row in range(len(weight)):
            squares = []
            for inputs, labels in mini_batches:
                factor = torch.ones((), dtype=torch.float64, requires_grad=True)
                scaled = torch.where(
                    torch.arange(len(weight)).reshape(-1, *[1] * (weight.dim() - 1)) == row,
                    weight.detach() * factor,
                    weight.detach(),
                )
                outputs = torch.func.functional_call(model, {name: scaled}, (inputs,))
                squares.append(
                    float(torch.autograd.grad(F.cross_entropy(outputs, labels), factor)[0]) ** 2
                )
            assert float(scores[name].flatten()[row]) == pytest.approx(
                sum(squares) / len(squares), rel=1e-9, abs=1e-15
            )


def order_greedily(contributions: Tensor) -> list[float]:
    """Order the removal of channels by trying each; contributions are (samples, channels)."""
    samples, channels = contributions.shape
    at_once = math.ceil(math.sqrt(channels))
    removed: list[int] = []
    place = [0.0] * channels
    while len(removed) < channels:
        tried = []
        for c in set(range(channels)) - set(removed):
            lost = [
                math.fsum(float(contributions[j, t]) for t in [*removed, c]) for j in range(samples)
            ]
            tried.append((math.fsum(value**2 for value in lost), c))
        for _, c in sorted(tried)[:at_once]:
            removed.append(c)
            place[c] = len(removed) / channels
    return place


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9, 10, 17])
def test_order_is_the_greedy_search(channels: int) -> None:
    x = (
        torch.randn(
            7, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(channels)
        )
        + 0.3
    )
    assert order_channels(x.T @ x).tolist() == pytest.approx(order_greedily(x))


def test_channels_that_cancel_go_together() -> None:
    """Without 2 and -2 nothing is missed, so that -2 follows 2 although 1 is smaller; large ones
    stay longest.
    """
    x = torch.tensor([[10.0, 2.0, -2.1, 3.0, 30.0]], dtype=torch.float64)
    assert order_channels(x.T @ x).tolist() == pytest.approx(order_greedily(x))
    alone = torch.tensor([[4.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    assert order_channels(alone.T @ alone).tolist() == [1.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), groups=2, dilation=(1, 2)),
        nn.Conv2d(4, 6, 2, padding="same", padding_mode="reflect", groups=2),
        nn.Conv2d(4, 4, 3, groups=4, stride=3),
        nn.Linear(5, 6),
    ],
    ids=str,
)
def test_windows_hold_what_makes_one_output(layer: nn.Conv2d | nn.Linear) -> None:
    layer = layer.double()
    inputs = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    outputs = layer(inputs)
    if isinstance(layer, nn.Linear):
        outputs = outputs.flatten(1, 2).transpose(1, 2)[..., None]
    count = outputs.shape[2] * outputs.shape[3]
    groups = getattr(layer, "groups", 1)
    for position in range(count):
        place = torch.full((3,), (position + 0.5) / count)
        for filter in range(outputs.shape[1]):
            group = torch.full((3,), filter // (outputs.shape[1] // groups))
            windows = sample_windows(layer, inputs, image=torch.arange(3), place=place, group=group)
            kernel = layer.weight[filter].reshape(layer.weight.shape[1], -1)
            assert layer.bias is not None
            torch.testing.assert_close(
                (windows * kernel).sum((1, 2)) + layer.bias[filter],
                outputs[:, filter].flatten(1)[:, position],
            )


def score_explicitly(
    model: nn.Module, images_and_labels: list[tuple[Tensor, Tensor]], samples: int, seed: int
) -> dict[str, list[float]]:
    """Score as ThiNet from every input channel's own convolution.

    The outputs are those that the same draws choose.
    """
    rng = torch.Generator().manual_seed(seed)
    images = torch.cat([x for x, _ in images_and_labels])
    count = min(samples, len(images))
    chosen = torch.randperm(len(images), generator=rng)[:count].sort().values
    draws = {
        name: torch.rand(3, count, generator=rng, dtype=torch.float64)
        for name in find_prunable(model)
    }
    scores = {}
    x = images
    for number, module in enumerate(model.children()):
        name = f"{number}.weight"
        if isinstance(module, nn.Linear | nn.Conv2d):
            width = module.weight.shape[1]
            groups = getattr(module, "groups", 1)
            bias = 0 if module.bias is None else module.bias.reshape(1, -1, *[1] * (x.dim() - 2))
            parts = []
            for c in range(width):
                alone = torch.zeros_like(x)
                for group in range(groups):
                    alone[:, group * width + c] = x[:, group * width + c]
                parts.append(
                    (module(alone) - bias).flatten(2)
                    if x.dim() > 2
                    else (module(alone) - bias)[..., None]
                )
            rows = []
            for j, image in enumerate(chosen.tolist()):
                filter = int(draws[name][1, j] * parts[0].shape[1])
                position = int(draws[name][2, j] * parts[0].shape[2])
                rows.append([float(part[image, filter, position]) for part in parts])
            scores[name] = order_greedily(torch.tensor(rows, dtype=torch.float64))
        x = module(x)
    return scores


@pytest.mark.parametrize(
    ("samples", "sizes"), [(100, (5, 2)), (6, (5, 2, 9)), (1, (3,)), (40, (25, 30))]
)
def test_thinet_is_the_greedy_search_on_sampled_outputs(
    samples: int, sizes: tuple[int, ...]
) -> None:
    model = build_net()
    images_and_labels = draw_batches(sizes)
    scores = ThiNet(samples).score(
        Evidence(model, batches=images_and_labels, generator=torch.Generator().manual_seed(3))
    )
    with torch.no_grad():
        expected = score_explicitly(model, images_and_labels, samples, 3)
    for name, weight in find_prunable(model).items():
        assert scores[name].shape == (1, weight.shape[1], *[1] * (weight.dim() - 2))
        assert scores[name].flatten().tolist() == pytest.approx(expected[name]), name
        assert scores[name].flatten().sort().values.tolist() == pytest.approx(
            [(place + 1) / weight.shape[1] for place in range(weight.shape[1])]
        )


def test_thinet_depends_on_the_draws() -> None:
    images_and_labels = draw_batches((40,))
    first, second = (
        ThiNet(5).score(
            Evidence(
                build_net(),
                batches=images_and_labels,
                generator=torch.Generator().manual_seed(seed),
            )
        )
        for seed in (0, 1)
    )
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_thinet_scores_a_layer_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)
            self.unused = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x.flatten(1)))

    model = Twice().double()
    images_and_labels = draw_batches((30,), (1, 2, 2))
    scores = ThiNet().score(Evidence(model, batches=images_and_labels))
    assert sorted(scores["layer.weight"].flatten().tolist()) == [0.25, 0.5, 0.75, 1.0]
    assert scores["unused.weight"].tolist() == [[0.5, 1.0]]


@pytest.mark.parametrize("name", ["taylor_filter", "thinet"])
def test_data_are_needed(name: str) -> None:
    with pytest.raises(EvidenceError, match="needs data"):
        criteria.create(name).score(Evidence(build_net()))


def test_they_say_what_they_cost() -> None:
    assert (choose_calibration(ThiNet(), 10).images, count_units(ThiNet(), 10, 5000)) == (100, 100)
    assert (
        choose_calibration(TaylorFilter(), 10).images,
        count_units(TaylorFilter(), 10, 5000),
    ) == (1000, 3000)
    assert (FilterNorm.allocation, TaylorFilter.allocation, ThiNet.allocation) == (
        "uniform",
        "global",
        "uniform",
    )
    granularities = {getattr(criteria.create(name), "granularity", None) for name in STRUCTURED}
    assert granularities == {"channel"}


def prune(
    model: nn.Module,
    masks: Masks,
    target: float,
    name: str,
    images_and_labels: list[tuple[Tensor, Tensor]],
) -> Masks:
    return prune_(
        model,
        masks,
        target,
        PruningMethod.of(cases.recipe(0.5), Method(name=name)),
        lambda masks, stage: Evidence(
            model, masks, images_and_labels, torch.Generator().manual_seed(0)
        ),
        generator=torch.Generator(),
    )


@pytest.mark.parametrize("name", STRUCTURED)
@pytest.mark.parametrize(
    ("case", "half"),
    [
        *((case, False) for case in cases.AWKWARD),
        *((case, True) for case in ("plain", "grouped", "flat_batchnorm", "one_weight")),
    ],
)
def test_awkward_networks_are_pruned_or_refused_by_name(name: str, case: str, half: bool) -> None:
    model, images_and_labels = cases.awkward(case)
    masks = cases.half_masks(model) if half else build_full_masks(find_prunable(model))
    apply_masks_(model, masks)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    target = density(masks) * 0.7
    try:
        after = prune(model, masks, target, name, images_and_labels)
    except BudgetError:
        assert case in ("depthwise", "tied", "frozen", "one_weight")
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        return
    assert density(after) <= target
    assert not any((after[key] & ~masks[key]).any() for key in masks)
    small = build_compact(model, after, cases.AWKWARD[case][1])
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        for inputs, _ in images_and_labels:
            torch.testing.assert_close(
                small.eval()(inputs), model.eval()(inputs), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("name", STRUCTURED)
def test_a_second_round_scores_the_pruned_network(name: str) -> None:
    model = build_net()
    images_and_labels = draw_batches((20, 20))
    masks = build_full_masks(find_prunable(model))
    for target in (0.6, 0.35):
        after = prune(model, masks, target, name, images_and_labels)
        assert density(after) <= target
        assert not any((after[key] & ~masks[key]).any() for key in masks)
        masks = after
    small = build_compact(model, masks, (2, 6, 6))
    with torch.no_grad():
        torch.testing.assert_close(
            small(images_and_labels[0][0]), model(images_and_labels[0][0]), rtol=1e-10, atol=1e-10
        )
