"""What bounds predict, against slow loops over images; and that nothing in a report is no
number.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from pruning.analysis.bound_findings import (
    choose_headline_form,
    describe_findings,
    is_within_failure_probability,
    test_coverage_of_forms,
)
from pruning.analysis.bound_report import BoundReport, Spread, summarise_outcomes
from pruning.analysis.bound_study import Outcome, Pruned
from pruning.evaluations.bounds import _draw_curves, _list_layer_rows
from pruning.schemas.report import Section
from pruning.types import DrawLaw

IMAGES, CLASSES, DELTA = 40, 4, 0.05


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def outcome(
    sparsity: float, trial: int, dense: Tensor, size: float, drawn: bool = True, scale: float = 1.0
) -> Outcome:
    """Errors and bounds of that size, in two parts of the images."""
    law = DrawLaw(torch.ones(1, 2) / 2, torch.tensor([3 if drawn else -1]))
    found = Outcome(
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
        found.logits[name] = list(values.split(25))
    found.answers = list((dense + error).split(25))
    found.layers = {
        "w": {
            name: [one.amax(1) for one in parts]
            for name, parts in found.logits.items()
            if name != "paper"
        }
    }
    found.layers["w"]["error"][0][:3] = 0.0
    found.above = {name: [torch.zeros(len(dense)).bool()] for name in forms}
    if trial == 1:
        found.above["paper"][0][5] = True
    return found


def report(
    drawn: bool = True, scale: float = 1.0
) -> tuple[BoundReport, list[Outcome], Tensor, Tensor]:
    dense, labels = 3 * normal(IMAGES, CLASSES, seed=9), torch.arange(IMAGES) % CLASSES
    dense[torch.arange(IMAGES), labels] += 4
    outcomes = [
        outcome(s, trial, dense, size, drawn, scale)
        for s, size in ((0.1, 0.01), (0.5, 1.0), (0.9, 50.0))
        for trial in range(3)
    ]
    return summarise_outcomes(outcomes, dense, labels, DELTA), outcomes, dense, labels


def median(values: list[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def test_predictions_are_those_of_a_loop() -> None:
    found, outcomes, dense, labels = report()
    for one in found.predictions:
        group = [each for each in outcomes if each.pruned.requested == one.requested]
        sure, possible, right, ratios, needed = 0, 0, 0, [], []
        for each in group:
            bound, error, answers = each[one.form], each["error"], torch.cat(each.answers)
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
        assert (one.predicted, one.optimistic, one.measured) == pytest.approx(
            (sure / count, possible / count, right / count)
        )
        assert one.predicted <= one.optimistic
        assert one.tightness is not None
        assert one.tightness.median == pytest.approx(median(ratios))
        assert one.draws_factor == pytest.approx(median(needed))
        assert one.sparsity == pytest.approx(one.requested + 0.01)
        assert one.vacuous == (one.predicted <= 1 / CLASSES)
        assert (one.broken, one.trials, one.certified) == (
            int(one.form == "paper"),
            3,
            one.form != "paper",
        )
    assert found.dense_accuracy == pytest.approx(
        sum(int(dense[n].argmax()) == labels[n] for n in range(IMAGES)) / IMAGES
    )


def test_a_bound_that_covers_promises_no_more_than_is_right() -> None:
    found, *_ = report()
    for one in found.form("minimum"):
        assert one.predicted <= one.measured <= one.optimistic


def test_errors_of_zero_do_not_count_for_tightness() -> None:
    found, outcomes, *_ = report()
    one = found.form("minimum")[0]
    ratios = [
        float(bound / error)
        for each in outcomes[:3]
        for bound, error in zip(
            torch.cat(each.layers["w"]["minimum"]),
            torch.cat(each.layers["w"]["error"]),
            strict=True,
        )
        if error > 0
    ]
    assert len(ratios) == 3 * (IMAGES - 3)
    spread = one.layers["w"]
    assert spread is not None
    assert spread.median == pytest.approx(median(ratios))
    nothing, *_ = report(scale=0.0)
    assert all(
        each.tightness is None and each.layers.get("w") is None for each in nothing.predictions
    )


def test_nothing_needs_more_draws_where_nothing_is_drawn() -> None:
    assert all(one.draws_factor is None for one in report(drawn=False)[0].predictions)


def test_components_are_ratios_of_medians_and_the_largest_is_responsible() -> None:
    found, outcomes, *_ = report()
    for one in found.components:
        first = next(each for each in outcomes if each.pruned.requested == one.requested)
        bound, other = (
            first[name].flatten().tolist() for name in ("minimum", f"minimum with {one.factor}")
        )
        assert one.log10 == pytest.approx(math.log10(median(bound) / median(other)))
    most = found.responsible("minimum", 0.5)
    assert most is not None
    assert (most.factor, most.log10 > 0) == ("no union bound", True)
    assert found.responsible("hoeffding", 0.5) is None


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
    found, *_ = report()
    chosen = [
        one.__class__(**{**one.__dict__, "predicted": value})
        for one, value in zip(found.form("minimum"), predicted, strict=True)
    ]
    changed = BoundReport(**{**found.__dict__, "predictions": tuple(chosen[::-1])})
    first = changed.vacuous_from("minimum")
    assert (first and first.requested) == (None if start is None else (0.1, 0.5, 0.9)[start])


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
    found = Spread.of(torch.tensor(values))
    assert (
        found and (pytest.approx(found.median), found.p95 and pytest.approx(found.p95))
    ) == expected
    if found is not None:
        assert found.log10 is None or found.median > 0
        json.dumps(found.document(), allow_nan=False)


@pytest.mark.slow
def test_quantiles_are_torchs_of_more_values_than_torch_takes() -> None:
    values = normal(1001)
    found = Spread.of(values)
    assert found is not None
    assert (found.median, found.p95) == pytest.approx(
        (float(values.quantile(0.5)), float(values.quantile(0.95)))
    )
    assert Spread.of(torch.zeros(2**24 + 1)) == Spread(0.0, 0.0)


@pytest.mark.parametrize("broken", [math.inf, 1e300, 0.0])
def test_a_section_holds_no_infinity(broken: float) -> None:
    """Some bounds infinite, all of them, or none above 0."""
    _, outcomes, dense, labels = report()
    for number, one in enumerate(outcomes):
        for form in one.logits:
            if form != "error" and (number > 3 or form == "paper"):
                one.logits[form] = [torch.full_like(part, broken) for part in one.logits[form]]
        for form in one.layers["w"]:
            if form != "error" and number > 3:
                one.layers["w"][form] = [
                    torch.full_like(part, broken) for part in one.layers["w"][form]
                ]
    found = summarise_outcomes(outcomes, dense, labels, DELTA)
    curves = _draw_curves("method", found)
    rows: list[Any] = [one.document() for one in (*found.predictions, *found.components)]
    rows += test_coverage_of_forms("method", found) + _list_layer_rows("method", found)
    section = Section(
        title="Bounds",
        version=1,
        curves=curves,
        details={"rows": rows},
        notes=tuple(describe_findings("method", found)),
    )
    text = json.dumps(section.model_dump(mode="json"), allow_nan=False)
    assert Section.model_validate_json(text) == section
    if broken == math.inf:
        last = found.form("minimum")[-1]
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
    found, *_ = report()
    assert choose_headline_form(found) == "minimum"
    said = describe_findings("method", found)
    assert any(one.startswith("method, minimum: ") for one in said)
    assert any(one.startswith("method, paper: ") for one in said)
    rows = {row["form"]: row for row in test_coverage_of_forms("method", found)}
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
    assert any("paper: violated in 3 of 9 prunings" in one for one in said)


def test_a_test_of_coverage_is_binomial() -> None:
    assert [is_within_failure_probability(k, 400, 0.05) for k in (0, 20, 27, 29, 60)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert not is_within_failure_probability(1, 1000, 0.0)
