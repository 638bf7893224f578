"""The evaluation `sensitivity` against jobs that prune one layer, or one channel group, alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pruning.evaluations.sensitivity
from pruning.data.tensors import Data
from pruning.evaluations.sensitivity import Sensitivity
from pruning.evidence.evidence import Evidence
from pruning.evidence.local_models import CurvedLocality
from pruning.measurement.measure import EVAL_BATCH, estimate_increase
from pruning.measurement.objective import compute_losses
from pruning.measurement.paired import count_paired_errors, mcnemar_p_value
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.results import Results
from pruning.schemas.report import Picture, Section
from pruning.storage.stages import Stages
from tests.support import cases
from tests.support.finished_jobs import ORIGIN
from tests.support.finished_records import evaluate_job, make_record
from tests.support.pipelines import CPU, Listener

NONE: dict[str, Any] = {"retrain": {"mode": "none"}, "batchnorm": "keep"}
LEVELS = (0.5, 0.75)


@pytest.fixture(autouse=True)
def _draw_nothing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        blank = Picture(caption="", png="")
        monkeypatch.setattr(pruning.evaluations.sensitivity, "draw_heatmap", lambda *args: blank)


class Residual(nn.Module):
    """A stem, a block whose ReLUs and sum work in place, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.first = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits."""
        stem = self.relu(self.stem(inputs))
        inner = self.second(self.relu(self.norm(self.first(stem))))
        inner += self.shortcut(stem)
        return self.head(self.relu(inner).mean((2, 3)))


class Untraceable(Residual):
    """The same, with a course that depends on its inputs."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits."""
        return super().forward(inputs if float(inputs.sum()) < 1e9 else -inputs)


def build() -> Residual:
    """The network, trained a little."""
    net = Residual()
    net.load_state_dict(train_state())
    return net.eval()


@cache
def train_state() -> dict[str, Tensor]:
    """The weights after some steps on the images to train on."""
    with cases.seeded(3):
        net = Residual()
    data = make_data()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(40):
        for inputs, labels in data.batches(data.fit, 60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net.train()(inputs), labels).backward()
            optimizer.step()
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def make_data() -> Data:
    """Images with more of them for validation than a batch."""
    return cases.make_data(fit=60, val=150, test=30)


def run(folder: Path, *sparsity: float, kind: type[Residual] = Residual, **fields: Any) -> Results:
    """A job that retrains nothing."""
    recipe = cases.recipe(*(sparsity or (0.5,)), **NONE, **fields)
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(kind, train_state()),
        data=make_data(),
        stages=Stages(folder / "stages", recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    pipeline.run()
    return Results(pipeline, ORIGIN, folder / "files")


def evaluate(results: Results, **fields: Any) -> Section:
    """The section on all validation images."""
    evaluation = Sensitivity(**({"levels": LEVELS} | fields))
    return evaluation.evaluate(make_record(results))


def measure_validation(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Errors and losses of the validation images, by hand."""
    data = make_data()
    wrong, losses = [], []
    with torch.no_grad():
        for inputs, labels in data.batches(data.val, EVAL_BATCH):
            logits = model.eval()(inputs)
            wrong.append(logits.argmax(1) != labels)
            losses.append(compute_losses(logits, labels))
    return torch.cat(wrong), torch.cat(losses)


def find_row(section: Section, unit: str, level: float | None) -> dict[str, Any]:
    (row,) = [
        row
        for row in section.details["sensitivity"]
        if (row["unit"], row["level"]) == (unit, level)
    ]
    return row


CRITERIA: list[dict[str, Any]] = [
    {"name": "magnitude"},
    {"name": "snip"},
    {"name": "lm", "params": {"pi": 1}},
    {"name": "exact_obs"},
]


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: criterion["name"])
def test_a_layer_has_the_figures_of_a_job_that_prunes_it_alone(
    criterion: dict[str, Any], tmp_path: Path
) -> None:
    section = evaluate(run(tmp_path / "all", criterion=criterion))
    dense_wrong, dense_losses = measure_validation(build())
    for layer in ("stem", "first", "shortcut", "head"):
        for level in LEVELS:
            alone = run(tmp_path / layer / str(level), level, criterion=criterion, include=[layer])
            (record,) = alone.pipeline.done
            wrong, losses = measure_validation(record.network())
            row = find_row(section, layer, level)
            assert row["error"]["value"] == float(wrong.double().mean())
            assert row["error"]["value"] == float(record.measured.val_wrong.double().mean())
            assert row["error_increase"] == estimate_increase(wrong, dense_wrong).model_dump()
            change = float((losses - dense_losses).double().mean())
            assert row["loss_change"]["value"] == pytest.approx(change, abs=1e-6)
            assert row["kept"] == int(record.masks()[f"{layer}.weight"].sum())


def test_a_group_of_channels_has_the_figures_of_a_job_that_prunes_it_alone(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"granularity": {"name": "channel", "params": {"round_to": 1}}}
    section = evaluate(run(tmp_path / "all", **fields))
    dense_losses = measure_validation(build())[1]
    # `first` writes six channels that `second` alone reads; both are excluded elsewhere.
    row = find_row(section, "first", 0.5)
    assert (row["kept"], row["total"]) == (3, 6)
    alone = run(tmp_path / "alone", 0.5, include=["first", "second"], **fields)
    (record,) = alone.pipeline.done
    assert int(record.masks()["first.weight"].flatten(1).any(1).sum()) == 3
    wrong, losses = measure_validation(record.network())
    assert row["error"]["value"] == float(wrong.double().mean())
    change = float((losses - dense_losses).double().mean())
    assert row["loss_change"]["value"] == pytest.approx(change, abs=1e-6)
    assert "predicted_lm" not in row
    assert any("LM, QM and OBD predict" in note for note in section.notes)


def test_other_granularities_prune_alone_too(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "criterion": {"name": "filter_norm"},
        "granularity": {"name": "filter"},
    }
    section = evaluate(run(tmp_path / "all", **fields))
    row = find_row(section, "first", 0.5)
    alone = run(tmp_path / "alone", 0.5, include=["first"], **fields)
    (record,) = alone.pipeline.done
    wrong, _ = measure_validation(record.network())
    assert row["error"]["value"] == float(wrong.double().mean())
    assert row["kept"] == int(record.masks()["first.weight"].sum())
    head = find_row(section, "head", 0.5)
    assert head["error"] is None
    assert head["reason"]


def test_a_network_that_cannot_be_traced_has_the_same_figures(tmp_path: Path) -> None:
    traced = evaluate(run(tmp_path / "a"))
    whole = evaluate(run(tmp_path / "b", kind=Untraceable))
    assert whole.details == traced.details
    assert any("cannot be traced" in note for note in whole.notes)
    assert not any("cannot be traced" in note for note in traced.notes)


def test_predictions_are_sums_over_the_weights_that_go(tmp_path: Path) -> None:
    section = evaluate(run(tmp_path, criterion={"name": "magnitude"}))
    data, net = make_data(), build()
    evidence = Evidence(net, batches=list(data.batches(data.val, 100)))
    quadratic = CurvedLocality().quadratic(evidence)["first.weight"]
    weight, gradient = net.first.weight.detach(), evidence.gradient["first.weight"]
    goes = torch.zeros(weight.numel(), dtype=torch.bool)
    goes[weight.abs().flatten().argsort()[: weight.numel() // 2]] = True
    linear = -float((gradient * weight).flatten()[goes].sum())
    curved = float(quadratic.flatten()[goes].sum())
    row = find_row(section, "first", 0.5)
    assert row["predicted_lm"] == pytest.approx(linear, abs=1e-6)
    assert row["predicted_obd"] == pytest.approx(curved, abs=1e-6)
    assert row["predicted_qm"] == pytest.approx(linear + curved, abs=1e-6)


def test_quadratic_predictions_are_near_the_truth_where_little_goes(tmp_path: Path) -> None:
    section = evaluate(run(tmp_path), levels=(0.1,))
    for layer in ("first", "second", "head"):
        row = find_row(section, layer, 0.1)
        change = row["loss_change"]["value"]
        assert abs(row["predicted_qm"] - change) < 0.02 + 0.2 * abs(change)


LOSES = " loses at the lowest level where a loss is shown"
HOLDS = " has the smallest upper limit of "


def test_what_cannot_be_pruned_has_a_reason_and_no_number(tmp_path: Path) -> None:
    section = evaluate(run(tmp_path, exclude=["first"]), levels=(0.01, 0.5))
    excluded = find_row(section, "first", None)
    assert excluded["reason"] == "excluded by the recipe"
    tiny = find_row(section, "head", 0.01)  # 0.12 weights of 12
    assert "no weight goes at this level" in tiny["reason"]
    for row in (excluded, tiny):
        assert all(row[key] is None for key in ("kept", "error", "error_increase", "loss_change"))
    robust = [note for note in section.notes if LOSES in note or HOLDS in note]
    assert not any("first" in note for note in robust)
    (left_out,) = [note for note in section.notes if "nothing was removed of" in note]
    assert "first (excluded by the recipe)" in left_out


def test_channels_that_stay_have_a_reason(tmp_path: Path) -> None:
    section = evaluate(run(tmp_path, granularity={"name": "channel"}, exclude=["second"]))
    assert "second is excluded" in find_row(section, "first", None)["reason"]
    assert "outputs" in find_row(section, "head", None)["reason"]


def test_p_values_hold_for_all_cells_of_all_criteria(tmp_path: Path) -> None:
    section = evaluate(run(tmp_path, criterion=[{"name": "magnitude"}, {"name": "snip"}]))
    rows = [row for row in section.details["sensitivity"] if row["error"] is not None]
    assert len(rows) == 2 * 5 * len(LEVELS)
    dense = section.scalars["dense_error"].value
    dense_wrong, _ = measure_validation(build())
    assert dense == float(dense_wrong.double().mean())
    # One cell by hand: what magnitude leaves of the head.
    net = build()
    weight = net.head.weight.data
    weight.flatten()[weight.abs().flatten().argsort()[:6]] = 0.0
    wrong, _ = measure_validation(net)
    p_value = mcnemar_p_value(count_paired_errors(wrong, dense_wrong))
    row = next(
        r for r in rows if (r["criterion"], r["unit"], r["level"]) == ("magnitude", "head", 0.5)
    )
    assert p_value <= row["adjusted_p_value"] <= min(1.0, p_value * len(rows))
    claims = [note for note in section.notes if LOSES in note]
    supported = {
        (row["criterion"], row["unit"])
        for row in rows
        if row["adjusted_p_value"] <= 0.05 and row["error_increase"]["value"] > 0
    }
    assert supported
    assert len(claims) == len({criterion for criterion, _ in supported})
    for claim in claims:
        label, unit = claim.split(LOSES)[0].split(": ")
        assert (label, unit) in supported


def test_a_job_runs_it_where_it_is_named_and_draws_a_heat_map(tmp_path: Path, drawn: None) -> None:
    results = run(
        tmp_path,
        criterion={"name": "random"},
        evaluations=({"name": "sensitivity", "params": {"levels": [0.5], "images": 20}},),
    )
    section = evaluate_job(results)["sensitivity"]
    assert section.pictures["heatmap/random"].png
    assert "dense network's is" in section.pictures["heatmap/random"].caption
    assert len(results.pipeline.recipe.named_evaluations) == 1


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    results = run(tmp_path)
    record = make_record(results)
    model = record.dense()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Sensitivity(levels=LEVELS).evaluate(replace(record, dense=lambda: model))
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
