"""The predictions of bounds against slow loops over images; and every number of a report is finite
or None.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.analysis.bound_findings import (
    choose_headline_form,
    describe_findings,
    is_within_failure_probability,
    list_coverage_rows,
)
from pruning.analysis.bound_layers import Pruned
from pruning.analysis.bound_report import BoundReport, Spread, summarise_outcomes
from pruning.analysis.bound_study import Outcome
from pruning.evaluations.bounds import _draw_curves, _list_layer_rows
from pruning.schemas.report import Section
from pruning.types import DrawLaw
from tests.support.bound_cases import seeded

IMAGES, CLASSES, DELTA = 40, 4, 0.05


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def make_outcome(
    sparsity: float, trial: int, dense: Tensor, size: float, drawn: bool = True, scale: float = 1.0
) -> Outcome:
    """Errors and bounds of about `size`, in two parts of the images."""
    law = DrawLaw(torch.ones(1, 2) / 2, torch.tensor([3 if drawn else -1]))
    outcome = Outcome(
        pruned=Pruned(
            requested=sparsity,
            sparsity=sparsity + 0.01 * trial,
            trial=trial,
            weights={},
            masks={},
            laws={"w": law},
        )
    )
    error = scale * size * normal(len(dense), CLASSES, seed=trial).abs() / 3
    forms = {
        "error": error,
        "hoeffding": 2 * error + size,
        "minimum": 1.5 * error + size / 2,
        "paper": 0.3 * error + size / 9,
        "minimum with no union bound": error + size / 3,
        "minimum with something": 9 * (error + size),
    }
    for name, values in forms.items():
        outcome.logits[name] = list(values.split(25))
    outcome.answers = list((dense + error).split(25))
    outcome.layers = {
        "w": {
            name: [part.amax(1) for part in parts]
            for name, parts in outcome.logits.items()
            if name != "paper"
        }
    }
    outcome.layers["w"]["error"][0][:3] = 0.0
    outcome.violations = {name: [torch.zeros(len(dense)).bool()] for name in forms}
    if trial == 1:
        outcome.violations["paper"][0][5] = True
    return outcome


def make_report(
    drawn: bool = True, scale: float = 1.0
) -> tuple[BoundReport, list[Outcome], Tensor, Tensor]:
    dense, labels = 3 * normal(IMAGES, CLASSES, seed=9), torch.arange(IMAGES) % CLASSES
    dense[torch.arange(IMAGES), labels] += 4
    outcomes = [
        make_outcome(s, trial, dense, size, drawn, scale)
        for s, size in ((0.1, 0.01), (0.5, 1.0), (0.9, 50.0))
        for trial in range(3)
    ]
    return summarise_outcomes(outcomes, dense, labels, DELTA), outcomes, dense, labels


def median(values: list[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def test_predictions_are_those_of_a_loop() -> None:
    report, outcomes, dense, labels = make_report()
    for prediction in report.predictions:
        group = [
            outcome for outcome in outcomes if outcome.pruned.requested == prediction.requested
        ]
        sure, possible, right, ratios, needed = 0, 0, 0, [], []
        for outcome in group:
            bound, error = outcome[prediction.form], outcome["error"]
            answers = torch.cat(outcome.answers)
            for n in range(IMAGES):
                y = int(labels[n])
                others = [j for j in range(CLASSES) if j != y]
                sure += all(
                    float(dense[n, y] - bound[n, y]) > float(dense[n, j] + bound[n, j])
                    for j in others
                )
                possible += all(
                    float(dense[n, y] + bound[n, y]) >= float(dense[n, j] - bound[n, j])
                    for j in others
                )
                right += int(answers[n].argmax()) == y
                ratios += [
                    float(bound[n, j] / error[n, j]) for j in range(CLASSES) if error[n, j] > 0
                ]
                margin = float(dense[n, y]) - max(float(dense[n, j]) for j in others)
                needed += [(2 * float(bound[n].max()) / margin) ** 2] if margin > 0 else []
        count = IMAGES * len(group)
        assert (prediction.predicted, prediction.optimistic, prediction.measured) == pytest.approx(
            (sure / count, possible / count, right / count)
        )
        assert prediction.predicted <= prediction.optimistic
        assert prediction.tightness is not None
        assert prediction.tightness.median == pytest.approx(median(ratios))
        assert prediction.draws_factor == pytest.approx(median(needed))
        assert prediction.sparsity == pytest.approx(prediction.requested + 0.01)
        assert prediction.vacuous == (prediction.predicted <= 1 / CLASSES)
        assert (prediction.broken, prediction.trials, prediction.certified) == (
            int(prediction.form == "paper"),
            3,
            prediction.form != "paper",
        )
    assert report.dense_accuracy == pytest.approx(
        sum(int(dense[n].argmax()) == labels[n] for n in range(IMAGES)) / IMAGES
    )


def test_a_bound_that_covers_promises_no_more_than_is_right() -> None:
    report, *_ = make_report()
    for prediction in report.form("minimum"):
        assert prediction.predicted <= prediction.measured <= prediction.optimistic


def test_errors_of_zero_do_not_count_for_tightness() -> None:
    report, outcomes, *_ = make_report()
    prediction = report.form("minimum")[0]
    ratios = [
        float(bound / error)
        for outcome in outcomes[:3]
        for bound, error in zip(
            torch.cat(outcome.layers["w"]["minimum"]),
            torch.cat(outcome.layers["w"]["error"]),
            strict=True,
        )
        if error > 0
    ]
    assert len(ratios) == 3 * (IMAGES - 3)
    spread = prediction.layers["w"]
    assert spread is not None
    assert spread.median == pytest.approx(median(ratios))
    errorless, *_ = make_report(scale=0.0)
    assert all(
        prediction.tightness is None and prediction.layers.get("w") is None
        for prediction in errorless.predictions
    )


def test_nothing_needs_more_draws_where_nothing_is_drawn() -> None:
    assert all(
        prediction.draws_factor is None for prediction in make_report(drawn=False)[0].predictions
    )


def test_components_are_ratios_of_medians_and_the_largest_is_responsible() -> None:
    report, outcomes, *_ = make_report()
    for component in report.components:
        first = next(
            outcome for outcome in outcomes if outcome.pruned.requested == component.requested
        )
        bound, replaced = (
            first[name].flatten().tolist()
            for name in ("minimum", f"minimum with {component.factor}")
        )
        assert component.log10 == pytest.approx(math.log10(median(bound) / median(replaced)))
    costliest = report.find_costliest("minimum", 0.5)
    assert costliest is not None
    assert (costliest.factor, costliest.log10 > 0) == ("no union bound", True)
    assert report.find_costliest("hoeffding", 0.5) is None


@pytest.mark.parametrize(
    ("predicted", "start"),
    [
        ([0.9, 0.8, 0.2], 2),
        ([0.9, 0.2, 0.2], 1),
        ([0.9, 0.8, 0.8], None),
        ([0.2, 0.2, 0.2], 0),
        ([0.2, 0.8, 0.2], 2),
        ([0.25, 0.25, 0.26], None),
    ],
)
def test_a_form_is_vacuous_from_where_it_stays_so(
    predicted: list[float], start: int | None
) -> None:
    report, *_ = make_report()
    chosen = [
        prediction.__class__(**{**prediction.__dict__, "predicted": value})
        for prediction, value in zip(report.form("minimum"), predicted, strict=True)
    ]
    changed = BoundReport(**{**report.__dict__, "predictions": tuple(chosen[::-1])})
    vacuous_start = changed.find_vacuous_start("minimum")
    assert (vacuous_start and vacuous_start.requested) == (
        None if start is None else (0.1, 0.5, 0.9)[start]
    )
    sentence = next(text for text in describe_findings("m", changed) if "m, minimum: " in text)
    never_useful = max(predicted) <= 0.25
    assert ("vacuous at every sparsity tried, from " in sentence) is never_useful
    right = changed.form("minimum")[0].intervals["measured"]
    assert right.low is not None
    assert re.search(r"% \[[\d.]+, [\d.]+\] (of the images )?are right", sentence)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([1.0, 2.0, 4.0], (2.0, 3.8)),
        ([math.nan, 3.0], (3.0, 3.0)),
        ([math.inf], (math.inf, math.inf)),
        ([1.0, math.inf], (math.inf, math.inf)),
        ([1.0, 2.0, math.inf], (2.0, math.inf)),
        ([0.0], (0.0, 0.0)),
    ],
)
def test_quantiles_may_be_infinite(
    values: list[float], expected: tuple[float, float] | None
) -> None:
    spread = Spread.from_values(torch.tensor(values))
    figures = None if spread is None else (spread.median, spread.p95)
    assert figures == (None if expected is None else pytest.approx(expected))
    if spread is not None:
        assert spread.log10 is None or spread.median > 0
        json.dumps(spread.document(), allow_nan=False)


@pytest.mark.slow
def test_quantiles_are_torchs_of_more_values_than_torch_takes() -> None:
    values = normal(1001)
    spread = Spread.from_values(values)
    assert spread is not None
    assert (spread.median, spread.p95) == pytest.approx(
        (float(values.quantile(0.5)), float(values.quantile(0.95)))
    )
    assert Spread.from_values(torch.zeros(2**24 + 1)) == Spread(0.0, 0.0)


@pytest.mark.parametrize("broken", [math.inf, 1e300, 0.0])
def test_a_section_holds_no_infinity(broken: float) -> None:
    """Some bounds infinite, all of them, or none above 0."""
    _, outcomes, dense, labels = make_report()
    for number, outcome in enumerate(outcomes):
        for form in outcome.logits:
            if form != "error" and (number > 3 or form == "paper"):
                outcome.logits[form] = [
                    torch.full_like(part, broken) for part in outcome.logits[form]
                ]
        for form in outcome.layers["w"]:
            if form != "error" and number > 3:
                outcome.layers["w"][form] = [
                    torch.full_like(part, broken) for part in outcome.layers["w"][form]
                ]
    report = summarise_outcomes(outcomes, dense, labels, DELTA)
    curves = _draw_curves("method", report)
    rows: list[Any] = [prediction.document() for prediction in report.predictions]
    rows += [component.document() for component in report.components]
    rows += list_coverage_rows("method", report) + _list_layer_rows("method", report)
    section = Section(
        title="Bounds",
        version=1,
        curves=curves,
        details={"rows": rows},
        notes=tuple(describe_findings("method", report)),
    )
    text = json.dumps(section.model_dump(mode="json"), allow_nan=False)
    assert Section.model_validate_json(text) == section
    if broken == math.inf:
        last = report.form("minimum")[-1]
        assert last.bound is not None
        assert last.tightness is not None
        assert (
            last.bound.median,
            last.tightness.log10,
            last.draws_factor,
            last.predicted,
            last.optimistic,
        ) == (math.inf, None, None, 0, 1)


def test_what_is_said_names_the_form_and_whether_it_is_certified() -> None:
    report, *_ = make_report()
    assert choose_headline_form(report) == "minimum"
    sentences = describe_findings("method", report)
    assert any(sentence.startswith("method, minimum: ") for sentence in sentences)
    assert any(sentence.startswith("method, paper: ") for sentence in sentences)
    rows = {row["form"]: row for row in list_coverage_rows("method", report)}
    assert {form: row["certified"] for form, row in rows.items()} == {
        "hoeffding": True,
        "minimum": True,
        "paper": False,
    }
    assert (
        rows["paper"]["trials_with_violation"],
        rows["paper"]["trials"],
        rows["paper"]["holds"],
    ) == (3, 9, False)
    (violated,) = [sentence for sentence in sentences if "paper: violated in 3 of 9" in sentence]
    assert violated.endswith("It is not certified, and what it assumes is not checked.")
    checked = describe_findings("method", replace(report, assumption=0.25))
    (violated,) = [sentence for sentence in checked if "paper: violated in 3 of 9" in sentence]
    assert "what it assumes of the inputs held at 25.0 % of the outputs of layers." in violated


def test_a_test_of_coverage_is_binomial() -> None:
    assert [is_within_failure_probability(k, 400, 0.05) for k in (0, 20, 27, 29, 60)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert not is_within_failure_probability(1, 1000, 0.0)
