"""Jobs with budgets from the recipe to the report, and their estimates."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import BudgetError
from pruning.pipeline.estimate_job import estimate_job
from pruning.reporting import html, markdown
from pruning.schemas.targets import RequestedBudget
from tests.support.photo_world import make_files, read_files, run_job

MODEL = {
    "architecture": "cifar_resnet",
    "kwargs": {"depth": 8},
    "train": {"epochs": 4, "batch_size": 8, "augment": "none"},
}
RESIZE = {"resize": 16, "crop": 16}


def write_spec(**fields: Any) -> dict[str, Any]:
    return {
        "type": "prune",
        "model": MODEL,
        "dataset": {"id": "dst_00000000", "preprocessing": RESIZE},
        "retrain": {"batch_size": 8, "optimizer": {"lr": 0.001}},
        "criterion": [{"name": "magnitude"}, {"name": "snip"}],
        "evaluations": [{"name": "accuracy"}, {"name": "comparison"}],
        "latency": {"batches": [1]},
    } | fields


@pytest.mark.parametrize(
    ("quantity", "granularity"), [("flops", "channel"), ("size_bytes", "weight")]
)
def test_a_job_with_budgets_says_what_it_reached_and_resumes_to_the_same_bytes(
    quantity: str, granularity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = read_files(make_files(), tmp_path)
    spec = write_spec(targets={quantity: [0.5, 0.8]}, granularity={"name": granularity})
    folder = tmp_path / "job"
    folder.mkdir()
    report = run_job(folder, photos, spec, monkeypatch)
    dense = {"flops": report.baseline.flops, "size_bytes": report.baseline.size_bytes["dense"]}
    assert len(report.checkpoints) == 4
    assert {checkpoint.id for checkpoint in report.checkpoints} == {
        f"{criterion}-{quantity}-{share}"
        for criterion in ("magnitude", "snip")
        for share in (0.5, 0.8)
    }
    for checkpoint in report.checkpoints:
        budget = checkpoint.requested
        assert isinstance(budget, RequestedBudget)
        assert checkpoint.requested_sparsity is None
        assert budget.dense == dense[quantity]
        assert budget.limit == int(budget.value * budget.dense + 1e-6)
        own = {"flops": checkpoint.flops, "size_bytes": checkpoint.size_bytes["sparse"]}
        assert budget.reached == own[quantity] <= budget.limit
        assert granularity == "channel" or budget.reached >= 0.99 * budget.limit
    assert report.sections["comparison"].details
    assert "target_sparsity" not in str(report.sections["comparison"].details)
    words = markdown.render(report)
    noun = {"flops": "FLOPs", "size_bytes": "size"}[quantity]
    assert f"50 % of the {noun} asked: 0." in words
    assert f"50 % of the {noun} asked: 0." in html.render(report)
    files = digest_files(folder)
    later = [
        path for path in (folder / "stages").iterdir() if not path.name.startswith(("dense", "con"))
    ]
    assert later
    for path in later:
        path.unlink()
    resumed = run_job(folder, photos, spec, monkeypatch)
    assert digest_files(folder) == files
    assert [row.requested for row in resumed.checkpoints] == [
        row.requested for row in report.checkpoints
    ]


def digest_files(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "files").iterdir())
        if path.name.endswith((".sparse.safetensors", ".dense.safetensors", ".masks.safetensors"))
    }


def estimate(**fields: Any) -> dict[str, Any]:
    spec = {
        "type": "prune",
        "model": MODEL | {"kwargs": {"depth": 8}},
        "dataset": {"builtin": "digits"},
    }
    return estimate_job(spec | fields, None, None, [])


def test_an_estimate_tells_how_far_budgets_can_go() -> None:
    reach = estimate(targets={"flops": [0.5]}, granularity={"name": "channel"})["reach"]
    assert reach["quantity"] == "flops"
    least = reach["criteria"][0]["least"]
    assert 0 < least < 0.2 * reach["dense"]
    assert reach["criteria"][0]["share"] == least / reach["dense"]
    estimate(targets={"flops": [least]}, granularity={"name": "channel"})
    with pytest.raises(BudgetError, match=f"the closest is {least:,}") as caught:
        estimate(targets={"flops": [least + 1, least - 1]}, granularity={"name": "channel"})
    assert caught.value.pointer == "/targets/flops/1"
    assert caught.value.code == "impossible_budget"
    assert estimate(targets={"sparsity": [0.5]})["reach"] is None


@pytest.mark.parametrize("quantity", ["flops", "parameters", "size_bytes"])
def test_single_weights_reach_nearly_nothing_but_what_is_not_pruned(quantity: str) -> None:
    reach = estimate(targets={quantity: [0.5]})["reach"]["criteria"][0]
    assert 0 < reach["share"] < 0.1
    with pytest.raises(BudgetError, match="does not lessen") as caught:
        estimate(targets={quantity: [10**12]})
    assert caught.value.pointer == f"/targets/{quantity}/0"


def test_excluded_layers_narrow_the_reach() -> None:
    free = estimate(targets={"flops": [0.5]})["reach"]["criteria"][0]["least"]
    names = ["conv1.weight"]
    bound = estimate(targets={"flops": [0.5]}, exclude=names)["reach"]["criteria"][0]["least"]
    assert bound > free
