"""`POST /v1/jobs/{id}/predict`: the law of a report answers without torch."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update

from api.forecasts import REPORTS_READ
from pruning.laws.density import DensityLaw, fit_density_law
from pruning.laws.forms import evaluate_pruned_error
from pruning.laws.pair import Interpolation, pair_laws
from pruning.laws.selection import compare_density_laws
from tasks.store.tables import FamilyMember, Job
from tests.support import family_world
from tests.support.api_world import SPEC, World, fault

DENSITIES = 0.8 ** np.arange(1, 16)


def law(noise: float = 0.02, fewest: int = 15) -> DensityLaw:
    truth = evaluate_pruned_error(DENSITIES[:fewest], 0.08, 0.6, 0.003, 0.9)
    return fit_density_law(
        DENSITIES[:fewest],
        truth * (1 + noise * np.random.default_rng(0).normal(size=fewest)),
        0.08,
        classes=10,
    )


def job(
    world: World,
    laws: dict[str, DensityLaw],
    interpolation: Interpolation | None = None,
    **report: Any,
) -> str:
    id = world.job("succeeded")
    section = {
        "notes": [],
        "details": {
            "raw_laws": {
                name: {
                    "criterion": {"name": name, "params": {}},
                    "law": fitted.model_dump(mode="json"),
                    **(
                        {}
                        if interpolation is None
                        else {"interpolation": interpolation.model_dump()}
                    ),
                }
                for name, fitted in laws.items()
            }
        },
    }
    world.result(
        id, "report", "json", json.dumps({"sections": {"scaling_law": section}, **report}).encode()
    )
    return id


def test_densities_get_errors_with_bands(world: World) -> None:
    fitted = law()
    answer = world.client.post(
        f"/v1/jobs/{job(world, {'magnitude': fitted})}/predict",
        json={"densities": [0.3, 0.02], "confidence": 0.8},
    )
    assert answer.status_code == 200
    body = answer.json()
    assert (body["criterion"], body["confidence"]) == ("magnitude", 0.8)
    assert body["law"]["gamma"] == pytest.approx(fitted.gamma)
    assert (body["law"]["seed_sd"], body["law"]["seed_sd_from"]) == (0.034, "paper")
    inside, outside = body["predictions"]
    assert inside["error"] == pytest.approx(
        fitted.predict(0.3, confidence=0.8).model_dump(exclude={"unit"})
    )
    assert (inside["extrapolated"], outside["extrapolated"]) == (False, True)
    assert outside["remark"].startswith("extrapolated")


def test_bands_are_of_one_more_run_unless_the_curve_is_asked_for(world: World) -> None:
    fitted = law()
    id = job(world, {"magnitude": fitted})
    for asked, of in (({}, "run"), ({"of": "run"}, "run"), ({"of": "curve"}, "curve")):
        body = world.client.post(
            f"/v1/jobs/{id}/predict", json={"densities": [0.3], **asked}
        ).json()
        assert body["of"] == of
        (row,) = body["predictions"]
        assert row["law"] == "pruning"
        assert row["error"] == pytest.approx(
            fitted.predict(0.3, of="run" if of == "run" else "curve").model_dump(exclude={"unit"})
        )
    refused = world.client.post(f"/v1/jobs/{id}/predict", json={"max_error": 0.2, "of": "mean"})
    assert refused.status_code == 422


def test_the_law_that_predicts_left_out_densities_better_answers_between_them(
    world: World,
) -> None:
    errors = 0.10 + 0.0005 * DENSITIES**-1.3
    fitted = fit_density_law(DENSITIES, errors, 0.08, classes=10)
    selection, laws = compare_density_laws(DENSITIES, errors, 0.08, classes=10, law=fitted)
    pair = pair_laws(fitted, selection, laws)
    assert pair.interpolation is not None
    name = pair.interpolation.name
    id = job(world, {"magnitude": fitted}, pair.interpolation)
    body = world.client.post(
        f"/v1/jobs/{id}/predict", json={"densities": [1.0, 0.15, DENSITIES[-1], 0.02]}
    ).json()
    assert [row["law"] for row in body["predictions"]] == [name, name, name, "pruning"]
    assert body["predictions"][1]["error"] == pytest.approx(
        pair.interpolation.law.predict(0.15).model_dump(exclude={"unit"})
    )
    answers = world.client.post(f"/v1/jobs/{id}/predict", json={"max_error": 0.12}).json()
    (answer,) = answers["predictions"]
    assert (answer["law"], answer["density"]) == (name, pytest.approx(pair.density_for(0.12)))


def test_an_error_gets_the_smallest_density(world: World) -> None:
    fitted = law()
    answer = world.client.post(
        f"/v1/jobs/{job(world, {'magnitude': fitted})}/predict", json={"max_error": 0.16}
    )
    (answered,) = answer.json()["predictions"]
    assert answered["density"] == pytest.approx(fitted.density_for(0.16))
    assert answered["error"]["value"] == pytest.approx(0.16)
    answer = world.client.post(
        f"/v1/jobs/{job(world, {'magnitude': fitted})}/predict", json={"max_error": 0.95}
    )
    assert (
        answer.json()["predictions"][0]["remark"] == "any density will do: guessing is good enough"
    )


def test_what_cannot_be_told_is_said_by_name(world: World) -> None:
    id = job(world, {"magnitude": law()})
    body = fault(
        world.client.post(f"/v1/jobs/{id}/predict", json={"max_error": 0.05}),
        422,
        "unreachable",
        "/max_error",
    )
    assert "the closest is 0.08" in body["errors"][0]["message"]
    short = job(world, {"magnitude": law(0.0, 6)})
    fault(
        world.client.post(f"/v1/jobs/{short}/predict", json={"max_error": 0.5}),
        422,
        "insufficient_points",
        "/max_error",
    )
    answer = world.client.post(f"/v1/jobs/{short}/predict", json={"densities": [0.5, 0.01]}).json()
    assert answer["predictions"][0]["error"]["value"] > 0.08
    assert answer["predictions"][1]["error"] is None
    assert answer["predictions"][1]["remark"].startswith("insufficient_points: ")


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"densities": [0.5], "max_error": 0.1},
        {"densities": []},
        {"densities": [0.0]},
        {"densities": [1.1]},
        {"max_error": 0},
        {"max_error": 0.1, "confidence": 1},
        {"max_error": 0.1, "what": 1},
    ],
)
def test_odd_questions_are_refused(world: World, question: dict[str, Any]) -> None:
    assert (
        world.client.post(
            f"/v1/jobs/{job(world, {'magnitude': law()})}/predict", json=question
        ).status_code
        == 422
    )


def test_of_several_criteria_one_is_named(world: World) -> None:
    id = job(world, {"magnitude": law(), "random": law(0.01)})
    body = fault(
        world.client.post(f"/v1/jobs/{id}/predict", json={"max_error": 0.2}),
        422,
        "unknown_criterion",
        "/criterion",
    )
    assert "there are magnitude, random" in body["errors"][0]["message"]
    fault(
        world.client.post(f"/v1/jobs/{id}/predict", json={"max_error": 0.2, "criterion": "snip"}),
        422,
        "unknown_criterion",
        "/criterion",
    )
    answer = world.client.post(
        f"/v1/jobs/{id}/predict", json={"max_error": 0.2, "criterion": "random"}
    )
    assert answer.json()["criterion"] == "random"


def test_a_job_without_a_law_says_why(world: World) -> None:
    none = world.job("succeeded")
    fault(
        world.client.post(f"/v1/jobs/{none}/predict", json={"max_error": 0.2}),
        409,
        "no_scaling_law",
    )
    failed = job(
        world,
        {},
        failures=[
            {"name": "scaling_law", "code": "insufficient_points", "message": "3 more would do"}
        ],
    )
    body = fault(
        world.client.post(f"/v1/jobs/{failed}/predict", json={"max_error": 0.2}),
        409,
        "no_scaling_law",
    )
    assert "3 more would do" in body["detail"]
    fault(
        world.client.post(f"/v1/jobs/{world.job('running')}/predict", json={"max_error": 0.2}),
        409,
        "job_not_finished",
    )
    theirs = world.job("succeeded", project="other")
    fault(
        world.client.post(f"/v1/jobs/{theirs}/predict", json={"max_error": 0.2}), 404, "not_found"
    )


def foreseen(world: World, **spec: Any) -> list[dict[str, Any]]:
    answer = world.client.post("/v1/jobs?validate_only=true", json={**SPEC, **spec})
    assert answer.status_code == 200, answer.text
    foreseen: list[dict[str, Any]] = answer.json()["foreseen"]
    return foreseen


def test_a_job_is_foreseen_by_the_law_of_an_earlier_one(world: World) -> None:
    assert foreseen(world) == []
    id = job(world, {"magnitude": law()})
    rows = foreseen(world, targets={"sparsity": [0.5, 0.9, 0.999]})
    assert [(row["criterion"], row["job"], row["sparsity"]) for row in rows] == [
        ("magnitude", id, sparsity) for sparsity in (0.5, 0.9, 0.999)
    ]
    assert [row["error"] for row in rows[:2]] == [
        pytest.approx(law().predict(1 - sparsity).model_dump(exclude={"unit"}))
        for sparsity in (0.5, 0.9)
    ]
    assert rows[2]["extrapolated"]
    assert rows[0]["remark"] == ""


def test_only_jobs_that_are_alike_foresee(world: World) -> None:
    job(world, {"magnitude": law()})
    assert foreseen(world, criterion={"name": "random"}) == []
    assert foreseen(world, criterion={"name": "magnitude", "params": {"p": 2}}) == []
    assert (
        foreseen(
            world, model={"architecture": "mlp", "kwargs": {"hidden": [3]}, "train": {"epochs": 1}}
        )
        == []
    )
    assert foreseen(world, dataset={"id": world.dataset()}) == []
    for change, difference in (
        ({"retrain": {"epochs": 9}}, "retrain"),
        ({"exclude": ["fc1.weight"]}, "exclude"),
        ({"allocation": {"name": "uniform"}}, "allocation"),
        ({"independent": True}, "independent"),
        ({"when": "before_training"}, "when, retrain"),
    ):
        (forecast, *_) = foreseen(world, **change)
        assert forecast["remark"] == f"that job differed in {difference}", change
    with world.services.store.write() as session:
        session.execute(update(Job).values(project="other"))
    assert foreseen(world) == []


def test_other_weights_are_said(world: World) -> None:
    first, second = world.model(), world.model()
    spec = {"model": {"id": first}, "retrain": {"epochs": 1}}
    id = job(world, {"magnitude": law()})
    with world.services.store.write() as session:
        row = session.get(Job, id)
        assert row is not None
        row.spec = {**SPEC, **spec}
    assert {row["remark"] for row in foreseen(world, **spec)} == {""}
    assert {row["remark"] for row in foreseen(world, **{**spec, "model": {"id": second}})} == {
        "that job had other weights"
    }


def test_many_other_jobs_since_then_do_not_hide_one_that_is_alike(world: World) -> None:
    id = job(world, {"magnitude": law()})
    other = {
        **SPEC,
        "model": {"architecture": "mlp", "kwargs": {"hidden": [3]}, "train": {"epochs": 1}},
    }
    others = [world.job("succeeded") for _ in range(2 * REPORTS_READ)]
    with world.services.store.write() as session:
        session.execute(update(Job).where(Job.id.in_(others)).values(spec=other))
    assert {row["job"] for row in foreseen(world)} == {id}


@pytest.mark.parametrize(
    "damage",
    [b"{", b"[]", b'{"sections": {"scaling_law": {"details": {"raw_laws": {"magnitude": {}}}}}}'],
)
def test_a_report_that_cannot_be_read_foresees_nothing(world: World, damage: bytes) -> None:
    good = job(world, {"magnitude": law()})
    world.result(world.job("succeeded"), "report", "json", damage)
    assert {row["job"] for row in foreseen(world)} == {good}
    gone = job(world, {"magnitude": law()})
    for path in world.folder.rglob("*"):
        if path.is_file() and gone in str(path):
            path.unlink()
    assert {row["job"] for row in foreseen(world)} == {good}


def test_the_newest_law_counts(world: World) -> None:
    job(world, {"magnitude": law()})
    newest = job(world, {"magnitude": law(0.01)})
    job(world, {"random": law()})
    assert {row["job"] for row in foreseen(world)} == {newest}


def test_a_network_that_nobody_ran_is_foreseen_by_the_law_of_its_family(world: World) -> None:
    family = family_world.spec(candidates={"depths": [2, 4], "widths": [16, 24]})
    report = family_world.reported(family)
    id, *runs = (world.job("succeeded") for _ in range(3))
    world.result(id, "report", "json", report.model_dump_json().encode())
    with world.services.store.write() as session:
        row = session.get(Job, id)
        assert row is not None
        row.spec = family.model_dump(mode="json", exclude_unset=True)
        for run, (key, fraction) in zip(runs, {"half": 0.5, "all": 1.0}.items(), strict=True):
            limit = {"stratify": False} | ({"train": fraction} if fraction < 1 else {})
            member = session.get(Job, run)
            assert member is not None
            member.spec = SPEC | {
                "dataset": {"builtin": "digits", "limit": limit},
                "model": {
                    "architecture": "mlp",
                    "kwargs": {"hidden": [16]},
                    "train": {"epochs": 3},
                },
            }
            session.add(
                FamilyMember(job_id=run, family_id=id, key=key, member={"fraction": fraction})
            )
    train = {"epochs": 1}
    rows = foreseen(
        world, model={"architecture": "mlp", "kwargs": {"hidden": [24] * 4}, "train": train}
    )
    assert [(row["job"], row["criterion"]) for row in rows] == [(id, "magnitude")] * 2
    assert all(row["error"]["low"] < row["error"]["value"] < row["error"]["high"] for row in rows)
    assert rows[0]["remark"] == (
        "extrapolated: a network beyond the sizes that were fitted; by the joint law of a family; "
        "its members differed in train"
    )
    network = next(
        candidate
        for candidate in report.candidates
        if (candidate.depth, candidate.width) == (4, 24)
    )
    assert network.unpruned_sd is not None
    question = world.client.post(
        f"/v1/jobs/{id}/predict", json={"densities": [0.5], "depth": 4, "width": 24}
    ).json()
    assert question["predictions"][0]["error"] == rows[0]["error"]
    limited = foreseen(
        world,
        model={"architecture": "mlp", "kwargs": {"hidden": [24] * 4}, "train": {"epochs": 3}},
        dataset={"builtin": "digits", "limit": {"train": 0.3}},
    )
    assert limited[0]["remark"].endswith("its members differed in limit")
    for other in ({"kwargs": {"hidden": [7]}}, {"architecture": "odd", "kwargs": {"size": 3}}):
        assert foreseen(world, model={"architecture": "mlp", "train": train, **other}) == []
    assert (
        foreseen(
            world,
            model={"architecture": "mlp", "kwargs": {"hidden": [24] * 4}, "train": train},
            criterion={"name": "random"},
        )
        == []
    )
