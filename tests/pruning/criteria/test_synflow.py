"""SynFlow against enumerated paths."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from pruning.criteria.synflow import SynFlow
from pruning.errors import EvidenceError, ScoreError
from pruning.evidence.evidence import Batches, Evidence
from pruning.masks import build_full_masks, count_kept, find_collapsed, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Method
from pruning.types import Masks
from tests.support import cases
from tests.support.double_networks import mask_half


def build_chain(*widths: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Build linear layers without biases, ReLU between."""
    rng = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(widths):
        layer = nn.Linear(fan_in, fan_out, bias=False, dtype=dtype)
        nn.init.normal_(layer.weight, generator=rng)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def sum_paths(weights: list[list[list[float]]]) -> list[list[list[float]]]:
    """Sum the product of |w| over all paths from inputs to outputs through each weight."""
    flows = [[[0.0] * len(row) for row in weight] for weight in weights]
    widths = [len(weights[0][0]), *(len(weight) for weight in weights)]
    for units in itertools.product(*(range(width) for width in widths)):
        product = math.prod(abs(weight[units[i + 1]][units[i]]) for i, weight in enumerate(weights))
        for i in range(len(weights)):
            flows[i][units[i + 1]][units[i]] += product
    return flows


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_synflow_is_the_sum_over_all_paths(dtype: torch.dtype, pruned: bool) -> None:
    model = build_chain(3, 4, 3, 2, dtype=dtype)
    masks = mask_half(model) if pruned else build_full_masks(find_prunable(model))
    expected = sum_paths([weight.tolist() for weight in find_prunable(model).values()])
    scores = SynFlow().score(Evidence(model, masks, shape=(1, 1, 3)))
    for (name, score), wanted in zip(scores.items(), expected, strict=True):
        assert score.dtype == torch.float64
        torch.testing.assert_close(
            score, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0
        )
        assert not score[~masks[name]].any()


@pytest.mark.parametrize("pruned", [False, True])
def test_synflow_is_conserved_from_layer_to_layer(pruned: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(6)
    convs = [
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False),
        norm,
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(6, 5, bias=False),
        nn.ReLU(),
        nn.Linear(5, 3, bias=False),
    ]
    for model in (build_chain(4, 7, 5, 3), nn.Sequential(*convs).double()):
        for parameter in find_prunable(model).values():
            nn.init.normal_(parameter, generator=rng)
        assert norm.running_var is not None
        norm.running_var.uniform_(0.5, 2, generator=rng)
        masks = mask_half(model) if pruned else build_full_masks(find_prunable(model))
        shape = (1, 1, 4) if model[0].__class__ is nn.Flatten else (2, 5, 5)
        sums = [
            float(score.sum())
            for score in SynFlow().score(Evidence(model, masks, shape=shape)).values()
        ]
        assert all(total == pytest.approx(sums[0], rel=1e-12) for total in sums)
        assert sums[0] > 0


def test_synflow_conserves_what_enters_and_leaves_a_unit() -> None:
    scores = list(SynFlow().score(Evidence(build_chain(4, 7, 5, 3), shape=(1, 2, 2))).values())
    for before, after in itertools.pairwise(scores):
        torch.testing.assert_close(before.sum(1), after.sum(0), rtol=1e-12, atol=0)


def test_synflow_takes_every_entry_of_the_state_by_its_absolute_value() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    ).train()
    rng = torch.Generator().manual_seed(0)
    for value in model.state_dict().values():
        if value.is_floating_point():
            nn.init.normal_(value, generator=rng)
    model.get_buffer("1.running_var").abs_().add_(0.5)
    positive = copy.deepcopy(model).double().eval()
    for value in positive.state_dict().values():
        value.abs_()
    positive(torch.ones(1, 1, 3, 3, dtype=torch.float64)).sum().backward()
    scores = SynFlow().score(Evidence(model, shape=(1, 3, 3)))
    for name, weight in find_prunable(positive).items():
        assert weight.grad is not None
        torch.testing.assert_close(
            scores[name], (weight * weight.grad).detach().abs(), rtol=1e-12, atol=0
        )
    assert int(model.get_buffer("1.num_batches_tracked")) == 0
    assert model[1].training


def test_synflow_looks_at_no_data() -> None:
    def batches() -> Batches:
        raise AssertionError("asked for data")

    model, _batches = cases.awkward("grouped")
    scores = SynFlow().score(Evidence(model, batches=batches, shape=(4, 2, 2)))
    for other in (_batches, [(torch.full_like(x, 1e9), y.flip(0)) for x, y in _batches]):
        again = SynFlow().score(Evidence(model, batches=other))
        assert all(torch.equal(again[name], score) for name, score in scores.items())
    with pytest.raises(EvidenceError):
        SynFlow().score(Evidence(model))


def test_synflow_scores_beyond_float32() -> None:
    model = build_chain(2, 2, 2, dtype=torch.float32)
    for weight in find_prunable(model).values():
        weight.data.fill_(-1e30)
    assert all(
        bool((score > 1e60).all())
        for score in SynFlow().score(Evidence(model, shape=(1, 1, 2))).values()
    )


def test_synflow_says_when_float64_is_not_enough() -> None:
    model = nn.Sequential(
        *(module for module in build_chain(2, 2, 2, 2) if not isinstance(module, nn.ReLU))
    )
    weights = list(find_prunable(model).values())
    for weight in weights:
        weight.data.fill_(1e150)
    with pytest.raises(ScoreError, match="R = inf is beyond float64"):
        SynFlow().score(Evidence(model, shape=(1, 1, 2)))
    weights[0].data.zero_()
    weights[1].data.fill_(1e200)
    weights[2].data.fill_(1e200)
    with pytest.raises(ScoreError, match=r"1\.weight: SynFlow scores are beyond float64"):
        SynFlow().score(Evidence(model, shape=(1, 1, 2)))


def test_synflow_uses_what_is_excluded_and_does_not_score_it() -> None:
    model = build_chain(3, 4, 2)
    all_scores = SynFlow().score(Evidence(model, shape=(1, 1, 3)))
    scores_without_last = SynFlow().score(Evidence(model, shape=(1, 1, 3), exclude=["3.weight"]))
    assert list(scores_without_last) == ["1.weight"]
    assert torch.equal(scores_without_last["1.weight"], all_scores["1.weight"])


def test_synflow_stages() -> None:
    densities = SynFlow().stage_densities(1.0, 0.01)
    assert densities == pytest.approx([0.01 ** (i / 100) for i in range(1, 101)], rel=1e-12)
    assert densities[-1] == 0.01
    assert SynFlow(rounds=2).stage_densities(0.4, 0.1) == pytest.approx([0.2, 0.1])
    assert SynFlow(rounds=3, stages="linear").stage_densities(0.4, 0.1) == pytest.approx(
        [0.3, 0.2, 0.1]
    )
    assert SynFlow(rounds=1).stage_densities(0.4, 0.1) == [0.1]


def prune(model: nn.Module, keep: int, shape: tuple[int, int, int], **params: Any) -> Masks:
    masks = build_full_masks(find_prunable(model))
    method = PruningMethod.of(cases.recipe(0.5), Method(name="synflow", params=params))
    return prune_(
        model,
        masks,
        keep / sum(mask.numel() for mask in masks.values()),
        method,
        lambda masks, stage: Evidence(model, masks, shape=shape),
        generator=torch.Generator(),
    )


@pytest.mark.parametrize("seed", range(3))
def test_synflow_reaches_the_largest_compression_without_collapse(seed: int) -> None:
    model = build_chain(8, 20, 20, 20, 20, 4, seed=seed)
    layers = len(find_prunable(model))
    assert find_collapsed(prune(copy.deepcopy(model), 4 * layers, (1, 1, 8), rounds=1))
    masks = prune(model, layers, (1, 1, 8))
    assert count_kept(masks) == dict.fromkeys(masks, 1)


def test_synflow_prunes_by_count_where_everything_ties() -> None:
    model, _ = cases.awkward("zero_weights")
    masks = prune(model, 9, (1, 2, 2))
    assert sum(count_kept(masks).values()) == 9
