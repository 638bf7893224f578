"""Turns of a family: what is run, what is fitted, and when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.family.members import Member, list_members
from pruning.family.turn import take_turn
from tests.support import family_world as world


def test_a_family_starts_every_member_fits_one_law_and_trains_its_answer() -> None:
    family = world.spec()
    first = take_turn(family, world.sizes(family), [])
    assert {member.key for member in first.start} == {member.key for member in list_members(family)}
    assert len(first.start) == 18
    end = world.live(family)
    assert end.finished
    assert end.law is not None
    assert end.law.phi == pytest.approx(0.8, abs=0.05)
    assert end.law.psi == pytest.approx(1.4, abs=0.05)
    assert end.law.sigma < 0.04
    (answer,) = end.answers
    assert (answer.status, answer.within_band) == ("succeeded", True)
    run = next(run for run in end.runs if run.member.role == "answer")
    assert (run.member.seed, run.member.fraction) == (1, 1.0)
    world.LIVED.clear()
    again = world.live(family)
    assert (again.law, again.answers, again.runs) == (end.law, end.answers, end.runs)


def test_seeds_are_trials_of_one_network() -> None:
    family = world.spec(members={"depths": [1, 2, 3], "widths": [8, 16], "seeds": [0, 1]})
    end = world.live(family)
    assert end.law is not None
    assert len(end.law.networks) == 6
    assert len(end.law.points) == 6 * family.rounds
    assert end.law.refits is not None
    assert end.law.refits.of == "networks and trials"


def test_members_that_fail_are_left_out_and_named() -> None:
    def ends(member: Member) -> Any:
        return (
            "failed"
            if (member.depth, member.fraction) == (3, 0.25)
            else "cancelled"
            if (member.depth, member.width) == (1, 8)
            else "succeeded"
        )

    report = world.reported(ends=ends)
    assert report.law is not None
    assert {failure.code for failure in report.failures} == {"member_failed", "member_cancelled"}
    assert len(report.failures) == 5
    assert not report.partial


def test_without_a_law_the_refusal_is_the_end() -> None:
    state = world.live(world.spec(), ends=lambda member: "failed")
    assert state.finished
    assert state.law is None
    assert state.refusal is not None
    assert state.refusal.code == "insufficient_points"


def test_the_trained_answer_stays_when_the_default_error_moves() -> None:
    family = world.spec(max_error=[])
    state = world.live(family)
    (answer,) = state.answers
    extra = [run for run in state.runs if run.member.key != state.runs[0].member.key]
    again = take_turn(
        family,
        world.sizes(family),
        [
            *extra,
            world.World(seed=5, unpruned_noise=0.3).run(
                family, state.runs[0].member, "job_90000000"
            ),
        ],
    )
    assert [row.max_error for row in again.answers] == [answer.max_error]
    assert again.answers[0].measured == answer.measured
