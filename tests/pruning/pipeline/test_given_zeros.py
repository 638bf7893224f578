"""Networks that come with zeros: these are their mask, kept through retraining and counted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pruning.masks import find_prunable
from pruning.pipeline.exports import Origin
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.results import Results
from pruning.rounds.costs import estimate_costs
from pruning.rounds.given_zeros import GivenZeros, list_reached_targets
from pruning.rounds.plan import plan_rounds
from pruning.schemas.job import ModelRef
from pruning.storage.stages import Stages
from tests.support import cases
from tests.support.pipelines import CPU, OPTIMIZER, Listener, pretrained

FINE_TUNE = {"mode": "fine_tune", "epochs": 2, **OPTIMIZER}
LAYERS = ("1.weight", "3.weight")
ORIGIN = Origin(
    job_id="job_x",
    spec={},
    architecture="custom",
    kwargs={},
    model_sha256=None,
    dataset_name="d",
    dataset_sha256="",
)


def sparse(share: float = 0.4) -> dict[str, Tensor]:
    """The weights of a trained network, the smallest of each layer set to zero."""
    state = {name: value.clone() for name, value in pretrained()[0].items()}
    for name in LAYERS:
        flat = state[name].flatten()
        flat[flat.abs().argsort()[: round(share * len(flat))]] = 0.0
    return state


def zeros_of(state: dict[str, Tensor]) -> float:
    weights = [state[name] for name in LAYERS]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def run(folder: Path, *sparsity: float, state: dict[str, Tensor], **fields: Any) -> Pipeline:
    recipe = cases.recipe(*sparsity, evaluations=[], **{"retrain": FINE_TUNE, **fields})
    early = pretrained()[1] if recipe.retrain.mode == "weight_rewind" else None
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(cases.mlp, state, early),
        data=cases.make_data(),
        stages=Stages(folder / "stages", recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    pipeline.run()
    return pipeline


@pytest.mark.parametrize("mode", ["fine_tune", "weight_rewind", "none"])
def test_zeros_stay_zero_and_are_counted_in_every_sparsity(mode: str, tmp_path: Path) -> None:
    state = sparse()
    given = zeros_of(state)
    retrain = {"mode": "none"} if mode == "none" else {**FINE_TUNE, "mode": mode}
    pipeline = run(tmp_path, 0.6, 0.8, state=state, retrain=retrain)
    control = dict(pipeline.controls[0].network().state_dict())
    assert zeros_of(control) == pytest.approx(given)
    for record, target in zip(pipeline.done, (0.6, 0.8), strict=True):
        network = dict(record.network().state_dict())
        assert record.sparsity == pytest.approx(target, abs=0.01)
        assert zeros_of(network) == pytest.approx(record.sparsity, abs=1e-9)
        for name in LAYERS:
            assert not bool(network[name][state[name] == 0].any())
    results = Results(pipeline, ORIGIN, tmp_path / "files")
    for record in pipeline.done:
        results.export(record)
    report = results.report()
    total = sum(parameter.numel() for parameter in cases.mlp().parameters())
    kept = total - round(given * sum(state[name].numel() for name in LAYERS))
    for dense in (report.baseline, report.control):
        assert dense.sparsity == pytest.approx(given)
        assert dense.parameters == kept
        assert dense.prune_ratio == pytest.approx(1 - kept / total)
        assert dense.flops < 2 * total
    assert any("stay zero through retraining" in warning for warning in report.warnings)


def test_a_job_may_train_zeros_like_other_weights(tmp_path: Path) -> None:
    state = sparse()
    pipeline = run(tmp_path, 0.3, state=state, keep_zeros=False)
    assert zeros_of(dict(pipeline.controls[0].network().state_dict())) < 0.05
    assert pipeline.done[0].sparsity == pytest.approx(0.3, abs=0.01)
    assert any("like other weights" in warning for warning in pipeline.ledger.warnings)


def test_nothing_is_removed_for_a_target_no_sparser_than_the_network(tmp_path: Path) -> None:
    state = sparse()
    pipeline = run(tmp_path, 0.3, 0.8, state=state)
    first, second = pipeline.done
    assert first.target == 0.3
    assert first.sparsity == pytest.approx(zeros_of(state))
    assert zeros_of(dict(first.network().state_dict())) == pytest.approx(zeros_of(state))
    assert second.sparsity == pytest.approx(0.8, abs=0.01)
    (warning,) = (text for text in pipeline.ledger.warnings if "nothing is removed" in text)
    assert re.search(r"comes with 39\.\d+ % .* the target 30\.00 %, which is no sparser", warning)


def test_an_estimate_knows_the_zeros() -> None:
    shapes = [value.shape for name, value in sparse().items() if name in LAYERS]
    total = sum(shape.numel() for shape in shapes)
    fields: dict[str, Any] = {"forward_flops": 1, "parameters": total, "activations": 1}
    fields |= {"counts": {"train": 40, "test": 30}, "prunable": shapes, "classes": 3}
    recipe = cases.recipe(0.3, 0.8)
    assert estimate_costs(recipe, zeros=total // 2, **fields)["rounds"] == 2
    assert len(list_reached_targets(recipe, total // 2, total)) == 1
    assert list_reached_targets(recipe, 0, total) == []


def test_a_few_accidental_zeros_are_kept_in_silence(tmp_path: Path) -> None:
    state = sparse(0.0)
    state["1.weight"].view(-1)[5] = 0.0
    lone = GivenZeros.find(cases.mlp, state, cases.recipe(0.5))
    assert lone.count == 1
    state["1.bias"].zero_()  # a bias is no prunable weight
    pipeline = run(tmp_path, 0.5, state=state, retrain={"mode": "none"})
    assert pipeline.zeros.count == 1
    assert pipeline.done[0].sparsity == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "fields", [{"train": {"epochs": 1}}, {"granularity": {"name": "n_m"}}, {"keep_zeros": False}]
)
def test_zeros_are_no_mask_where_they_cannot_or_shall_not_be(fields: dict[str, Any]) -> None:
    recipe = cases.recipe(0.5, **fields)
    zeros = GivenZeros.find(cases.mlp, sparse(), recipe)
    assert zeros.count > 0
    assert zeros.kept_by(recipe).count == 0
    assert (zeros.describe(recipe) is None) == ("train" in fields)
    weights = find_prunable(cases.mlp())
    assert all(bool(mask.all()) for mask in zeros.kept_by(recipe).build_masks(weights).values())


def test_rounds_are_planned_from_the_density_of_the_network() -> None:
    recipe = cases.recipe(0.9, schedule={"name": "geometric", "params": {"fraction": 0.5}})
    densities = [planned.density for planned in plan_rounds(recipe, 0.4)]
    assert densities == pytest.approx([0.2, 0.1])
    independent = cases.recipe(0.8, 0.9, independent=True)
    assert [planned.start for planned in plan_rounds(independent, 0.4)] == [0.4, 0.4]


def test_a_training_leaves_no_choice() -> None:
    with pytest.raises(ValidationError, match="keep_zeros has no effect with 'train'"):
        ModelRef.model_validate({"architecture": "mlp", "train": {}, "keep_zeros": True})
    assert ModelRef.model_validate({"id": "mdl_00000000"}).keep_zeros
    assert torch.equal(GivenZeros({}).build_masks({"w": torch.zeros(2)})["w"], torch.ones(2) > 0)
