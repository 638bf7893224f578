"""A search for the smallest network within a limit on the error, over HTTP on a real worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruning.reporting import markdown
from pruning.rounds.error_search import STEPS, count_most_tried
from pruning.schemas.targets import RequestedIncrease
from secateur import ApiError
from secateur.cli import main
from tests.support.running import Running
from tests.support.service_jobs import BASE, run_job

pytestmark = pytest.mark.slow
SEARCH: dict[str, Any] = BASE | {
    "targets": {"max_error_increase": 0.05},
    "evaluations": [{"name": "accuracy"}, {"name": "scaling_law"}],
}


def test_a_job_finds_the_smallest_network_within_a_limit(service: Running) -> None:
    estimate = service.client.jobs.validate(SEARCH)["estimate"]
    assert estimate["rounds"] == count_most_tried(1)
    assert any("at most 6 of 30 networks" in text for text in estimate["warnings"])
    report = run_job(service, SEARCH)
    (checkpoint,) = report.checkpoints
    assert checkpoint.id == "magnitude-max_error_increase-0.05"
    limit = checkpoint.requested
    assert isinstance(limit, RequestedIncrease)
    assert checkpoint.requested_sparsity is None
    assert limit.reached == pytest.approx(checkpoint.val_error_increase.value)
    assert limit.reached <= 0.05
    assert limit.tried == len(report.rounds) <= estimate["rounds"] <= 0.4 * STEPS
    assert [row.target for row in report.rounds].count(True) == 1
    sparsities = [row.sparsity for row in report.rounds]
    assert sparsities == sorted(sparsities)
    control = report.controls[0].val_error.value
    for row in report.rounds:
        increase = (row.retrained or row.pruned).val_error.value - control
        if row.sparsity > checkpoint.sparsity:
            assert increase > 0.05
    assert len(report.sections["scaling_law"].curves) > 0
    assert "at most 5 pp more error on validation" in markdown.render(report)


def test_a_limit_that_cannot_be_kept_is_a_failure_in_the_report(service: Running) -> None:
    spec = SEARCH | {
        "targets": {"max_error_increase": 0},
        "criterion": {"name": "random"},
        "retrain": {"mode": "none"},
        "evaluations": [{"name": "accuracy"}],
    }
    report = run_job(service, spec)
    assert report.checkpoints == ()
    (failure,) = report.failures
    assert "the least that was tried, 15 % sparsity, lost" in failure.message
    assert report.recommendation.verdict == "do_not_ship"


def test_the_command_line_checks_and_a_wrong_limit_is_refused(
    service: Running,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SECATEUR_URL", service.url)
    spec = tmp_path / "job.json"
    spec.write_text(json.dumps({name: SEARCH[name] for name in ("type", "model", "dataset")}))
    flags = ["--max-error-increase", "0.02", "--max-error-increase", "0.05", "--validate-only"]
    assert main(["jobs", "submit", str(spec), *flags, "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["estimate"]["rounds"] == count_most_tried(2)
    with pytest.raises(ApiError) as refused:
        service.client.jobs.submit(SEARCH | {"targets": {"max_error_increase": 5}})
    (fault,) = refused.value.errors
    assert fault.pointer == "/targets/max_error_increase"
    assert "one point of accuracy is 0.01" in fault.message
