"""Families as pure functions of what their members measured: what is run, what is fitted, what is
answered.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pruning.errors import DataError, ParameterError
from pruning.family import design
from pruning.family.answers import SAME, find_smallest_run
from pruning.family.measurements import (
    fit_family_law,
    fit_unpruned_plane,
    gather_measurements,
    predict_other_half,
)
from pruning.family.members import (
    Member,
    build_member_job,
    list_densities,
    list_members,
    read_member_curve,
)
from pruning.family.report import build_report
from pruning.family.sections import build_sections
from pruning.family.sizes import build_sizes
from pruning.family.turn import take_turn
from pruning.laws.answers import forecast_errors
from pruning.laws.family_queries import (
    answer_error,
    forecast_networks,
    list_family_candidates,
    read_family_law,
)
from pruning.rounds.plan import plan_rounds
from pruning.schemas.family import FamilySpec
from pruning.schemas.family_report import FamilyReport
from pruning.schemas.job import JobSpec
from tests.support import family_world as world


def test_every_member_is_a_job_of_iterative_magnitude_pruning_with_weight_rewinding() -> None:
    family = world.spec(
        keep=0.8,
        floor_density=0.1,
        members={"depths": [2], "widths": [8], "fractions": [0.5]},
        model={"architecture": "mlp", "train": {"epochs": 4, "rewind_epoch": 1}},
        dataset={"builtin": "digits", "limit": {"train": 1000, "test": 300}},
    )
    (member,) = list_members(family)
    assert member.rounds == family.rounds == math.floor(math.log(0.1) / math.log(0.8))
    job = JobSpec.model_validate(build_member_job(family, member, {"hidden": [8, 8]}))
    recipe = job.recipe()
    planned = plan_rounds(recipe)
    assert [planned_round.density for planned_round in planned] == pytest.approx(
        [0.8**i for i in range(1, 11)]
    )
    assert all(
        planned_round.epochs == (1, 4) and not planned_round.restart
        for planned_round in planned[1:]
    )
    assert (recipe.criteria[0].name, recipe.retrain.mode) == ("magnitude", "weight_rewind")
    assert recipe.allocation is not None
    assert recipe.allocation.name == "global"
    assert (recipe.limit.train, recipe.limit.test, recipe.limit.stratify) == (500, 300, False)


def test_synflow_prunes_at_initialisation_each_density_by_itself() -> None:
    family = world.spec(method="synflow", keep=0.5, floor_density=0.1)
    member = list_members(family)[0]
    job = JobSpec.model_validate(build_member_job(family, member, {"hidden": [8]}))
    planned = plan_rounds(job.recipe())
    assert (job.when, job.recipe().criteria[0].name) == ("before_training", "synflow")
    assert [planned_round.density for planned_round in planned] == pytest.approx([0.5, 0.25, 0.125])
    assert all(
        planned_round.restart and planned_round.target is not None for planned_round in planned
    )


@pytest.mark.parametrize(
    ("limit", "fraction", "wanted"),
    [
        ({}, 1.0, None),
        ({}, 0.25, 0.25),
        ({"train": 0.5}, 0.25, 0.125),
        ({"train": 0.5}, 1.0, 0.5),
        ({"train": 800}, 0.25, 200),
        ({"train": 3}, 0.1, 1),
    ],
)
def test_fractions_are_of_the_limit(
    limit: dict[str, Any], fraction: float, wanted: float | None
) -> None:
    family = world.spec(dataset={"builtin": "digits", "limit": limit})
    assert family.limit(fraction).train == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"floor_density": 0.9, "keep": 0.8}, "0 rounds"),
        ({"keep": 0.99, "floor_density": 0.01}, "458 rounds"),
        ({"members": {"depths": [1, 1], "widths": [8]}}, "listed twice"),
        ({"max_error": [0.1, 0.1]}, "listed twice"),
        ({"members": {"depths": list(range(1, 31)), "widths": list(range(1, 31))}}, "900 members"),
        (
            {
                "method": "synflow",
                "model": {"architecture": "mlp", "train": {"epochs": 2, "rewind_epoch": 1}},
            },
            "rewind_epoch",
        ),
        ({"dataset": {"builtin": "digits", "limit": {"stratify": True}}}, "stratify"),
        (
            {"dataset": {"builtin": "digits", "shifted": [{"name": "x", "id": "dst_00000000"}]}},
            "shifted",
        ),
        ({"what": 1}, "what"),
    ],
)
def test_odd_families_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        world.spec(**change)


def test_sizes_are_those_of_the_networks() -> None:
    family = world.spec(candidates={"depths": [4], "widths": [8]})
    sizes = build_sizes(family, (1, 8, 8), [str(i) for i in range(10)], "classification")
    assert sorted(sizes, key=str) == sorted(world.sizes(family), key=str)


@pytest.mark.parametrize(
    ("change", "pointer", "error"),
    [
        (
            {"model": {"architecture": "lenet_300_100", "train": {"epochs": 1}}},
            "/model/architecture",
            ParameterError,
        ),
        (
            {
                "model": {"architecture": "cifar_resnet", "train": {"epochs": 1}},
                "members": {"depths": [9], "widths": [1]},
            },
            "/members/depths",
            ParameterError,
        ),
        ({"members": {"depths": [1], "widths": [8.5]}}, "/members/widths", ParameterError),
        ({"candidates": {"depths": [1], "widths": [8.5]}}, "/candidates/widths", ParameterError),
        (
            {"model": {"architecture": "mlp", "kwargs": {"width": -1}, "train": {"epochs": 1}}},
            "/model/kwargs",
            ParameterError,
        ),
        (
            {
                "model": {"architecture": "mlp", "kwargs": {"width": 8}, "train": {"epochs": 1}},
                "members": {"depths": [1], "widths": [8.5]},
            },
            "/members/widths",
            ParameterError,
        ),
        (
            {"model": {"architecture": "mlp", "kwargs": {"hidden": [3]}, "train": {"epochs": 1}}},
            "/model/kwargs",
            ParameterError,
        ),
        (
            {
                "model": {"architecture": "vgg", "train": {"epochs": 1}},
                "members": {"depths": [11], "widths": [0.125]},
            },
            "/dataset",
            DataError,
        ),
    ],
)
def test_networks_that_cannot_be_built_are_refused(
    change: dict[str, Any], pointer: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        build_sizes(world.spec(**change), (1, 8, 8), [str(i) for i in range(10)], "classification")
    assert caught.value.pointer == pointer  # type: ignore[attr-defined]


def test_a_report_becomes_a_curve_of_densities_and_errors() -> None:
    def network(error: float) -> dict[str, Any]:
        return {"error": {"value": error}}

    criterion = {"name": "magnitude", "params": {}}
    report: dict[str, Any] = {
        "baseline": network(0.2),
        "control": {**network(0.1), "retrain_epochs": 3},
        "data": {"fit": 90, "test": 50, "classes": ["a", "b"]},
        "model": {"parameters": 20, "prunable": 15},
        "checkpoints": [{"id": "c", "density": 0.25, "parameters": 9, **network(0.3)}],
        "rounds": [
            {
                "criterion": criterion,
                "density": 0.25,
                "pruned": network(0.5),
                "retrained": network(0.3),
            },
            {"criterion": criterion, "density": 0.5, "pruned": network(0.2), "retrained": None},
        ],
    }
    curve = read_member_curve(report)
    assert curve is not None
    assert curve.unpruned_error == pytest.approx(0.15)
    assert (curve.densities, curve.errors) == ((0.5, 0.25), (0.2, 0.3))
    assert (curve.images, curve.test_images, curve.classes, curve.final) == (
        90,
        50,
        2,
        {"id": "c", "error": {"value": 0.3}, "parameters": 9, "density": 0.25},
    )
    report["control"]["retrain_epochs"] = 0
    again = read_member_curve(report)
    assert again is not None
    assert again.unpruned_error == 0.1
    report["rounds"][0]["criterion"] = {"name": "random", "params": {}}
    assert read_member_curve(report) is None
    assert read_member_curve({**report, "rounds": []}) is None


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
    again = world.live(family)
    assert (again.law, again.answers, again.runs) == (end.law, end.answers, end.runs)


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


def test_an_unreachable_error_is_refused_with_the_closest() -> None:
    (answer,) = world.live(world.spec(max_error=[0.001])).answers
    assert answer.refused.startswith("unreachable: ")
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


def test_the_smallest_measured_network_stands_beside_the_law_s_answer() -> None:
    family = world.spec(max_error=[0.11])
    state = world.live(family)
    (answer,) = state.answers
    kept = [
        (round(run.curve.parameters - (1 - density) * run.curve.prunable), run.job, error)
        for run in state.runs
        if run.curve is not None
        for density, error in zip(run.curve.densities, run.curve.errors, strict=True)
        if error <= 0.11
    ]
    smallest = answer.smallest_run
    assert smallest is not None
    assert (smallest.parameters, smallest.job, smallest.error) == min(kept)
    assert (smallest.job, smallest.parameters) == (answer.job, answer.measured_parameters)
    assert (
        "Of all that was run" not in build_sections(state)["answers"].notes[0]
    )  # it is the answer itself
    smallest = find_smallest_run(
        family, [run for run in state.runs if run.member.role == "member"], 0.11
    )
    assert smallest is not None
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
    assert (shorter[-1].density, len(shorter)) == (
        pytest.approx(planned[len(shorter) - 1].density),
        round(math.log(smallest.density) / math.log(family.keep)),
    )
    other = replace(state, answers=(answer.model_copy(update={"smallest_run": smallest}),))
    assert (
        f"The spec of job {smallest.job}, with {smallest.sparsity} as target"
        in build_sections(other)["answers"].notes[0]
    )
    assert find_smallest_run(family, state.runs, min(row[2] for row in kept) / 2) is None


def test_where_no_answer_keeps_its_error_a_network_that_did_is_named() -> None:
    state = world.live(world.spec(max_error=[0.11]))
    (answer,) = state.answers
    assert answer.measured is not None
    high = answer.measured.model_copy(update={"value": 0.2, "low": 0.19, "high": 0.21})
    missed = answer.model_copy(update={"measured": high})
    recommendation = build_report(
        replace(state, answers=(missed,)), "job", {}, "data"
    ).recommendation
    assert answer.smallest_run is not None
    assert (recommendation.job, recommendation.checkpoint) == (None, None)
    assert answer.smallest_run.job in recommendation.reason


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


# adaptive


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
        for _ in range(120):
            again = [
                run.model_copy(
                    update={
                        "curve": run.curve.model_copy(
                            update={
                                "errors": tuple(
                                    np.minimum(
                                        0.9,
                                        error[
                                            points.mask_networks(
                                                lambda network, run=run: (
                                                    network == run.member.network
                                                )
                                            )
                                        ]
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


# asking the report


def test_the_report_answers_as_its_law_does() -> None:
    report = FamilyReport.model_validate_json(world.reported().model_dump_json()).model_dump(
        mode="json"
    )
    law = read_family_law(report)
    assert law is not None
    networks = list_family_candidates(report, None, None)
    assert len(networks) == 9
    rows = forecast_networks(law, list_family_candidates(report, 2, 16), [0.5, 0.1], 0.9)
    estimates = law.predict(2, 16, np.array([0.5, 0.1]), rows[0]["unpruned_error"])
    assert [row["error"]["value"] for row in rows] == [estimate.value for estimate in estimates]  # type: ignore[union-attr]
    rows_at_error = answer_error(law, networks, 0.12, 0.9)
    assert [row["parameters"] for row in rows_at_error] == sorted(
        row["parameters"] for row in rows_at_error
    )
    assert (rows_at_error[0]["depth"], rows_at_error[0]["width"]) == (
        report["answers"][0]["depth"],
        report["answers"][0]["width"],
    )
    assert rows_at_error[0]["density"] == pytest.approx(report["answers"][0]["density"], rel=SAME)
    with pytest.raises(ParameterError, match="no network of depth 7") as caught:
        list_family_candidates(report, 7, None)
    assert caught.value.pointer == "/depth"


# what is honest of an answer


@pytest.mark.slow
def test_another_seed_widens_the_band_of_an_answer() -> None:
    """Curves that move as a whole with the seed: the band covers them, and would not without what a
    seed does.
    """
    family, shift = world.spec(confirm=False), 0.05
    inside, narrow = 0, 0
    for seed in range(30):
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
    assert inside >= 25
    assert narrow < inside


def test_the_seed_deviation_is_pooled_from_many_trials() -> None:
    few = world.live(world.spec(confirm=False))
    assert few.points is not None
    assert few.points.seed_sd == 0.034
    many = world.live(
        world.spec(
            confirm=False, members={"depths": [1, 2, 3], "widths": [8, 16, 32], "seeds": [0, 1, 2]}
        ),
        world.World(unpruned_noise=0.2),
    )
    assert many.points is not None
    assert many.points.seed_sd == pytest.approx(0.2, rel=0.4)
    assert many.points.count_trials((1, 8, 1.0)) == 3


def test_an_answer_sparser_than_its_network_was_pruned_says_so() -> None:
    family = world.spec(confirm=False, floor_density=0.2, max_error=[0.2])
    state = world.live(family)
    (answer,) = state.answers
    assert answer.density is not None
    assert answer.density < 0.2
    assert answer.extrapolated
    assert any("was pruned to density" in note for note in answer.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"members": {"depths": [1, 2], "widths": [8, 16]}, "keep": 0.5, "floor_density": 0.4},
            "too few for a law",
        ),
        ({"adaptive": {"max_members": 2}}, "needs 3 networks"),
        (
            {"candidates": {"depths": list(range(1, 20)), "widths": list(range(1, 20))}},
            "at most 128",
        ),
    ],
)
def test_families_that_can_have_no_law_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        world.spec(**change)


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


def test_many_densities_are_predicted_as_one_by_one() -> None:
    report = world.reported().model_dump(mode="json")
    law = read_family_law(report)
    assert law is not None
    networks = list_family_candidates(report, None, None)
    kept = [0.9, 0.3, 0.05]
    assert forecast_networks(law, networks, kept, 0.9) == [
        forecast_networks(law, [network], [d], 0.9)[0] for network in networks for d in kept
    ]
    with pytest.raises(ParameterError, match="at most 10000 together"):
        forecast_networks(law, networks, [0.5] * 2000, 0.9)


def test_a_refusal_at_one_density_leaves_the_others_predicted() -> None:
    """No error rises to 1.5 times the unpruned one: the law is for measured densities alone."""
    report = world.reported(
        world.spec(
            floor_density=0.45, members={"depths": [3, 4], "widths": [32, 64]}, confirm=False
        )
    ).model_dump(mode="json")
    law = read_family_law(report)
    assert law is not None
    inside, beyond = forecast_networks(law, list_family_candidates(report, 3, 32), [0.7, 0.01], 0.9)
    assert inside["error"]["value"] > 0
    assert beyond["error"] is None
    assert beyond["remark"].startswith("insufficient_points: ")
