"""Networks that were pruned elsewhere, judged beside their dense original."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning.schemas.report import Report
from tests.support import judged_jobs
from tests.support.known_networks import Uploaded, run_uploaded

ACCURACY = [{"name": "accuracy"}]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Uploaded:
    return judged_jobs.upload_dense(tmp_path_factory.mktemp("judged") / "dense")


def test_a_file_of_torch_prune_is_judged(dense: Uploaded, tmp_path: Path) -> None:
    model = judged_jobs.prune_with_torch(dense, 0.6)
    torch.save(model.state_dict(), tmp_path / "pruned.pth")
    network = judged_jobs.check_file(
        tmp_path / "pruned.pth", architecture="cifar_resnet", kwargs=judged_jobs.SMALL
    )
    report = judged_jobs.judge(
        tmp_path / "job",
        dense,
        {"torch-0.6": network},
        evaluations=ACCURACY,
        gates={"max_error_increase": 0.5},
    )
    (checkpoint,) = report.checkpoints
    print(report.recommendation, report.gates, report.warnings)
    assert checkpoint.id == checkpoint.label == "torch-0.6"
    assert checkpoint.sparsity == pytest.approx(0.6, abs=1e-4)
    assert report.failures == ()
