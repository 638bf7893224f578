"""Estimates of jobs with uploaded networks: guesses and zeros are told before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.errors import ParameterError
from pruning.library import load_model
from pruning.pipeline.estimate_job import estimate_job
from pruning.storage.checkpoints import write_dense
from tasks.processes.helper import check_model

KWARGS = {"hidden": [16], "channels": 1, "height": 8, "width": 8, "classes": 10}
MODEL: dict[str, Any] = {"architecture": "mlp", "kwargs": KWARGS, "normalize": None}
CONSTANTS = {"mean": [0.3], "std": [0.4]}


def estimate(upload: dict[str, Any], **fields: Any) -> dict[str, Any]:
    job = {
        "type": "prune",
        "model": {"id": "mdl_00000000"},
        "dataset": {"builtin": "digits"},
        "targets": {"sparsity": [0.3, 0.8]},
        "retrain": {"mode": "none"},
        "evaluations": [],
    }
    return estimate_job(job | fields, MODEL | upload, None, [])


def test_a_guessed_normalisation_is_warned_of() -> None:
    assert any("nobody gave the normalisation" in text for text in estimate({})["warnings"])
    assert estimate({"normalize": CONSTANTS})["warnings"] == []
    trained = {"architecture": "mlp", "train": {}}
    assert estimate({}, model=trained)["warnings"] == []


def test_targets_that_the_zeros_reach_are_warned_of() -> None:
    sparse = {"normalize": CONSTANTS, "zeros": {"fc1.weight": 592}}  # half of 16 * (64 + 10)
    (warning,) = estimate(sparse)["warnings"]
    assert "50.00 % of its prunable weights at zero" in warning
    assert "the target 30.00 %, which is no sparser" in warning
    kept = {"id": "mdl_00000000", "keep_zeros": False}
    assert estimate(sparse, model=kept)["warnings"] == []
    assert estimate(sparse, exclude=["fc1.weight"])["warnings"] == []


def test_a_gate_under_a_shift_that_nobody_looks_at_is_refused() -> None:
    def ask(distribution: str, *, evaluated: dict[str, Any] | None = None) -> None:
        gates = {"min_prune_potential": {"nominal": 0.2, distribution: 0.2}}
        named = None if evaluated is None else [{"name": "prune_potential", "params": evaluated}]
        estimate({"normalize": CONSTANTS}, gates=gates, evaluations=named)

    ask("fog 3")
    ask("noise 0.2")
    ask("fog 5", evaluated={"corruptions": ["fog"], "severities": [5]})
    for wrong, evaluated in (("fogg 3", None), ("fog 3", {"corruptions": ["snow"]}), ("a/b", None)):
        with pytest.raises(ParameterError, match="there are nominal") as caught:
            ask(wrong, evaluated=evaluated)
        assert caught.value.pointer == f"/gates/min_prune_potential/{wrong.replace('/', '~1')}"
        assert ("fog 3" in caught.value.message.partition("there are")[2]) is (evaluated is None)


def test_an_upload_is_counted_with_what_its_file_says(tmp_path: Path) -> None:
    state = load_model("mlp", **KWARGS).state_dict()  # type: ignore[arg-type]
    state["fc1.weight"][:8] = 0
    path = tmp_path / "x"
    info = {"architecture": "mlp", "kwargs": KWARGS, "classes": list("abcdefghij")}
    write_dense(path, state, **info, normalize=CONSTANTS)
    payload: dict[str, Any] = {"path": str(path), "architecture": None, "kwargs": {}}
    answer = check_model(payload)
    assert (answer["architecture"], answer["classes"]) == ("mlp", info["classes"])
    assert answer["zeros"] == {"fc1.weight": 8 * 64}
    assert answer["normalize"] == CONSTANTS
    write_dense(path, state)
    recognised = check_model(payload)  # by names and shapes alone
    assert (recognised["architecture"], recognised["classes"]) == ("mlp", None)
    answer = check_model(payload | {"architecture": "mlp", "kwargs": KWARGS})
    assert (answer["classes"], answer["normalize"]) == (None, None)
