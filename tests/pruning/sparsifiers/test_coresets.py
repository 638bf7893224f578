"""Coresets of weights and neurons: right on average by enumeration, unless documented as biased."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Generator, Tensor

from pruning.bounds.sipp import coefficient, epsilon
from pruning.errors import EvidenceError
from pruning.sparsifiers._signed_rows import SignedRows, compute_reweighting_factors, reweight
from pruning.sparsifiers.amplified import Amplified
from pruning.sparsifiers.hybrid import Hybrid
from pruning.sparsifiers.sample import Sample
from pruning.sparsifiers.top_sample import TopSample
from pruning.types import DrawLaw, LayerView, Sparse, Sparsifier


def make_generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def enumerate_counts(places: list[int], draws: int) -> Iterator[dict[int, int]]:
    """Enumerate the ways in which the draws divide over the places."""
    if len(places) == 1:
        yield {places[0]: draws}
        return
    for first in range(draws + 1):
        for rest in enumerate_counts(places[1:], draws - first):
            yield {places[0]: first} | rest


def enumerate_outcomes(law: DrawLaw) -> Iterator[tuple[float, Tensor]]:
    """Enumerate the outcomes of the draws of every row: probability, and counts of each place."""
    rows = []
    for row, draws in enumerate(law.draws.tolist()):
        p = law.probabilities[row].tolist()
        places = [j for j, value in enumerate(p) if 0 < value < 1] or [0]
        if draws > 0:
            rows.append(
                [
                    (
                        row,
                        counts,
                        math.factorial(draws)
                        * math.prod(
                            (p[j] if 0 < p[j] < 1 else 1) ** n / math.factorial(n)
                            for j, n in counts.items()
                        ),
                    )
                    for counts in enumerate_counts(places, draws)
                ]
            )
    for outcome in itertools.product(*rows):
        times = torch.zeros_like(law.probabilities)
        for row, counts, _ in outcome:
            for j, n in counts.items():
                times[row, j] = n
        yield math.prod(chance for *_, chance in outcome), times


def compute_expectation(monkeypatch: pytest.MonkeyPatch, sparse: Sparse, weight: Tensor) -> Tensor:
    """Compute the mean of the weight over all outcomes of the draws.

    `sparse`, drawn with seed 0, is one of them.
    """
    assert sparse.law is not None
    law = sparse.law
    mean = torch.zeros_like(weight)
    total = 0.0
    assert torch.equal(
        reweight(weight, compute_reweighting_factors(law, make_generator()), law).weight,
        sparse.weight,
    )
    for chance, times in enumerate_outcomes(law):
        monkeypatch.setattr(
            "pruning.sparsifiers._signed_rows.draw_multiplicities",
            lambda p, draws, generator, times=times: times,
        )
        mean += (
            chance
            * reweight(weight, compute_reweighting_factors(law, make_generator()), law).weight
        )
        total += chance
    assert total == pytest.approx(1)
    monkeypatch.undo()
    return mean


WEIGHT = torch.tensor(
    [[3.0, -2.0, 0.5, 1.0, -4.0, 2.0], [1.0, 2.0, 3.0, 4.0, -1.0, 0.0]], dtype=torch.float64
)
SCORE = torch.tensor(
    [[0.6, 0.5, 0.1, 0.8, 0.4, 0.3], [0.05, 0.1, 0.1, 0.9, 0.3, 0.0]], dtype=torch.float64
)


@pytest.mark.parametrize(
    ("sparsifier", "keep"),
    [
        (Sample(), 5),
        (Sample(division="proportional"), 5),
        (TopSample(), 6),
        (TopSample(division="proportional"), 7),
    ],
)
def test_weights_are_right_on_average(
    monkeypatch: pytest.MonkeyPatch, sparsifier: Sparsifier, keep: int
) -> None:
    sparse = sparsifier.sparsify(WEIGHT, SCORE, keep, make_generator())
    assert sparse.law is not None
    assert bool((sparse.law.draws != 0)[(sparse.law.probabilities > 0).any(1)].all()), (
        "each side is drawn or kept"
    )
    mean = compute_expectation(monkeypatch, sparse, WEIGHT)
    torch.testing.assert_close(mean, WEIGHT, rtol=1e-12, atol=1e-12)


def test_hybrid_is_right_on_average_where_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first filter's sensitivities are alike, and drawn; the second's are not, and its best
    remain.
    """
    weight = torch.arange(1.0, 9).double().repeat(2, 1)
    hybrid = Hybrid(c=2.0, delta=0.999)
    alpha = coefficient(1, 1, hybrid.delta, hybrid.c)
    marks = alpha * 1000 * torch.tensor([[1.0] * 8, [1.0] + [1e-6] * 7], dtype=torch.float64)
    sparse = hybrid.sparsify_seeing(
        weight, marks, 6, make_generator(), LayerView(1, lambda: weight)
    )
    counts = SignedRows.from_weight(weight, marks).divide_budget(6).tolist()
    law = sparse.law
    assert law is not None
    for row, drawn in ((0, True), (1, False)):
        lost = hybrid.c * float(marks[row].sort().values[: 8 - counts[row]].sum()) / alpha
        assert drawn == (
            lost > float(epsilon(marks[row].sum()[None], torch.tensor([counts[row]]))[0])
        )
        assert drawn == (int(law.draws[row]) > 0)
    mean = compute_expectation(monkeypatch, sparse, weight)
    torch.testing.assert_close(mean[0], weight[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(sparse.weight[1], torch.where(torch.arange(8) < counts[1], weight[1], 0.0))
    law_of_many_positions = hybrid.sparsify_seeing(
        weight, marks, 6, make_generator(), LayerView(10**6, lambda: weight)
    ).law
    assert law_of_many_positions is not None
    assert int(law_of_many_positions.draws[0]) == -1, "with more positions, draws promise less"
    plain = hybrid.sparsify(weight, marks, 6, make_generator())
    assert torch.equal(plain.weight, sparse.weight), "without a view there is one"


@pytest.mark.parametrize("sparsifier", [Sample(), TopSample()])
@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_channels_are_right_on_average(
    monkeypatch: pytest.MonkeyPatch, sparsifier: Sparsifier, keep: int
) -> None:
    ones = torch.ones(4, dtype=torch.float64)
    score = torch.tensor([0.7, 0.05, 0.2, 0.1], dtype=torch.float64)
    sparse = sparsifier.sparsify(ones, score, keep, make_generator())
    mean = compute_expectation(monkeypatch, sparse, ones)
    torch.testing.assert_close(mean, ones, rtol=1e-12, atol=1e-12)


def test_stopping_at_a_number_of_distinct_ones_is_biased() -> None:
    """The rule of Mussay's released code, until 2 of 3 are drawn: all sequences, up to a
    probability of 1e-30.
    """
    p = [0.7, 0.2, 0.1]
    mean = [0.0, 0.0, 0.0]
    for first, last in itertools.permutations(range(3), 2):
        for repeats in range(1, 200):
            chance = p[first] ** repeats * p[last]
            draws = repeats + 1
            mean[first] += chance * repeats / (draws * p[first])
            mean[last] += chance / (draws * p[last])
    assert max(abs(value - 1) for value in mean) > 0.1


def test_the_best_of_several_draws_is_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    view = LayerView(
        1, lambda: torch.tensor([1.0, 1.0, 4.0], dtype=torch.float64).reshape(1, 1, 3, 1)
    )
    law = Sample().sparsify(weight, weight, 2, make_generator()).law
    assert law is not None
    draws = list(enumerate_outcomes(law))
    mean = torch.zeros(1, 3, dtype=torch.float64)
    for first, second in itertools.product(draws, repeat=2):
        queue = iter((first[1], second[1]))
        monkeypatch.setattr(
            "pruning.sparsifiers._signed_rows.draw_multiplicities",
            lambda p, draws, generator, queue=queue: next(queue),
        )
        sparse = Amplified(repeats=2).sparsify_seeing(weight, weight, 2, make_generator(), view)
        factors = [
            times[0] / (int(law.draws[0]) * law.probabilities[0]) for times in (first[1], second[1])
        ]
        errors = [
            abs(float((weight[0] * (factor - 1)) @ view.patches().flatten())) for factor in factors
        ]
        torch.testing.assert_close(
            sparse.weight[0], weight[0] * factors[int(errors[1] < errors[0] - 1e-12)]
        )
        mean += first[0] * second[0] * sparse.weight
    assert float((mean - weight).abs().max()) > 0.05
    monkeypatch.undo()
    assert (
        Amplified(repeats=2)
        .sparsify_seeing(weight, weight, 3, make_generator(), view)
        .weight.tolist()
        == weight.tolist()
    )
    with pytest.raises(EvidenceError, match="needs data"):
        Amplified().sparsify(weight, weight, 2, make_generator())


def test_empty_sides_and_one_weight() -> None:
    for sparsifier in (Sample(), TopSample(), Hybrid()):
        for weight in (torch.zeros(2, 3), torch.ones(1, 1), -torch.ones(2, 2)):
            for keep in range(weight.numel() + 1):
                sparse = sparsifier.sparsify(weight, weight.abs(), keep, make_generator())
                assert bool(torch.isfinite(sparse.weight).all())
                assert int(sparse.mask.sum()) <= int((weight != 0).sum())
