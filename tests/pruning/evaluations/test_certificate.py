"""Limits that hold as often as they say, and the evaluation that states them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import binom, binomtest
from torch import Tensor

from pruning.evaluations.certificate import limit_errors
from pruning.measurement.intervals import upper_limit
from tests.support import cases
from tests.support.finished_jobs import finish_and_export

SEEDS, IMAGES, DELTA = 400, 120, 0.1


@pytest.mark.parametrize("delta", [0.001, 0.05, 0.4])
def test_the_upper_limit_is_where_so_few_errors_become_unlikely(delta: float) -> None:
    for n in (1, 7, 40):
        for errors in range(n):
            assert float(binom.cdf(errors, n, upper_limit(errors, n, delta))) == pytest.approx(
                delta, rel=1e-6
            )
        assert upper_limit(n, n, delta) == 1


def draw_answers(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The errors of four networks on images of three kinds, those of a dense one, and where the
    four answer differently from it.
    """
    kind = torch.rand(IMAGES, generator=torch.Generator().manual_seed(seed))
    dense = kind < 0.1
    wrong = torch.stack([kind < 0.1, kind < 0.15, (kind < 0.05) | (kind > 0.9), kind < 0.3])
    differs = torch.stack(
        [
            kind < 0.0,
            (kind >= 0.1) & (kind < 0.15),
            ((kind >= 0.05) & (kind < 0.1)) | (kind > 0.9),
            (kind >= 0.08) & (kind < 0.3),
        ]
    )
    return wrong, dense, differs


ACCURACY = (0.9, 0.85, 0.85, 0.7)
DIFFERS = (0.0, 0.05, 0.15, 0.22)


def count_failures(delta: float) -> dict[str, int]:
    """The number of draws in which any limit of a kind fails, by kind."""
    failures = dict.fromkeys(("labelled", "disagreement", "agreement"), 0)
    for seed in range(SEEDS):
        limits = limit_errors(*draw_answers(seed), delta)
        failures["labelled"] += any(
            limit.labelled > true for limit, true in zip(limits, ACCURACY, strict=True)
        )
        failures["agreement"] += any(
            limit.agreement > true for limit, true in zip(limits, ACCURACY, strict=True)
        )
        failures["disagreement"] += any(
            limit.disagreement < true for limit, true in zip(limits, DIFFERS, strict=True)
        )
    return failures


def test_all_limits_of_a_kind_hold_together_as_often_as_promised() -> None:
    for kind, failed in count_failures(DELTA).items():
        assert binomtest(failed, SEEDS, DELTA, alternative="greater").pvalue > 0.01, (
            f"{kind}: {failed} of {SEEDS}"
        )


def test_the_check_can_fail() -> None:
    """Limits made for one network at half the confidence fail more often than one in ten."""
    failed = count_failures(4 * 0.45)["labelled"]
    assert binomtest(failed, SEEDS, DELTA, alternative="greater").pvalue < 0.01


def test_more_looks_cost() -> None:
    wrong, dense, differs = draw_answers(0)
    alone = limit_errors(wrong[:1], dense, differs[:1], DELTA)[0]
    among = limit_errors(wrong, dense, differs, DELTA)[0]
    assert among.labelled < alone.labelled
    assert among.disagreement > alone.disagreement
    assert (
        limit_errors(torch.ones(1, 5).bool(), torch.ones(5).bool(), torch.ones(1, 5).bool(), DELTA)[
            0
        ].agreement
        == 0
    )


@pytest.mark.parametrize("against", ["given", "control"])
def test_the_evaluation_counts_what_the_networks_answer(tmp_path: Path, against: str) -> None:
    recipe = cases.recipe(
        0.3,
        0.8,
        retrain={"mode": "fine_tune", "epochs": 1, "batch_size": 8},
        evaluations=({"name": "certificate", "params": {"delta": 0.2, "against": against}},),
    )
    results, _ = finish_and_export(recipe, tmp_path)
    sections, failures = results.evaluate()
    assert failures == []
    section, pipeline = sections["certificate"], results.pipeline
    dense = pipeline.dense() if against == "given" else pipeline.controls[0].network()
    images = pipeline.data.normalize(pipeline.data.test.images)
    wrong = (pipeline.given_measured if against == "given" else pipeline.controls[0].measured).wrong
    for row, round_record in zip(section.details["limits"], pipeline.done, strict=True):
        with torch.no_grad():
            differs = int(
                (round_record.network()(images).argmax(1) != dense(images).argmax(1)).sum()
            )
        assert row["checkpoint"] == round_record.id
        assert row["disagreement"] == pytest.approx(differs / 30)
        assert row["disagreement_at_most"] == pytest.approx(upper_limit(differs, 30, 0.05))
        assert row["accuracy_at_least_labelled"] == pytest.approx(
            1 - upper_limit(int(round_record.measured.wrong.sum()), 30, 0.1)
        )
        assert row["accuracy_at_least_agreement"] == pytest.approx(
            max(0.0, 1 - upper_limit(int(wrong.sum()), 30, 0.1) - row["disagreement_at_most"])
        )
    assert set(section.curves) == {
        f"{kind}/magnitude" for kind in ("labelled", "agreement", "disagreement")
    } | {"shifted/magnitude/noise 0.2"}
    for row in section.details["limits_under_shift"]:
        assert row["accuracy"] >= row["dense_accuracy"] - row["disagreement"]
        assert row["disagreement_at_most"] == pytest.approx(
            upper_limit(round(30 * row["disagreement"]), 30, 0.05)
        )
        assert row["accuracy_at_least_agreement"] == pytest.approx(
            max(
                0.0,
                1
                - upper_limit(round(30 * (1 - row["dense_accuracy"])), 30, 0.1)
                - row["disagreement_at_most"],
            )
        )
    assert section.details["confidence"] == 0.8
    assert section.hidden == ("confidence",)
    assert section.notes[0].startswith(
        "With probability 80 % over the draw of 30 test images, the limits of one kind hold"
    )


def test_the_certificate_shows_what_a_priori_bounds_promise(tmp_path: Path) -> None:
    recipe = cases.recipe(
        0.001,
        0.5,
        criterion={"name": "sipp"},
        evaluations=({"name": "certificate", "params": {"noise": []}}, {"name": "bounds"}),
    )
    results, _ = finish_and_export(recipe, tmp_path)
    sections, failures = results.evaluate()
    assert failures == []
    assert list(sections) == ["certificate", "bounds"]
    predicted = {
        row["requested_sparsity"]: row["predicted_accuracy"]
        for row in sections["bounds"].details["predictions"]
        if row["form"] == "deterministic"
    }
    rows = sections["certificate"].details["limits"]
    assert [row["accuracy_at_least_a_priori"] for row in rows] == [predicted[0.001], predicted[0.5]]
    assert "a_priori/sipp" in sections["certificate"].curves
    assert "limits_under_shift" not in sections["certificate"].details
