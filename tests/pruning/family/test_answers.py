"""The answers of a family: candidates, predictions, and what their networks measured."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pruning.family.confirmation import judge_answers
from pruning.family.members import build_member_job
from pruning.family.report import build_report
from pruning.family.sections import build_sections
from pruning.family.smallest_run import find_smallest_run
from pruning.laws.answers import forecast_errors
from pruning.rounds.plan import plan_rounds
from pruning.schemas.job import JobSpec
from tests.support import family_world as world


def test_the_answer_is_the_best_of_a_brute_force_over_the_truth() -> None:
    """With little noise, the closed form finds the network and density that a search through the
    true law finds.
    """
    truth, family = world.World(noise=1e-4, unpruned_noise=1e-4), world.spec(confirm=False)
    end = world.live(family, truth)
    best: tuple[float, float, float] | None = None
    for size in world.sizes(family):
        unpruned = truth.unpruned(size, 1.0)
        for density in np.geomspace(0.005, 1, 20_000):
            invariant = size.depth**truth.phi * size.width**truth.psi * density
            r = (truth.plateau / unpruned) ** (1 / truth.gamma)
            error = unpruned * (
                (invariant**2 + (truth.p * r) ** 2) / (invariant**2 + truth.p**2)
            ) ** (truth.gamma / 2)
            remaining = size.parameters - (1 - density) * size.prunable
            if error <= 0.12 and (best is None or remaining < best[0]):
                best = remaining, size.depth, size.width
    assert best is not None
    (answer,) = end.answers
    assert (answer.depth, answer.width) == best[1:]
    assert answer.parameters == pytest.approx(best[0], rel=0.01)
    assert not [run for run in end.runs if run.member.role == "answer"]


def test_an_unreachable_error_is_refused_with_the_closest() -> None:
    (answer,) = world.live(world.spec(max_error=[0.001])).answers
    assert answer.refused.startswith("unreachable: ")
    assert "an error of 0.10 % is below every candidate's unpruned error" in answer.refused
    assert "the closest is" in answer.refused
    (own,) = world.live(world.spec(max_error=[])).answers
    assert own.measured is not None


def test_candidates_that_were_not_run_have_the_error_of_the_dense_law() -> None:
    family = world.spec(candidates={"depths": [2, 4], "widths": [16, 24]})
    state = world.live(family)
    assert state.dense is not None
    assert {(candidate.depth, candidate.width) for candidate in state.candidates} == {
        (2, 16),
        (2, 24),
        (4, 16),
        (4, 24),
    }
    known = {(candidate.depth, candidate.width): candidate for candidate in state.candidates}
    assert known[2, 16].unpruned_sd is None
    assert known[4, 24].unpruned_sd is not None
    assert known[4, 24].unpruned_sd > state.dense.sigma  # beyond the sizes that were run
    assert known[4, 24].unpruned_error == pytest.approx(
        world.World().unpruned(
            next(s for s in world.sizes(family) if (s.depth, s.width) == (4, 24)), 1.0
        ),
        rel=0.25,
    )
    assert any("were not run" in remark for remark in state.remarks)


def test_rounds_are_those_of_the_family() -> None:
    (answer,) = world.live(world.spec(keep=0.5, confirm=False)).answers
    assert answer.rounds is not None
    assert answer.density is not None
    assert 0.5**answer.rounds <= answer.density < 0.5 ** (answer.rounds - 1)


def test_an_answer_without_pruning_is_not_announced_as_one_to_be_trained() -> None:
    free = world.live(world.spec(confirm=False))
    least = min(candidate.unpruned_error for candidate in free.candidates)
    report = world.reported(world.spec(max_error=[least * 1.0001]))
    assert report.answers[0].density == 1.0
    assert not report.partial
    assert "without pruning" in report.sections["answers"].notes[0]
    assert "allow no pruning" in report.recommendation.reason


def test_the_smallest_proven_network_stands_beside_the_law_s_answer() -> None:
    family = world.spec(max_error=[0.11])
    state = world.live(family)
    (answer,) = state.answers
    smallest = answer.smallest_run
    assert smallest is not None
    assert smallest == find_smallest_run(family, state.runs, 0.11)
    assert smallest.high is not None
    assert smallest.error < smallest.high < 0.11
    measured = [
        round(run.curve.parameters - (1 - density) * run.curve.prunable)
        for run in state.runs
        if run.curve is not None
        for density, error in zip(run.curve.densities, run.curve.errors, strict=True)
        if error <= 0.11
    ]
    assert smallest.parameters > min(measured)  # the smallest that measured so little is not proven
    member = next(run.member for run in state.runs if run.job == smallest.job)
    planned = plan_rounds(
        JobSpec.model_validate(build_member_job(family, member, {"hidden": [8]})).recipe()
    )
    again = JobSpec.model_validate(
        build_member_job(family, member, {"hidden": [8]})
        | {"targets": {"sparsity": [smallest.sparsity]}}
    )
    shorter = plan_rounds(again.recipe())
    assert shorter[-1].density == pytest.approx(smallest.density, rel=0.01)
    assert [planned_round.density for planned_round in shorter[:-1]] == [
        planned_round.density for planned_round in planned[: len(shorter) - 1]
    ]
    assert shorter[-1].density == pytest.approx(planned[len(shorter) - 1].density)
    assert len(shorter) == round(math.log(smallest.density) / math.log(family.keep))
    other = replace(state, answers=(answer.model_copy(update={"smallest_run": smallest}),))
    assert (
        f"The spec of job {smallest.job}, with {smallest.sparsity} as target"
        in build_sections(other)["answers"].notes[0]
    )
    assert find_smallest_run(family, state.runs, 0.01) is None


def test_where_no_answer_keeps_its_error_a_network_that_did_is_named() -> None:
    state = world.live(world.spec(max_error=[0.11]))
    (answer,) = state.answers
    assert answer.measured is not None
    high = answer.measured.model_copy(update={"value": 0.2, "low": 0.19, "high": 0.21})
    (missed,) = judge_answers([answer.model_copy(update={"measured": high})])
    recommendation = build_report(
        replace(state, answers=(missed,)), "job", {}, "data"
    ).recommendation
    assert answer.smallest_run is not None
    assert (recommendation.job, recommendation.checkpoint) == (None, None)
    assert recommendation.verdict == "do_not_ship"
    assert answer.smallest_run.job in recommendation.reason


@pytest.mark.slow
def test_another_seed_widens_the_band_of_an_answer() -> None:
    """Curves that move as a whole with the seed: the band covers them, and would not without what a
    seed does.
    """
    family, shift = world.spec(confirm=False), 0.05
    inside, narrow = 0, 0
    for seed in range(16):
        state = world.live(family, world.World(seed=seed, noise=0.01, unpruned_noise=0.01))
        (law_answer,) = state.law_answers
        assert not isinstance(law_answer, str)
        best = law_answer.best
        assert best.error.low is not None
        assert best.error.high is not None
        assert best.candidate.seed_sd == pytest.approx(0.034 * math.sqrt(2))
        truth = 0.12 * math.exp(shift * float(np.random.default_rng([7, seed]).standard_normal()))
        inside += best.error.low <= truth <= best.error.high
        assert state.law is not None
        bare = forecast_errors(
            state.law, best.candidate.model_copy(update={"seed_sd": 0.0}), [best.density], 0.9
        )[0].error
        assert bare.low is not None
        assert bare.high is not None
        narrow += bare.low <= truth <= bare.high
    assert inside >= 13
    assert narrow < inside


def test_an_answer_sparser_than_its_network_was_pruned_says_so() -> None:
    family = world.spec(confirm=False, floor_density=0.2, max_error=[0.2])
    state = world.live(family)
    (answer,) = state.answers
    assert answer.density is not None
    assert answer.density < 0.2
    assert answer.extrapolated
    assert any("was pruned to density" in note for note in answer.notes)
