"""The convolutional families: what they compute, their parameters and the images they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures.densenet22 import DenseNet22
from pruning.architectures.vgg import Vgg
from pruning.architectures.wide_resnet import WideResNet
from pruning.errors import DataError, ParameterError
from pruning.networks.loading import check_fits, load_model, resolve
from pruning.seeding import seeded
from tests.support.convolutional_cases import build, images


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


def test_the_networks_of_the_loss_models_start_as_the_papers() -> None:
    """Kaiming-normal weights, biases of zero; no BatchNorm in VGG11, and one after the classifier
    of the pre-activation ResNet.
    """
    kaiming = {"initialisation": "kaiming", "activation": "tanh"}
    bare = {"depth": 11, "width": 0.25, "batchnorm": False, "head": [512, 512]}
    with seeded(0):
        mlp, vgg = resolve("mlp", kaiming).build(), resolve("vgg", bare).build()
    for network in (mlp, vgg):
        layers = [part for part in network.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
        for layer in layers:
            assert layer.bias is not None
            assert not layer.bias.any()
            spread = float(layer.weight.detach().std()) * (layer.weight[0].numel() / 2) ** 0.5
            assert spread == pytest.approx(1, abs=0.12)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in vgg.modules())
    head = [
        (part.in_features, part.out_features)
        for part in vgg.modules()
        if isinstance(part, nn.Linear)
    ]
    assert head == [(128, 128), (128, 128), (128, 10)]
    preact = resolve("preact_resnet", {"width": 0.1}).build()
    shapes = {name: tuple(value.shape) for name, value in preact.state_dict().items()}
    assert (shapes["linear.weight"], shapes["bn2.weight"]) == ((10, 51, 1, 1), (10,))
    assert "linear.bias" not in shapes
    assert {name.split(".")[2] for name in shapes if name.startswith("layer2.0.")} == {
        "bn1",
        "conv1",
        "bn2",
        "conv2",
        "shortcut",
    }
