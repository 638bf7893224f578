"""The evaluation `loss_model`: curves, verdicts of the rank correlation, overflows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scipy.stats import spearmanr

from pruning.analysis.job_record import JobRecord
from pruning.evaluations.comparison import Comparison
from pruning.evaluations.loss_model import LossModelling
from pruning.rounds.pruning import StageLoss
from pruning.schemas.report import Section
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
                name="random",
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
        ([1, 2, 3, 4], [1.0, 2, 3, 4], "no evidence: 8 % of random orders are as good"),
        ([5, 5, 5, 5], [1.0, 2, 3, 4], "no evidence: a ranking is constant"),
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
    assert "pooled: 1.00 [1.00, 1.00]" in find_note(section, "For contrast")


def test_a_ruined_network_that_loses_no_more_ranks_last() -> None:
    """In a cascade the correlation takes the loss after pruning, not the change of the last
    round.
    """
    rounds = []
    for i, loss in enumerate([1.0, 2, 3, 4, 5, 6]):
        rounds += [
            make_round(f"c{i}", 0.5, name="random", after=loss, retrained=i + 1),
            make_round(
                f"c{i}",
                0.8,
                name="random",
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
        *record.rounds[:5], make_round("c5", name="random", after=bad, retrained=6)
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
    section = LossModelling().evaluate(criteria_at((0.8,), [1, 2, 3, 4], [1.0, 2, 3, 4]))
    assert section.scalars
    none = make_record(*(make_round(f"c{i}", name="random", retrained=None) for i in range(4)))
    section = LossModelling().evaluate(none)
    assert not section.scalars
    assert "does not retrain" in find_note(section, "No rank correlation")
    section = LossModelling().evaluate(criteria_at((0.8,), [1, 2, 3], [1.0, 2, 3]))
    assert not section.scalars
    assert "no evidence: too few criteria (3, at least 4 are needed)" in find_note(
        section, "too few"
    )
