"""Jobs that judge networks: their costs, what is refused beforehand, and how they resume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.errors import BaselineMismatchError, SecateurError
from pruning.networks.loading import load_model
from pruning.pipeline.estimate_job import estimate_job
from pruning.storage.checkpoints import write_dense
from tests.support import judged_jobs
from tests.support.judged_jobs import SMALL
from tests.support.known_networks import NORMALIZE, Uploaded

ACCURACY = [{"name": "accuracy"}]


class Watcher:
    """A watcher that remembers progress and stages, and stops the job when a stage is saved."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.stop_at = stop_at
        self.progressed: list[tuple[float, float]] = []
        self.saved_stages: list[str] = []

    def progress(self, done: float, total: float) -> None:
        self.progressed.append((done, total))

    def saved(self, name: str, path: Path) -> None:
        stage = name.split("-", 1)[1].removesuffix(".safetensors")
        self.saved_stages.append(stage)
        if stage == self.stop_at:
            raise KeyboardInterrupt

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **named: None


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Uploaded:
    return judged_jobs.upload_dense(tmp_path_factory.mktemp("judging") / "dense")


@pytest.fixture(scope="module")
def networks(
    dense: Uploaded, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("networks")
    checked = {}
    for amount in (0.3, 0.8):
        path = folder / f"torch-{amount}.pth"
        torch.save(judged_jobs.prune_with_torch(dense, amount).state_dict(), path)
        checked[path.stem] = judged_jobs.check_file(path, architecture="cifar_resnet", kwargs=SMALL)
    return checked


def estimate(dense: Uploaded, pruned: Sequence[Mapping[str, Any]], **fields: Any) -> dict[str, Any]:
    references = [{"id": f"mdl_0000000{number}"} for number in range(1, len(pruned) + 1)]
    spec = {
        "type": "evaluate",
        "model": {"id": "mdl_00000000"},
        "pruned": references,
        "dataset": {"id": "dst_00000000"},
        "evaluations": ACCURACY,
        **fields,
    }
    counts = {split: len(images) for split, images in dense.arrays.images.items()}
    dataset = {
        "shape": [3, 16, 16],
        "classes": list(dense.arrays.classes),
        "counts": counts,
        "groups": {},
        "task": "classification",
        "sizes": None,
        "normalize": None,
        "preprocessing": None,
    }
    return estimate_job(spec, dense.network, dataset, [], pruned=pruned)


def test_the_costs_are_those_of_measuring(
    dense: Uploaded, networks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    costs = estimate(dense, list(networks.values()))
    assert (costs["rounds"], costs["checkpoints"], costs["steps"]) == (2, 2, 0)
    measured = costs["images"]["test"] + costs["images"]["val"]
    assert costs["parts"] == {
        "training": 0,
        "scoring": 0,
        "measuring": 3 * measured,
        "batchnorm": 0,
        "losses": 0,
        "evaluations": 0,
    }
    watcher = Watcher()
    judged_jobs.judge(tmp_path, dense, networks, watcher, evaluations=ACCURACY)
    assert watcher.progressed[-1] == (costs["units"], costs["units"])
    done = [units for units, _ in watcher.progressed]
    assert done == sorted(done)


def test_what_is_left_out_is_told_beforehand(
    dense: Uploaded, networks: dict[str, dict[str, Any]]
) -> None:
    costs = estimate(
        dense, list(networks.values()), evaluations=[*ACCURACY, {"name": "scaling_law"}]
    )
    assert set(costs["evaluations"]) == {"accuracy"}
    assert "'scaling_law' is left out" in costs["warnings"][0]
    unlisted = estimate(dense, list(networks.values()), evaluations=None)
    assert not {"bounds", "loss_model", "scaling_law"} & set(unlisted["evaluations"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["red", "green", "grey"]}, "its classes are others"),
        ({"classes": ["green", "red", "blue"]}, "its classes are in another order"),
        ({"normalize": {"mean": [0.1] * 3, "std": [0.2] * 3}}, "normalises images with mean"),
        ({"parameters": 10**9}, "1,000,000,000 parameters, more than"),
        ({"prunable": 10**9}, "prunable weights, more than"),
        ({"kwargs": SMALL | {"classes": 4}}, "distinguishes 4 classes"),
        ({"kwargs": SMALL | {"channels": 1}}, "takes images of 1 channels"),
    ],
)
def test_a_network_that_does_not_fit_is_pointed_at(
    dense: Uploaded, networks: dict[str, dict[str, Any]], change: dict[str, Any], words: str
) -> None:
    good, other = networks.values()
    with pytest.raises(SecateurError, match=words) as caught:
        estimate(dense, [good, other | change])
    assert caught.value.pointer == "/pruned/1/id"
    assert caught.value.message.startswith("pruned-2: ")


def test_a_normalisation_of_the_job_goes_before_all_uploads(
    dense: Uploaded, networks: dict[str, dict[str, Any]]
) -> None:
    good, other = networks.values()
    pruned = [good, other | {"normalize": {"mean": [0.1] * 3, "std": [0.2] * 3}}]
    costs = estimate(dense, pruned, model={"id": "mdl_00000000", "preprocessing": NORMALIZE})
    assert list(costs["preprocessing"]["mean"]) == NORMALIZE["mean"]


@pytest.mark.parametrize("knowledge", ["unexpected", "partly_modelled", "modelled"])
def test_the_guideline_for_shifts_holds_for_networks_by_name(
    dense: Uploaded, networks: dict[str, dict[str, Any]], tmp_path: Path, knowledge: str
) -> None:
    potential = {"name": "prune_potential", "params": {"corruptions": ["brightness"], "noise": []}}
    report = judged_jobs.judge(
        tmp_path,
        dense,
        networks,
        evaluations=[potential],
        shifts={"knowledge": knowledge},
        gates={"max_error_increase": 0.9, "min_prune_potential": {"brightness 3": 0.1}},
        latency={"batches": [1]},
    )
    advice = report.recommendation.shifts
    assert advice is not None
    assert advice.worst_shift == "brightness 3"
    assert report.recommendation.checkpoint in ({None} | set(networks))
    assert (report.recommendation.checkpoint is None) == (knowledge != "modelled")
    warned = [warning for warning in report.warnings if warning.startswith("shifts: ")]
    assert len(warned) == (knowledge == "modelled")
    assert report.failures == ()


@pytest.mark.parametrize("stop_at", ["dense", "control", "round-0-001", "export-torch-0.3"])
def test_a_job_that_was_ended_goes_on_to_the_same_report(
    dense: Uploaded, networks: dict[str, dict[str, Any]], tmp_path: Path, stop_at: str
) -> None:
    latency = {"batches": [1]}
    whole = judged_jobs.judge(
        tmp_path / "whole", dense, networks, evaluations=ACCURACY, latency=latency
    )
    folder = tmp_path / "resumed"
    with pytest.raises(KeyboardInterrupt):
        judged_jobs.judge(
            folder, dense, networks, Watcher(stop_at), evaluations=ACCURACY, latency=latency
        )
    again = Watcher()
    resumed = judged_jobs.judge(
        folder, dense, networks, again, evaluations=ACCURACY, latency=latency
    )
    assert stop_at not in again.saved_stages
    assert again.progressed[-1][0] == again.progressed[-1][1]
    assert _forget_times(resumed) == _forget_times(whole)
    for format in ("dense", "sparse", "masks"):
        name = f"files/torch-0.8.{format}.safetensors"
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def _forget_times(report: Any) -> str:
    """The report without what a clock measured."""
    document = report.model_dump(mode="json")
    del document["usage"]
    for network in (
        document["baseline"],
        document["control"],
        *document["controls"],
        *document["checkpoints"],
    ):
        del network["latency_ms"]
    document["recommendation"].pop("reason")
    return json.dumps(document, sort_keys=True)


def test_a_dense_original_at_chance_is_no_baseline(
    dense: Uploaded, networks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    guessing = load_model("cifar_resnet", **dense.network["kwargs"])
    torch.nn.init.zeros_(guessing.get_parameter("linear.weight"))
    write_dense(tmp_path / "guessing.safetensors", guessing.state_dict())
    other = Uploaded(dense.network, tmp_path / "guessing.safetensors", dense.arrays)
    with pytest.raises(BaselineMismatchError):
        judged_jobs.judge(tmp_path / "job", other, networks, evaluations=ACCURACY)
