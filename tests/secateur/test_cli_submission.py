"""Jobs that the command submits, from files and flags."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from pruning.schemas.recipe import Retrain
from tests.support.commands import FLAGS, Run
from tests.support.imitation import Imitation


def test_a_family_comes_from_a_file(finished: Imitation, run: Run, tmp_path: Path) -> None:
    spec = {
        "type": "family",
        "model": {"architecture": "mlp", "train": {"epochs": 2}},
        "dataset": {"builtin": "digits"},
        "members": {"depths": [1, 2], "widths": [8, 16]},
    }
    file = tmp_path / "family.json"
    file.write_text(json.dumps(spec))
    assert run("jobs", "submit", str(file), "--dataset", "dst_12345678")[0] == 0
    assert finished.seen("POST /v1/jobs")[-1].json == spec | {"dataset": {"id": "dst_12345678"}}
    code, _, err = run("jobs", "submit", str(file), "--sparsity", "0.5", "--seed", "0")
    assert code == 2
    assert "--sparsity, --seed" in " ".join(err.split())
    file.write_text(json.dumps({"type": "family", "model": {}, "dataset": {}}))
    code, _, err = run("jobs", "submit", str(file))
    assert code == 2
    assert "lacks members" in " ".join(err.split())


def test_layers_are_chosen_by_flags(finished: Imitation, run: Run) -> None:
    chosen = ["--include", "layer?.*", "--include", "kind:Conv2d", "--exclude", "layer1.0.conv1"]
    assert run("jobs", "submit", *FLAGS, *chosen, "--override", "layer3.*=0.5")[0] == 0
    sent = finished.seen("POST /v1/jobs")[-1].json
    assert sent["include"] == ["layer?.*", {"kind": "Conv2d"}]
    assert sent["exclude"] == ["layer1.0.conv1"]
    assert sent["overrides"] == {"layer3.*": 0.5}
    for text in ("layer3", "=0.5", "layer3=half"):
        code, _, err = run("jobs", "submit", *FLAGS, "--override", text)
        assert code == 2
        assert "PATTERN=SPARSITY" in " ".join(err.split())
    twice = ("--override", "a=0.5", "--override", "a=0.6")
    assert run("jobs", "submit", *FLAGS, *twice)[0] == 2


@pytest.mark.parametrize("mode", get_args(Retrain.model_fields["mode"].annotation))
def test_every_way_to_retrain_is_a_flag(finished: Imitation, run: Run, mode: str) -> None:
    assert run("jobs", "submit", *FLAGS, "--retrain", mode)[0] == 0
    assert finished.seen("POST /v1/jobs")[-1].json["retrain"] == {"mode": mode}


def test_flags_override_the_file(
    finished: Imitation, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {
        "type": "prune",
        "model": {"id": "mdl_00000000"},
        "dataset": {"id": "dst_00000000", "limit": {"train": 9}},
        "targets": {"sparsity": [0.9]},
        "retrain": {"epochs": 3, "batch_size": 7},
        "labels": {"a": "b"},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    submitted = finished.seen("POST /v1/jobs")

    def sent(*flags: str) -> Any:
        assert run("jobs", "submit", *flags)[0] == 0
        return finished.seen("POST /v1/jobs")[-1].json

    assert submitted == []
    assert sent(str(tmp_path / "spec.json")) == spec
    preset = {"type": "prune", "preset": "resnet20", "dataset": {"builtin": "digits"}}
    (tmp_path / "preset.json").write_text(json.dumps(preset))
    assert sent(str(tmp_path / "preset.json")) == preset
    assert sent(
        str(tmp_path / "spec.json"),
        *FLAGS,
        "--sparsity",
        "0.8",
        "--criterion",
        "obd",
        "--epochs",
        "2",
        "--retrain",
        "lr_rewind",
        "--seed",
        "5",
        "--replicates",
        "3",
    ) == spec | {
        "model": {"id": "mdl_12345678"},
        "dataset": {"builtin": "digits", "limit": {"train": 9}},
        "targets": {"sparsity": [0.5, 0.8]},
        "criterion": {"name": "obd"},
        "seed": 5,
        "replicates": 3,
        "retrain": {"mode": "lr_rewind", "epochs": 2, "batch_size": 7},
    }
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(spec)))
    assert sent(
        "-",
        "--retrain",
        "none",
        "--criterion",
        "obd",
        "--criterion",
        "snip",
        "--idempotency-key",
        "k",
    ) == spec | {"retrain": {"mode": "none"}, "criterion": [{"name": "obd"}, {"name": "snip"}]}
    assert finished.calls[-1].headers["idempotency-key"] == "k"
