"""Checkpoint files, evaluations, report, recommendation, gates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pruning.errors import EvidenceError
from pruning.evaluations.accuracy import Accuracy
from pruning.masks import count_kept
from pruning.measurement.measure import estimate_increase, measure_network
from pruning.pipeline.descriptions import describe_layers
from pruning.schemas.recipe import Gates
from pruning.schemas.report import Checkpoint, Estimate, Increase, Network, Report, Section
from pruning.storage.checkpoints import WRITERS, read_masks, read_sparse
from pruning.verdict.gates import check_gates
from pruning.verdict.recommendation import DEFAULT_MARGIN, References, is_proven_beyond, recommend
from tests.support import cases
from tests.support.finished_jobs import finish_and_export as finished
from tests.support.pipelines import MODES


@pytest.mark.parametrize("mode", ["none", "fine_tune", "before_training"])
def test_files_hold_the_very_weights_that_were_evaluated(tmp_path: Path, mode: str) -> None:
    recipe = cases.recipe(0.5, 0.8, exclude=("3.weight",), **MODES[mode])
    results, files = finished(recipe, tmp_path)
    sections, failures = results.evaluate()
    report = results.report(sections, failures)
    assert failures == []
    assert [(cid, format) for cid, format, _ in files] == [
        (cid, format) for cid in ("magnitude-0.5", "magnitude-0.8") for format in WRITERS
    ]
    assert Report.model_validate_json(report.model_dump_json()) == report
    data = cases.make_data()
    for checkpoint in report.checkpoints:
        paths = {format: path for cid, format, path in files if cid == checkpoint.id}
        sparse, masks = read_sparse(paths["sparse"]), read_masks(paths["masks"])
        dense = load_file(paths["dense"])
        assert all(torch.equal(value, dense[name]) for name, value in sparse.items())
        model = cases.mlp()
        model.load_state_dict(sparse)
        assert measure_network(model, data).document() == (
            checkpoint.retrained or checkpoint.pruned
        )
        assert checkpoint.error == (checkpoint.retrained or checkpoint.pruned).error
        assert count_kept(masks) == {"1.weight": checkpoint.layers[0].kept}
        assert list(masks) == ["1.weight"]
        assert checkpoint.parameters == 123 - 96 + checkpoint.layers[0].kept
        assert checkpoint.prune_ratio == (96 - checkpoint.layers[0].kept) / 123
        assert checkpoint.sparsity == 1 - checkpoint.layers[0].kept / 96
        assert checkpoint.flops == 2 * (checkpoint.layers[0].kept + 18)
        assert {format: path.stat().st_size for format, path in paths.items()} == {
            format: size
            for format, size in checkpoint.size_bytes.items()
            if not format.endswith("_gzip")
        }
        assert [layer.reason for layer in checkpoint.layers] == [
            None,
            "bias",
            "excluded by the recipe",
            "bias",
        ]
    assert report.baseline.parameters == 123
    assert report.baseline.sparsity == 0
    assert (report.control.error == report.baseline.error) or mode == "fine_tune"
    assert report.recipe_digest == recipe.digest()
    assert set(report.usage) >= {"dense", "control"}


@pytest.mark.parametrize("mode", ["fine_tune", "lr_rewind"])
def test_a_network_trained_with_l1_says_how_sparse_it_is(tmp_path: Path, mode: str) -> None:
    """Fine-tuning has no penalty, rewinding replays it; excluded weights are neither penalised nor
    counted.
    """
    train = {"epochs": 4, "batch_size": 8, "optimizer": {"lr": 0.05}, "penalty": {"l1": 0.03}}
    retrain = {"mode": mode} | (
        {"epochs": 4, "optimizer": {"lr": 0.05}} if mode == "fine_tune" else {}
    )
    results, _ = finished(
        cases.recipe(0.9, train=train, retrain=retrain, exclude=("3.weight",)), tmp_path
    )
    report, dense = results.report(), results.pipeline.dense()
    weight = dense.get_parameter("1.weight")
    assert report.baseline.sparsity == int((weight == 0).sum()) / 96 > 0.1
    assert report.baseline.density == 1 - report.baseline.sparsity
    assert report.baseline.parameters == 123
    assert dense.get_parameter("3.weight").all()
    assert (report.control.sparsity > 0.1) == (mode == "lr_rewind")


def test_increases_are_paired_with_given_and_control(tmp_path: Path) -> None:
    results, _ = finished(cases.recipe(0.8, **MODES["fine_tune"]), tmp_path)
    pipeline = results.pipeline
    (checkpoint,) = results.report().checkpoints
    (done,) = pipeline.done
    assert done.retrained is not None
    assert checkpoint.error_increase.given == estimate_increase(
        done.retrained.wrong, pipeline.given_measured.wrong
    )
    assert checkpoint.error_increase.control == estimate_increase(
        done.retrained.wrong, pipeline.control_measured.wrong
    )
    assert checkpoint.val_error_increase == estimate_increase(
        done.retrained.val_wrong, pipeline.control_measured.val_wrong
    )


def test_a_rerun_gives_the_same_report_without_work(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, **MODES["fine_tune"])
    results, files = finished(recipe, tmp_path)
    before = {path: path.read_bytes() for *_, path in files}
    first = results.report(*results.evaluate())
    again, later = finished(recipe, tmp_path)
    second = again.report(*again.evaluate())
    assert later == []
    assert {path: path.read_bytes() for path in before} == before
    same = {"usage", "warnings"}  # usage also times the evaluation where it was made
    assert first.model_dump(exclude=same) == second.model_dump(exclude=same)


def test_two_runs_give_the_same_files(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, 0.8, **MODES["trained weight_rewind"])
    files, other = (finished(recipe, tmp_path / name)[1] for name in "ab")
    assert [path.read_bytes() for *_, path in files] == [path.read_bytes() for *_, path in other]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EvidenceError("no corruptions"), "missing_evidence"),
        (ZeroDivisionError("oops"), "evaluation_failed"),
    ],
)
def test_an_evaluation_that_fails_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    def fail(self: Accuracy, record: Any) -> None:
        raise error

    recipe = cases.recipe(0.5, retrain={"mode": "none"}, evaluations=({"name": "accuracy"},))
    results, files = finished(recipe, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Accuracy, "evaluate", fail)
        sections, failures = results.evaluate()
    assert sections == {}
    (failure,) = failures
    assert (failure.name, failure.code) == ("accuracy", code)
    assert str(error) in failure.message
    report = results.report(sections, failures, partial=True)
    assert len(report.checkpoints) == 1
    assert report.partial
    assert report.checkpoints[0].partial
    assert all(path.exists() for *_, path in files)
    assert list(results.evaluate()[0]) == ["accuracy"], (
        "a failure is not kept as if it were an answer"
    )


def test_an_unknown_evaluation_is_a_failure_too(tmp_path: Path) -> None:
    results, _ = finished(
        cases.recipe(0.5, retrain={"mode": "none"}, evaluations=({"name": "acuracy"},)), tmp_path
    )
    _, (failure,) = results.evaluate()
    assert failure.code == "unknown_name"
    assert "did you mean 'accuracy'" in failure.message


def test_a_report_before_any_target_is_whole(tmp_path: Path) -> None:
    results, _ = finished(cases.recipe(0.5, retrain={"mode": "none"}), tmp_path)
    results.pipeline.done.clear()
    report = results.report(partial=True)
    assert report.checkpoints == ()
    assert report.rounds == ()
    assert report.recommendation.checkpoint is None
    assert "No checkpoint was finished" in report.recommendation.reason


def test_accuracy_by_hand(tmp_path: Path) -> None:
    recipe = cases.recipe(
        0.5, 0.8, schedule={"name": "linear", "params": {"rounds": 2}}, **MODES["before_training"]
    )
    results, _ = finished(recipe, tmp_path)
    section = results.evaluate()[0]["accuracy"]
    done = results.pipeline.done
    targets = [record for record in done if record.target is not None]
    assert section.curves["error/magnitude"].x == tuple(record.sparsity for record in targets)
    assert section.curves["error_before_retraining/magnitude"].x == tuple(
        record.sparsity for record in done
    )
    for curve, record in zip(section.curves["error/magnitude"].y, targets, strict=True):
        assert curve == record.measured.document().error
    labels = cases.make_data().test.labels
    for record in targets:
        row = section.details["error_by_class"][f"magnitude-{record.target:g}"]
        for index, name in enumerate("abc"):
            wrong = [
                bool(w)
                for w, label in zip(record.measured.wrong, labels, strict=True)
                if label == index
            ]
            assert row[name]["value"] == sum(wrong) / len(wrong)
    json.dumps(section.details)


def test_layers_of_awkward_networks_are_all_listed() -> None:
    for name in cases.AWKWARD:
        model, _ = cases.awkward(name)
        layers = describe_layers(model, cases.half_masks(model), ())
        assert [layer.name for layer in layers] == [key for key, _ in model.named_parameters()]
        assert all(
            (layer.reason is None) == (layer.name in cases.half_masks(model)) for layer in layers
        )
        assert sum(layer.total for layer in layers) == sum(p.numel() for p in model.parameters())


# recommendation and gates


def checkpoint(
    sparsity: float, val: float, test: float = 0.0, cid: str | None = None
) -> Checkpoint:
    def around(value: float) -> Estimate:
        return Estimate(value=value, low=value - 0.01, high=value + 0.01, n=100)

    fields: dict[str, Any] = {
        "id": cid or f"magnitude-{sparsity}",
        "sparsity": sparsity,
        "error": around(0.1 + test),
        "val_error": around(0.1 + val),
        "val_error_increase": around(val),
        "error_increase": Increase(given=around(0), control=around(test)),
    }
    return Checkpoint.model_construct(**fields)


def references(control_over_given: float = 0.0, classes: int = 10) -> References:
    fields: dict[str, Any] = {"error": Estimate(value=0.1, low=0.08, high=0.12, n=100)}
    network = Network.model_construct(**fields)
    gap = Estimate(
        value=control_over_given,
        low=control_over_given - 0.01,
        high=control_over_given + 0.01,
        n=100,
    )
    return References(network, network, gap, 1 - 1 / classes)


@pytest.mark.parametrize(
    ("checkpoints", "gate", "chosen"),
    [
        ([], None, None),
        ([(0.5, 0.0), (0.9, DEFAULT_MARGIN)], None, 0.9),
        ([(0.5, 0.0), (0.9, DEFAULT_MARGIN + 1e-6)], None, 0.5),
        ([(0.5, 0.02), (0.9, -0.02)], None, 0.9),  # a sparser one may be better again
        ([(0.5, 0.01), (0.9, 0.02)], None, None),
        ([(0.5, 0.01), (0.9, 0.02)], 0.01, 0.5),
        ([(0.5, 0.01), (0.9, 0.02)], 0.5, 0.9),
        ([(0.5, 0.0), (0.9, 0.001)], 0.0, 0.5),
        ([(0.5, -0.001)], 0.0, 0.5),
    ],
)
def test_the_sparsest_within_the_margin_is_recommended(
    checkpoints: list[tuple[float, float]], gate: float | None, chosen: float | None
) -> None:
    candidates = [checkpoint(sparsity, val, test=0.3) for sparsity, val in checkpoints]
    recommendation = recommend(candidates, Gates(max_error_increase=gate), references())
    assert recommendation.sparsity == chosen
    assert recommendation.checkpoint == (f"magnitude-{chosen}" if chosen else None)
    assert recommendation.margin == (DEFAULT_MARGIN if gate is None else gate)
    assert recommendation.reason


def test_a_network_that_guesses_is_not_recommended() -> None:
    """Where retraining destroys the control too, being as bad as the control is no reason to
    ship.
    """
    candidates = [checkpoint(0.5, 0.75)]
    assert (
        recommend(candidates, Gates(max_error_increase=1.0), references(classes=10)).checkpoint
        == "magnitude-0.5"
    )
    assert (
        recommend(candidates, Gates(max_error_increase=1.0), references(classes=7)).checkpoint
        is None
    )


def test_retraining_that_harms_the_dense_network_is_said() -> None:
    candidates = [checkpoint(0.5, 0.0)]
    assert "Beware" in recommend(candidates, Gates(), references(control_over_given=0.02)).reason
    assert (
        "Beware" not in recommend(candidates, Gates(), references(control_over_given=0.005)).reason
    )


def test_a_loss_proven_on_the_test_images_is_no_plain_ship() -> None:
    """The choice stays that of the validation images; the reason says what the test images say."""
    proven, open_ = (
        recommend([checkpoint(0.5, 0.001, test)], Gates(), references()) for test in (0.043, 0.0149)
    )
    assert proven.checkpoint == open_.checkpoint == "magnitude-0.5"
    assert not proven.reason.startswith("Ship")
    assert (
        "Beware: on the test images its error is 14.30 %, 4.30 pp above that of the control "
        "[+3.30, +5.30], beyond the "
        "margin"
    ) in proven.reason
    assert open_.reason.startswith(
        "Ship magnitude-0.5: 50.0 % of the prunable weights are pruned, and on 100 validation "
        "images its error is 0.10 pp above that of the dense control [−0.90, +1.10], within "
        "the margin of 0.50 pp."
    )
    assert "Beware" not in open_.reason
    assert is_proven_beyond(checkpoint(0.5, 0, 0.043), DEFAULT_MARGIN)
    assert not is_proven_beyond(checkpoint(0.5, 0, 0.0149), DEFAULT_MARGIN)


@pytest.mark.parametrize(
    ("val", "half", "n", "margin", "warned"),
    [
        (0.0, 0.01, 10_000, 0.005, True),
        (0.0, 0.004, 10_000, 0.005, False),
        (0.0, 0.001, 100, 0.005, True),  # one image is more than the margin
        (0.0, 0.01, 100, 0.0, False),  # no number of images tells a difference of nothing
        (0.2, 0.01, 100, 0.005, True),  # nothing is recommended
    ],
)
def test_too_few_validation_images_for_the_margin_are_said(
    val: float, half: float, n: int, margin: float, warned: bool
) -> None:
    gap = Estimate(value=val, low=val - half, high=val + half, n=n)
    candidate = checkpoint(0.5, val).model_copy(update={"val_error_increase": gap})
    reason = recommend([candidate], Gates(max_error_increase=margin), references()).reason
    assert (
        f"{n:,} validation images cannot tell a difference of {100 * margin:.2f} pp." in reason
    ) is warned


def test_of_equally_sparse_ones_the_better_on_val_is_recommended() -> None:
    candidates = [checkpoint(0.5, 0.004, cid="a"), checkpoint(0.5, 0.001, test=0.9, cid="b")]
    assert recommend(candidates, Gates(), references()).checkpoint == "b"


@pytest.mark.parametrize(
    ("test", "gate", "passed"),
    [(0.0, 0.0, True), (0.01, 0.01, True), (0.011, 0.01, False), (-0.1, 0.0, True)],
)
def test_gates_read_the_test_split(test: float, gate: float, passed: bool) -> None:
    gates = Gates(max_error_increase=gate)
    checkpoints = [checkpoint(0.5, 0.0, test=test)]
    (result,) = check_gates(checkpoints, recommend(checkpoints, gates, references()), gates)
    assert (result.passed, result.limit, result.checkpoint) == (passed, gate, "magnitude-0.5")
    assert result.measured == checkpoints[0].error_increase.control
    assert result.message.startswith("magnitude-0.5: test error ")
    assert result.message.endswith(f"] against the dense control, limit {100 * gate:.2f} pp")


def test_a_gate_without_a_recommendation_fails_and_none_is_held_unasked() -> None:
    gates = Gates(max_error_increase=0.01)
    checkpoints = [checkpoint(0.5, 0.5)]
    (result,) = check_gates(checkpoints, recommend(checkpoints, gates, references()), gates)
    assert (result.passed, result.checkpoint, result.measured) == (False, None, None)
    assert check_gates(checkpoints, recommend(checkpoints, Gates(), references()), Gates()) == ()


@pytest.mark.parametrize(
    ("delta", "gate", "passed"), [(0.02, 0.02, True), (0.021, 0.02, False), (-0.1, 0.0, True)]
)
def test_a_gate_on_delta_excess_error_reads_the_robustness_section(
    delta: float, gate: float, passed: bool
) -> None:
    measured = Estimate(value=delta, low=delta - 0.01, high=delta + 0.01, n=100)
    rows = [
        {"checkpoint": name, "delta_excess_error": value.model_dump()}
        for name, value in (("magnitude-0.4", Estimate(value=0.9)), ("magnitude-0.5", measured))
    ]
    section = Section(title="Error under shift", version=1, details={"excess_error": rows})
    checkpoints, gates = (
        [checkpoint(0.4, 0.0), checkpoint(0.5, 0.0)],
        Gates(max_error_increase=0.01, max_delta_excess_error=gate),
    )
    recommendation = recommend(checkpoints, gates, references())
    nominal, shifted = check_gates(checkpoints, recommendation, gates, section)
    assert nominal.passed
    assert (shifted.name, shifted.passed, shifted.measured) == (
        "max_delta_excess_error",
        passed,
        measured,
    )
    assert shifted.message.startswith("magnitude-0.5: excess error under shift ")
    _, missing = check_gates(checkpoints, recommendation, gates)
    assert (missing.passed, missing.message) == (
        False,
        "magnitude-0.5: excess error under shift was not measured",
    )


def test_a_job_is_held_against_its_delta_excess_error(tmp_path: Path) -> None:
    recipe = cases.recipe(
        0.3,
        evaluations=({"name": "robustness", "params": {"corruptions": ["fog"]}},),
        gates=Gates(max_error_increase=1.0, max_delta_excess_error=1.0),
    )
    results, _ = finished(recipe, tmp_path)
    report = results.report(*results.evaluate())
    (row,) = report.sections["robustness"].details["excess_error"]
    assert report.recommendation.checkpoint is None or report.gates[
        1
    ].measured == Estimate.model_validate(row["delta_excess_error"])
    assert [gate.name for gate in report.gates] == ["max_error_increase", "max_delta_excess_error"]


def test_a_partial_report_holds_no_gate_that_waits_for_an_evaluation(tmp_path: Path) -> None:
    gates = Gates(max_error_increase=1.0, max_delta_excess_error=1.0)
    results, _ = finished(
        cases.recipe(0.3, gates=gates, evaluations=({"name": "robustness"},)), tmp_path
    )
    assert [gate.name for gate in results.report(partial=True).gates] == ["max_error_increase"]


def test_ids_are_unique_and_fit_in_a_url(tmp_path: Path) -> None:
    recipe = cases.recipe(
        0.5,
        0.5000001,
        retrain={"mode": "none"},
        criterion=({"name": "magnitude"}, {"name": "random"}),
    )
    results, _ = finished(recipe, tmp_path)
    ids = [record.id for record in results.pipeline.done]
    assert ids == ["magnitude-0.5", "magnitude-0.5000001", "random-0.5", "random-0.5000001"]
