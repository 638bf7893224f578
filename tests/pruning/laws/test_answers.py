"""Which member of a family, pruned how much: the closed form against enumeration."""

from __future__ import annotations

import numpy as np
import pytest

from pruning.errors import CurveError, InsufficientPointsError, ParameterError, UnreachableError
from pruning.laws.answers import Answers, Candidate, find_smallest
from tests.support.law_cases import compute_unpruned, simulate_family


def candidates(
    depths: tuple[float, ...] = (8, 14, 20, 26), widths: tuple[float, ...] = (0.5, 1, 1.41, 2)
) -> list[Candidate]:
    return [
        Candidate(
            depth=depth,
            width=width,
            unpruned_error=compute_unpruned(depth, width),
            parameters=round(10_000 * depth * width**2) + 500,
            prunable=round(10_000 * depth * width**2),
        )
        for depth in depths
        for width in widths
    ]


def test_the_closed_form_agrees_with_enumeration() -> None:
    law, error = simulate_family(0).fit(), 0.16
    answer = find_smallest(law, error, candidates())
    grid = np.geomspace(1e-3, 1, 20_001)
    left = {}
    for candidate in candidates():
        enough = (
            law.curve(candidate.depth, candidate.width, grid, candidate.unpruned_error) <= error
        )
        if enough.any():
            left[candidate] = (
                candidate.parameters - (1 - grid[np.argmax(enough)]) * candidate.prunable
            )
    best = min(left, key=lambda candidate: left[candidate])
    assert answer.best.candidate == best
    assert answer.best.parameters == pytest.approx(left[best], rel=1e-3)
    assert {row.candidate for row in (answer.best, *answer.others)} | {
        row for row, _ in answer.refused
    } == set(candidates())
    assert [row.parameters for row in answer.others] == sorted(
        row.parameters for row in answer.others
    )
    assert answer.best.error.value == pytest.approx(error, rel=1e-9)
    assert answer.best.error.low < error < answer.best.error.high  # type: ignore[operator]
    assert 0.8**answer.best.rounds <= answer.best.density < 0.8 ** (answer.best.rounds - 1)
    assert Answers.model_validate_json(answer.model_dump_json()) == answer


def test_a_larger_network_pruned_harder_beats_the_smallest_that_suffices() -> None:
    answer = find_smallest(simulate_family(0).fit(), 0.16, candidates())
    dense = min(
        (candidate for candidate in candidates() if candidate.unpruned_error <= 0.16),
        key=lambda candidate: candidate.parameters,
    )
    assert answer.best.candidate.parameters > dense.parameters
    assert answer.best.parameters < dense.parameters


def test_no_answer() -> None:
    measured = simulate_family(0)
    sentence = r"an error of 1\.00 % is below .* closest is 8\.55 %, at depth 26 and width 2"
    with pytest.raises(UnreachableError, match=sentence):
        find_smallest(measured.fit(), 0.01, candidates())
    with pytest.raises(InsufficientPointsError, match="no candidate has an answer"):
        find_smallest(
            measured.fit((measured.depth < 20) & (measured.width == 1)),
            0.2,
            candidates((50,), (1,)),
        )
    with pytest.raises(ParameterError, match="none"):
        find_smallest(measured.fit(), 0.1, [])
    with pytest.raises(ParameterError, match="20 of 10 parameters"):
        find_smallest(
            measured.fit(),
            0.1,
            [candidates()[0].model_copy(update={"parameters": 10, "prunable": 20})],
        )


def test_answers_stay_near_what_was_measured() -> None:
    """The sparsest density was 0.8^19: half as many rounds again are the end, and a weight must be
    left.
    """
    law = simulate_family(0).fit()
    (candidate,) = candidates((20,), (1,))
    answer = find_smallest(law, 0.85, [candidate]).best
    assert law.density_for(
        0.85, candidate.depth, candidate.width, candidate.unpruned_error
    ) < 0.8 ** (1.5 * 19)
    assert answer.density == pytest.approx(0.8 ** (1.5 * 19))
    assert answer.error.value == pytest.approx(
        float(law.curve(20, 1, answer.density, candidate.unpruned_error))
    )
    assert answer.error.value < 0.85
    assert answer.extrapolated
    assert "held here, at a smaller error" in answer.notes[-1]
    tiny = find_smallest(
        law, 0.5, [candidate.model_copy(update={"parameters": 60, "prunable": 50})]
    ).best
    assert (tiny.density, tiny.parameters) == (1 / 50, 11)


def test_a_network_above_the_plateau_is_refused_alone() -> None:
    law = simulate_family(0).fit(plateau=0.8)
    strange = candidates()[0].model_copy(update={"unpruned_error": 0.85})
    answer = find_smallest(law, 0.16, [strange, *candidates()])
    assert answer.best == find_smallest(law, 0.16, candidates()).best
    assert [
        (candidate, "above the plateau of the law, 0.8" in refusal)
        for candidate, refusal in answer.refused
        if candidate == strange
    ] == [(strange, True)]


def test_an_error_that_any_density_has_is_refused() -> None:
    with pytest.raises(CurveError, match="any density does"):
        find_smallest(simulate_family(0).fit(), 0.95, candidates())
