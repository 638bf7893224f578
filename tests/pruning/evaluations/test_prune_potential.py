"""The evaluation `prune_potential` against a slow loop."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pruning.analysis.prune_potential import compute_prune_ratio, compute_prune_ratios
from pruning.analysis.shifts import (
    Shift,
    changes_images,
    draw_positions,
)
from pruning.errors import ParameterError
from pruning.evaluations.prune_potential import PrunePotential
from pruning.evaluations.robustness import Robustness
from pruning.measurement.needed_images import round_up_images
from pruning.pipeline.results import Results
from pruning.schemas.gates import Gates
from pruning.schemas.recipe import Method
from pruning.verdict.gate_readings import list_readings
from tests.support.finished_records import make_record
from tests.support.reports import checkpoint
from tests.support.shifted_jobs import FEW_SHIFTS, find_slow_errors


@pytest.mark.parametrize("against", ["control", pytest.param("given", marks=pytest.mark.slow)])
def test_potentials_against_a_loop_over_checkpoints_margins_and_distributions(
    cascade: Results, against: Any
) -> None:
    record, margins = make_record(cascade), (-0.1, -0.04, 0.0, 0.04, 0.2)
    section = PrunePotential(
        **{**FEW_SHIFTS, "images": 25}, margin=0.04, margins=margins, against=against
    ).evaluate(record)
    groups = {
        "nominal": [Shift()],
        "corruption": [Shift(name, 2) for name in FEW_SHIFTS["corruptions"]],
        "noise": [Shift(noise=0.5), Shift(noise=2.0)],
    }
    shifts = [s for group in groups.values() for s in group]

    def count_wrong(network: nn.Module) -> dict[Shift, float]:
        return {s: sum(find_slow_errors(record, network, s, 25)) for s in shifts}

    dense = {row.id: count_wrong(record.dense()) for row in record.rounds}
    if against == "control":
        assert [control.rounds for control in record.controls] == [(1,), (2,), (3,)]
        controls = [count_wrong(control.network()) for control in record.controls]
        dense = {row.id: controls[row.round - 1] for row in record.rounds}
    for label in ("magnitude", "random"):
        rounds = [row for row in record.rounds if row.label == label]
        wrongs = {
            (row.id, s): sum(find_slow_errors(record, row.network(), s, 25))
            for row in rounds
            for s in shifts
        }

        def slow(shift: Shift, margin: float, rounds: Any = rounds, wrongs: Any = wrongs) -> float:
            best = 0.0
            for row in rounds:
                n = 30 if shift == Shift() else 25
                if wrongs[row.id, shift] <= dense[row.id][shift] + round(n * margin, 6):
                    best = max(best, compute_prune_ratio(row, 123))
            return best

        for group, members in groups.items():
            for how, reduce in (("mean", lambda v: sum(v) / len(v)), ("minimum", min)):
                name = group if group == "nominal" else f"{how} over {group}"
                expected = [reduce([slow(s, margin) for s in members]) for margin in margins]
                assert [
                    y.value for y in section.curves[f"margin/{name}/{label}"].y
                ] == pytest.approx(expected)
                assert section.scalars[
                    f"prune_potential_{name.replace(' ', '_')}/{label}"
                ].value == pytest.approx(expected[3])
                assert expected == sorted(expected)
        bars = section.curves[f"distribution/{label}"]
        assert bars.x_names == tuple(s.name for s in shifts)
        assert [y.value for y in bars.y] == pytest.approx([slow(s, 0.04) for s in shifts])
        assert section.curves[f"noise/{label}"].x == (0.0, 0.5, 2.0)
    assert len(section.details["potential_by_distribution"]) == 2 * len(shifts)
    reference = {"control": "the dense control", "given": "the network as given"}[against]
    assert section.curves["margin/nominal/random"].x_label.endswith(f"above that of {reference}")
    assert any(f"at most that of {reference} on the same" in note for note in section.notes)


def test_prune_ratios_go_by_criterion_the_smallest_first(cascade: Results) -> None:
    record = make_record(cascade)
    record = replace(
        record, rounds=[*reversed(record.rounds), replace(record.rounds[0], target=None)]
    )
    assert [
        (label, list(ratios.items())) for label, ratios in compute_prune_ratios(record).items()
    ] == [
        (
            label,
            [
                (row.id, sum(int((mask == 0).sum()) for mask in row.masks().values()) / 123)
                for row in cascade.pipeline.done
                if row.label == label
            ],
        )
        for label in ("random", "magnitude")
    ]


def test_a_margin_that_the_images_cannot_resolve_is_warned_of(cascade: Results) -> None:
    record = make_record(cascade)

    def warnings(margin: float) -> list[str]:
        section = PrunePotential(**FEW_SHIFTS, margin=margin).evaluate(record)
        return [note for note in section.notes if note.startswith("Warning")]

    first = PrunePotential(**FEW_SHIFTS).evaluate(record).notes[0]
    for words in (
        " % are safe at 95 %; over ",
        " % are safe under all of them",
        " under the worst",
    ):
        assert words in first
    assert "at least" not in first, "an estimate of the worst shift promises nothing"
    (warning,) = warnings(0.005)
    assert "would not show an increase of zero to be within the margin of 0.50 pp under" in warning
    assert "6 of 6 distributions" in warning
    assert "at 30 images (median over checkpoints)" in warning
    assert "may say only that little is known" in warning, "of some checkpoints much is lost"
    needed = re.search(r"it takes about ([\d,]+) images", warning)
    assert needed is not None
    number = int(needed[1].replace(",", ""))
    assert number == round_up_images(number), "an estimate supports two digits"
    assert warnings(0.9) == warnings(0.0) == []


def test_a_corruption_that_changes_no_image_counts_as_no_shift(cascade: Results) -> None:
    """`saturate` leaves grey images as they are: another row of the nominal distribution."""
    record = make_record(cascade)
    assert record.data.shape[0] == 1
    shifts: dict[str, Any] = {"corruptions": ("fog", "saturate"), "noise": ()}
    fog: dict[str, Any] = {"corruptions": ("fog",), "noise": ()}
    section = PrunePotential(**shifts).evaluate(record)
    alone = PrunePotential(**fog).evaluate(record)
    assert section.scalars == alone.scalars
    rows = section.details["potential_by_distribution"]
    assert {row["distribution"] for row in rows} == {"nominal", "fog 3"}
    sentence = "Left out, as every one of these images stays as it is under it: saturate 3."
    assert any(sentence in note for note in section.notes)
    assert not any("Left out" in note for note in alone.notes)
    errors = Robustness(**shifts).evaluate(record)
    assert errors.scalars == Robustness(**fog).evaluate(record).scalars
    assert any(sentence in note for note in errors.notes)
    with pytest.raises(ParameterError, match="name corruptions that change the images"):
        Robustness(corruptions=("saturate",)).evaluate(record)
    gates = Gates(min_prune_potential={"saturate 3": 0.1})
    best = checkpoint(Method(name="magnitude"), 0.5, 0.1, 0.2)
    (reading,) = list_readings(gates, best, {"prune_potential": section})
    assert reading.outcome == "undecided"
    assert reading.sentence.endswith("was left out: saturate 3 changes none of the images")


def test_a_corruption_that_changes_one_late_image_is_a_shift(cascade: Results) -> None:
    record = make_record(cascade)
    images = torch.zeros_like(record.data.test.images)
    images[-1, :, :2] = 200
    test = replace(record.data.test, stored=images)
    record = replace(record, data=replace(record.data, test=test))
    few, all_images = 3, len(images)
    shift = Shift("contrast", 3)
    sampled = bool((draw_positions(record, few) == all_images - 1).any())
    assert changes_images(record, shift, all_images)
    assert changes_images(record, shift, few) is sampled


def test_the_margin_of_potentials_is_named_where_it_is_told(cascade: Results) -> None:
    record = make_record(cascade)
    section = PrunePotential(**FEW_SHIFTS, margin=0.0125, against="given").evaluate(record)
    assert (section.details["margin"], section.details["against"]) == (0.0125, "given")
    assert {"margin", "against", "unchanged"} <= set(section.hidden)
    sentence = "at the margin of prune_potential, 1.25 pp above the network as given, the nominal"
    assert sentence in section.notes[0]


def test_the_safe_limit_is_told_beside_the_estimate(cascade: Results) -> None:
    record = make_record(cascade)
    section = PrunePotential(**FEW_SHIFTS, margin=0.6).evaluate(record)
    ratios = compute_prune_ratios(record)["magnitude"]
    rows = {
        row["distribution"]: row
        for row in section.details["potential_by_distribution"]
        if row["method"] == "magnitude"
    }
    for row in rows.values():
        assert row["safe"] in (0.0, *ratios.values())
        assert row["potential"]["low"] <= row["safe"] <= row["potential"]["value"]
    assert rows["nominal"]["safe"] > 0
    least = min(row["safe"] for name, row in rows.items() if name.startswith("noise"))
    scalar = section.scalars["safe_prune_potential_minimum_over_noise/magnitude"]
    assert scalar.value == least
