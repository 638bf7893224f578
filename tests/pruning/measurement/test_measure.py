"""Errors, losses, FLOPs, sizes: recomputed by hand."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pruning.data.tensors import Data, Split
from pruning.masks import apply_masks_, build_full_masks, find_prunable
from pruning.measurement.costs import count_flops, measure_file_sizes
from pruning.measurement.intervals import binomial_interval
from pruning.measurement.latency import measure_latency
from pruning.measurement.measure import EVAL_BATCH, Measured, estimate_increase, measure_network
from pruning.networks.loading import load_model
from pruning.storage.checkpoints import WRITERS
from tests.support import cases, oracles


def test_errors_and_losses_image_by_image() -> None:
    data, model = cases.make_data(test=EVAL_BATCH + 5, val=7), cases.mlp()
    advances: list[int] = []
    measured = measure_network(model, data, advances.append)
    assert advances == [EVAL_BATCH, 5, 7]
    for split, wrong in ((data.test, measured.wrong), (data.val, measured.val_wrong)):
        for index in range(len(split)):
            logits = model(data.normalize(split.images[index : index + 1]))[0].tolist()
            label = int(split.labels[index])
            assert bool(wrong[index]) == (max(range(3), key=lambda c: logits[c]) != label)
            if split is data.test:
                assert float(measured.losses[index]) == pytest.approx(
                    oracles.cross_entropy(logits, label), abs=1e-5
                )
    document = measured.document()
    assert document.error == binomial_interval(int(measured.wrong.sum()), EVAL_BATCH + 5)
    assert document.val_error == binomial_interval(int(measured.val_wrong.sum()), 7)
    assert document.loss.value == pytest.approx(float(measured.losses.double().mean()), rel=1e-12)
    assert document.loss.n == EVAL_BATCH + 5


def test_batchnorm_is_measured_in_eval_mode() -> None:
    model, data = cases.conv_net().train(), cases.make_data()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = measure_network(model, data), measure_network(model, data)
    assert torch.equal(first.losses, second.losses)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 3e38])
def test_a_collapsed_network_still_has_numbers(weight: float) -> None:
    model = cases.mlp()
    with torch.no_grad():
        model.get_parameter("3.weight").fill_(weight)
    measured = measure_network(model, cases.make_data())
    assert torch.isfinite(measured.losses).all()
    assert measured.document().loss.value > 0
    assert measured.document().model_dump_json()


def test_one_test_image() -> None:
    document = measure_network(cases.mlp(), cases.make_data(test=1, val=1)).document()
    assert document.error.n == document.loss.n == 1
    assert document.loss.low is None


def test_measurements_survive_a_stage_file() -> None:
    measured = measure_network(cases.mlp(), cases.make_data())
    again = Measured.restore(measured.tensors("x") | {"y": torch.zeros(1)}, "x")
    assert all(
        torch.equal(getattr(measured, part), getattr(again, part))
        for part in ("wrong", "losses", "val_wrong")
    )


def test_the_answers_are_the_largest_logits_and_their_softmax() -> None:
    model, data = cases.mlp(), cases.make_data()
    measured = measure_network(model, data)
    answers = measured.answers
    assert answers is not None
    for index in range(len(data.test)):
        with torch.no_grad():
            logits = model(data.normalize(data.test.images[index][None]))[0].double()
        assert int(answers.classes[index]) == int(logits.argmax())
        assert float(answers.confidences[index]) == pytest.approx(float(logits.softmax(0).max()))
    assert torch.equal(answers.classes != data.test.labels, measured.wrong)
    again = Measured.restore(measured.tensors("x"), "x").answers
    assert again is not None
    assert torch.equal(again.classes, answers.classes)
    assert torch.equal(again.confidences, answers.confidences)


def test_increase_is_the_difference_of_errors() -> None:
    first, second = torch.tensor([1, 1, 1, 0, 0]).bool(), torch.tensor([1, 0, 0, 1, 0]).bool()
    assert estimate_increase(first, second).value == pytest.approx(3 / 5 - 2 / 5)
    assert estimate_increase(first, first).value == 0
    assert estimate_increase(first, second).n == 5


# FLOPs


@pytest.mark.parametrize("case", [name for name in cases.AWKWARD if name != "tied"])
def test_dense_flops_are_those_of_torch(case: str) -> None:
    model, _ = cases.awkward(case)
    shape = cases.AWKWARD[case][1]
    modes = oracles.module_modes(model)
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *shape))
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    assert count_flops(model, shape) == counter.get_total_flops()
    assert (
        count_flops(model, shape, build_full_masks(find_prunable(model)))
        == counter.get_total_flops()
    )
    assert oracles.module_modes(model) == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_resnet_flops_are_those_of_torch() -> None:
    model = load_model("cifar_resnet", depth=8, shortcut="B", width=0.5)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    assert count_flops(model, (3, 32, 32)) == counter.get_total_flops()


def test_pruned_flops_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(18, 3))
    masks = build_full_masks(find_prunable(model))
    assert count_flops(model, (1, 5, 5), masks) == 2 * (18 * 9 + 54)
    masks["0.weight"][0] = False
    masks["2.weight"][:, 1:] = False
    assert count_flops(model, (1, 5, 5), masks) == 2 * (9 * 9 + 3)
    masks["0.weight"][:] = False
    assert count_flops(model, (1, 5, 5), masks) == 2 * 3
    assert count_flops(model, (1, 5, 5), {"2.weight": masks["2.weight"]}) == 2 * (18 * 9 + 3)


def test_a_shared_layer_counts_each_time_it_runs_with_its_mask() -> None:
    model, _ = cases.awkward("tied")
    masks = build_full_masks(find_prunable(model))
    assert count_flops(model, (1, 2, 2), masks) == 2 * (16 + 16 + 12)
    masks["first.weight"][0] = False
    assert count_flops(model, (1, 2, 2), masks) == 2 * (12 + 12 + 12)


def test_a_single_layer_is_a_network() -> None:
    layer = nn.Linear(4, 2)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[0, 0] = True
    assert count_flops(nn.Sequential(nn.Flatten(), layer), (1, 2, 2), {"1.weight": mask}) == 2


# sizes and latency


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    model = cases.conv_net()
    masks = cases.half_masks(model)
    apply_masks_(model, masks)
    sizes = measure_file_sizes(model.state_dict(), masks, note="x")
    for format, write in WRITERS.items():
        write(tmp_path / format, model.state_dict(), masks, note="x")
        assert sizes[format] == (tmp_path / format).stat().st_size
    assert abs(sizes["dense_gzip"] - len(gzip.compress((tmp_path / "dense").read_bytes(), 6))) <= 32
    assert (
        abs(sizes["sparse_gzip"] - len(gzip.compress((tmp_path / "sparse").read_bytes(), 6))) <= 32
    )
    assert set(sizes) == {*WRITERS, "dense_gzip", "sparse_gzip"}


def test_latency_is_of_every_batch_size() -> None:
    latencies = measure_latency(cases.mlp(), (1, 4, 4), batches=(1, 3))
    assert [latency.batch for latency in latencies] == [1, 3]
    assert all(
        0 < latency.p50 <= latency.p95 and latency.device == "cpu" and latency.threads >= 1
        for latency in latencies
    )


def test_splits_of_one_class_are_measured() -> None:
    split = Split(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    measured = measure_network(
        cases.mlp(),
        Data(fit=split, val=split, test=split, classes=("a", "b", "c"), mean=(0.5,), std=(0.5,)),
    )
    assert measured.document().error.value in (0.0, 1.0)
