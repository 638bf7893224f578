"""The evaluation `loss_model`: curves, verdicts of the rank correlation, overflows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.loss_changes import LossChange
from pruning.evaluations._loss_correlations import AFTER, Correlation, correlate_with_errors
from pruning.evaluations._loss_rounds import RoundLoss
from pruning.evaluations.comparison import Comparison
from pruning.evaluations.loss_model import LossModelling
from pruning.measurement.measure import Measured
from pruning.rounds.pruning import StageLoss
from pruning.schemas.recipe import Method
from pruning.schemas.report import Estimate, Section
from tests.support.loss_rounds import MAX, around, find_note, make_record, make_round

# the section


def test_cumulative_curves_by_hand() -> None:
    first = make_round(
        "qm", 0.5, stages=(StageLoss(0.3, 0.10, 0.20, 0.25, 9), StageLoss(0.5, 0.20, 0.26, 0.66, 9))
    )
    second = make_round("qm", 0.8, number=2, stages=(StageLoss(0.8, -0.10, 0.30, 0.50, 9),))
    section = LossModelling().evaluate(make_record(first, second))
    assert section.curves["predicted/qm"].x == section.curves["measured/qm"].x == (0.3, 0.5, 0.8)
    assert [y.value for y in section.curves["predicted/qm"].y] == pytest.approx([0.10, 0.30, -0.10])
    assert [y.value for y in section.curves["measured/qm"].y] == pytest.approx([0.05, 0.45, 0.20])
    assert section.curves["true/qm"].x == (0.5, 0.8)
    rows = section.details["loss_change_by_round"]
    assert [row["predicted_over_measured_factor"] for row in rows] == pytest.approx(
        [0.3 / 0.45, -0.5]
    )
    by_stage = section.details["prediction_by_stage"]
    assert [row["predicted_minus_measured"] for row in by_stage] == pytest.approx(
        [0.05, -0.2, -0.3]
    )
    assert "qm −0.5× to 0.67×" in find_note(section, "Predicted over measured")
    assert "no forecast" in find_note(section, "no forecast")


def test_targets_that_start_from_scratch_have_curves_of_their_own() -> None:
    rounds = [
        make_round(
            "lm",
            target,
            number=i + 1,
            stages=(StageLoss(0.3, 0.1, 0, 1, 9), StageLoss(target, 0.1, 0, 1, 9)),
        )
        for i, target in enumerate((0.5, 0.8))
    ]
    curves = LossModelling().evaluate(make_record(*rounds)).curves
    assert [key for key in curves if key.startswith("predicted")] == [
        "predicted/lm/0.5",
        "predicted/lm/0.8",
    ]


CRITERIA = ("random", "magnitude", "lamp", "synflow", "snip", "grasp", "taylor", "wanda")


def criteria_at(
    targets: tuple[float, ...],
    errors: list[int],
    after: list[float],
    pruned: list[int] | None = None,
    **fields: Any,
) -> JobRecord:
    return make_record(
        *(
            make_round(
                f"c{i}",
                target,
                name=CRITERIA[i],
                after=loss + 0.01 * target,
                retrained=error,
                pruned=(pruned or errors)[i],
                number=k + 1,
                **fields,
            )
            for i, (error, loss) in enumerate(zip(errors, after, strict=True))
            for k, target in enumerate(targets)
        )
    )


@pytest.mark.parametrize(
    ("errors", "after", "verdict"),
    [
        (
            [1, 2, 3, 4, 5, 6],
            [1.0, 2, 3, 4, 5, 6],
            "a smaller |loss change| went with lower error after retraining",
        ),
        (
            [6, 5, 4, 3, 2, 1],
            [1.0, 2, 3, 4, 5, 6],
            "a smaller |loss change| went with higher error after retraining",
        ),
        ([3, 1, 6, 2, 5, 4], [1.0, 2, 3, 4, 5, 6], "no evidence of an order"),
        ([5, 5, 5, 5, 5], [1.0, 2, 3, 4, 5], "no evidence: a ranking is constant"),
    ],
)
def test_verdicts_of_the_rank_correlation(
    errors: list[int], after: list[float], verdict: str
) -> None:
    section = LossModelling().evaluate(criteria_at((0.8,), errors, after))
    assert find_note(section, "after retraining at 80 %").endswith(f"; {verdict}.")
    row = section.details["rank_correlation"][0]
    assert row["verdict"] == verdict
    if row["spearman"] is not None:
        assert row["spearman"]["value"] == pytest.approx(spearmanr(errors, after).statistic)
        assert (
            section.scalars["spearman/error_after_retraining/0.8"].value == row["spearman"]["value"]
        )
    outcome = find_note(section, "does not order the errors")
    expected = "no evidence either way"
    if "went with lower" in verdict:
        expected = "no, the loss preserved better went with lower error"
    elif "higher" in verdict:
        expected = "yes, the loss preserved better even went with higher error"
    assert f"Seen here: {expected} (Spearman's rho" in outcome


def test_targets_are_correlated_alone_pooled_and_against_the_error_before_retraining() -> None:
    section = LossModelling().evaluate(
        criteria_at((0.5, 0.8), [6, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    )
    assert {key: value.value for key, value in section.scalars.items()} == {
        **{f"spearman/error_after_retraining/{at}": -1.0 for at in ("0.5", "0.8", "pooled")},
        **{f"spearman/error_right_after_pruning/{at}": 1.0 for at in ("0.5", "0.8", "pooled")},
    }
    contrast = find_note(section, "For contrast")
    assert contrast.endswith("pooled: 1.00."), "no resample breaks a perfect order"
    assert "has none, as no resample breaks it" in find_note(section, "Intervals of rho")


def test_a_ruined_network_that_loses_no_more_ranks_last() -> None:
    """In a cascade the correlation takes the loss after pruning, not the change of the last
    round.
    """
    rounds = []
    for i, loss in enumerate([1.0, 2, 3, 4, 5, 6]):
        rounds += [
            make_round(f"c{i}", 0.5, name=CRITERIA[i], after=loss, retrained=i + 1),
            make_round(
                f"c{i}",
                0.8,
                name=CRITERIA[i],
                before=loss,
                after=loss + (6 - loss) / 10,
                number=2,
                retrained=i + 1,
            ),
        ]
    section = LossModelling().evaluate(make_record(*rounds))
    assert section.scalars["spearman/error_after_retraining/0.8"].value == 1.0
    assert "relative to the network it started from" in find_note(section, "Every round's change")


def test_an_overflow_ranks_last_and_is_said() -> None:
    record = criteria_at((0.8,), [1, 2, 3, 4, 5, 6], [1.0, 2, 3, 4, 5, 6])
    bad = around(0.1)
    bad[0] = MAX
    record = make_record(
        *record.rounds[:5], make_round("c5", name=CRITERIA[5], after=bad, retrained=6)
    )
    section = LossModelling().evaluate(record)
    assert section.scalars["spearman/error_after_retraining/0.8"].value == 1.0
    assert "c5 at 80 %: the loss overflows on 1 image;" in find_note(section, "overflows")
    assert "true/c5" not in section.curves
    text = section.model_dump_json() + Comparison().evaluate(record).model_dump_json()
    assert "overflow on 1 image" in text
    assert not any(word in text for word in ("Infinity", "NaN", "e+3"))
    assert Section.model_validate_json(section.model_dump_json()) == section
    json.loads(json.dumps(section.details, allow_nan=False))


def test_without_retraining_or_with_few_criteria_there_is_no_correlation() -> None:
    section = LossModelling().evaluate(criteria_at((0.8,), [1, 2, 3, 4, 5], [1.0, 2, 3, 4, 5]))
    assert section.scalars
    none = make_record(*(make_round(f"c{i}", name="random", retrained=None) for i in range(4)))
    section = LossModelling().evaluate(none)
    assert not section.scalars
    assert "does not retrain" in find_note(section, "No rank correlation")
    section = LossModelling().evaluate(criteria_at((0.8,), [1, 2, 3, 4], [1.0, 2, 3, 4]))
    assert not section.scalars
    assert "no evidence: too few criteria (4, at least 5 are needed" in find_note(
        section, "too few"
    )


def make_settings(
    losses: Sequence[Sequence[float]], errors: Sequence[Sequence[int]], target: float = 0.8
) -> list[RoundRecord]:
    """Rounds of criteria with several settings each: their losses and errors by criterion."""
    return [
        make_round(f"c{i}-{j}", target, name=CRITERIA[i], after=loss, retrained=error)
        for i, settings in enumerate(zip(losses, errors, strict=True))
        for j, (loss, error) in enumerate(zip(*settings, strict=True))
    ]


def test_settings_of_one_criterion_are_one_individual() -> None:
    losses = [[1.0, 1.1, 1.2], [2.0, 2.1, 2.2], [3.0, 3.1, 3.2], [4.0, 4.1, 4.2], [5.0, 5.1, 9.0]]
    errors = [[10, 11, 12], [20, 21, 22], [30, 31, 32], [40, 41, 42], [50, 51, 1]]
    section = LossModelling().evaluate(make_record(*make_settings(losses[:4], errors[:4])))
    assert (
        "too few criteria (4, at least 5 are needed; settings of one criterion count as one)"
        in (find_note(section, "too few"))
    )
    section = LossModelling().evaluate(make_record(*make_settings(losses, errors)))
    row = section.details["rank_correlation"][0]
    assert (row["criteria"], row["settings"], row["spearman"]["value"]) == (5, 15, 1.0)
    assert "5 criteria (each the median of its settings, 15 in all): 1.00" in find_note(
        section, "after retraining at 80 %"
    )


def test_an_order_at_one_target_alone_is_not_hidden_by_the_others() -> None:
    losses = [[float(i)] for i in range(1, 9)]
    straight, mixed = [[i] for i in range(1, 9)], [[i] for i in (5, 2, 7, 4, 1, 8, 3, 6)]
    rounds = [
        *make_settings(losses, mixed, 0.5),
        *make_settings(losses, mixed, 0.8),
        *make_settings(losses, straight, 0.95),
    ]
    section = LossModelling().evaluate(make_record(*rounds))
    assert "spearman/error_after_retraining/pooled" not in section.scalars
    outcome = find_note(section, "does not order the errors")
    assert "Seen here: at 95 % no, the loss preserved better went with lower error" in outcome
    assert outcome.index("at 95 % no,") < outcome.index("at 80 % no evidence either way")
    assert find_note(section, "The findings at the targets differ: no correlation over all")
    targets = [row["target_sparsity"] for row in section.details["rank_correlation"]]
    assert targets[:3] == [0.95, 0.8, 0.5]


def correlate_families(losses: np.ndarray, errors: np.ndarray) -> list[Correlation]:
    """The correlations of losses and errors (targets, criteria, settings)."""
    rounds = [
        RoundLoss(
            round=replace(
                TEMPLATE,
                criterion=Method(name=f"criterion{i}"),
                label=f"criterion{i}-{j}",
                target=0.5 + target / 10,
                retrained=Measured(flags, flags, flags),
                pruned=Measured(flags, flags, flags),
            ),
            change=change,
            total=change,
            stages=[],
        )
        for target, i, j in np.ndindex(*losses.shape)
        for flags in [torch.tensor([errors[target, i, j]])]
        for change in [LossChange(Estimate(value=float(losses[target, i, j])), 0)]
    ]
    return correlate_with_errors(0, rounds)


TEMPLATE = make_round("template")


@pytest.mark.slow
def test_orders_are_claimed_at_the_stated_level() -> None:
    """Families of 8 settings that share most of what they are, with and without an order."""
    rng = np.random.default_rng(0)
    jobs = 100

    def draw(families: int, targets: int) -> np.ndarray:
        shared = rng.normal(size=(1, families, 1)) + rng.normal(size=(targets, families, 1))
        return shared + 0.3 * rng.normal(size=(targets, families, 8))

    claims = {
        families: [
            correlate_families(np.abs(draw(families, 1)), draw(families, 1))[0].positive
            for _ in range(jobs)
        ]
        for families in (4, 5, 8)
    }
    rates = {families: 1 - seen.count(None) / jobs for families, seen in claims.items()}
    planted = []
    for _ in range(jobs // 4):
        losses = np.abs(draw(8, 3))
        errors = draw(8, 3)
        errors[2] = losses[2] + 0.1 * rng.normal(size=(8, 8))
        after = [row for row in correlate_families(losses, errors) if row.against == AFTER]
        planted.append(after[0].positive)
    power = planted.count(True) / len(planted)
    print(f"claimed in nulls, by families of 8 settings: {rates}; planted: {power}")  # noqa: T201
    assert rates[4] == 0
    assert max(rates.values()) <= 0.05 + 2 * (0.05 * 0.95 / jobs) ** 0.5
    assert power >= 0.9
