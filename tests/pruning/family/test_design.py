"""Adaptive families: which members are run, and when they stop."""

from __future__ import annotations

from functools import partial
from operator import eq
from typing import Any

import numpy as np
import pytest

from pruning.family import design
from pruning.family.measurements import fit_family_law, gather_measurements
from pruning.family.members import list_densities, list_members
from pruning.family.turn import take_turn
from pruning.schemas.family import FamilySpec
from tests.support import family_world as world


def adaptive(band: float = 0.03, **more: Any) -> FamilySpec:
    return world.spec(adaptive={"band": band, **more}, confirm=False)


def test_an_adaptive_family_stops_early_and_is_as_good_as_it_says() -> None:
    family = adaptive()
    state = world.live(family)
    assert state.finished
    assert state.band is not None
    assert state.band <= 0.03
    assert 5 <= len(state.runs) < 10
    assert state.law is not None
    everything = world.live(world.spec(confirm=False))
    assert everything.points is not None
    points = everything.points
    fitted = state.law.curve(points.depth, points.width, points.density, points.unpruned)
    assert (
        float(np.abs(fitted / points.error - 1).mean()) < 0.04
    )  # of which 0.024 are the noise of the points


def test_the_first_design_is_the_smallest_that_determines_both_exponents() -> None:
    start = take_turn(adaptive(), world.sizes(adaptive()), []).start
    assert [(member.depth, member.width, member.fraction) for member in start] == [
        (1, 8, 1),
        (3, 8, 1),
        (1, 32, 1),
    ]
    one_depth = world.spec(members={"depths": [2], "widths": [8, 16, 32]}, adaptive={})
    assert {
        (member.depth, member.width)
        for member in take_turn(one_depth, world.sizes(one_depth), []).start
    } == {(2, 8), (2, 32)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grid", "corner"),
    [
        ({"depths": [1, 2, 3, 4, 5, 6], "widths": [8, 32, 128]}, (1, 128)),
        ({"depths": [1, 8], "widths": [8, 9, 10, 11, 12, 13, 14, 16]}, (8, 8)),
    ],
)
def test_an_adaptive_family_is_not_blind_to_depth_or_width(
    grid: dict[str, Any], corner: tuple[int, int]
) -> None:
    """Where a corner of the first design fails, the band is not taken for narrow before another
    member tells of its axis.
    """
    family = world.spec(members=grid, adaptive={"band": 0.08}, confirm=False)
    end = world.live(
        family,
        ends=lambda member: "failed" if (member.depth, member.width) == corner else "succeeded",
    )
    assert end.finished
    assert end.band is not None
    assert end.points is not None
    assert all(len({network[i] for network in end.points.networks}) > 1 for i in (0, 1))
    never = world.live(
        family, ends=lambda member: "succeeded" if member.width == min(grid["widths"]) else "failed"
    )
    assert never.finished


def test_never_more_than_asked_for_at_once_or_in_all() -> None:
    family = adaptive(1e-4, at_once=3, max_members=8)
    state = take_turn(family, world.sizes(family), [])
    runs = [
        world.World().run(family, member, f"job_{i:08d}") for i, member in enumerate(state.start)
    ]
    state = take_turn(family, world.sizes(family), runs)
    assert len(state.start) == 3
    under_way = [
        world.World()
        .run(family, member, f"job_9{i:07d}")
        .model_copy(update={"status": "running", "curve": None})
        for i, member in enumerate(state.start)
    ]
    assert not take_turn(family, world.sizes(family), [*runs, *under_way]).start
    assert len(world.live(family).runs) == 8


@pytest.mark.slow
def test_the_next_member_is_the_best_of_all_by_refits() -> None:
    """The expected fall of variance, told by the delta method, is what fits to simulated points of
    the member give.
    """
    family = adaptive()
    members = list_members(family)
    measured = [
        member
        for member in members
        if member.fraction == 1.0
        and (member.depth, member.width) in {(1, 8), (3, 8), (1, 32), (2, 16)}
    ]
    runs = [world.World().run(family, member, f"job_{i:08d}") for i, member in enumerate(measured)]
    points = gather_measurements(runs)
    assert points is not None
    law = fit_family_law(points, refits=0)
    current = design.build_design(family, law, points, members)
    candidate = next(
        member
        for member in members
        if (member.depth, member.width, member.fraction) == (3, 32, 1.0)
    )
    added = current.known_information + current.compute_information(
        candidate, list_densities(family, family.rounds)
    )
    predicted = float(current.compute_variance(added).mean()) / float(
        current.compute_variance(current.known_information).mean()
    )
    rng, theta = np.random.default_rng(0), []
    error = law.curve(points.depth, points.width, points.density, points.unpruned)
    for with_candidate in (False, True):
        values = []
        for _ in range(80):
            again = [
                run.model_copy(
                    update={
                        "curve": run.curve.model_copy(
                            update={
                                "errors": tuple(
                                    np.minimum(
                                        0.9,
                                        error[points.mask_networks(partial(eq, run.member.network))]
                                        * np.exp(
                                            law.fit.noise * rng.standard_normal(family.rounds)
                                        ),
                                    )
                                )
                            }
                        )
                    }
                )
                for run in runs
                if run.curve is not None
            ]
            if with_candidate:
                extra = world.World().run(family, candidate, "job_extra000")
                assert extra.curve is not None
                unpruned = current.unpruned[candidate.network]
                clean = law.curve(3, 32, np.array(extra.curve.densities), unpruned)
                noisy = clean * np.exp(law.fit.noise * rng.standard_normal(family.rounds))
                again.append(
                    extra.model_copy(
                        update={
                            "curve": extra.curve.model_copy(
                                update={"unpruned_error": unpruned, "errors": tuple(noisy)}
                            )
                        }
                    )
                )
            drawn = gather_measurements(again)
            assert drawn is not None
            values.append(np.log(fit_family_law(drawn, refits=0).curve(*current.grid)))
        theta.append(float(np.var(values, axis=0).mean()))
    assert theta[1] / theta[0] == pytest.approx(predicted, rel=0.35)
    assert predicted < 0.9


def test_the_next_member_is_weighed_against_its_work() -> None:
    """With the same gain, the cheaper; what is under way counts as known."""
    family = adaptive(1e-4)
    state = world.live(family, turns=1)
    assert state.points is not None
    assert state.law is not None
    members = list_members(family)
    taken = {run.member.key for run in state.runs}
    left = [member for member in members if member.key not in taken]
    current = design.build_design(family, state.law, state.points, members)
    work = {(size.depth, size.width): float(size.flops) for size in world.sizes(family)}
    (best,) = design.choose_next_members(
        family, current, left=left, under_way=[], work=work, count=1
    )
    (dear,) = design.choose_next_members(
        family,
        current,
        left=left,
        under_way=[],
        work={**work, (best.depth, best.width): 1e12},
        count=1,
    )
    assert (dear.depth, dear.width) != (best.depth, best.width)
    (after,) = design.choose_next_members(
        family,
        current,
        left=[member for member in left if member.key != best.key],
        under_way=[best],
        work=work,
        count=1,
    )
    two = design.choose_next_members(family, current, left=left, under_way=[], work=work, count=2)
    assert [member.key for member in two] == [best.key, after.key]
    assert {member.rounds for member in two} <= {family.rounds, family.rounds // 2}
