"""Networks that were pruned elsewhere, judged beside their dense original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pruning.networks.loading import load_model
from pruning.schemas.report import Report
from tests.support import judged_jobs
from tests.support.judged_jobs import SMALL
from tests.support.known_networks import Passed, Uploaded, run_uploaded

ACCURACY = [{"name": "accuracy"}]
FILTERS: dict[str, Any] = {
    "criterion": {"name": "filter_norm"},
    "targets": {"sparsity": [0.4]},
    "retrain": {"mode": "fine_tune", "epochs": 1, "batch_size": 32},
    "evaluations": ACCURACY,
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Uploaded:
    return judged_jobs.upload_dense(tmp_path_factory.mktemp("judged") / "dense")


@pytest.fixture(scope="module")
def torch_pruned(
    dense: Uploaded, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Module, dict[str, Any]]:
    """A network whose masks of torch.nn.utils.prune are still at work, and its upload."""
    folder = tmp_path_factory.mktemp("torch")
    model = judged_jobs.prune_with_torch(dense, 0.6)
    torch.save(model.state_dict(), folder / "pruned.pth")
    network = judged_jobs.check_file(
        folder / "pruned.pth", architecture="cifar_resnet", kwargs=SMALL
    )
    return model, network


@pytest.fixture(scope="module")
def cut(dense: Uploaded, tmp_path_factory: pytest.TempPathFactory) -> Passed:
    """A job that removes channels of the dense network."""
    return run_uploaded(tmp_path_factory.mktemp("cut"), dense, FILTERS)


def check_cut(passed: Passed, format: str) -> dict[str, Any]:
    """The upload of the cut checkpoint, with its arch.json."""
    return judged_jobs.check_file(
        passed.folder / f"filter_norm-0.4.{format}.safetensors",
        arch=(passed.folder / "filter_norm-0.4.arch.json").read_text(),
    )


def test_a_file_of_torch_prune_is_judged(
    dense: Uploaded, torch_pruned: tuple[nn.Module, dict[str, Any]], tmp_path: Path
) -> None:
    model, network = torch_pruned
    gates = {"max_error_increase": 1.0, "max_flops": 1}
    report = judged_jobs.judge(
        tmp_path, dense, {"torch-0.6": network}, evaluations=ACCURACY, gates=gates
    )
    (checkpoint,) = report.checkpoints
    assert checkpoint.id == checkpoint.label == "torch-0.6"
    assert checkpoint.sparsity == pytest.approx(0.6, abs=1e-4)
    kept = {
        name.removesuffix("_mask"): int(mask.sum())
        for name, mask in model.named_buffers()
        if name.endswith("_mask")
    }
    assert {row.name: row.kept for row in checkpoint.layers if row.reason is None} == kept
    assert checkpoint.requested_sparsity is None
    assert checkpoint.removal == 0.6
    assert checkpoint.retrain_epochs == 0
    assert report.control.error == report.baseline.error
    assert checkpoint.error_increase.control == checkpoint.error_increase.given
    assert report.recommendation.checkpoint == "torch-0.6"
    assert [gate.outcome for gate in report.gates] == ["passed", "failed"]
    assert report.recommendation.verdict == "do_not_ship"
    assert report.failures == ()


@pytest.mark.parametrize("format", ["dense", "sparse"])
def test_a_network_that_lost_channels_gives_the_same_numbers(
    dense: Uploaded, cut: Passed, tmp_path: Path, format: str
) -> None:
    (own,) = cut.report.checkpoints
    network = check_cut(cut, format)
    report = judged_jobs.judge(tmp_path, dense, {"cut": network}, evaluations=ACCURACY)
    (again,) = report.checkpoints
    assert (again.error, again.loss, again.val_error) == (own.error, own.loss, own.val_error)
    assert (again.parameters, again.flops) == (own.parameters, own.flops)
    assert again.prune_ratio == own.prune_ratio
    assert again.error_increase.given == own.error_increase.given
    # Files tell the criterion, too, whose name is longer or shorter.
    assert again.size_bytes["sparse"] == pytest.approx(own.size_bytes["sparse"], abs=300)
    assert again.size_bytes["dense"] < 0.8 * report.baseline.size_bytes["dense"]
    prunable = sum(row.total for row in again.layers if row.reason is None)
    assert again.sparsity == 1 - prunable / report.model.prunable
    for file in ("arch.json", "dense.safetensors"):
        assert (tmp_path / "files" / f"cut.{file}").exists()
    assert "load_compact(Path('cut.arch.json')" in again.load_snippet


def test_networks_of_another_architecture_are_left_out_where_layers_are_compared(
    dense: Uploaded,
    torch_pruned: tuple[nn.Module, dict[str, Any]],
    cut: Passed,
    tmp_path: Path,
) -> None:
    narrow = dict(SMALL, width=0.25)
    guessing = load_model("cifar_resnet", **narrow)
    nn.init.zeros_(guessing.get_parameter("linear.weight"))
    save_file(guessing.state_dict(), tmp_path / "narrow.safetensors")
    networks = {
        "torch-0.6": torch_pruned[1],
        "cut": check_cut(cut, "dense"),
        "narrow": judged_jobs.check_file(
            tmp_path / "narrow.safetensors", architecture="cifar_resnet", kwargs=narrow
        ),
    }
    report = judged_jobs.judge(
        tmp_path / "job",
        dense,
        networks,
        evaluations=[
            {"name": "accuracy"},
            {"name": "comparison"},
            {"name": "class_damage"},
            {"name": "certificate"},
            {"name": "approximation"},
            {"name": "bounds"},
            {"name": "loss_model"},
            {"name": "robustness", "params": {"corruptions": ["brightness"]}},
            {"name": "prune_potential", "params": {"corruptions": ["brightness"]}},
        ],
    )
    assert [checkpoint.id for checkpoint in report.checkpoints] == list(networks)
    assert report.failures == ()
    left_out = [warning for warning in report.warnings if "is left out" in warning]
    assert [warning.split("'")[1] for warning in left_out] == ["bounds", "loss_model"]
    assert set(report.sections) == {
        "accuracy",
        "comparison",
        "class_damage",
        "certificate",
        "approximation",
        "robustness",
        "prune_potential",
    }
    notes = report.sections["approximation"].notes
    assert any(note.endswith("than the dense network: cut, narrow.") for note in notes)
    by_network = {
        row["method"]: row
        for row in report.sections["prune_potential"].details["potential_by_distribution"]
        if row["distribution"] == "nominal"
    }
    assert set(by_network) == set(networks)
    narrow_checkpoint = report.checkpoints[2]
    total = report.baseline.parameters
    assert narrow_checkpoint.parameters < 0.4 * total
    assert narrow_checkpoint.prune_ratio == 1 - narrow_checkpoint.parameters / total
    assert narrow_checkpoint.guesses  # a network worse than chance is a checkpoint like others


def test_evaluations_that_nobody_listed_run_where_they_apply(
    dense: Uploaded, torch_pruned: tuple[nn.Module, dict[str, Any]], tmp_path: Path
) -> None:
    report: Report = judged_jobs.judge(tmp_path, dense, {"one": torch_pruned[1]})
    assert report.failures == ()
    assert "accuracy" in report.sections
    assert not {"bounds", "loss_model", "scaling_law"} & set(report.sections)
