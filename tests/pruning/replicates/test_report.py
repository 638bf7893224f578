"""The pooled report of real replicates: each number beside those of the replicates."""

from __future__ import annotations

import base64
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import ndtri

from pruning.data.builtin import datasets
from pruning.evaluations.robustness import GROWTH
from pruning.laws.curves import SEED_SD
from pruning.laws.pair import read_law_pair
from pruning.laws.queries import forecast_error
from pruning.laws.seeds import SeedEffect
from pruning.replicates.classes_section import build_classes_section
from pruning.replicates.finished import Finished
from pruning.replicates.plan import Member, Run
from pruning.replicates.report import build_report
from pruning.replicates.shift_sections import build_robustness_section
from pruning.replicates.turn import take_turn
from pruning.reporting import to_html, to_junit, to_markdown
from pruning.reporting.tables import build_table
from pruning.schemas.class_damage import read_class_damage
from pruning.schemas.report import Estimate, Report
from pruning.wording import points_with_interval
from tests.support import replicate_runs
from tests.support.replicate_runs import DOCUMENT, JOB, end


@pytest.fixture(scope="module")
def finished() -> list[Finished]:
    """The replicates of the small job."""
    return replicate_runs.read_replicates()


@pytest.fixture(scope="module")
def report() -> Report:
    """The report that pools them."""
    return replicate_runs.pool()


def test_replicates_see_the_same_images_and_differ(finished: list[Finished]) -> None:
    first, *others = finished
    for other in others:
        assert torch.equal(first.images.indices, other.images.indices)
        assert first.report.recipe_digest != other.report.recipe_digest
        assert not torch.equal(
            first.images.wrong["magnitude-0.95"], other.images.wrong["magnitude-0.95"]
        )


def test_errors_are_means_and_increases_are_over_the_own_controls(
    finished: list[Finished], report: Report
) -> None:
    assert [checkpoint.id for checkpoint in report.checkpoints] == [
        f"magnitude-{target}" for target in DOCUMENT["targets"]["sparsity"]
    ]
    for checkpoint in report.checkpoints:
        own = [replicate.checkpoints[checkpoint.id] for replicate in finished]
        assert checkpoint.error.value == pytest.approx(
            np.mean([other.error.value for other in own])
        )
        increases = [other.error_increase.control.value for other in own]
        increase = checkpoint.error_increase
        assert increase.control.value == pytest.approx(np.mean(increases))
        assert increase.control_counts is None
        assert increase.control_variance is not None
        assert increase.control_variance.by_replicates == pytest.approx(
            np.var(increases, ddof=1) / 2
        )
        assert checkpoint.size_bytes["sparse"] == max(other.size_bytes["sparse"] for other in own)
        assert checkpoint.error.low is not None
        assert checkpoint.error.low <= checkpoint.error.value


def test_gates_and_the_recommendation_are_of_the_mean(
    finished: list[Finished], report: Report
) -> None:
    outcomes = {gate.name: gate.outcome for gate in report.gates}
    assert outcomes["max_error_increase"] == "passed"
    assert outcomes["max_size_bytes"] == "passed"
    assert set(outcomes) == {
        "max_error_increase",
        "max_class_increase",
        "max_delta_excess_error",
        "max_size_bytes",
    }
    (gate,) = [gate for gate in report.gates if gate.name == "max_error_increase"]
    best = next(row for row in report.checkpoints if row.id == gate.checkpoint)
    assert gate.value == pytest.approx(best.error_increase.control.value)
    val_errors = {
        replicate.run.job: replicate.checkpoints[best.id].val_error.value for replicate in finished
    }
    named = min(val_errors, key=lambda job: val_errors[job])
    assert report.recommendation.job == named
    assert f"job {named}" in report.recommendation.reason
    assert report.joint is not None


def test_the_section_of_replicates_has_every_run_and_the_band_of_a_further_one(
    finished: list[Finished], report: Report
) -> None:
    details = report.sections["replicates"].details
    assert len(details["runs"]) == 2 * len(report.checkpoints)
    for row in details["checkpoints"]:
        errors = [replicate.checkpoints[row["checkpoint"]].error.value for replicate in finished]
        band = Estimate.model_validate(row["further_run"])
        assert band.low is not None
        assert band.high is not None
        assert band.low <= min(errors)
        assert max(errors) <= band.high
        assert row["spread_over_seeds"] == pytest.approx(np.std(errors, ddof=1))
    notes = report.sections["replicates"].notes
    assert all("band of a further run at 90 %" in note for note in notes[: len(report.checkpoints)])


def test_classes_and_exemplars_are_those_of_the_population(
    finished: list[Finished], report: Report
) -> None:
    section = report.sections["class_damage"]
    rows = read_class_damage(section)
    assert len(rows) == 10 * len(report.checkpoints)
    for id in ("magnitude-0.5", "magnitude-0.95"):
        own = [row for row in rows if row.checkpoint == id]
        weighted = sum(row.n * row.increase.value for row in own) / sum(row.n for row in own)
        best = next(row for row in report.checkpoints if row.id == id)
        assert weighted == pytest.approx(best.error_increase.control.value)
    answers = torch.stack([other.images.answers["magnitude-0.95"] for other in finished])
    dense = torch.stack(
        [other.images.answers[other.checkpoints["magnitude-0.95"].control] for other in finished]
    )
    unanimous = (answers == answers[0]).all(0) & (dense == dense[0]).all(0)
    against = int((unanimous & (answers[0] != dense[0])).sum())
    assert section.scalars["exemplars/magnitude-0.95"].value >= against
    # Of two networks, one alone may be the most frequent: none says that the answers agree.
    assert not any("agree" in note for note in section.notes)
    for row in section.details["exemplars"]:
        assert row["modal_answer"] != row["modal_answer_of_controls"]
        assert 1 <= row["replicates_with_it"] <= 2


def test_exemplars_are_shown_as_the_dataset_has_them(
    finished: list[Finished], report: Report
) -> None:
    """Every exemplar that the tables list has its pixels in the files of the replicates."""
    section = report.sections["class_damage"]
    pictured = datasets.create("digits").load().images["test"]
    rows = section.details["exemplars"]
    for row in rows:
        place = int(torch.nonzero(finished[0].images.indices == row["index_in_test"]))
        held = [replicate.images.find_picture(place) for replicate in finished]
        pixels = [picture for picture in held if picture is not None]
        assert pixels, row
        for picture in pixels:
            assert np.array_equal(picture.numpy(), pictured[row["index_in_test"]])
    (sheet,) = section.pictures.values()
    shown = next(row["checkpoint"] for row in rows if row["checkpoint"] in sheet.caption)
    count = int(section.scalars[f"exemplars/{shown}"].value)
    assert f"{count} test image" in sheet.caption
    assert base64.b64decode(sheet.png).startswith(b"\x89PNG")


def test_replicates_of_an_earlier_version_have_no_picture(
    finished: list[Finished], report: Report
) -> None:
    old = [
        replace(
            replicate,
            images=replace(
                replicate.images,
                pictured=torch.zeros(0, dtype=torch.int64),
                pictures=torch.zeros(0, 1, 1, 1, dtype=torch.uint8),
            ),
        )
        for replicate in finished
    ]
    section = build_classes_section(old, report.checkpoints, 0.5)
    assert section is not None
    assert section.pictures == {}
    assert section.details["exemplars"] == report.sections["class_damage"].details["exemplars"]


def test_shifts_and_potentials_are_pooled_with_every_replicate_beside_them(report: Report) -> None:
    robustness = report.sections["robustness"]
    assert len(robustness.details["excess_error"]) == len(report.checkpoints)
    growth = robustness.scalars["delta_excess_error_growth/magnitude"]
    assert growth.low is not None
    assert growth.low < growth.value
    assert any("delta excess error" in note for note in robustness.notes)
    section = report.sections["prune_potential"]
    pooled = section.details["potential_by_distribution"]
    single = section.details["potential_by_replicate"]
    assert len(single) == 2 * len(pooled)
    for row in pooled:
        own = [other for other in single if other["distribution"] == row["distribution"]]
        assert row["potential"]["value"] == pytest.approx(
            np.mean([other["potential"]["value"] for other in own])
        )
        assert row["safe"] == min(other["safe"] for other in own)


def change_reports(finished: list[Finished], **changes: object) -> list[Finished]:
    """The replicates with other fields of their reports."""
    return [
        replace(replicate, report=replicate.report.model_copy(update=changes))
        for replicate in finished
    ]


def test_growth_is_spoken_of_where_it_was_measured_alone(finished: list[Finished]) -> None:
    section = finished[0].report.sections["robustness"]
    few = section.model_copy(update={"details": section.details | {GROWTH: []}})
    notes = {}
    for name, own in (
        ("growth", finished),
        ("none", change_reports(finished, sections={"robustness": few})),
    ):
        pooled = build_robustness_section(own)
        assert pooled is not None
        notes[name] = " ".join(pooled.notes)
        level = pooled.scalars["delta_excess_error/magnitude"]
        assert f"magnitude: delta excess error {points_with_interval(level, 2)}" in notes[name]
    assert "Growth is the slope" in notes["growth"]
    assert "Growth is the slope" not in notes["none"]
    assert "grows with the prune ratio takes 4 ratios or more" in notes["none"]


def test_the_papers_regression_is_pooled_over_networks_and_ratios(
    finished: list[Finished], report: Report
) -> None:
    """One line through the origin, by least squares over the points of all replicates."""
    ratios, losses = [], []
    for replicate in finished:
        for row in replicate.report.sections["robustness"].details["excess_error"]:
            ratios.append([row["prune_ratio"]])
            losses.append(row["delta_excess_error"]["value"])
    slope = np.linalg.lstsq(np.array(ratios), np.array(losses), rcond=None)[0][0]
    pooled = report.sections["robustness"].scalars["delta_excess_error_slope/magnitude"]
    assert pooled.value == pytest.approx(float(slope))
    assert pooled.low is not None
    assert pooled.high is not None
    own = [
        replicate.report.sections["robustness"].scalars["delta_excess_error_slope/magnitude"].value
        for replicate in finished
    ]
    assert pooled.low < min(own) <= pooled.value <= max(own) < pooled.high


def test_a_warning_of_some_replicates_names_their_seeds(finished: list[Finished]) -> None:
    first, second = finished
    (first,) = change_reports([first], warnings=("all see this", "one sees this"))
    (second,) = change_reports([second], warnings=("all see this",))
    document = DOCUMENT | {"replicates": 2}
    runs = [replicate.run for replicate in finished]
    warnings = build_report(JOB, document, runs, [first, second]).warnings
    assert "all see this" in warnings
    assert "seed 3: one sees this" in warnings


def test_sections_that_are_not_pooled_go_by_their_titles(report: Report) -> None:
    notes = report.sections["replicates"].notes
    assert not any("_" in note.rpartition("reports of the replicates: ")[2] for note in notes)


def test_nested_numbers_are_left_to_programs(report: Report) -> None:
    """The variances from which gates are judged keep no table from being one."""
    for name, table in (("class_damage", "classes"), ("robustness", "excess_error")):
        section = report.sections[name]
        assert isinstance(section.details[table][0]["variance"], dict)
        shown = build_table(section.details[table], 1, table, section.units, section.labels)
        assert shown is not None
        assert "variance" not in shown.head


def test_the_effect_of_a_seed_is_the_papers_where_replicates_are_few(report: Report) -> None:
    section = report.sections["scaling_law"]
    law = read_law_pair(section.details["raw_laws"]["magnitude"]).law
    assert law.seed_effect == SeedEffect(sd=SEED_SD, degrees_of_freedom=None)
    assert "With fewer than 5 replicates" in section.notes[0]
    assert any("3.4 % (the paper's" in note for note in section.notes if "Bands are" in note)
    none = law.model_copy(update={"seed_effect": SeedEffect(sd=1e-9)})
    wide, narrow = (fitted.forecasts(0.3)[0].error for fitted in (law, none))
    for side in ("low", "high"):
        with_seeds, without = (
            abs(math.log(getattr(error, side) / error.value)) for error in (wide, narrow)
        )
        # One more run lies off the mean of two by sqrt(1 + 1/2) times the deviation of one.
        moved = ndtri(0.95) * SEED_SD * math.sqrt(1.5)
        assert with_seeds == pytest.approx(math.hypot(without, moved), rel=1e-3)


def test_one_law_is_fitted_to_all_runs_and_answers_later_questions(report: Report) -> None:
    section = report.sections["scaling_law"]
    law = read_law_pair(section.details["raw_laws"]["magnitude"]).law
    assert len(law.points) == 4, "runs of a density are averaged"
    assert "One law through the points of 2 replicates" in section.notes[0]
    forecast = forecast_error(read_law_pair(section.details["raw_laws"]["magnitude"]), 0.1, 0.9)
    assert forecast["error"]["low"] < forecast["error"]["value"] < forecast["error"]["high"]


def test_the_certificate_is_the_least_of_the_replicates(
    finished: list[Finished], report: Report
) -> None:
    rows = report.sections["certificate"].details["limits"]
    promised = [
        other.report.sections["certificate"].details["limits"][0]["accuracy_at_least_labelled"]
        for other in finished
    ]
    assert rows[0]["accuracy_at_least_labelled"] == min(promised)


def test_the_report_is_read_back_and_rendered(report: Report) -> None:
    assert Report.model_validate_json(report.model_dump_json()) == report
    for render in (to_html, to_markdown, to_junit):
        assert "magnitude-0.95" in render(report) or render is to_junit
    assert [(row.seed, row.status) for row in report.replicates] == [
        (3, "succeeded"),
        (4, "succeeded"),
    ]


def test_turns_start_wait_pool_and_end() -> None:
    folder, runs = replicate_runs.run_replicates()
    document = DOCUMENT | {"replicates": 3}
    third = Run(job="job_00000005", member=Member(seed=5), status="running")
    state = take_turn(folder, JOB, document, [])
    assert [member.seed for member in state.start] == [3, 4, 5]
    assert (state.finished, state.report, state.failure) == (False, None, None)
    state = take_turn(folder, JOB, document, [*runs, third])
    assert (state.start, state.finished) == ((), False)
    assert state.report is not None
    assert state.report.partial
    assert state.report.recommendation.verdict != "ship"
    state = take_turn(folder, JOB, document, [*runs, end(third, "failed", "out of memory")])
    assert state.finished
    assert state.report is not None
    assert not state.report.partial
    assert [failure.code for failure in state.report.failures] == ["replicate_failed"]
    assert {row.status for row in state.report.replicates} == {"succeeded", "failed"}
    alone = [runs[0], end(runs[1], "failed", "out of memory"), end(third, "cancelled")]
    state = take_turn(folder, JOB, document, alone)
    assert state.finished
    assert state.report is None
    assert state.failure is not None
    assert "out of memory" in state.failure


def test_a_checkpoint_that_one_replicate_alone_has_is_left_out(finished: list[Finished]) -> None:
    _, runs = replicate_runs.run_replicates()
    cut = [finished[0]]
    for replicate in finished[1:]:
        kept = tuple(row for row in replicate.report.checkpoints if row.id != "magnitude-0.95")
        update = {"checkpoints": kept}
        cut.append(
            Finished(replicate.run, replicate.report.model_copy(update=update), replicate.images)
        )
    report = build_report(JOB, DOCUMENT, runs, cut)
    assert [row.requested_sparsity for row in report.checkpoints] == [0.5, 0.7, 0.85]
