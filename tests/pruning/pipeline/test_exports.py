"""Files and latencies that a job is asked for beyond its packed checkpoints."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pruning.errors import CheckpointError, ParameterError
from pruning.measurement.latency import measure_latency
from pruning.measurement.measure import measure_network
from pruning.measurement.onnx_network import describe_disagreement
from pruning.pipeline import estimate_job, exports, latencies
from pruning.pipeline.results import Results
from pruning.schemas.job import JobSpec
from pruning.schemas.outputs import CompressedExport, LatencyRequest, OnnxCheck, Outputs
from pruning.schemas.report import Estimate, Report
from pruning.storage.checkpoints import read_sparse
from pruning.storage.compressed import read_compressed
from pruning.storage.onnx_files import explain_missing
from tests.support import cases
from tests.support.finished_jobs import finish_and_export
from tests.support.onnx_cases import read_initializers
from tests.support.pipelines import MODES

JOB: dict[str, Any] = {
    "type": "prune",
    "model": {"architecture": "mlp", "train": {"epochs": 1}},
    "dataset": {"builtin": "digits"},
    "targets": {"sparsity": [0.5]},
}


def finish(folder: Path, outputs: Outputs) -> tuple[Results, dict[tuple[str, str], Path]]:
    recipe = cases.recipe(0.5, **MODES["none"])
    results, files = finish_and_export(recipe, folder, outputs=outputs)
    return results, {(checkpoint, format): path for checkpoint, format, path in files}


def test_a_state_dict_for_torch_alone(tmp_path: Path) -> None:
    results, files = finish(tmp_path, Outputs(export=("pth",)))
    path = files["magnitude-0.5", "pth"]
    model = cases.mlp(seed=1)
    model.load_state_dict(torch.load(path, weights_only=True))
    (checkpoint,) = results.report().checkpoints
    assert path.name == "magnitude-0.5.pth"
    assert measure_network(model, cases.make_data()).document() == checkpoint.pruned
    assert checkpoint.size_bytes["pth"] == path.stat().st_size
    _, same = finish(tmp_path / "again", Outputs(export=("pth",)))
    assert same["magnitude-0.5", "pth"].read_bytes() == path.read_bytes()


def test_a_compressed_file_holds_the_network_of_the_report(tmp_path: Path) -> None:
    results, files = finish(tmp_path, Outputs(export=("compressed",)))
    path = files["magnitude-0.5", "compressed"]
    (checkpoint,) = results.report().checkpoints
    model = cases.mlp(seed=1)
    model.load_state_dict(read_compressed(path))
    assert path.name == "magnitude-0.5.compressed.xz"
    assert measure_network(model, cases.make_data()).document() == checkpoint.pruned
    assert checkpoint.size_bytes["compressed"] == path.stat().st_size
    assert checkpoint.rounded is None
    _, same = finish(tmp_path / "again", Outputs(export=("compressed",)))
    assert same["magnitude-0.5", "compressed"].read_bytes() == path.read_bytes()


@pytest.mark.parametrize("criterion", ["magnitude", "filter_norm"])
def test_rounded_values_are_measured_on_the_file(tmp_path: Path, criterion: str) -> None:
    """The error and the logits of the report are those of the weights in the file, also of a
    network that has lost channels.
    """
    recipe = cases.recipe(0.5, criterion={"name": criterion}, **MODES["none"])
    outputs = Outputs(export=(CompressedExport(format="compressed", values="bfloat16"),))
    results, files = finish_and_export(recipe, tmp_path, outputs=outputs)
    report = results.report()
    (checkpoint,) = report.checkpoints
    paths = {format: path for _, format, path in files}
    exact, rounded = read_sparse(paths["sparse"]), read_compressed(paths["compressed"])
    for name, tensor in exact.items():
        expected = tensor.bfloat16().float() if tensor.dim() > 1 else tensor
        assert torch.equal(rounded[name], expected)
    assert any(not torch.equal(rounded[name], tensor) for name, tensor in exact.items())
    model = copy.deepcopy(results.pipeline.done[-1].network())
    data = cases.make_data()
    with torch.no_grad():
        before = torch.cat([model(inputs) for inputs, _ in data.batches(data.test, 64)])
        model.load_state_dict(rounded)
        after = torch.cat([model(inputs) for inputs, _ in data.batches(data.test, 64)])
    check = checkpoint.rounded
    assert check is not None
    assert (check.format, check.values, check.images) == ("compressed", "bfloat16", len(before))
    assert check.error == measure_network(model, data).document().error
    assert check.differing_images == int((before.argmax(1) != after.argmax(1)).sum())
    assert check.largest_difference == pytest.approx(float((before - after).abs().max()), rel=1e-3)
    assert check.largest_difference > 0
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_weight_that_cannot_be_rounded_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise CheckpointError("w: a weight is beyond the largest bfloat16")

    monkeypatch.setattr(exports, "write_compressed", refuse)
    results, files = finish(tmp_path, Outputs(export=("compressed",)))
    (checkpoint,) = results.report().checkpoints
    message = "no compressed file: w: a weight is beyond the largest bfloat16"
    assert checkpoint.warnings == (message,)
    assert ("magnitude-0.5", "compressed") not in files


def test_a_job_without_onnx_warns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, model: nn.Module, shape: tuple[int, ...], **info: Any) -> None:
        raise CheckpointError(explain_missing(("onnx",)))

    monkeypatch.setattr(exports, "write_onnx", refuse)
    latency = LatencyRequest(runtimes=("torch", "onnxruntime"), batches=(1,))
    monkeypatch.setattr(latencies, "measure_torch_memory", lambda model, shape: 7)
    results, files = finish(tmp_path, Outputs(export=("onnx",), latency=latency))
    report = results.report()
    (checkpoint,) = report.checkpoints
    (warning,) = checkpoint.warnings
    assert "pip install 'secateur[onnx]'" in warning
    assert ("magnitude-0.5", "onnx") not in files
    assert checkpoint.onnx is None
    assert [row.runtime for row in checkpoint.latency_ms] == ["torch"]
    assert checkpoint.latency_ms[0].peak_memory_bytes == 7
    assert any("the dense network: no latency" in text for text in report.warnings)
    resumed = results.report()
    assert resumed.warnings == report.warnings


def test_a_job_that_cannot_be_served_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_job, "list_missing_packages", lambda: ("onnxruntime",))
    for fields, pointer in (
        ({"export": ["onnx"]}, "/export"),
        ({"latency": {"runtimes": ["onnxruntime"]}}, "/latency/runtimes"),
    ):
        with pytest.raises(ParameterError, match=r"secateur\[onnx\]") as caught:
            estimate_job.estimate_job(JOB | fields, None, None, ())
        assert caught.value.pointer == pointer
    with pytest.raises(ParameterError, match="uploaded as one") as caught:
        estimate_job.estimate_job(JOB | {"export": ["huggingface"]}, None, None, ())
    assert caught.value.pointer == "/export"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"export": ["pth", "pth"]}, "listed twice"),
        ({"export": ["compressed", {"format": "compressed"}]}, "listed twice"),
        ({"export": [{"format": "compressed", "values": "int8"}]}, "bfloat16"),
        ({"export": [{"format": "onnx"}]}, "compressed"),
        ({"export": ["semi_structured"]}, "needs the granularity n_m"),
        ({"latency": {"runtimes": []}}, "at least 1"),
        ({"latency": {"batches": [2, 2]}}, "listed twice"),
    ],
)
def test_outputs_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JobSpec.model_validate(JOB | fields)


def test_outputs_are_no_part_of_the_recipe() -> None:
    spec = JobSpec.model_validate(JOB)
    other = JobSpec.model_validate(JOB | {"export": ["pth"]})
    assert spec.recipe().digest() == other.recipe().digest()
    assert spec.outputs == Outputs()


def test_an_answer_that_disagrees_is_warned_of() -> None:
    check = OnnxCheck(
        opset=20,
        runtime="onnxruntime 1",
        images=100,
        error=Estimate(value=0.25),
        largest_difference=1e-6,
        largest_logit=8.0,
        differing_images=0,
    )
    assert describe_disagreement(check, 0.25) is None
    assert "test error in onnxruntime 1 is 25 %" in str(describe_disagreement(check, 0.26))
    far = check.model_copy(update={"largest_difference": 0.1})
    assert "logits by up to 0.1" in str(describe_disagreement(far, 0.25))


@pytest.mark.slow
def test_onnx_files_of_a_job(tmp_path: Path) -> None:
    """Zeros in the file, the error computed again from it, latencies beside the network as given,
    and the same bytes from a second run.
    """
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    latency = LatencyRequest(runtimes=("torch", "onnxruntime"), batches=(1, 3))
    outputs = Outputs(export=("onnx",), latency=latency)
    results, files = finish(tmp_path, outputs)
    report = results.report()
    (checkpoint,) = report.checkpoints
    path = files["magnitude-0.5", "onnx"]
    assert checkpoint.warnings == ()
    assert checkpoint.onnx is not None
    assert checkpoint.onnx.error == checkpoint.error
    assert checkpoint.onnx.images == report.data.test
    assert checkpoint.onnx.differing_images == 0
    assert checkpoint.onnx.largest_difference < 1e-5 * checkpoint.onnx.largest_logit
    assert checkpoint.size_bytes["onnx"] == path.stat().st_size
    stored = read_initializers(path)["1.weight"]
    assert int((stored == 0).sum()) == stored.numel() - checkpoint.layers[0].kept
    rows = [(row.runtime, row.threads, row.batch) for row in checkpoint.latency_ms]
    assert rows == [("torch", 1, 1), ("torch", 1, 3), ("onnxruntime", 1, 1), ("onnxruntime", 1, 3)]
    assert all(row.against_given_low is not None for row in checkpoint.latency_ms)
    assert all(row.peak_memory_bytes for row in checkpoint.latency_ms)
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert {"given", "magnitude-0.5"} == {id.stem for id in path.parent.glob("*.onnx")}
    _, again = finish(tmp_path / "again", Outputs(export=("onnx",)))
    assert again["magnitude-0.5", "onnx"].read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_onnx_files_of_networks_without_channels(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    recipe = cases.recipe(0.5, criterion={"name": "filter_norm"}, **MODES["none"])
    results, files = finish_and_export(recipe, tmp_path, outputs=Outputs(export=("onnx",)))
    (checkpoint,) = results.report().checkpoints
    (path,) = [path for _, format, path in files if format == "onnx"]
    assert any(format == "arch" for _, format, _ in files)
    assert checkpoint.onnx is not None
    assert checkpoint.onnx.error == checkpoint.error
    assert len(read_initializers(path)["1.weight"]) < 6


def test_networks_of_equal_shapes_are_timed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[nn.Module] = []

    def record(model: nn.Module, *arguments: Any, **named: Any) -> Any:
        timed.append(model)
        return measure_latency(model, *arguments, **named)

    monkeypatch.setattr(latencies, "measure_latency", record)
    criteria = ({"name": "magnitude"}, {"name": "random"})
    recipe = cases.recipe(0.3, 0.5, criterion=criteria, **MODES["fine_tune"])
    latency = LatencyRequest(batches=(1,))
    results, _ = finish_and_export(recipe, tmp_path, outputs=Outputs(latency=latency))
    report = results.report()
    assert len(timed) == 1, "the network as given alone"
    for network in (*report.checkpoints, report.control):
        (row,) = network.latency_ms
        assert row.measured_of == "given"
        assert (row.against_given, row.against_given_low, row.against_given_high) == (1, 1, 1)
        assert row.p50 == report.baseline.latency_ms[0].p50
    assert report.baseline.latency_ms[0].measured_of is None


def test_smaller_networks_are_timed_themselves(tmp_path: Path) -> None:
    criteria = ({"name": "magnitude"}, {"name": "random"})
    recipe = cases.recipe(0.5, criterion=criteria, granularity={"name": "channel"}, **MODES["none"])
    latency = LatencyRequest(batches=(1,))
    results, _ = finish_and_export(recipe, tmp_path, outputs=Outputs(latency=latency))
    rows = [checkpoint.latency_ms[0] for checkpoint in results.report().checkpoints]
    assert rows[0].measured_of is None
    assert rows[0].against_given_low is not None
    assert rows[1].measured_of in (None, "magnitude-0.5")
