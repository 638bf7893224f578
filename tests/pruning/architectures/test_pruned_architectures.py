"""All that prunes, removes and bounds understands the convolutional families."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from pruning.analysis.job_record import JobRecord
from pruning.bounds.carrier import Carrier
from pruning.channels.compaction import build_compact, expand_, load_compact, write_arch
from pruning.channels.graph import ChannelGraph
from pruning.criteria import criteria
from pruning.evaluations import evaluations
from pruning.evidence.evidence import Evidence
from pruning.granularities import granularities
from pruning.graphs.tracing import fold_batchnorm
from pruning.library import bound
from pruning.masks import (
    apply_masks_,
    density,
    find_prunable,
    select_weight_masks,
)
from pruning.networks.layers import record_uses
from pruning.pipeline.ledger import Silent
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.storage.stages import Stages
from pruning.training.loop import train_
from pruning.types import Masks
from tests.support import cases
from tests.support.convolutional_cases import CASES, build, every_case, images, one_of_each, pruned


@one_of_each
@pytest.mark.parametrize("granularity", granularities.names())
def test_every_granularity_prunes_to_the_target(case: str, granularity: str) -> None:
    model = build(case, torch.float32)
    masks = pruned(model, case, granularity)
    whole = granularity == "n_m"  # layers whose width is no multiple of M stay dense
    assert 0.4 < density(masks) <= (0.75 if whole else 0.5)
    assert torch.isfinite(model(images(case, dtype=torch.float32))).all()


@every_case
def test_every_group_of_channels_can_be_removed(case: str) -> None:
    model = build(case)
    graph = ChannelGraph.of(model, CASES[case].shape, find_prunable(model))
    assert len(graph.removable) == CASES[case].groups
    assert {group.reason for group in graph.groups if group.reason} == {
        "they are the network's outputs",
        "they are the image's channels",
    }
    assert not graph.left_dense(model, find_prunable(model))


@pytest.mark.parametrize(
    ("case", "dtype", "targets"),
    [
        *((case, torch.float64, (0.4,)) for case in CASES if case not in ("vgg", "bottleneck_b")),
        ("vgg", torch.float64, (0.5, 0.2)),
        ("bottleneck_b", torch.float64, (0.5, 0.2)),
        ("densenet_odd", torch.float32, (0.4,)),
    ],
)
def test_the_smaller_network_computes_what_the_masked_one_does(
    case: str, dtype: torch.dtype, targets: tuple[float, ...]
) -> None:
    model, tolerance = build(case, dtype), 1e-5 if dtype == torch.float32 else 1e-11
    masks: Masks | None = None
    for target in targets:
        masks = pruned(model, case, "channel", target, masks)
        small = build_compact(model, masks, CASES[case].shape)
        with torch.no_grad():
            torch.testing.assert_close(
                small(images(case, dtype=dtype)),
                model(images(case, dtype=dtype)),
                rtol=tolerance,
                atol=tolerance,
            )
        remaining = {
            name: int(masks[name].sum()) if name in masks else parameter.numel()
            for name, parameter in model.named_parameters()
        }
        assert {
            name: parameter.numel() for name, parameter in small.named_parameters()
        } == remaining
        assert density(select_weight_masks(masks)) <= target


@one_of_each
def test_the_file_rebuilds_the_smaller_network(case: str, tmp_path: Path) -> None:
    model = build(case, torch.float32)
    masks = pruned(model, case, "channel", 0.4)
    small = build_compact(model, masks, CASES[case].shape)
    write_arch(tmp_path / "arch.json", small, CASES[case].architecture, CASES[case].parameters)
    save_file(small.state_dict(), tmp_path / "state.safetensors")
    again = load_compact(tmp_path / "arch.json", tmp_path / "state.safetensors")
    assert torch.equal(
        again(images(case, dtype=torch.float32)), small(images(case, dtype=torch.float32))
    )
    assert type(again) is type(model)


@one_of_each
def test_a_smaller_network_trains_as_the_masked_one_does(case: str) -> None:
    """With BatchNorm in train mode, momentum and weight decay; and its weights go back into the
    full one.
    """
    model = build(case)
    masks = pruned(model, case, "channel", 0.4)
    small = build_compact(model, masks, CASES[case].shape)
    for network in (model, small):
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(network(images(case)), torch.arange(6) % 3).backward()
            optimizer.step()
            if network is model:
                apply_masks_(network, masks)
        network.eval()
    other = build(case)
    expand_(other, masks, small, CASES[case].shape)
    trained = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(parameter, trained[name], rtol=1e-7, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(
            build_compact(other, masks, CASES[case].shape)(images(case)), small(images(case))
        )


# bounds


@every_case
def test_batchnorm_is_folded_where_it_follows_one_convolution_alone(case: str) -> None:
    """In front of a convolution it stays, unless what it reads comes from one convolution and goes
    nowhere else.
    """
    model = build(case)
    flat = fold_batchnorm(model)
    with torch.no_grad():
        torch.testing.assert_close(flat(images(case)), model(images(case)), rtol=1e-9, atol=1e-9)
    left = {name for name, module in flat.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    inside = {name for name in before if ".bn2" in name}
    if case.startswith("densenet"):
        assert left == before - inside
    elif case.startswith("wide"):
        first = {"layer1.0.bn1"} if "layer1.0.shortcut.weight" in model.state_dict() else set()
        assert left == before - inside - first
    else:
        assert not left


@every_case
def test_errors_of_layers_are_carried_to_the_logits(case: str) -> None:
    model, x, size = fold_batchnorm(build(case)), images(case, 3), 0.1
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: weight.detach()
        + size
        * weight.detach().abs().mean()
        * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        for name, weight in find_prunable(model).items()
    }
    with torch.no_grad(), record_uses(model, list(weights)) as uses:
        expected = model(x)
    errors = {}
    with torch.no_grad():
        for name, (use,) in uses.items():
            with_others = torch.func.functional_call(
                use.layer, {"weight": weights[name]}, (use.inputs,)
            )
            errors[name] = (with_others - use.layer(use.inputs)).abs()
        moved = (torch.func.functional_call(model, weights, (x,)) - expected).abs()
        carried = Carrier(model).carry(x, weights, errors)
    assert bool((moved <= carried * (1 + 1e-9)).all())
    assert bool(moved.any())
    assert bool(torch.isfinite(carried).all())


@one_of_each
def test_no_bound_is_broken(case: str) -> None:
    batches = [(images(case, 8, torch.float32), torch.arange(8) % 3)]
    study = bound(build(case, torch.float32), "sipp", [0.8], batches)
    certain = [prediction for prediction in study.predictions if prediction.form == "deterministic"]
    assert all(prediction.broken == 0 for prediction in certain)
    assert study.predictions


@one_of_each
@pytest.mark.parametrize("name", ["sipp", "pfp", "obd"])
def test_criteria_score_every_layer(case: str, name: str) -> None:
    model = build(case, torch.float32)
    batches = [(images(case, 4, torch.float32), torch.arange(4) % 3)]
    scores = criteria.create(name).score(
        Evidence(model, batches=batches, generator=torch.Generator().manual_seed(0))
    )
    assert set(scores) == set(find_prunable(model))
    assert all(bool(torch.isfinite(score).all()) for score in scores.values())


@every_case
def test_coresets_of_neurons_know_batchnorm_on_either_side_of_a_layer(case: str) -> None:
    """Behind a layer it is folded into its neurons; before one it is an affine map of the channels
    that the layer reads.
    """
    evidence = Evidence(
        build(case, torch.float32), batches=[(images(case, 4, torch.float32), torch.arange(4) % 3)]
    )
    scores = criteria.create("mussay").score(evidence)
    assert set(scores) == set(find_prunable(evidence.model))
    assert all(bool(torch.isfinite(score).all()) for score in scores.values())


# whole jobs


@one_of_each
def test_networks_learn(case: str) -> None:
    data = cases.make_data(shape=CASES[case].shape, fit=48, test=24)
    model = build(case, torch.float32)
    recipe = cases.recipe(0.5, train={"epochs": 4, "batch_size": 8, "optimizer": {"lr": 0.02}})

    def loss() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model(data.normalize(data.fit.images)), data.fit.labels))

    before = loss()
    assert recipe.train is not None
    train_(model, data, recipe.train, seed=0, name="dense")
    assert loss() < min(before, math.log(3)) - 0.1


@pytest.mark.parametrize(
    ("case", "criterion"),
    [("vgg", "sipp"), pytest.param("densenet", "filter_norm", marks=pytest.mark.slow)],
)
def test_a_whole_job_with_approximation_and_bounds(
    case: str, criterion: str, tmp_path: Path
) -> None:
    data = cases.make_data(shape=CASES[case].shape, fit=30, val=6, test=24)
    recipe = cases.recipe(
        0.3,
        0.6,
        criterion={"name": criterion},
        train={"epochs": 5, "batch_size": 6, "optimizer": {"lr": 0.03}},
        retrain={"batch_size": 6, "optimizer": {"lr": 0.01}},
    )
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(lambda: build(case, torch.float32)),
        data=data,
        stages=Stages(tmp_path, recipe.digest()),
        watcher=Silent(),
        device=torch.device("cpu"),
    )
    pipeline.run()
    assert [stage.target for stage in pipeline.done] == [0.3, 0.6]
    record = JobRecord(
        data=pipeline.data,
        dense=pipeline.dense,
        given_measured=pipeline.given_measured,
        controls=pipeline.controls,
        rounds=pipeline.done,
        recipe=pipeline.recipe,
    )
    for name, params in (
        ("approximation", {}),
        ("bounds", {"images": 4, "trials": 1, "sparsities": [0.3]}),
    ):
        section = evaluations.create(name, params).evaluate(record)
        assert section.curves
        assert not any("cannot be" in note or "no bounds here" in note for note in section.notes), (
            section.notes
        )
