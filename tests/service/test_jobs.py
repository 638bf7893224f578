"""Whole jobs over HTTP on a real worker."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pruning.channels.compaction import load_compact
from pruning.data.builtin import datasets
from pruning.data.tensors import prepare
from pruning.library import read_sparse
from pruning.measurement.costs import count_flops
from pruning.measurement.measure import measure_network
from pruning.schemas.recipe import Limit
from secateur import ApiError, AsyncClient, JobCancelled
from secateur.cli import main
from tests.support.running import Running
from tests.support.service_jobs import BASE, run_job

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "change",
    [
        {
            "retrain": {"mode": "none"},
            "independent": True,
            "schedule": {"name": "cubic", "params": {"rounds": 2}},
            "exclude": ["fc3.weight"],
        },
        {
            "retrain": {"mode": "fine_tune", "epochs": 2, "precision": "bf16"},
            "allocation": {"name": "uniform"},
        },
        {
            "retrain": {"mode": "weight_rewind"},
            "schedule": {"name": "geometric", "params": {"fraction": 0.4}},
        },
        {
            "retrain": {"mode": "lr_rewind"},
            "schedule": {"name": "linear", "params": {"rounds": 2}},
        },
        {
            "independent": True,
            "retrain": {"mode": "gradual", "epochs": 3},
            "schedule": {"name": "cubic", "params": {"rounds": 2}},
        },
        {
            "retrain": {"mode": "fine_tune", "distill": True},
            "criterion": {"name": "lamp"},
            "granularity": {"name": "block"},
        },
        {
            "when": "before_training",
            "criterion": {"name": "synflow", "params": {"rounds": 5}},
            "allocation": {"name": "erk"},
        },
        {
            "retrain": {"mode": "fine_tune"},
            "include": ["fc?", {"kind": "Linear"}],
            "overrides": {"fc2": 0.75},
        },
    ],
    ids=lambda change: "-".join(change),
)
def test_every_way_to_prune(service: Running, change: dict[str, object]) -> None:
    report = run_job(service, BASE | change)
    assert [checkpoint.requested_sparsity for checkpoint in report.checkpoints] == [0.5, 0.8]
    for checkpoint in report.checkpoints:
        assert checkpoint.sparsity == pytest.approx(checkpoint.requested_sparsity, abs=1e-4)
        assert checkpoint.error.n == 200
        assert checkpoint.retrained is not None or "exclude" in change
        layers = {layer.name: layer.kept for layer in checkpoint.layers if layer.reason is None}
        assert ("fc3.weight" in layers) == ("exclude" not in change)
    assert report.failures == ()
    assert report.sections["accuracy"].curves


def test_a_network_that_lost_channels_is_rebuilt_from_its_files(
    service: Running, tmp_path: Path
) -> None:
    architecture = {
        "architecture": "cifar_resnet",
        "kwargs": {"depth": 8, "width": 0.5},
        "train": {"epochs": 3, "batch_size": 32},
    }
    spec = BASE | {
        "model": architecture,
        "criterion": {"name": "filter_norm"},
        "targets": {"sparsity": [0.4]},
        "retrain": {"mode": "fine_tune", "epochs": 1, "batch_size": 32},
    }
    job = service.client.jobs.submit(spec)
    service.client.jobs.wait(job.id, timeout_s=250, interval_s=0.2)
    results = service.client.jobs.results(job.id)
    report, (checkpoint,) = results.parsed_report(), results.checkpoints
    reported = report.checkpoints[0]
    assert 0.4 <= reported.sparsity < 0.6
    for format in ("arch", "dense", "sparse", "masks"):
        service.client.jobs.download(
            job.id,
            checkpoint.id,
            tmp_path / format,
            format=format,
            sha256=checkpoint.sha256[format],
        )
    assert (tmp_path / "dense").stat().st_size < 0.8 * report.baseline.size_bytes["dense"]
    data = prepare(
        datasets.create("digits").load(), limit=Limit(train=600, test=200), seed=0, normalize=None
    )
    for state in (load_file(tmp_path / "dense"), read_sparse(tmp_path / "sparse")):
        small = load_compact(tmp_path / "arch", state)
        assert (
            sum(parameter.numel() for parameter in small.parameters())
            == reported.parameters
            < report.baseline.parameters
        )
        assert measure_network(small, data).document().error == reported.error
    assert count_flops(small, data.shape) == reported.flops
    assert {layer.name: layer.kept for layer in reported.layers} == {
        name: parameter.numel() for name, parameter in small.named_parameters()
    }


def test_several_criteria_are_compared_with_what_they_predicted(service: Running) -> None:
    criteria = [
        {"name": "magnitude"},
        {"name": "random"},
        {"name": "obd"},
        {"name": "snip"},
        *({"name": name, "params": {"pi": pi}} for name in ("lm", "qm") for pi in (1, 4)),
    ]
    report = run_job(
        service,
        BASE
        | {
            "criterion": criteria,
            "targets": {"sparsity": [0.8]},
            "batchnorm": "keep",
            "evaluations": [{"name": name} for name in ("accuracy", "comparison", "loss_model")],
        },
    )
    labels = ["magnitude", "random", "obd", "snip", "lm-pi1", "lm-pi4", "qm-pi1", "qm-pi4"]
    assert [checkpoint.id for checkpoint in report.checkpoints] == [
        f"{label}-0.8" for label in labels
    ]
    assert report.failures == ()
    section = report.sections["loss_model"]
    assert {f"true/{label}" for label in labels} | {"predicted/qm-pi4", "measured/qm-pi4"} <= set(
        section.curves
    )
    assert len(report.sections["comparison"].details) >= 1
    warned = [warning for warning in report.warnings if "not to be trusted" in warning]
    assert {warning.split(":")[0] for warning in warned} == {"lm-pi1", "qm-pi1"}


@pytest.mark.parametrize(
    ("change", "code", "place"),
    [
        (
            {"granularity": {"name": "n_m"}, "targets": {"sparsity": [0.9]}},
            "impossible_budget",
            "/targets/sparsity",
        ),
        (
            {
                "granularity": {"name": "n_m"},
                "allocation": {"name": "erk"},
                "targets": {"sparsity": [0.5]},
            },
            "invalid_parameter",
            "/allocation",
        ),
        (
            {"criterion": {"name": "filter_norm"}, "targets": {"sparsity": [0.9999]}},
            "impossible_budget",
            "/targets/sparsity",
        ),
        (
            {"criterion": {"name": "qm", "params": {"curvature": "newton"}}},
            "invalid_parameter",
            "/criterion/params/curvature",
        ),
        (
            {"criterion": {"name": "lm", "params": {"lambda": -1}}},
            "invalid_parameter",
            "/criterion/params/lambda",
        ),
        ({"granularity": {"name": "blok"}}, "unknown_granularity", "/granularity/name"),
        ({"retrain": {"mode": "gradual", "epochs": 2}}, "value_error", "/retrain"),
    ],
    ids=str,
)
def test_what_cannot_be_pruned_so_is_told_at_once(
    service: Running, change: dict[str, object], code: str, place: str
) -> None:
    with pytest.raises(ApiError) as refused:
        service.client.jobs.submit(BASE | change)
    problem = refused.value
    assert problem.status == 422
    assert [(fault.code, fault.pointer) for fault in problem.errors] == [(code, place)]


def test_a_finished_job_is_asked_for_densities_that_nobody_ran(service: Running) -> None:
    report = run_job(
        service,
        BASE
        | {
            "dataset": {"builtin": "digits", "limit": {"train": 600}},
            "model": {"architecture": "mlp", "train": {"epochs": 3}},
            "targets": {"sparsity": [0.98]},
            "schedule": {"name": "geometric", "params": {"fraction": 0.3}},
            "evaluations": [{"name": "scaling_law"}],
        },
    )
    assert report.failures == ()
    (law,) = report.sections["scaling_law"].details["laws"]
    assert law["points"] == len(report.rounds) >= 10
    target = 1.5 * law["unpruned_error"]
    answer = service.client.jobs.predict(report.job_id, max_error=target)
    (prediction,) = answer["predictions"]
    assert 0.02 < prediction["density"] < 1
    assert prediction["error"]["value"] == pytest.approx(target)
    measured = {
        round(done.density, 3): (done.retrained or done.pruned).error.value
        for done in report.rounds
    }
    nearest = min(measured, key=lambda density: abs(density - prediction["density"]))
    assert measured[nearest] == pytest.approx(target, rel=0.6)
    with pytest.raises(ApiError, match="unreachable"):
        service.client.jobs.predict(report.job_id, max_error=0.5 * law["unpruned_error"])


def test_cancel_keeps_what_is_finished(service: Running) -> None:
    job = service.client.jobs.submit(
        BASE
        | {
            "targets": {"sparsity": [0.5, 0.6]},
            "schedule": {"name": "linear", "params": {"rounds": 1}},
            "retrain": {"epochs": 60, "batch_size": 8},
        }
    )
    for event in service.client.jobs.events(job.id):
        if event.type == "checkpoint":
            break
    service.client.jobs.cancel(job.id)
    with pytest.raises(JobCancelled):
        service.client.jobs.wait(job.id, timeout_s=60, interval_s=0.2)
    results = service.client.jobs.results(job.id)
    assert [checkpoint.id for checkpoint in results.checkpoints] == ["magnitude-0.5"]
    assert results.report is not None
    assert results.report["partial"] is True
    assert service.client.jobs.cancel(job.id).status == "cancelled"


def test_two_clients_follow_one_job(service: Running) -> None:
    async def follow() -> list[list[str]]:
        async with AsyncClient(service.url) as client:
            job = await client.jobs.submit(BASE)

            async def types() -> list[str]:
                return [event.type async for event in client.jobs.events(job.id)]

            return list(await asyncio.gather(types(), types()))

    first, second = asyncio.run(follow())
    assert first == second
    assert {"status", "stage", "progress", "checkpoint"} <= set(first)


def test_command_line_end_to_end(service: Running, tmp_path: Path) -> None:
    def cli(*arguments: str, expect: int = 0) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "secateur.cli", *arguments, "--json"],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            env={"SECATEUR_URL": service.url, "PATH": "/usr/bin:/bin"},
        )
        assert done.returncode == expect, done.stderr
        return dict(json.loads(done.stdout))

    (tmp_path / "job.json").write_text(json.dumps(BASE | {"gates": {"max_error_increase": 1.0}}))
    job = cli("jobs", "submit", str(tmp_path / "job.json"), "--watch")["job"]
    assert job["status"] == "succeeded"
    assert cli("results", job["id"])["recommendation"]["checkpoint"] == "magnitude-0.8"
    cli("download", job["id"], "--checkpoint", "recommended", "--out", str(tmp_path / "out"))
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".safetensors"]
    (tmp_path / "job.json").write_text(json.dumps(BASE | {"criterion": {"name": "magnitud"}}))
    assert "magnitude" in json.dumps(cli("jobs", "submit", str(tmp_path / "job.json"), expect=2))


def test_two_jobs_are_compared_on_their_images(
    service: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = []
    for criterion in ("magnitude", "random"):
        job = service.client.jobs.submit(BASE | {"criterion": {"name": criterion}})
        service.client.jobs.wait(job.id, timeout_s=150, interval_s=0.2)
        ids.append(job.id)
    comparison = service.client.jobs.compare(*ids)
    assert comparison.images == 200
    reported = {
        id: {row.id: row.error for row in service.client.jobs.results(id).checkpoints} for id in ids
    }
    for row in comparison.differences:
        first, second = (reported[name.job][name.network] for name in (row.first, row.second))
        assert first is not None
        assert second is not None
        assert row.difference.value == pytest.approx(first.value - second.value)
    monkeypatch.setenv("SECATEUR_URL", service.url)
    assert main(["compare", *ids]) == 0
    out = capsys.readouterr().out
    assert "differences of errors on 200 test images" in out
    assert "fewest bytes of the sparse file" in out
    times = service.client.jobs.validate(BASE)["estimate"]["wall_times"]
    assert times[0]["jobs"] >= 2
    assert times[0]["p50_s"] > 0
