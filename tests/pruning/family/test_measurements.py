"""The points of a family, the law through them, and the test of its invariant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pruning.family.answers import list_tolerated_errors
from pruning.family.halves import predict_other_half
from pruning.family.measurements import (
    fit_family_law,
    fit_unpruned_errors,
    fit_unpruned_plane,
    gather_measurements,
)
from pruning.family.members import list_members
from pruning.family.sections import build_sections
from pruning.family.turn import take_turn
from pruning.laws.seeds import SeedEffect
from tests.support import family_world as world


def test_half_of_the_networks_predicts_the_other_half() -> None:
    state = world.live(world.spec(confirm=False))
    assert state.points is not None
    sides, why = predict_other_half(state.points)
    assert len(sides) == 2
    assert not why
    assert set(sides[0].fitted) | set(sides[1].fitted) == set(state.points.networks)
    assert set(sides[0].fitted) & set(sides[1].fitted) == set()
    assert set(sides[0].networks) == set(sides[1].fitted)
    assert not {network[:2] for network in sides[0].fitted} & {
        network[:2] for network in sides[1].fitted
    }, "sizes are unseen"
    for half in sides:
        assert float(np.abs(half.deviation).mean()) < 0.05
        assert half.phi == pytest.approx(0.8, abs=0.1)


def test_halves_share_sizes_where_a_half_would_not_determine_them() -> None:
    state = world.live(
        world.spec(
            members={"depths": [1, 2], "widths": [8, 16], "fractions": [0.25, 1.0]}, confirm=False
        )
    )
    assert state.points is not None
    sides, why = predict_other_half(state.points)
    assert len(sides) == 2
    assert not why
    assert {network[:2] for network in sides[0].fitted} == {
        network[:2] for network in sides[1].fitted
    }
    assert "sizes are in both halves" in build_sections(state)["invariant"].notes[0]


def test_halves_see_an_invariant_that_does_not_hold() -> None:
    """Where networks shift at random, no exponents of one half predict the other: the check can
    fail.
    """
    family = world.spec(confirm=False)
    state = world.live(family)
    rng = np.random.default_rng(1)
    shift = {
        key: float(np.exp(rng.normal(0, 0.5))) for key in {run.member.network for run in state.runs}
    }
    odd = [
        run.model_copy(
            update={
                "curve": run.curve.model_copy(
                    update={
                        "errors": tuple(
                            min(0.89, error * shift[run.member.network])
                            for error in run.curve.errors
                        )
                    }
                )
            }
        )
        for run in state.runs
        if run.curve is not None
    ]
    points = gather_measurements(odd)
    assert points is not None
    assert max(float(np.abs(half.deviation).mean()) for half in predict_other_half(points)[0]) > 0.2


def test_halves_without_a_law_are_explained() -> None:
    few = world.live(world.spec(members={"depths": [1, 2], "widths": [8, 16]}, confirm=False))
    assert few.points is not None
    sides, why = predict_other_half(few.points)
    assert not sides
    assert len(why) == 2
    (smallest,) = [run for run in few.runs if (run.member.depth, run.member.width) == (1, 8)]
    alone = gather_measurements([smallest])
    assert alone is not None
    assert predict_other_half(alone) == ([], ["one network alone has no other half"])


def test_errors_that_no_curve_has_are_left_out() -> None:
    state = world.live(world.spec(confirm=False))
    run = state.runs[0]
    assert run.curve is not None
    errors = (0.0, 0.999, *run.curve.errors[2:])
    points = gather_measurements(
        [run.model_copy(update={"curve": run.curve.model_copy(update={"errors": errors})})]
    )
    assert points is not None
    assert len(points) == len(errors) - 2
    assert "2 points are left out" in points.warnings[0]


@pytest.mark.parametrize("unpruned", [0.0, 0.85, 0.9, 0.95])
def test_a_member_that_learned_nothing_costs_the_others_no_law(unpruned: float) -> None:
    state = world.live(world.spec(confirm=False))
    runs = list(state.runs)
    assert runs[0].curve is not None
    runs[0] = runs[0].model_copy(
        update={
            "curve": runs[0].curve.model_copy(
                update={
                    "unpruned_error": unpruned,
                    "errors": (max(unpruned, 0.1),) * len(runs[0].curve.errors),
                }
            )
        }
    )
    end = take_turn(state.spec, state.sizes, runs)
    assert end.refusal is None
    assert end.dense is not None
    assert end.points is not None
    assert len(end.points.networks) == len(runs) - 1
    assert "members left out: 1" in end.points.warnings[0]
    untrained = [run.model_copy(update={"curve": runs[0].curve}) for run in runs]
    nothing = take_turn(state.spec, state.sizes, untrained)
    assert nothing.refusal is not None
    assert "none of the 18 members that succeeded" in nothing.refusal.message


def test_the_deviation_of_the_report_is_that_of_the_points() -> None:
    """Few test images have little weight in sigma; what is called the standard deviation weighs
    every point alike.
    """
    state = world.live(world.spec(confirm=False))
    assert state.points is not None
    assert state.law is not None
    unpruned = np.array(
        [state.points.average_unpruned(network) for network in state.points.network]
    )
    fitted = state.law.curve(state.points.depth, state.points.width, state.points.density, unpruned)
    shown = build_sections(state)["scaling_law"].scalars["missed error, standard deviation"]
    assert shown.value == pytest.approx(float((fitted / state.points.error - 1).std()), rel=1e-6)


def test_the_plane_finds_powers_and_how_far_it_misses() -> None:
    state = world.live(world.spec(confirm=False), world.World(unpruned_noise=0.0))
    assert state.points is not None
    errors = {
        key: 0.06 * key[0] ** -0.1 * key[1] ** -0.2 * key[2] ** -0.3
        for key in state.points.networks
    }
    exact = [
        run.model_copy(
            update={
                "curve": run.curve.model_copy(update={"unpruned_error": errors[run.member.network]})
            }
        )
        for run in state.runs
        if run.curve is not None
    ]
    points = gather_measurements(exact)
    assert points is not None
    plane = fit_unpruned_plane(points)
    assert plane.predict((5, 64, 0.5)) == pytest.approx(0.06 * 5**-0.1 * 64**-0.2 * 0.5**-0.3)
    assert plane.deviation == pytest.approx(0, abs=1e-9)
    three = gather_measurements(
        [run for run in exact if run.member.network in {(1, 8, 1.0), (2, 8, 1.0), (1, 16, 1.0)}]
    )
    assert three is not None
    assert fit_unpruned_plane(three).deviation is None


def test_the_seed_deviation_is_pooled_from_many_trials() -> None:
    few = world.live(world.spec(confirm=False))
    assert few.law is not None
    assert few.law.seed_effect == SeedEffect(sd=0.034, degrees_of_freedom=None)
    many = world.live(
        world.spec(
            confirm=False, members={"depths": [1, 2, 3], "widths": [8, 16, 32], "seeds": [0, 1, 2]}
        ),
        world.World(unpruned_noise=0.2, test_images=100_000),
    )
    assert many.points is not None
    assert many.law is not None
    assert many.law.seed_effect.degrees_of_freedom == 18
    assert many.law.seed_effect.sd == pytest.approx(0.2, rel=0.4)
    assert many.points.count_trials((1, 8, 1.0)) == 3


def test_a_network_that_only_gains_by_pruning_costs_the_family_no_law() -> None:
    """Its unpruned error is above every error that was measured after pruning, its own among
    them.
    """
    state = world.live(world.spec(confirm=False))
    lifted = []
    for run in state.runs:
        assert run.curve is not None
        worst = run.member.network == (1, 8, 0.25)
        errors = tuple(0.45 + 0.2 * error for error in run.curve.errors)
        unpruned = 0.72 if worst else 0.45 + 0.2 * run.curve.unpruned_error
        lifted.append(
            run.model_copy(
                update={
                    "curve": run.curve.model_copy(
                        update={
                            "errors": tuple(0.68 for _ in errors) if worst else errors,
                            "unpruned_error": unpruned,
                        }
                    )
                }
            )
        )
    points = gather_measurements(lifted)
    assert points is not None
    assert points.error.max() < 0.72
    assert fit_family_law(points, refits=0).plateau > 0.72


def test_chance_of_a_family_is_the_best_constant_answer() -> None:
    """Seven test images in ten are of one class: errors end at .3, and not at 1 - 1/classes."""
    family, measured = world.spec(max_error=[]), world.World(plateau=0.3)
    members = list_members(family)
    old_runs = [measured.run(family, member, f"job_{i}") for i, member in enumerate(members)]
    runs = []
    for run in old_runs:
        assert run.curve is not None
        curve = run.curve.model_copy(update={"guessing_error": 0.3})
        runs.append(run.model_copy(update={"curve": curve}))
    points = gather_measurements(runs)
    assert points is not None
    assert points.guessing_error == 0.3
    law = fit_family_law(points, refits=0)
    assert law.limit == 0.3
    assert law.plateau <= 0.3
    assert fit_unpruned_errors(runs).coefficients["chance"] == pytest.approx(0.3)
    lifted = replace(points, unpruned=np.full(len(points), 0.28))
    assert list_tolerated_errors(family, lifted) == (0.29,)  # between .28 and .3, below 1.25 * .28
    # An old member knows its classes alone.
    old = gather_measurements(old_runs)
    assert old is not None
    assert old.guessing_error == 0.9
    assert fit_family_law(old, refits=0).plateau == pytest.approx(0.9)
