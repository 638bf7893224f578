"""Stage files: their names on disk, what is read when, and files that lack something."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import pruning.storage.stages
from pruning.measurement.measure import Measured
from pruning.pipeline.second_network import NAME, train_second_network
from pruning.pipeline.stage_files import ControlStage, DenseStage, RoundStage, SecondNetworkStage
from pruning.rounds.pruning import StageLoss
from pruning.storage.stages import Stages, State, StoredStage
from tests.support import cases
from tests.support.pipelines import MODES, Counting, make, run, tensors

DIGEST = "0123456789abcdef0123456789abcdef"
WRONG, LOSSES = torch.tensor([True, False, True]), torch.tensor([2.0, 0.5, 3.0])
VAL_WRONG, WEIGHTS = torch.tensor([False, True]), torch.tensor([[1.0, -2.0]])
STAGE_LOSS = {"sparsity": 0.5, "predicted": 0.1, "before": 1.0, "after": 1.2, "images": 7}


def measured_tensors(part: str) -> State:
    return {
        f"{part}.wrong": WRONG,
        f"{part}.losses": LOSSES,
        f"{part}.val_wrong": VAL_WRONG,
        f"{part}.answers": torch.tensor([2, 0, 1], dtype=torch.int32),
        f"{part}.confidences": torch.tensor([0.5, 1.0, 0.75]),
    }


DENSE = {
    "model.fc.weight": WEIGHTS,
    "initial.fc.weight": WEIGHTS + 1,
    "rewind.fc.weight": WEIGHTS + 2,
    **measured_tensors("given"),
}
CONTROL = {"model.fc.weight": WEIGHTS, **measured_tensors("control")}
ROUND = {
    "loss.before": LOSSES,
    "loss.after": LOSSES + 1,
    "mask.fc.weight": WEIGHTS > 0,
    "untrained.fc.weight": WEIGHTS + 1,
    "unretrained.fc.weight": WEIGHTS + 2,
    "model.fc.weight": WEIGHTS + 3,
    **measured_tensors("pruned"),
    **measured_tensors("retrained"),
}
NOTE = {
    "seconds": 1.5,
    "warnings": [],
    "stages": [STAGE_LOSS],
    "batchnorm": {"before": 1.0, "after": 0.9, "kept": 1.0},
    "unretrained": True,
}


def write_stage(
    folder: Path, name: str, content: State, note: dict[str, Any] | None = None
) -> StoredStage:
    """Write a stage file without the code under test, and open it."""
    path = folder / f"{DIGEST[:16]}-{name}.safetensors"
    save_file(
        {key: value.clone() for key, value in content.items()},
        path,
        metadata={"note": json.dumps(NOTE if note is None else note)},
    )
    stored = Stages(folder, DIGEST).open(name)
    assert stored is not None
    return stored


def check_measured(measured: Measured | None) -> None:
    assert measured is not None
    assert torch.equal(measured.wrong, WRONG)
    assert torch.equal(measured.losses, LOSSES)
    assert torch.equal(measured.val_wrong, VAL_WRONG)
    assert measured.overlaps is None


def check_tensors(content: State, expected: State) -> None:
    assert content.keys() == expected.keys()
    assert all(torch.equal(content[name], tensor) for name, tensor in expected.items())


# the names on disk


def test_a_dense_stage_has_these_names(tmp_path: Path) -> None:
    stored = write_stage(tmp_path, "dense", DENSE)
    stage = DenseStage.restore(stored, initial=True, rewind=True)
    check_measured(stage.measured)
    assert stage.initial is not None
    assert stage.rewind is not None
    check_tensors(dict(stage.model), {"fc.weight": WEIGHTS})
    check_tensors(dict(stage.initial), {"fc.weight": WEIGHTS + 1})
    check_tensors(dict(stage.rewind), {"fc.weight": WEIGHTS + 2})
    check_tensors(stage.tensors(), DENSE)


def test_a_control_stage_has_these_names(tmp_path: Path) -> None:
    stage = ControlStage.restore(write_stage(tmp_path, "control", CONTROL), measured=True)
    check_measured(stage.measured)
    check_tensors(dict(stage.model), {"fc.weight": WEIGHTS})
    check_tensors(stage.tensors(), CONTROL)


def test_a_stage_of_a_second_network_has_these_names(tmp_path: Path) -> None:
    content = {"model.fc.weight": WEIGHTS}
    stage = SecondNetworkStage.restore(write_stage(tmp_path, "separate", content))
    check_tensors(dict(stage.model), {"fc.weight": WEIGHTS})
    check_tensors(stage.tensors(), content)


def test_a_round_stage_has_these_names(tmp_path: Path) -> None:
    stored = write_stage(tmp_path, "round-0-001", ROUND)
    stage = RoundStage.restore(stored, untrained=True, retrained=True)
    check_measured(stage.pruned)
    check_measured(stage.retrained)
    assert stage.untrained is not None
    assert stage.unretrained is not None
    check_tensors(dict(stage.masks), {"fc.weight": WEIGHTS > 0})
    check_tensors(dict(stage.untrained), {"fc.weight": WEIGHTS + 1})
    check_tensors(dict(stage.unretrained), {"fc.weight": WEIGHTS + 2})
    check_tensors(dict(stage.model), {"fc.weight": WEIGHTS + 3})
    assert stage.loss_before is not None
    assert stage.loss_after is not None
    assert torch.equal(stage.loss_before, LOSSES)
    assert torch.equal(stage.loss_after, LOSSES + 1)
    assert list(stage.stages) == [StageLoss(0.5, 0.1, 1.0, 1.2, 7)]
    assert stage.batchnorm == NOTE["batchnorm"]
    check_tensors(stage.tensors(), ROUND)
    assert {"seconds": 1.5, "warnings": [], **stage.notes()} == NOTE


def test_what_a_job_does_not_need_is_none(tmp_path: Path) -> None:
    note = {"seconds": 1.5, "warnings": [], "stages": [], "unretrained": False}
    stored = write_stage(tmp_path, "round-0-001", ROUND, note)
    stage = RoundStage.restore(stored, untrained=False, retrained=False, losses=False)
    assert (stage.untrained, stage.unretrained, stage.retrained) == (None, None, None)
    assert (stage.loss_before, stage.loss_after) == (None, None)
    assert not [name for name in stage.tensors() if name.startswith("loss")]
    assert (list(stage.stages), stage.batchnorm) == ([], None)
    dense = DenseStage.restore(write_stage(tmp_path, "dense", DENSE), initial=False, rewind=False)
    assert (dense.initial, dense.rewind) == (None, None)


def test_measurements_of_segmentation_keep_their_overlaps(tmp_path: Path) -> None:
    answers = ("control.answers", "control.confidences")
    content = {name: tensor for name, tensor in CONTROL.items() if name not in answers}
    content["control.overlaps"] = torch.ones(3, 2, 4, dtype=torch.int64)
    stage = ControlStage.restore(write_stage(tmp_path, "control", content), measured=True)
    check_tensors(stage.tensors(), content)


# what is read, and when


def test_weights_are_read_on_use_and_the_file_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = write_stage(tmp_path, "round-0-001", ROUND | {"model.fc.bias": WEIGHTS[0]})
    opened: list[list[str]] = []

    class Recording:
        """A file that keeps the names of the tensors that are read."""

        def __init__(self, path: Path, framework: str) -> None:
            self.file = safe_open(path, framework=framework)
            self.names: list[str] = []
            opened.append(self.names)

        def __enter__(self) -> Recording:
            return self

        def __exit__(self, *error: object) -> None: ...

        def get_tensor(self, name: str) -> Tensor:
            self.names.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(pruning.storage.stages, "safe_open", Recording)
    stage = RoundStage.restore(stored, untrained=True, retrained=True)
    kinds = {name.partition(".")[0] for names in opened for name in names}
    assert kinds == {"loss", "pruned", "retrained"}

    opened.clear()
    assert sorted(stage.model) == ["fc.bias", "fc.weight"]
    assert len(stage.masks) == 1
    assert "fc.weight" in stage.model
    assert "fc.scale" not in stage.model
    with pytest.raises(KeyError):
        stage.model["fc.scale"]
    assert opened == []

    assert len(stage.model.items()) == 2
    assert len(stage.masks.values()) == 1
    (weights, masks) = opened
    assert sorted(weights) == ["model.fc.bias", "model.fc.weight"]
    assert masks == ["mask.fc.weight"]


# files that lack something


def without_tensors(prefix: str) -> Callable[[State, dict[str, Any]], None]:
    def change(content: State, note: dict[str, Any]) -> None:
        for name in [name for name in content if name.startswith(prefix)]:
            del content[name]

    return change


def without_note(*path: Any) -> Callable[[State, dict[str, Any]], None]:
    def change(content: State, note: dict[str, Any]) -> None:
        entries: Any = note
        for key in path[:-1]:
            entries = entries[key]
        del entries[path[-1]]

    return change


def make_incomplete(
    pipeline: Counting, stage: str, change: Callable[[State, dict[str, Any]], None]
) -> None:
    saved = pipeline.stages.load(stage)
    assert saved is not None
    content = {name: tensor.clone() for name, tensor in saved[0].items()}
    change(content, saved[1])
    pipeline.stages.save(stage, content, saved[1])


TWO_ROUNDS = {"schedule": {"name": "linear", "params": {"rounds": 2}}}
KEEPING = {
    "evaluations": ({"name": "approximation"}, {"name": "loss_model"}),
    **MODES["trained weight_rewind"],
}
INCOMPLETE = [
    ("trained weight_rewind", "dense", without_tensors("model."), "model"),
    ("trained weight_rewind", "dense", without_tensors("given.losses"), "given.losses"),
    ("trained weight_rewind", "dense", without_tensors("rewind."), "rewind"),
    ("trained weight_rewind", "control", without_tensors("control."), "control"),
    ("trained weight_rewind", "round-0-001", without_tensors("loss.before"), "loss.before"),
    ("trained weight_rewind", "round-0-001", without_tensors("mask."), "mask"),
    ("trained weight_rewind", "round-0-002", without_tensors("retrained."), "retrained"),
    ("trained weight_rewind", "round-0-002", without_tensors("unretrained."), "unretrained"),
    ("trained weight_rewind", "round-0-002", without_note("unretrained"), "unretrained"),
    ("trained weight_rewind", "round-0-001", without_note("seconds"), "seconds"),
    ("qm", "round-0-001", without_note("stages", 0, "predicted"), "predicted"),
    ("before_training", "dense", without_tensors("initial."), "initial"),
    ("before_training", "round-0-001", without_tensors("untrained."), "untrained"),
]
RECIPES = {
    "trained weight_rewind": cases.recipe(0.8, **TWO_ROUNDS, **KEEPING),
    "qm": cases.recipe(0.8, criterion={"name": "qm"}, **TWO_ROUNDS, **MODES["none"]),
    "before_training": cases.recipe(0.8, **TWO_ROUNDS, **MODES["before_training"]),
}


@pytest.mark.parametrize(("kind", "stage", "change", "lacks"), INCOMPLETE)
def test_a_stage_whose_file_lacks_something_is_run_again(
    tmp_path: Path,
    kind: str,
    stage: str,
    change: Callable[[State, dict[str, Any]], None],
    lacks: str,
) -> None:
    recipe = RECIPES[kind]
    pipeline = run(recipe, tmp_path)
    whole = tensors(pipeline)
    make_incomplete(pipeline, stage, change)
    saved: list[str] = []
    again = run(recipe, tmp_path, on_saved=lambda name, path: saved.append(name))
    after = tensors(again)
    assert after.keys() == whole.keys()
    for name, content in whole.items():
        check_tensors(after[name], content)
    finished = {name.partition("-")[2].removesuffix(".safetensors") for name in saved}
    assert {name for name in finished if not name.endswith(".partial")} - {"rewind"} == {stage}
    warning = (
        f"the stage {stage} is run again: its file, which another version of Secateur may have "
        f"written, lacks {lacks}"
    )
    assert [message for message in again.ledger.warnings if "is run again" in message] == [warning]
    # The warning stays with the job.
    assert warning in run(recipe, tmp_path).ledger.warnings


def test_a_second_network_whose_file_lacks_it_is_trained_again(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, **MODES["trained fine_tune"])
    pipeline = run(recipe, tmp_path)
    second = train_second_network(pipeline)
    assert second is not None
    make_incomplete(pipeline, NAME, without_tensors("model."))
    again = make(recipe, tmp_path)
    trained = train_second_network(again)
    assert trained is not None
    check_tensors(dict(trained.state_dict()), dict(second.state_dict()))
    assert again.ledger.warnings == [
        f"the stage {NAME} is run again: its file, which another version of Secateur may have "
        "written, lacks model"
    ]
