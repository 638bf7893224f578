"""Curves of the loss that an allocation divides the budget by, as a job measures them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruning.allocations import allocations
from pruning.errors import EvidenceError, ParameterError
from pruning.evidence.evidence import Evidence
from pruning.granularities.weight import Weight
from pruning.masks import build_full_masks, count_kept, find_prunable
from pruning.pipeline.pipeline import Networks
from pruning.rounds.costs import Costs
from pruning.rounds.loss_curves import measure_allocation
from pruning.rounds.method import PruningMethod
from pruning.rounds.plan import plan_rounds
from pruning.rounds.pruning import prune_
from pruning.storage.stages import Stages
from pruning.types import LossCurve, Selection
from tests.support import cases
from tests.support.finished_records import finish_job
from tests.support.pipelines import CPU, MODES, Counting, Listener, pretrained

ONE_STEP = {"name": "sensitivity", "params": {"levels": [0.5], "steps": 1}}


def collect(images: int = 40) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of ten training images."""
    data = cases.make_data(fit=images)
    return list(data.batches(data.fit, 10))


def select(model: nn.Module, evidence: Evidence, **fields: Any) -> tuple[Selection, PruningMethod]:
    """The selection of a first round by magnitude."""
    recipe = cases.recipe(0.5, **({"allocation": ONE_STEP} | fields))
    method = PruningMethod.of(recipe, recipe.criteria[0])
    selection = Selection(
        model=model,
        weights=evidence.weights,
        scores=method.criterion.score(evidence),
        masks=evidence.masks,
        density=0.5,
        allocation=method.allocation,
        sparsifier=method.sparsifier,
        generator=torch.Generator().manual_seed(0),
        shape=lambda: evidence.shape,
    )
    return selection, method


def test_a_curve_is_the_change_of_the_loss_with_one_layer_pruned() -> None:
    net = cases.mlp()
    evidence = Evidence(net, batches=collect())
    selection, method = select(net, evidence)
    measured = measure_allocation(selection, method.granularity, method.criterion, evidence)
    curves: dict[str, LossCurve] = measured.allocation.curves  # type: ignore[attr-defined]
    assert list(curves) == ["1.weight", "3.weight"]
    for name, curve in curves.items():
        total = evidence.weights[name].numel()
        assert curve.kept == pytest.approx((0.5, 1 / total))
        for kept, change in zip(curve.kept, curve.changes, strict=True):
            pruned = copy.deepcopy(net)
            weight = pruned.get_parameter(name).data
            order = weight.abs().flatten().argsort()
            weight.view(-1)[order[: total - round(kept * total)]] = 0.0
            losses = Evidence(pruned, batches=collect()).losses() - evidence.losses()
            assert change == pytest.approx(float(losses.double().mean()), abs=1e-6)


def test_other_allocations_measure_nothing() -> None:
    net = cases.mlp()
    evidence = Evidence(net)
    selection, method = select(net, evidence, allocation={"name": "uniform"})
    assert (
        measure_allocation(selection, method.granularity, method.criterion, evidence) is selection
    )


def test_without_images_it_is_refused() -> None:
    net = cases.mlp()
    evidence = Evidence(net, shape=(1, 4, 4))
    selection, method = select(net, evidence)
    with pytest.raises(EvidenceError, match="measured losses needs data"):
        measure_allocation(selection, method.granularity, method.criterion, evidence)


def test_channels_that_are_drawn_are_refused() -> None:
    net = cases.mlp()
    evidence = Evidence(net, batches=collect())
    fields: dict[str, Any] = {
        "criterion": {"name": "magnitude"},
        "granularity": {"name": "channel"},
        "sparsifier": {"name": "sample"},
    }
    selection, method = select(net, evidence, **fields)
    with pytest.raises(ParameterError, match="draws") as refused:
        measure_allocation(selection, method.granularity, method.criterion, evidence)
    assert refused.value.pointer == "/allocation"


@pytest.mark.parametrize("batchnorm", ["keep", "reestimate"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"criterion": {"name": "snip"}},
        {"criterion": {"name": "exact_obs"}},
        {"criterion": {"name": "sipp"}},
        {"granularity": {"name": "block"}},
        {"granularity": {"name": "channel"}},
        {"granularity": {"name": "filter"}, "criterion": {"name": "filter_norm"}},
    ],
    ids=str,
)
def test_a_pruning_meets_its_budget(fields: dict[str, Any], batchnorm: str) -> None:
    model = cases.conv_net()
    recipe = cases.recipe(0.5, allocation={"name": "sensitivity"}, batchnorm=batchnorm, **fields)
    method = PruningMethod.of(recipe, recipe.criteria[0])
    assert method.reestimates == (batchnorm == "reestimate")
    before = {name: value.clone() for name, value in model.named_buffers()}
    masks = prune_(
        model,
        build_full_masks(find_prunable(model)),
        0.5,
        method,
        lambda masks, stage: Evidence(model, masks, collect(41)),
        generator=torch.Generator().manual_seed(0),
    )
    total = sum(mask.numel() for mask in masks.values() if mask.dim() > 1)
    kept = sum(count for name, count in count_kept(masks).items() if masks[name].dim() > 1)
    single = isinstance(method.granularity, Weight)
    assert kept == total // 2 if single else 0.3 * total < kept <= 0.5 * total
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_a_job_measures_in_steps_and_says_what_that_costs(tmp_path: Path) -> None:
    recipe = cases.recipe(
        0.5,
        0.8,
        **MODES["none"],
        allocation={"name": "sensitivity", "params": {"levels": [0.4, 0.8], "steps": 3}},
        overrides={"3": 0.25},
    )
    results = finish_job(recipe, tmp_path)
    first, second = results.pipeline.done
    assert (first.sparsity, second.sparsity) == pytest.approx((0.5, 0.8), abs=0.01)
    assert int(first.masks()["3.weight"].sum()) == 14  # of 18, the nearest to 0.75
    planned = plan_rounds(recipe)[0]
    costs = Costs(recipe, {"fit": 40, "val": 10, "test": 30}, 3, layers=2)
    assert costs.pruning(recipe.criteria[0], planned) == (3, 40 + 2 * 3 * 40 // 2)


def test_progress_comes_to_the_estimate(tmp_path: Path) -> None:
    recipe = cases.recipe(0.5, **MODES["none"], allocation={"name": "sensitivity"})
    pipeline = Counting(
        recipe=recipe,
        networks=Networks(cases.mlp, pretrained()[0]),
        data=cases.make_data(),
        stages=Stages(tmp_path, recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    pipeline.run()
    assert pipeline.counted == pipeline.ledger.total


def test_the_registry_has_the_parameters() -> None:
    schema = allocations.entry("sensitivity")["params"]
    assert set(schema["properties"]) == {"levels", "images", "steps"}
