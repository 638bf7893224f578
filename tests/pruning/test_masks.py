"""Masks, counts, allocations and one pruning step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.allocations import allocations
from pruning.criteria import criteria
from pruning.errors import BudgetError, ParameterError, ScoreError
from pruning.evidence.criterion import Criterion
from pruning.evidence.evidence import Evidence
from pruning.granularities import granularities
from pruning.masks import (
    apply_masks_,
    build_full_masks,
    count_kept,
    count_to_keep,
    density,
    explain_dense,
    find_collapsed,
    find_prunable,
    select_top,
)
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import mask_scores, prune_
from pruning.sparsifiers import sparsifiers
from pruning.types import Allocation, Budget, Keeps, Masks, Scores, Sparse, Sparsifier
from tests.support import cases, oracles

fast = settings(max_examples=150, deadline=None, derandomize=True)
numbers = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -math.inf]), st.floats(-1e6, 1e6, width=32)
)


@fast
@given(values=st.lists(numbers, min_size=1, max_size=40), data=st.data())
def test_top_agrees_with_sorting(values: list[float], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(values)))
    for dtype in (torch.float32, torch.float64):
        assert select_top(
            torch.tensor(values, dtype=dtype), keep
        ).tolist() == oracles.kept_by_sorting(values, keep)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_top_ranks_every_number_type(dtype: torch.dtype) -> None:
    assert select_top(torch.tensor([1, 3, 2, 3], dtype=dtype), 2).tolist() == [
        False,
        True,
        False,
        True,
    ]


def test_top_keeps_the_shape_and_breaks_ties_in_row_major_order() -> None:
    score = torch.ones(2, 3, 2).transpose(0, 2)  # a non-contiguous score is ranked as it is seen
    mask = select_top(score, 5)
    assert mask.shape == score.shape
    assert mask.flatten().tolist() == [True] * 5 + [False] * 7


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("keep", [0, 1, 2])
def test_top_refuses_what_has_no_rank(bad: float, keep: int) -> None:
    with pytest.raises(ScoreError, match="numbers below infinity"):
        select_top(torch.tensor([1.0, bad]), keep)


@pytest.mark.parametrize("keep", [-1, 3])
def test_top_refuses_an_impossible_count(keep: int) -> None:
    with pytest.raises(BudgetError, match=f"cannot keep {keep} of 2"):
        select_top(torch.zeros(2), keep)


@fast
@given(total=st.integers(1, 10**9), sparsity=st.floats(0, 0.999999))
def test_keep_count_is_within_half_a_weight(total: int, sparsity: float) -> None:
    exact = (1 - sparsity) * total
    try:
        keep = count_to_keep(total, 1 - sparsity)
    except BudgetError:
        assert exact <= 0.5 + 1e-6
    else:
        assert 1 <= keep <= total
        assert abs(keep - exact) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("total", "density"), [(10, 0.0), (10, -0.1), (10, 0.04), (10, 1.1), (0, 0.5)]
)
def test_keep_count_leaves_one_weight_at_least(total: int, density: float) -> None:
    with pytest.raises(
        BudgetError, match=f"of {total} weights; at least one must remain"
    ) as caught:
        count_to_keep(total, density)
    assert caught.value.pointer == "/targets/sparsity"


# what is prunable


def test_tied_weights_come_once_and_frozen_ones_not() -> None:
    tied, _ = cases.awkward("tied")
    assert list(find_prunable(tied)) == ["first.weight", "head.weight"]
    frozen, _ = cases.awkward("frozen")
    assert list(find_prunable(frozen)) == ["3.weight"]
    assert explain_dense(frozen, "1.weight", ()) == "frozen"
    assert explain_dense(frozen, "3.bias", ()) == "bias"
    assert explain_dense(frozen, "3.weight", ("3.weight",)) == "excluded by the recipe"
    batchnorm, _ = cases.awkward("flat_batchnorm")
    assert explain_dense(batchnorm, "1.weight", ()) == "parameter of BatchNorm2d"
    assert list(find_prunable(nn.Linear(2, 2))) == ["weight"]


def test_an_embedding_tied_to_a_head_is_not_prunable() -> None:
    net = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    net["head"].weight = net["embedding"].weight
    assert find_prunable(net) == {}


def test_exclude_names_a_prunable_weight_or_is_refused() -> None:
    net = cases.mlp()
    assert list(find_prunable(net, ["1.weight"])) == ["3.weight"]
    for name in ("fc9.weight", "1.bias"):
        with pytest.raises(
            ParameterError, match=r"is not a prunable weight; known: 1\.weight, 3\.weight"
        ) as caught:
            find_prunable(net, ["3.weight", name])
        assert caught.value.pointer == "/exclude/1"
    with pytest.raises(ParameterError, match="nothing is left to prune") as caught:
        find_prunable(net, ["3.weight", "1.weight"])
    assert caught.value.pointer == "/exclude"


def test_applied_masks_leave_positive_zeros() -> None:
    net = nn.Linear(3, 1)
    net.weight.data.copy_(torch.tensor([[-1.0, math.nan, 2.0]]))
    apply_masks_(net, {"weight": torch.tensor([[False, False, True]])})
    assert net.weight.tolist() == [[0.0, 0.0, 2.0]]
    assert not net.weight.detach().signbit().any()


def test_counts_density_collapse() -> None:
    first = {
        "a": torch.tensor([[True, True, False]]),
        "b": torch.tensor([[False]]),
        "a.bias": torch.tensor([True]),
    }
    assert count_kept(first) == {"a": 2, "b": 0, "a.bias": 1}
    assert density(first) == 0.5
    assert find_collapsed(first) == ["b"]


# allocations


@fast
@given(data=st.data())
def test_global_ranks_all_weights_in_one_list(data: st.DataObject) -> None:
    layers = data.draw(
        st.lists(
            st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, 0.5]), min_size=1, max_size=8),
            min_size=1,
            max_size=4,
        )
    )
    scores = {f"l{i}": values for i, values in enumerate(layers)}
    keep = data.draw(st.integers(1, sum(map(len, layers))))
    keeps = allocations.create("global").allocate(
        {k: torch.tensor(v, dtype=torch.float64) for k, v in scores.items()},
        Budget(keep, {k: len(v) for k, v in scores.items()}),
    )
    assert keeps == oracles.global_counts(scores, keep)


@fast
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6), data=st.data())
def test_uniform_stays_within_one_weight_of_its_share(
    sizes: list[int], data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, sum(sizes)))
    named = {f"l{i}": size for i, size in enumerate(sizes)}
    keeps = allocations.create("uniform").allocate(
        {k: torch.zeros(n) for k, n in named.items()}, Budget(keep, named)
    )
    assert sum(keeps.values()) == keep
    for name, size in named.items():
        assert abs(keeps[name] - keep * size / sum(sizes)) < 1
    # largest remainder: whoever got the extra weight had no smaller a remainder than who did not
    remainders = {name: keep * size % sum(sizes) for name, size in named.items()}
    up = [remainders[name] for name in named if keeps[name] > keep * named[name] // sum(sizes)]
    down = [remainders[name] for name in named if keeps[name] == keep * named[name] // sum(sizes)]
    assert not up or not down or min(up) >= max(down)


def test_uniform_gives_what_a_layer_cannot_take_to_the_others() -> None:
    scores = {"a": torch.tensor([1.0, -math.inf, -math.inf, -math.inf]), "b": torch.zeros(4)}
    assert allocations.create("uniform").allocate(scores, Budget(5, {"a": 4, "b": 4})) == {
        "a": 1,
        "b": 4,
    }


def test_global_takes_filters_in_order_of_score_and_skips_what_does_not_fit() -> None:
    scores = {"conv": torch.tensor([3.0, 1.0]).view(2, 1, 1, 1), "fc": torch.tensor([[2.0, 4.0]])}
    sizes = {"conv": 18, "fc": 2}
    for keep, expected in [
        (1, {"conv": 0, "fc": 1}),
        (9, {"conv": 0, "fc": 2}),
        (10, {"conv": 9, "fc": 1}),
        (11, {"conv": 9, "fc": 2}),
        (19, {"conv": 9, "fc": 2}),
        (20, {"conv": 18, "fc": 2}),
    ]:
        assert allocations.create("global").allocate(scores, Budget(keep, sizes)) == expected


# one step


class Fixed:
    """A criterion with fixed scores."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores

    def score(self, evidence: Evidence) -> Scores:
        return self.scores


class Greedy:
    """An allocation that overspends."""

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        return dict(budget.sizes)


def prune_once(
    model: nn.Module,
    evidence: Evidence,
    to: float,
    criterion: str = "magnitude",
    allocation: str = "global",
    seed: int = 0,
) -> Masks:
    return prune_(
        model,
        evidence.masks,
        to,
        build_method(criteria.create(criterion), allocations.create(allocation)),
        lambda masks, stage: evidence,
        generator=torch.Generator().manual_seed(seed),
    )


def build_method(
    criterion: Criterion, allocation: Allocation | None = None, sparsifier: Sparsifier | None = None
) -> PruningMethod:
    return PruningMethod(
        criterion,
        allocation or allocations.create("global"),
        sparsifier or sparsifiers.create("top_k"),
        granularities.create("weight"),
    )


@pytest.mark.parametrize("allocation", allocations.names())
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_a_cascade_only_ever_prunes_more(criterion: str, allocation: str) -> None:
    model = cases.conv_net()
    fit = cases.make_data().fit
    batches = [(fit.images.float() / 255, fit.labels)]
    masks = build_full_masks(find_prunable(model))
    total = sum(mask.numel() for mask in masks.values())
    for number, to in enumerate([0.8, 0.5, 0.3, 0.1]):
        generator = torch.Generator().manual_seed(number)
        after = prune_(
            model,
            masks,
            to,
            build_method(criteria.create(criterion), allocations.create(allocation)),
            lambda masks, stage, rng=generator: Evidence(  # type: ignore[misc]
                model, masks, batches, generator=rng
            ),
            generator=torch.Generator().manual_seed(0),
        )
        assert sum(count_kept(after).values()) == count_to_keep(total, to)
        assert all(not bool((after[name] & ~masks[name]).any()) for name in masks)
        assert all(
            torch.equal(weight != 0, after[name]) for name, weight in find_prunable(model).items()
        )
        masks = after


def test_magnitude_global_keeps_the_largest_weights_of_the_network() -> None:
    model = cases.mlp()
    flat = torch.cat([weight.detach().abs().flatten() for weight in find_prunable(model).values()])
    expected = oracles.kept_by_sorting(flat.tolist(), 40)
    masks = prune_once(model, Evidence(model), 40 / flat.numel())
    assert torch.cat([mask.flatten() for mask in masks.values()]).tolist() == expected


def test_filter_scores_prune_whole_filters_and_stay_pruned() -> None:
    model = cases.conv_net()
    name = "0.weight"
    others = [key for key in find_prunable(model) if key != name]
    masks: Masks = build_full_masks(find_prunable(model, others))
    # a dead filter's score, however high, does not bring it back
    for scores, alive in [([4, 1, 3, 2], {0, 2, 3}), ([4, 9, 3, 2], {0, 2}), ([4, 9, 3, 9], {0})]:
        evidence = Evidence(model, masks, exclude=others)
        score = torch.tensor(scores, dtype=torch.float32).view(4, 1, 1, 1)
        masks = prune_(
            model,
            masks,
            9 * len(alive) / 36,
            build_method(Fixed({name: score})),
            lambda masks, stage: evidence,  # noqa: B023
            generator=torch.Generator(),
        )
        assert {i for i in range(4) if masks[name][i].all()} == alive
        assert int(masks[name].sum()) == 9 * len(alive)


def test_an_allocation_that_overspends_is_caught() -> None:
    model = cases.mlp()
    with pytest.raises(BudgetError, match="the allocation keeps 114 weights, the budget is 57"):
        prune_(
            model,
            build_full_masks(find_prunable(model)),
            0.5,
            build_method(criteria.create("magnitude"), _greedy()),
            lambda masks, stage: Evidence(model, masks),
            generator=torch.Generator(),
        )


def _greedy() -> Allocation:
    return Greedy()


class Reviving:
    """A sparsifier that keeps everything."""

    def sparsify(
        self, weight: Tensor, score: Tensor, keep: int, generator: torch.Generator
    ) -> Sparse:
        return Sparse(torch.ones_like(weight, dtype=torch.bool), weight + 1)


def test_no_sparsifier_brings_a_pruned_weight_back() -> None:
    model = cases.mlp()
    masks = cases.half_masks(model)
    apply_masks_(model, masks)
    after = prune_(
        model,
        masks,
        0.3,
        build_method(criteria.create("magnitude"), sparsifier=Reviving()),
        lambda masks, stage: Evidence(model, masks),
        generator=torch.Generator(),
    )
    assert all(torch.equal(after[name], mask) for name, mask in masks.items())
    assert all(
        not bool(weight[~masks[name]].detach().any())
        for name, weight in find_prunable(model).items()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"extra": torch.ones(1)}, "expected"),
        (lambda s: {"1.weight": s["1.weight"]}, "expected"),
        (lambda s: s | {"1.weight": torch.ones(16)}, "does not broadcast"),
        (lambda s: s | {"1.weight": torch.ones(5, 16)}, "does not broadcast"),
        (lambda s: s | {"1.weight": torch.ones(1, 6, 16)}, "does not broadcast"),
        (
            lambda s: s | {"1.weight": torch.full((6, 16), math.nan)},
            "96 scores are not finite",
        ),
        (
            lambda s: s | {"1.weight": torch.full((6, 16), -math.inf)},
            "96 scores are not finite",
        ),
    ],
)
def test_bad_scores_are_refused_with_the_layer(change: object, message: str) -> None:
    model = cases.mlp()
    scores: dict[str, Tensor] = criteria.create("magnitude").score(Evidence(model))
    with pytest.raises(ScoreError, match=message):
        mask_scores(Evidence(model), change(scores))  # type: ignore[operator]
