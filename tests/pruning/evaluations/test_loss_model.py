"""Loss changes, rank correlation and its bootstrap, the paper's findings, and the comparison of
criteria.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest, norm, spearmanr
from torch import Tensor

from pruning.analysis.applicability import applies_to
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.loss_changes import (
    compare_first_rounds,
    list_stage_points,
    loss_change_since_start,
    mean_loss_change,
)
from pruning.analysis.loss_findings import (
    ANSWERS,
    compare_gradient,
    compare_locality,
    compare_with_magnitude,
)
from pruning.evaluations.comparison import Comparison
from pruning.evaluations.loss_model import LossModelling
from pruning.measurement.intervals import binomial_interval, difference_interval
from pruning.measurement.measure import Measured
from pruning.measurement.rank_correlation import (
    FEWEST,
    compute_spearman,
    estimate_spearman,
    permutation_p_value,
    rank_from_smallest,
)
from pruning.rounds.pruning import StageLoss
from pruning.schemas.recipe import Method
from pruning.schemas.report import Section
from pruning.seeding import generator
from tests.support import cases
from tests.support.finished_jobs import finish_and_export
from tests.support.pipelines import MODES

IMAGES = 400
MAX = torch.finfo(torch.float32).max


def flag_first(errors: int, n: int = 100) -> Tensor:
    """The first `errors` images wrong."""
    return torch.arange(n) < errors


def measured(errors: int, val_errors: int | None = None) -> Measured:
    return Measured(
        flag_first(errors),
        torch.full((100,), errors / 10),
        flag_first(errors if val_errors is None else val_errors),
    )


def around(mean: float, seed: int = 0, spread: float = 0.1) -> Tensor:
    """Losses with exactly this mean."""
    noise = torch.randn(IMAGES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mean + spread * (noise - noise.mean())).float()


def make_round(
    label: str,
    target: float = 0.8,
    *,
    name: str | None = None,
    params: dict[str, Any] | None = None,
    before: Tensor | float = 0.2,
    after: Tensor | float = 0.5,
    pruned: int = 40,
    retrained: int | None = 20,
    val: int | None = None,
    number: int = 1,
    stages: tuple[StageLoss, ...] = (),
    requested: bool = True,
) -> RoundRecord:
    losses = (
        before if isinstance(before, Tensor) else around(before),
        after if isinstance(after, Tensor) else around(after, seed=1),
    )
    return RoundRecord(
        criterion=Method(name=name or label.partition("-")[0], params=params or {}),
        label=label,
        round=number,
        sparsity=target,
        density=1 - target,
        target=target if requested else None,
        retrain_epochs=1,
        masks=dict,
        network=cases.mlp,
        pruned=measured(pruned, val),
        retrained=None if retrained is None else measured(retrained, val),
        stages=stages,
        losses=lambda: losses,
    )


def make_record(*rounds: RoundRecord, control: int = 10, seed: int = 0) -> JobRecord:
    return JobRecord(
        data=cases.make_data(),
        dense=cases.mlp,
        control=cases.mlp,
        given_measured=measured(control),
        control_measured=measured(control),
        rounds=rounds,
        recipe=cases.recipe(seed=seed),
    )


def find_note(section: Section, text: str) -> str:
    """The one note that holds the text."""
    notes = [note for note in section.notes if text in note]
    assert len(notes) == 1, (text, section.notes)
    return notes[0]


# ranks


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("values", [3, 30])
def test_spearman_is_scipys_with_and_without_ties(seed: int, values: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.randint(values, (2, 9), generator=rng).double()
    assert float(compute_spearman(x[None], y[None])) == pytest.approx(
        spearmanr(x, y).statistic, abs=1e-12
    )
    smaller = [1 + sum(b < a for b in x) + (sum(b == a for b in x) - 1) / 2 for a in x]
    assert rank_from_smallest(x).tolist() == pytest.approx([float(rank) for rank in smaller])


def test_pooled_ranks_are_taken_within_each_target() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, 7, generator=rng, dtype=torch.float64)
    shifted = x + torch.tensor([[0.0], [10.0], [-5.0]])  # between targets everything may differ
    a, b = (torch.cat([rank_from_smallest(row) - 4 for row in values]) for values in (x, y))
    assert float(compute_spearman(shifted, y)) == pytest.approx(
        float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
    )


def test_infinite_values_rank_last_and_constants_have_no_correlation() -> None:
    assert rank_from_smallest(torch.tensor([math.inf, 1.0, math.inf, 0.0])).tolist() == [
        3.5,
        2.0,
        3.5,
        1.0,
    ]
    assert estimate_spearman(torch.ones(1, 5), torch.rand(1, 5), generator(0, "x")) is None


def test_monotone_data_exclude_zero_and_too_few_have_no_interval() -> None:
    x = torch.arange(8.0)[None]
    up, down = (
        estimate_spearman(x, x.exp(), generator(0, "x")),
        estimate_spearman(x, -x, generator(0, "x")),
    )
    assert up is not None
    assert (up.value, up.low, up.high, up.n) == (1.0, 1.0, 1.0, 8)
    assert down is not None
    assert (down.value, down.low, down.high) == (-1.0, -1.0, -1.0)
    few = estimate_spearman(x[:, : FEWEST - 1], x[:, : FEWEST - 1], generator(0, "x"))
    assert few is not None
    assert (few.value, few.low, few.high) == (1.0, None, None)


def test_resamples_without_a_correlation_are_drawn_again() -> None:
    """Where one individual differs, a third of the resamples has a constant ranking."""
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])
    rho = estimate_spearman(x, x, generator(0, "x"))
    assert rho is not None
    assert (rho.low, rho.high) == (1.0, 1.0)


def test_the_bootstrap_is_seeded_and_its_quantiles_are_those_of_a_plain_loop() -> None:
    rng = torch.Generator().manual_seed(3)
    x, y = torch.rand(2, 1, 9, generator=rng, dtype=torch.float64)
    rho = estimate_spearman(x, y, generator(5, "a"))
    assert rho == estimate_spearman(x, y, generator(5, "a"))
    assert rho != estimate_spearman(x, y, generator(6, "a"))
    assert rho is not None
    samples = torch.randint(9, (2000, 9), generator=generator(5, "a"))
    plain = [spearmanr(x[0, row], y[0, row]).statistic for row in samples]
    assert [rho.low, rho.high] == pytest.approx(
        torch.tensor(plain).quantile(torch.tensor([0.025, 0.975]).double())
    )


def test_of_independent_rankings_the_evidence_is_wrong_one_time_in_twenty() -> None:
    """Interval without 0 and permutation test together; the bootstrap alone errs for few
    individuals.
    """
    rng = torch.Generator().manual_seed(0)
    for n in (4, 5, 8, 13):
        false = 0
        for _ in range(150):
            x, y = torch.rand(2, 1, n, generator=rng, dtype=torch.float64)
            rho = estimate_spearman(x, y, rng, resamples=500)
            assert rho is not None
            assert rho.low is not None
            assert rho.high is not None
            false += (
                not rho.low <= 0 <= rho.high
                and permutation_p_value(x, y, rng, permutations=500) <= 0.05
            )
        assert binomtest(false, 150, 0.05, alternative="greater").pvalue > 0.001, n


def test_the_permutation_test_counts_the_orders_that_are_as_good() -> None:
    x = torch.arange(5.0)[None]
    assert permutation_p_value(x, x, generator(0, "p")) == pytest.approx(2 / 120, abs=0.005)
    assert permutation_p_value(
        x, torch.tensor([[0.0, 1.0, 2.0, 4.0, 3.0]]), generator(0, "p")
    ) == pytest.approx(10 / 120, abs=0.01)


# loss changes


def test_changes_and_differences_by_hand() -> None:
    before, after = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 4.0, 4.0])
    change = mean_loss_change(make_round("a", before=before, after=after))
    assert change is not None
    assert change.estimate is not None
    half = norm.ppf(0.975) * math.sqrt((0 + 1 + 1 + 0) / 3 / 4)
    assert (change.estimate.value, change.estimate.n, change.overflowed) == (1.0, 4, 0)
    assert [change.estimate.low, change.estimate.high] == pytest.approx([1 - half, 1 + half])
    other = make_round("b", before=before, after=torch.tensor([1.0, 1.0, 3.0, 3.0]))
    difference = compare_first_rounds(make_round("a", before=before, after=after), other)
    assert difference is not None
    assert difference.estimate is not None
    assert difference.estimate.value == 0.5
    half = norm.ppf(0.975) * math.sqrt(1 / 3 / 4)
    assert difference.estimate.low == pytest.approx(0.5 - half)


def test_an_interval_of_large_losses_is_not_lost_to_cancellation() -> None:
    change = mean_loss_change(
        make_round("a", before=torch.zeros(100), after=1e7 + (torch.arange(100) % 2).float())
    )
    assert change is not None
    assert change.estimate is not None
    assert change.estimate.low is not None
    assert change.estimate.value - change.estimate.low == pytest.approx(
        norm.ppf(0.975) * math.sqrt(0.25 / 99), rel=1e-6
    )


def test_since_start_compares_with_the_network_before_the_first_round() -> None:
    first = make_round("a", 0.5, before=0.2, after=2.0)
    second = make_round("a", 0.8, before=1.9, after=2.3, number=2)
    other = make_round("b", 0.5, before=0.7, after=0.9)
    total, alone = loss_change_since_start([other, second, first], second), mean_loss_change(second)
    assert total is not None
    assert total.estimate is not None
    assert total.estimate.value == pytest.approx(2.1, abs=1e-6)
    assert alone is not None
    assert alone.estimate is not None
    assert alone.estimate.value == pytest.approx(0.4, abs=1e-6)


def test_an_overflow_is_no_number() -> None:
    after = around(0.5)
    after[3:5] = MAX
    change = mean_loss_change(make_round("a", after=after))
    assert change is not None
    assert (change.estimate, change.overflowed, change.magnitude) == (None, 2, math.inf)
    assert change.document() == "overflow on 2 images"
    stages = (
        StageLoss(0.3, 0.1, 0.2, 0.4, 9),
        StageLoss(0.5, math.inf, 0.4, 1e35, 9),
        StageLoss(0.6, 0.1, math.nan, 1.0, 9),
    )
    points = list_stage_points(stages)
    assert [point.predicted_sum for point in points] == [0.1, None, None]
    assert [point.measured_sum for point in points] == [0.2, None, None]
    assert [point.factor for point in points] == [0.5, None, None]


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
    assert [row["predicted_minus_measured_nats"] for row in by_stage] == pytest.approx(
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


# findings


def pair(
    name: str,
    differing: dict[str, Any],
    shared: dict[str, Any] | None = None,
    target: float = 0.8,
    **fields: Any,
) -> RoundRecord:
    label = "-".join([name, *(f"{key}{value}" for key, value in differing.items())])
    return make_round(label, target, name=name, params=differing | (shared or {}), **fields)


def test_locality_is_seen_not_seen_or_without_evidence() -> None:
    def outcome(shift: float, parameter: str = "pi") -> str:
        few, more = (
            pair("qm", {parameter: 1}, after=1.0),
            pair("qm", {parameter: 14}, after=1.0 + shift),
        )
        (finding,) = compare_locality([more, few])
        (only,) = finding.pairs
        assert only.first.criterion.params == {parameter: 14}
        assert only.change.estimate is not None
        assert only.change.estimate.value == pytest.approx(shift, abs=1e-6)
        sentence = finding.sentence()
        assert sentence.startswith("Paper's finding: qm: ")
        assert f"Seen here: {ANSWERS[finding.outcome]}. Of 1 comparison, " in sentence
        return finding.outcome

    assert outcome(-0.3) == "seen"
    assert outcome(0.3) == "the opposite"
    assert outcome(0.0) == "no evidence"
    assert outcome(-0.3, "lambda") == "seen"


def test_only_pairs_that_differ_in_one_parameter_are_compared() -> None:
    both = [pair("qm", {"pi": 1, "lambda": 0.0}), pair("qm", {"pi": 14, "lambda": 0.1})]
    assert compare_locality(both) == []
    assert compare_locality([pair("qm", {"pi": 1}), pair("lm", {"pi": 14})]) == []
    assert compare_locality([pair("qm", {"pi": 1}), pair("qm", {"pi": 14}, target=0.9)]) == []
    assert compare_locality([pair("qm", {"images": 10}), pair("qm", {"images": 20})]) == []
    assert compare_locality([pair("magnitude", {}), make_round("random")]) == []
    defaults = [pair("qm", {}), pair("qm", {"pi": 1})]  # the default pi is 14
    (finding,) = compare_locality(defaults)
    assert finding.pairs[0].first.label == "qm"
    three = compare_locality([pair("qm", {"pi": pi}) for pi in (1, 14, 140)])
    assert [len(finding.pairs) for finding in three] == [3]


def test_both_directions_are_said() -> None:
    rounds = [
        pair("lm", {"pi": 1}, target=0.5, after=1.0),
        pair("lm", {"pi": 14}, target=0.5, after=1.2),
        pair("lm", {"pi": 1}, after=1.0),
        pair("lm", {"pi": 14}, after=0.3),
    ]
    (finding,) = compare_locality(rounds)
    assert finding.outcome == "both"
    assert "the opposite at others. Of 2 comparisons, 1 for and 1 against" in finding.sentence()
    assert "largest difference: lm-pi14 less lm-pi1 at 80 %, −0.7" in finding.sentence()


def test_magnitude_and_the_gradient() -> None:
    rounds = [
        make_round("magnitude", after=1.0),
        pair("qm", {"pi": 1}, after=0.6),
        pair("obd", {"pi": 1}, after=0.9),
        pair("obd", {"pi": 14}, after=0.2),
    ]
    outcomes = {row.statement: row for row in compare_with_magnitude(rounds)}
    assert [row.outcome for row in outcomes.values()] == ["seen"] * 3
    (finding,) = compare_gradient(rounds)
    assert [(row.first.label, row.second.label) for row in finding.pairs] == [("qm-pi1", "obd-pi1")]
    assert finding.outcome == "seen"
    section = LossModelling().evaluate(make_record(*rounds))
    assert set(section.details) >= {"locality", "against_magnitude", "gradient"}
    assert "Seen here: yes. Of 1 comparison, 1 for and 0 against" in find_note(
        section, "dropping the gradient"
    )
    assert "with qm-pi1 lower at 1 and higher at 0 of 1 target; with obd-pi1 lower" in find_note(
        section, "magnitude's"
    )
    assert "of twenty" in find_note(section, "stands at 95 %")
    row = section.details["gradient"][0]
    assert row["loss_difference_first_less_second_nats"]["value"] == pytest.approx(-0.3, abs=1e-6)


# comparison


def test_the_table_of_the_comparison_by_hand() -> None:
    record = make_record(
        make_round("a", name="random", after=0.5, pruned=40, retrained=30, val=3),
        make_round("b", name="magnitude", after=0.3, pruned=50, retrained=12, val=5),
        make_round("c", name="synflow", after=0.9, pruned=40, retrained=30, val=9),
    )
    section = Comparison().evaluate(record)
    rows = section.details["criteria"]
    assert [row["criterion"] for row in rows] == ["b", "a", "c"]
    assert [row["rank_after_retraining"] for row in rows] == [1.0, 2.5, 2.5]
    assert [row["rank_right_after_pruning"] for row in rows] == [3.0, 1.5, 1.5]
    assert [row["rank_by_absolute_loss_change"] for row in rows] == [1.0, 2.0, 3.0]
    assert rows[0]["error_after_retraining"] == binomial_interval(12, 100).model_dump()
    assert rows[0]["error_right_after_pruning"] == binomial_interval(50, 100).model_dump()
    assert rows[0]["error_increase_over_control"] == difference_interval(2, 0, 100).model_dump()
    assert rows[0]["loss_change_since_start_nats"]["value"] == pytest.approx(0.1, abs=1e-6)
    z = float(norm.ppf(1 - 0.05 / 4))  # two others
    others = {row["other"]: row for row in section.details["best_against_others"]}
    assert set(others) == {"b", "c"}, "the best is that of the validation images"
    assert others["b"]["error_difference_other_less_best"] == pytest.approx(
        difference_interval(0, 18, 100, z).model_dump()
    )
    assert others["b"]["beyond_noise"] is True
    assert others["c"]["beyond_noise"] is False
    sentence = find_note(section, "At 80 %")
    assert "a is best on the validation images" in sentence
    assert (
        "worse beyond noise: none; better beyond noise: b; not distinguishable from it: c"
        in sentence
    )


def test_without_retraining_the_comparison_ranks_what_was_pruned() -> None:
    record = make_record(
        make_round("a", name="random", pruned=40, retrained=None),
        make_round("b", name="magnitude", pruned=20, retrained=None),
    )
    rows = Comparison().evaluate(record).details["criteria"]
    assert [(row["criterion"], row["rank_right_after_pruning"]) for row in rows] == [
        ("b", 1.0),
        ("a", 2.0),
    ]
    assert "error_after_retraining" not in rows[0]


def test_one_criterion_is_no_comparison() -> None:
    alone = make_record(make_round("magnitude"))
    assert not applies_to(Comparison(), alone)
    assert not applies_to(LossModelling(), alone)
    assert "nothing to compare" in find_note(Comparison().evaluate(alone), "One criterion")
    assert LossModelling().evaluate(alone).curves
    assert applies_to(
        LossModelling(), make_record(make_round("qm", stages=(StageLoss(0.8, 0.1, 0.1, 0.2, 9),)))
    )
    assert applies_to(Comparison(), make_record(make_round("a"), make_round("b")))


@pytest.mark.parametrize("listed", [False, True])
def test_in_a_job_they_run_where_they_apply_or_are_asked_for(tmp_path: Path, listed: bool) -> None:
    evaluations = (
        tuple({"name": name} for name in ("accuracy", "comparison", "loss_model"))
        if listed
        else None
    )
    for criterion, names in (
        (({"name": "magnitude"},), {"accuracy"}),
        (
            ({"name": "magnitude"}, {"name": "qm", "params": {"pi": 2, "images": 20}}),
            {"accuracy", "comparison", "loss_model"},
        ),
    ):
        recipe = cases.recipe(
            0.5, 0.8, criterion=criterion, evaluations=evaluations, **MODES["fine_tune"]
        )
        folder = tmp_path / str(len(criterion))
        results, _ = finish_and_export(recipe, folder)
        sections, failures = results.evaluate()
        assert failures == []
        assert set(sections) & {"accuracy", "comparison", "loss_model"} == (
            {"accuracy", "comparison", "loss_model"} if listed else names
        )
    assert {"true/magnitude", "true/qm", "predicted/qm", "measured/qm"} <= set(
        sections["loss_model"].curves
    )
    assert len(sections["loss_model"].curves["predicted/qm"].x) == 4
