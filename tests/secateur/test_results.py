"""Results as typed objects: recommendation, gates and joint statement, of jobs and of families."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from secateur import ApiError, Client, FamilyGate, FamilyRecommendation, InvalidIdentifier
from secateur.wire import Gate, Recommendation, Results
from tests.support.commands import JOB
from tests.support.imitation import Imitation, family_results, results

ID = JOB.rpartition("/")[2]
JOINT = {
    "confidence": 0.95,
    "sentence": "Of magnitude-0.8 nothing is proven.",
    "claims": [
        {"text": "the increase is below 1 pp", "outcome": "passed", "p_value": 0.01},
        {"text": "<b>fog</b>", "outcome": "undecided", "needed": 4000},
    ],
}


def test_recommendation_gates_and_joint_have_types() -> None:
    outcome = Results.model_validate(results(outcome="undecided") | {"joint": JOINT})
    advice, (gate,) = outcome.recommendation, outcome.gates
    assert isinstance(advice, Recommendation)
    assert (advice.checkpoint, advice.margin, advice.verdict) == ("magnitude-0.8", 0.01, None)
    assert isinstance(gate, Gate)
    assert gate.measured is not None
    assert (gate.outcome, gate.measured.value) == ("undecided", 0.013)
    assert outcome.joint is not None
    assert outcome.joint.claims[1].needed == 4000
    assert outcome.gates_outcome == "undecided"


def test_gates_that_hold_no_checkpoint_fail_a_pipeline_where_nothing_is_to_be_shipped() -> None:
    sent = results(outcome="undecided")
    sent["gates"][0] |= {"checkpoint": None, "measured": None}
    for verdict, outcome in (("do_not_ship", "failed"), ("undecided", "undecided")):
        sent["recommendation"] |= {"checkpoint": None, "verdict": verdict}
        assert Results.model_validate(sent).gates_outcome == outcome


def test_those_of_families_have_types_too() -> None:
    gate = {
        "name": "max_error",
        "outcome": "failed",
        "passed": False,
        "limit": 0.1,
        "value": 0.2,
        "message": "0.2 measured",
    }
    outcome = Results.model_validate(family_results() | {"gates": [gate]})
    assert isinstance(outcome.recommendation, FamilyRecommendation)
    assert outcome.recommendation.job == "job_00000002"
    assert isinstance(outcome.gates[0], FamilyGate)
    assert (outcome.gates_outcome, outcome.gates_passed) == ("failed", False)


def test_what_a_newer_service_adds_is_kept(service: Imitation, client: Client) -> None:
    sent = results() | {"joint": JOINT | {"new": 1}}
    sent["recommendation"] |= {"new": 2, "needed": [needed("margin", new=3)]}
    sent["gates"][0]["measured"] |= {"new": 4}
    service.on(f"GET {JOB}/results", sent)
    outcome = client.jobs.results(ID)
    assert outcome.document() == sent
    assert outcome.recommendation is not None
    assert outcome.recommendation.model_extra == {"new": 2}


def needed(what: str, **more: Any) -> dict[str, Any]:
    return {"what": what, "images": "test", "at_hand": 10, "needed": 20, **more}


def test_an_answer_that_is_no_recommendation_is_named(service: Imitation, client: Client) -> None:
    service.on(f"GET {JOB}/results", results() | {"recommendation": {"checkpoint": 1}})
    with pytest.raises(ApiError, match="recommendation"):
        client.jobs.results(ID)


def test_some_fields_of_results(service: Imitation, client: Client) -> None:
    sent = {name: value for name, value in results().items() if name in ("job", "gates")}
    service.on(f"GET {JOB}/results", sent)
    outcome = client.jobs.results(ID, fields=("gates", "report.model"))
    assert service.calls[-1].query == {"fields": "job,gates,report.model"}
    assert [gate.name for gate in outcome.gates] == ["max_error_increase"]
    assert (outcome.recommendation, outcome.checkpoints) == (None, ())
    for field in ("gates.name", "reports", "job.id"):
        with pytest.raises(InvalidIdentifier, match="there are job, report, checkpoints"):
            client.jobs.results(ID, fields=(field,))


def test_they_are_short_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Results.model_validate(results() | {"joint": JOINT})
    assert outcome.joint is not None
    for answer in (outcome.recommendation, outcome.joint, *outcome.gates):
        assert len(repr(answer)) <= 160
        assert str(answer) == repr(answer)
    assert repr(outcome.gates[0]) == "Gate(name='max_error_increase', outcome='passed', limit=0.01)"
    assert repr(outcome.joint) == "JointStatement(confidence=0.95, passed=1, undecided=1)"
    table = outcome.joint._repr_html_()
    assert table.count("<tr>") == 3
    assert "&lt;b&gt;fog" in table
    pandas: Any = ModuleType("pandas")
    pandas.DataFrame = list
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    (row,) = outcome.to_dataframe("gates")
    assert (row["name"], row["outcome"], row["limit"]) == ("max_error_increase", "passed", 0.01)


def test_the_lines_that_load_a_checkpoint() -> None:
    sent = results()
    sent["report"]["checkpoints"][0]["load_snippet"] = "import torch\n"
    outcome = Results.model_validate(sent)
    assert outcome.load_snippet() == outcome.load_snippet("magnitude-0.8") == "import torch\n"
    with pytest.raises(LookupError, match=r"that load magnitude-0\.9"):
        outcome.load_snippet("magnitude-0.9")
    with pytest.raises(LookupError, match="that load a checkpoint"):
        Results.model_validate(sent | {"recommendation": None}).load_snippet()
