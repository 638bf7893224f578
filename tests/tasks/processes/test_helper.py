"""The helper process: refusals, crashes, limits, environment, imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pruning.registry import Registry
from tasks.helper import PASSED_ON, SPIN, HelperError, clean_environment, run_helper
from tasks.processes.helper import check_dataset
from tests.support.uploaded_files import arrays, npz

MLP: dict[str, Any] = {"hidden": [4], "channels": 1, "height": 2, "width": 2, "classes": 2}


def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir(exist_ok=True)
    (folder / "one.py").write_text(source)
    monkeypatch.setenv("SECATEUR_PLUGIN_PATH", str(folder))


def refused(verb: str, payload: dict[str, Any], **options: Any) -> HelperError:
    with pytest.raises(HelperError) as caught:
        run_helper(verb, payload, **options)
    assert caught.value.message
    assert "Traceback" not in caught.value.message
    return caught.value


def test_a_model_that_fits_is_counted(tmp_path: Path) -> None:
    from pruning.library import load_model

    save_file(
        {name: value.numpy() for name, value in load_model("mlp", **MLP).state_dict().items()},
        tmp_path / "m",
    )
    answer = run_helper(
        "model", {"path": str(tmp_path / "m"), "architecture": "mlp", "kwargs": MLP}
    )
    assert (answer["parameters"], answer["prunable"], answer["outputs"], answer["channels"]) == (
        30,
        24,
        2,
        1,
    )
    assert answer["kwargs"] == {**MLP, "activation": "relu", "initialisation": "pytorch"}


@pytest.mark.parametrize(
    ("content", "architecture", "kwargs", "code"),
    [
        (b"\x80\x04\x95 a pickle", "mlp", MLP, "unsafe_format"),
        (b"PK\x03\x04 a zip", "mlp", MLP, "unsafe_format"),
        (b"garbage!" * 9, "mlp", MLP, "invalid_model"),
        (b"", "mlp", MLP, "invalid_model"),
        (None, "mlpp", {}, "unknown_name"),
        (None, "mlp", {"hidden": "x"}, "invalid_parameter"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_its_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    architecture: str,
    kwargs: dict[str, Any],
    code: str,
) -> None:
    if content is None:
        save_file({"x": np.zeros(1, np.float32)}, tmp_path / "m")
    else:
        (tmp_path / "m").write_bytes(content)
    payload = {"path": str(tmp_path / "m"), "architecture": architecture, "kwargs": kwargs}
    answer = in_process(
        "model", payload, monkeypatch
    )  # one process for all would be as slow as the suite
    assert answer["error"]["code"] == code
    assert set(answer["error"]) == {"code", "message", "pointer"}


def in_process(
    verb: str, payload: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Run the helper's own `main` in this process."""
    import io

    from tasks.processes import helper

    out = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["helper", verb])
    monkeypatch.setattr(
        sys, "stdin", io.StringIO(json.dumps({"payload": payload, "memory_limit_bytes": None}))
    )
    monkeypatch.setattr(sys, "stdout", out)
    helper.main()
    return dict(json.loads(out.getvalue()))


def test_a_refusal_crosses_the_process_boundary(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b"\x80\x04\x95 a pickle")
    error = refused(
        "dataset",
        {
            "path": str(tmp_path / "d"),
            "filename": "d",
            "max_values": 10,
            "output": str(tmp_path / "o"),
        },
    )
    assert error.code == "unsafe_format"
    assert "pickle" in error.message
    assert not (tmp_path / "o").exists()


def test_a_dataset_larger_than_the_memory_allowed_is_refused(tmp_path: Path) -> None:
    images = np.zeros((220, 1, 1024, 1024), np.uint8)
    labels = np.arange(220) % 2
    np.savez_compressed(
        tmp_path / "d.npz", train_x=images, train_y=labels, test_x=images[:4], test_y=labels[:4]
    )
    payload = {
        "path": str(tmp_path / "d.npz"),
        "filename": "d.npz",
        "max_values": 2**40,
        "output": str(tmp_path / "o"),
    }
    error = refused("dataset", payload, memory_limit_bytes=250 * 2**20, timeout_s=60.0)
    assert error.code in ("too_large", "helper_crashed", "invalid_dataset")
    assert not (tmp_path / "o").exists()


def test_more_memory_than_the_limit_ends_in_an_error_and_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(tmp_path, monkeypatch, "bytearray(2**30)")
    error = refused("catalogue", {}, memory_limit_bytes=2**30, timeout_s=60.0)
    assert error.code in ("too_large", "helper_crashed")
    plugin(tmp_path, monkeypatch, "bytearray(2**20)")
    assert run_helper("catalogue", {}, memory_limit_bytes=8 * 2**30)["criteria"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import os; os.write(2, b'\\xff\\xfe\\n'); os._exit(3)", "exit status 3"),
        ("print('noise'); raise RuntimeError('broken plugin')", "exit status 1"),
    ],
)
def test_a_crash_is_an_error_and_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    plugin(tmp_path, monkeypatch, source)
    error = refused("catalogue", {}, timeout_s=120.0)
    assert error.code == "helper_crashed"
    assert reason in error.message


def test_a_helper_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(tmp_path, monkeypatch, "import time; time.sleep(1000)")
    assert refused("catalogue", {}, timeout_s=0.5).code == "helper_timeout"


def test_the_catalogue_is_that_of_the_registries_and_the_environment_holds_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pruning.allocations import allocations
    from pruning.architectures import architectures
    from pruning.criteria import criteria
    from pruning.data.builtin import datasets
    from pruning.data.corruptions import corruptions
    from pruning.evaluations import evaluations
    from pruning.pipeline.evaluation_traits import list_pixel_evaluations
    from pruning.schedules import schedules
    from pruning.sparsifiers import sparsifiers

    known: dict[str, Registry[Any]] = {
        "criteria": criteria,
        "allocations": allocations,
        "sparsifiers": sparsifiers,
        "schedules": schedules,
        "evaluations": evaluations,
        "architectures": architectures,
        "datasets": datasets,
        "corruptions": corruptions,
    }
    expected = {kind: registry.catalogue() for kind, registry in known.items()}
    for entry in expected["criteria"]:
        entry["segmentation"] = entry["name"] not in {"obd", "obs", "qm"}
    for entry in expected["evaluations"]:
        entry["segmentation"] = entry["name"] in list_pixel_evaluations()
    secrets = {
        "SECATEUR_API_KEY": "s",
        "SECATEUR_DATABASE_URL": "s",
        "SECATEUR_ARTIFACT_URL": "s",
        "SECATEUR_BROKER_URL": "s",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_ACCESS_KEY_ID": "s",
        "PGPASSWORD": "s",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    plugin(
        tmp_path,
        monkeypatch,
        f"""
import json, os
from dataclasses import dataclass
from pruning.criteria import criteria
print("a plugin that talks")
open({str(tmp_path / "seen")!r}, "w").write(json.dumps(dict(os.environ)))
@criteria.register("from_a_plugin")
@dataclass(frozen=True)
class Plugin:
    "One file."
    def score(self, evidence):
        return {{}}
""",
    )
    answer = run_helper("catalogue", {})
    added = [entry for entry in answer["criteria"] if entry["name"] == "from_a_plugin"]
    assert [entry["summary"] for entry in added] == ["One file."]
    answer["criteria"].remove(added[0])
    for entry in answer["architectures"]:
        entry.pop("family", None)
    assert {kind: answer[kind] for kind in expected} == json.loads(json.dumps(expected))
    environment = json.loads((tmp_path / "seen").read_text())
    assert not set(secrets) & set(environment)
    assert [name for name in environment if name.startswith("SECATEUR_")] == [
        "SECATEUR_PLUGIN_PATH"
    ]


def test_the_environment_of_jobs_is_a_short_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_API_KEY", "s")
    monkeypatch.setenv("ANYTHING_ELSE", "s")
    assert set(clean_environment()) <= {*PASSED_ON, *SPIN}
    assert not [
        name
        for name in PASSED_ON
        if name.startswith("SECATEUR_") and name != "SECATEUR_PLUGIN_PATH"
    ]


@pytest.mark.slow
def test_the_long_lived_processes_import_no_torch() -> None:
    modules = (
        "tasks.queue, tasks.run_job, tasks.supervise, tasks.worker, tasks.helper, "
        "tasks.embedded, tasks.artifacts"
    )
    heavy = "{'torch', 'sklearn', 'matplotlib', 'scipy'}"
    script = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_huge_network_is_estimated_without_being_built() -> None:
    """The network has 160 GB of weights, which exist as shapes only."""
    spec = {
        "type": "prune",
        "model": {"architecture": "mlp", "kwargs": {"hidden": [200_000, 200_000]}, "train": {}},
        "dataset": {"builtin": "digits"},
        "targets": {"sparsity": [0.5]},
    }
    answer = run_helper(
        "estimate",
        {"spec": spec, "model": None, "dataset": None, "shifted": []},
        memory_limit_bytes=8 * 2**30,
    )
    assert answer["memory_bytes"] > 16 * 200_000**2


def test_an_architecture_may_have_lists_among_its_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(
        tmp_path,
        monkeypatch,
        '''
from dataclasses import dataclass, field
from torch import nn
from pruning.architectures import architectures

@architectures.register("listed")
@dataclass(frozen=True)
class Listed:
    """A network whose sizes are a list."""
    sizes: list[int] = field(default_factory=lambda: [8])
    classes: int = 10
    input_shape = (1, 8, 8)

    @property
    def outputs(self):
        return self.classes

    def build(self):
        size = self.sizes[0]
        return nn.Sequential(nn.Flatten(), nn.Linear(64, size), nn.Linear(size, self.classes))
''',
    )
    spec = {
        "type": "prune",
        "model": {"architecture": "listed", "train": {"epochs": 1}},
        "dataset": {"builtin": "digits"},
        "targets": {"sparsity": [0.5]},
        "evaluations": [{"name": "accuracy"}],
    }
    answer = run_helper("estimate", {"spec": spec, "model": None, "dataset": None, "shifted": []})
    assert answer["flops"] == answer["units"] * 2 * (64 * 8 + 8 * 10)


def test_the_catalogue_says_which_architectures_have_families() -> None:
    entries = {entry["name"]: entry for entry in run_helper("catalogue", {})["architectures"]}
    assert {name for name, entry in entries.items() if "family" in entry} == {
        "cifar_resnet",
        "densenet",
        "imagenet_resnet",
        "mlp",
        "preact_resnet",
        "vgg",
        "wide_resnet",
    }
    assert "family: `depth` hidden layers of `width` units" in entries["mlp"]["family"]


def test_the_document_of_a_dataset_counts_the_images_of_each_group(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(npz(arrays(test_group_sex=np.array(["f", ""]))))
    answer = check_dataset(
        {
            "path": str(path),
            "filename": "data.npz",
            "max_values": 1000,
            "output": str(tmp_path / "data"),
        }
    )
    assert answer["groups"] == {"sex": {"f": 1}}
    assert answer["guessing_error"] == 0.5
