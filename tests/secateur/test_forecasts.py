"""What a job would cost and what a law predicts, as typed objects that are read by name, too."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import matplotlib
import pytest

from secateur import Client, FittedLaw, Prediction, Predictions, Validation
from tests.support.commands import JOB, PREDICTED
from tests.support.imitation import Imitation

ID = JOB.rpartition("/")[2]
SPEC: dict[str, Any] = {"type": "prune"}
LAW = PREDICTED["law"] | {"seed_sd": 0.034, "seed_sd_from": "paper"}
CHECKED: dict[str, Any] = {
    "valid": True,
    "estimate": {
        "rounds": 3,
        "steps": 120,
        "flops": 1,
        "memory_bytes": 2048,
        "warnings": ["slow"],
        "newer": 1,
    },
    "recipe": {"seed": 0},
    "spec": {"type": "prune"},
    "foreseen": [
        PREDICTED["predictions"][0] | {"criterion": "magnitude", "job": "job_00000009"},
    ],
}


def test_a_check_has_types_and_is_short(service: Imitation, client: Client) -> None:
    service.on("POST /v1/jobs", CHECKED)
    checked = client.jobs.validate(SPEC)
    assert isinstance(checked, Validation)
    assert checked.valid
    assert checked.estimate is not None
    assert (checked.estimate.rounds, checked.estimate.warnings) == (3, ("slow",))
    (target,) = checked.foreseen
    assert (target.criterion, target.job) == ("magnitude", "job_00000009")
    assert repr(checked) == str(checked)
    assert repr(checked).startswith("Validation(valid=True, rounds=3, steps=120, flops=1.0, ")
    assert len(repr(checked)) <= 160
    assert "<td>120</td>" in checked._repr_html_()
    assert checked.rows()[0]["criterion"] == "magnitude"
    # To the digit what came, with what a newer service adds.
    assert checked.document() == CHECKED
    assert repr(checked.document()["estimate"]["flops"]) == "1"


def test_predictions_have_types_and_are_short(
    service: Imitation, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.on(f"POST {JOB}/predict", PREDICTED | {"law": LAW})
    answer = client.jobs.predict(ID, densities=[0.1])
    assert isinstance(answer, Predictions)
    assert isinstance(answer.law, FittedLaw)
    assert (answer.law.seed_sd, answer.law.seed_sd_from) == (0.034, "paper")
    first = answer.predictions[0]
    assert isinstance(first, Prediction)
    sent = PREDICTED["predictions"][0]
    assert first.density == sent["density"]
    for shown in (answer, answer.law, *answer.predictions):
        assert len(repr(shown)) <= 160
    assert repr(answer).endswith(f"predictions={len(answer.predictions)})")
    assert answer._repr_html_().count("<tr>") == 1 + len(answer.predictions)
    pandas: Any = ModuleType("pandas")
    pandas.DataFrame = list
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert [row["density"] for row in answer.to_dataframe()] == [
        row["density"] for row in PREDICTED["predictions"]
    ]
    matplotlib.use("Agg")
    assert answer.plot().get_ylabel() == "predicted error, with its 90 % band"


def test_both_are_read_by_name_as_the_documents_that_they_are(
    service: Imitation, client: Client
) -> None:
    service.on("POST /v1/jobs", CHECKED)
    service.on(f"POST {JOB}/predict", PREDICTED)
    checked, answer = client.jobs.validate(SPEC), client.jobs.predict(ID, max_error=0.2)
    assert checked["estimate"]["rounds"] == 3
    assert answer["predictions"] == PREDICTED["predictions"]
    assert "law" in answer
    assert answer.get("missing", 1) == 1
    with pytest.raises(KeyError):
        checked["missing"]
    assert checked == CHECKED
    assert checked != answer
