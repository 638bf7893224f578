"""The convolutional families: what they compute, and that all that prunes, removes and bounds
understands them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.analysis.job_record import JobRecord
from pruning.architectures.densenet22 import DenseNet22
from pruning.architectures.vgg import Vgg
from pruning.architectures.wide_resnet import WideResNet
from pruning.bounds.carrier import Carrier
from pruning.channels.compaction import build_compact, expand_, load_compact, write_arch
from pruning.channels.graph import ChannelGraph
from pruning.criteria import criteria
from pruning.errors import DataError, ParameterError, StructureError
from pruning.evaluations import evaluations
from pruning.evidence.evidence import Evidence
from pruning.granularities import granularities
from pruning.graphs.tracing import fold_batchnorm
from pruning.library import bound
from pruning.masks import (
    apply_masks_,
    build_full_masks,
    density,
    find_prunable,
    select_weight_masks,
)
from pruning.networks.layers import record_uses
from pruning.networks.loading import check_fits, load_model, resolve
from pruning.pipeline.ledger import Silent
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.storage.stages import Stages
from pruning.training.loop import train_
from pruning.types import Masks
from tests.support import cases


@dataclass(frozen=True)
class Case:
    """A tiny network of a family, and the smallest images that exercise it."""

    architecture: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    side: int = 8
    groups: int = 0
    """The number of groups of channels that can be removed."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters for images of two channels, of three classes."""
        return self.kwargs | {"channels": 2, "classes": 3}

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image."""
        return 2, self.side, self.side


CASES = {
    "vgg": Case("vgg", {"depth": 11, "width": 0.04}, 32, groups=8),
    "densenet": Case("densenet22", {"growth": 2}, groups=1 + 9 + 9 + 2),
    "densenet_basic": Case(
        "densenet22", {"growth": 2, "block": "basic", "compression": 1}, groups=1 + 18 + 2
    ),
    "densenet_odd": Case("densenet22", {"growth": 3, "compression": 0.3}, 7, groups=1 + 9 + 9 + 2),
    # of a wide ResNet the stem, where the first stage has its width, is in the sum of that stage
    "wide_resnet": Case("wide_resnet", {"depth": 16, "width": 0.25}, groups=1 + 3 + 6),
    "wide_resnet_1": Case("wide_resnet", {"depth": 10, "width": 1}, groups=3 + 3),
    "bottleneck_a": Case(
        "cifar_resnet", {"depth": 20, "width": 0.25, "block": "bottleneck"}, groups=4 + 12
    ),
    "bottleneck_b": Case(
        "cifar_resnet",
        {"depth": 20, "width": 0.25, "block": "bottleneck", "shortcut": "B"},
        groups=4 + 12,
    ),
}
every_case = pytest.mark.parametrize("case", CASES)
one_of_each = pytest.mark.parametrize("case", ["vgg", "densenet", "wide_resnet", "bottleneck_b"])


def build(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The network, seeded, in eval mode with BatchNorm that does something and lets something
    through.
    """
    case = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load_model(case.architecture, **case.parameters)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
                    if tensor.dim():
                        tensor.data.normal_(0, 0.3) if key in (
                            "bias",
                            "running_mean",
                        ) else tensor.data.uniform_(0.5, 1.5)
        return model.to(dtype)


def images(name: str, n: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        n, *CASES[name].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(dtype)


def pruned(
    model: nn.Module, name: str, granularity: str, target: float = 0.5, masks: Masks | None = None
) -> Masks:
    """Masks of a network pruned in place, by its weights' size."""
    criterion = "filter_norm" if granularity == "channel" else "magnitude"
    recipe = cases.recipe(
        1 - target, criterion={"name": criterion}, granularity={"name": granularity}
    )
    return prune_(
        model,
        masks or build_full_masks(find_prunable(model)),
        target,
        PruningMethod.of(recipe, recipe.criteria[0]),
        lambda masks, stage: Evidence(model, masks, shape=CASES[name].shape),
        generator=torch.Generator(),
    )


# what they compute


@pytest.mark.parametrize(
    ("architecture", "kwargs", "layers"),
    [
        ("vgg", {"depth": 11, "width": 0.05}, 9),
        ("vgg", {"depth": 13, "width": 0.05}, 11),
        ("vgg", {"depth": 16, "width": 0.05}, 14),
        ("vgg", {"depth": 19, "width": 0.05}, 17),
        ("densenet22", {"growth": 1}, 22),
        ("densenet22", {"growth": 1, "block": "basic"}, 22),
        ("wide_resnet", {"depth": 10, "width": 0.1}, 11),
        ("wide_resnet", {"depth": 22, "width": 0.1}, 23),
        ("cifar_resnet", {"depth": 20, "width": 0.1, "block": "bottleneck"}, 20),
        ("cifar_resnet", {"depth": 29, "width": 0.1, "block": "bottleneck", "shortcut": "B"}, 32),
    ],
)
def test_depth_counts_layers(architecture: str, kwargs: dict[str, Any], layers: int) -> None:
    """VGG's depth counts the three linear layers of the original. A wide ResNet's, 6n + 4, is that
    of 6n convolutions, the stem and three shortcuts; with the classifier these are 6n + 5.
    """
    model = load_model(architecture, **kwargs)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == layers


def normed(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """BatchNorm with its running statistics, by its definition."""
    mean, var, weight, bias = (
        state[f"{name}.{part}"][None, :, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def wide_oracle(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Depth 16: n = 2 blocks a stage."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            active = normed(state, f"{at}.bn1", x).relu()
            out = F.conv2d(active, state[f"{at}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(
                normed(state, f"{at}.bn2", out).relu(), state[f"{at}.conv2.weight"], padding=1
            )
            shortcut = state.get(f"{at}.shortcut.weight")
            assert (shortcut is not None) == (block == 0)
            x = out + (x if shortcut is None else F.conv2d(active, shortcut, stride=stride))
    return (
        normed(state, "bn", x).relu().mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]
    )


def dense_oracle(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Every layer reads all that the block was given and has made so far."""
    bottleneck = "dense1.0.conv2.weight" in state
    features = [F.conv2d(x, state["conv1.weight"], padding=1)]
    for stage in (1, 2, 3):
        for layer in range(3 if bottleneck else 6):
            at = f"dense{stage}.{layer}"
            out = normed(state, f"{at}.bn1", torch.cat(features, 1)).relu()
            if bottleneck:
                out = normed(state, f"{at}.bn2", F.conv2d(out, state[f"{at}.conv1.weight"])).relu()
            features.append(F.conv2d(out, state[f"{at}.conv{1 + bottleneck}.weight"], padding=1))
        if stage < 3:
            out = F.conv2d(
                normed(state, f"trans{stage}.bn1", torch.cat(features, 1)).relu(),
                state[f"trans{stage}.conv1.weight"],
            )
            features = [out.unflatten(3, (-1, 2)).mean(4).unflatten(2, (-1, 2)).mean(3)]
    return (
        normed(state, "bn", torch.cat(features, 1)).relu().mean((2, 3)) @ state["fc.weight"].T
        + state["fc.bias"]
    )


def vgg_oracle(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Depth 11."""
    place = 0
    for count in (1, 1, 2, 2, 2):
        for _ in range(count):
            x = F.conv2d(
                x, state[f"features.{place}.weight"], state[f"features.{place}.bias"], padding=1
            )
            x, place = normed(state, f"features.{place + 1}", x).relu(), place + 3
        x, place = x.unflatten(3, (-1, 2)).amax(4).unflatten(2, (-1, 2)).amax(3), place + 1
    return x.mean((2, 3)) @ state["classifier.weight"].T + state["classifier.bias"]


def bottleneck_oracle(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Depth 20 with projections: two blocks a stage."""
    x = normed(state, "bn1", F.conv2d(x, state["conv1.weight"], padding=1)).relu()
    for stage in (1, 2, 3):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            out = normed(state, f"{at}.bn1", F.conv2d(x, state[f"{at}.conv1.weight"])).relu()
            out = normed(
                state,
                f"{at}.bn2",
                F.conv2d(out, state[f"{at}.conv2.weight"], stride=stride, padding=1),
            ).relu()
            out = normed(state, f"{at}.bn3", F.conv2d(out, state[f"{at}.conv3.weight"]))
            if block == 0:
                x = normed(
                    state,
                    f"{at}.shortcut.1",
                    F.conv2d(x, state[f"{at}.shortcut.0.weight"], stride=stride),
                )
            x = (out + x).relu()
    return x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


ORACLES: dict[str, Callable[[dict[str, Tensor], Tensor], Tensor]] = {
    "vgg": vgg_oracle,
    "densenet": dense_oracle,
    "densenet_basic": dense_oracle,
    "wide_resnet": wide_oracle,
    "bottleneck_b": bottleneck_oracle,
}


@pytest.mark.parametrize("case", ORACLES)
def test_the_network_is_the_one_of_the_paper(case: str) -> None:
    model = build(case)
    with torch.no_grad():
        assert float(model(images(case)).std(0).min()) > 0.01
        torch.testing.assert_close(
            model(images(case)),
            ORACLES[case](model.state_dict(), images(case)),
            rtol=1e-9,
            atol=1e-9,
        )


def test_parameter_free_shortcuts_go_around_bottlenecks() -> None:
    """Stage 1 widens without losing pixels, stages 2 and 3 take every second one; new channels are
    zero on both sides.
    """
    model = build("bottleneck_a")
    x = images("bottleneck_a")[:, :1].expand(-1, 16, -1, -1)
    widening = model.get_submodule("layer1.0.shortcut")
    halving = model.get_submodule("layer2.0.shortcut")
    assert torch.equal(widening(x[:, :4]), F.pad(x[:, :4], (0, 0, 0, 0, 6, 6)))
    assert torch.equal(halving(x), F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))


@pytest.mark.parametrize(
    ("architecture", "kwargs", "message"),
    [
        ("wide_resnet", {"depth": 18}, r"depth 18 is not 6n \+ 4"),
        ("wide_resnet", {"depth": 4}, "greater than or equal to 10"),
        ("cifar_resnet", {"depth": 56, "block": "bottleneck"}, None),
        ("cifar_resnet", {"depth": 110, "block": "bottleneck"}, None),
        ("cifar_resnet", {"depth": 26, "block": "bottleneck"}, r"depth 26 is not 9n \+ 2"),
        ("cifar_resnet", {"depth": 83}, r"depth 83 is not 6n \+ 2"),
        ("vgg", {"depth": 12}, "depth: Input should be 11, 13, 16 or 19"),
        ("vgg", {"smallest": 8}, "smallest: Unexpected"),
        (
            "densenet22",
            {"compression": 1.5},
            "compression: Input should be less than or equal to 1",
        ),
        ("densenet22", {"block": "wide"}, "block: Input should be 'bottleneck' or 'basic'"),
    ],
)
def test_parameters_outside_the_family_are_refused(
    architecture: str, kwargs: dict[str, Any], message: str | None
) -> None:
    if (
        message is None
    ):  # also depths of real networks, but smaller than those that the paper's code calls so
        resolve(architecture, kwargs)
        return
    with pytest.raises(ParameterError, match=message):
        resolve(architecture, kwargs)


@pytest.mark.parametrize("size", [(31, 32), (32, 31), (8, 8)])
def test_vgg_refuses_small_images(size: tuple[int, int]) -> None:
    with pytest.raises(
        DataError, match=rf"at least 32 x 32 pixels, these have {size[0]} x {size[1]}"
    ):
        load_model("vgg", depth=11, width=0.05)(torch.zeros(1, 3, *size))
    with pytest.raises(DataError, match=r"at least 32 x 32 pixels, the dataset's have") as caught:
        check_fits(Vgg(classes=2), (3, *size), "ab")
    assert caught.value.pointer == "/dataset"


@pytest.mark.parametrize("size", [(32, 33), (65, 40)])
def test_vgg_takes_larger_images(size: tuple[int, int]) -> None:
    check_fits(Vgg(classes=2), (3, *size), "ab")
    assert load_model("vgg", depth=11, width=0.05)(torch.zeros(2, 3, *size)).shape == (2, 10)


@pytest.mark.parametrize(
    "architecture", [DenseNet22(growth=1, classes=4), WideResNet(depth=10, width=0.1, classes=4)]
)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9)])
def test_the_others_take_images_of_any_size(architecture: Any, size: tuple[int, int]) -> None:
    assert architecture.build().eval()(torch.zeros(2, 3, *size)).shape == (2, 4)


# pruned


@every_case
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


@every_case
@pytest.mark.parametrize(
    ("dtype", "tolerance", "targets"),
    [(torch.float32, 1e-5, (0.4,)), (torch.float64, 1e-11, (0.5, 0.2))],
    ids=["float32", "float64"],
)
def test_the_smaller_network_computes_what_the_masked_one_does(
    case: str, dtype: torch.dtype, tolerance: float, targets: tuple[float, ...]
) -> None:
    model = build(case, dtype)
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


@every_case
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
def test_coresets_of_neurons_need_batchnorm_behind_the_layer(case: str) -> None:
    """The theorem of Mussay et al. is on neurons: BatchNorm before a convolution is folded into
    none of its neurons.
    """
    evidence = Evidence(
        build(case, torch.float32), batches=[(images(case, 4, torch.float32), torch.arange(4) % 3)]
    )
    if case.startswith(("densenet", "wide")):
        with pytest.raises(StructureError, match="bn1 does not follow a layer directly"):
            criteria.create("mussay").score(evidence)
    else:
        assert set(criteria.create("mussay").score(evidence)) == set(find_prunable(evidence.model))


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
    ("case", "criterion"), [("vgg", "sipp"), ("densenet", "filter_norm"), ("wide_resnet", "sipp")]
)
def test_a_whole_job_with_approximation_and_bounds(
    case: str, criterion: str, tmp_path: Path
) -> None:
    data = cases.make_data(shape=CASES[case].shape, fit=30, val=6, test=24)
    recipe = cases.recipe(
        0.3,
        0.6,
        criterion={"name": criterion},
        train={"epochs": 8, "batch_size": 6, "optimizer": {"lr": 0.03}},
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
        control=pipeline.control,
        given_measured=pipeline.given_measured,
        control_measured=pipeline.control_measured,
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
