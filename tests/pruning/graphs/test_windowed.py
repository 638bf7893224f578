"""Windows against whole passes in float64, on random small networks and on difficult ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pruning.analysis.back_select
import pruning.graphs.windowed
from pruning.analysis.back_select import optimise_for_inference, select_backwards
from pruning.errors import StructureError
from pruning.graphs.in_place import refuse_overwritten, simplify
from pruning.graphs.windowed import Window, Windows
from pruning.library import load_model
from pruning.seeding import seeded


class Residual(nn.Module):
    """A sum of two paths, one of them strided and widened like the parameter-free shortcut."""

    def __init__(self, channels: int, stride: int, inplace: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels + 2, 3, padding="same", bias=False)
        self.relu = nn.ReLU(inplace)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.relu(self.norm(self.conv1(x))))
        out += F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 1, 1))
        return self.relu(out)


class Joined(nn.Module):
    """Channels of two paths side by side, some of them selected."""

    chosen: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.left = nn.Conv2d(channels, 2, 1)
        self.right = nn.Conv2d(channels, 3, (5, 3), padding=(2, 1))
        self.register_buffer("chosen", torch.tensor([4, 0, 2, 1]))

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x), torch.tanh(self.right(x))], 1)
        return both.index_select(1, self.chosen % both.shape[1]) * 2


class Gated(nn.Module):
    """A network that weighs every place by the mean over all places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


def draw_layer(rng: random.Random, channels: int) -> nn.Module:
    """A random operation on maps of a number of channels."""
    builders = [
        lambda channels_in: nn.Conv2d(
            channels_in,
            2 * channels_in,
            rng.choice([1, 2, 3, 5]),
            rng.choice([1, 1, 2, 3]),
            rng.choice([0, 1, 2]),
            rng.choice([1, 1, 2]),
            rng.choice([1, channels_in]),
        ),
        lambda channels_in: nn.Conv2d(
            channels_in, 3, (rng.choice([1, 3]), rng.choice([2, 4])), padding="same"
        ),
        lambda channels_in: nn.Conv2d(
            channels_in, channels_in, 3, padding=1, padding_mode="reflect"
        ),
        lambda channels_in: nn.MaxPool2d(
            rng.choice([2, 3]),
            rng.choice([1, 2]),
            rng.choice([0, 1]),
            ceil_mode=rng.random() < 0.5,
        ),
        lambda channels_in: nn.AvgPool2d(
            rng.choice([2, 3]),
            rng.choice([1, 2]),
            rng.choice([0, 1]),
            ceil_mode=rng.random() < 0.3,
            count_include_pad=rng.random() < 0.7,
        ),
        lambda channels_in: nn.BatchNorm2d(channels_in),
        lambda channels_in: nn.Sequential(nn.GELU(), nn.Identity(), nn.Dropout2d()),
        lambda channels_in: Residual(channels_in, rng.choice([1, 2, 3]), rng.random() < 0.5),
        Joined,
        Gated,
        lambda channels_in: nn.InstanceNorm2d(channels_in),
    ]
    return rng.choice(builders)(channels)


def draw_network(rng: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    """A network of up to six operations, each of which still fits the map."""
    layers: list[nn.Module] = []

    def fits() -> bool:
        try:
            with torch.no_grad():
                return nn.Sequential(*layers).eval()(torch.zeros(1, channels, *size)).numel() > 0
        except RuntimeError:
            return False

    while len(layers) < rng.randint(2, 6):
        width = nn.Sequential(*layers).eval()(torch.zeros(1, channels, *size)).shape[1]
        layers.append(draw_layer(rng, width))
        if not fits():
            layers.pop()
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(3))
    net.eval()(torch.zeros(1, channels, *size))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
    return net.double()


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:Using padding='same'")
@pytest.mark.parametrize("seed", range(40))
def test_windows_are_the_whole_pass(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number of channels with each part of the map from which on all of it is computed."""
    monkeypatch.setattr(pruning.graphs.windowed, "WHOLE", (0.5, 0.8, 1.5)[seed // 3 % 3])
    rng, channels = random.Random(seed), seed % 3 + 1
    size = rng.randint(7, 17), rng.randint(7, 17)
    with seeded(seed):
        net = draw_network(rng, channels, size)
        image = torch.randn(channels, *size, dtype=torch.float64)
        last = net.to(memory_format=torch.channels_last) if seed % 2 else net  # type: ignore[call-overload]
        windows = Windows(last)
        with torch.no_grad():
            torch.testing.assert_close(
                windows.set_reference(image), net(image[None]), rtol=1e-9, atol=1e-9
            )
            for _ in range(6):
                side = rng.randint(1, 4)
                top = rng.choice([0, size[0] - side, rng.randint(0, size[0] - side)])
                left = rng.choice([0, size[1] - side, rng.randint(0, size[1] - side)])
                values = torch.randn(rng.randint(1, 3), channels, side, side, dtype=torch.float64)
                images = image.repeat(len(values), 1, 1, 1)
                images[:, :, top : top + side, left : left + side] = values
                logits = windows.evaluate(values, (top, top + side, left, left + side))
                torch.testing.assert_close(logits, net(images), rtol=1e-9, atol=1e-9)


NETWORKS: list[Callable[[], nn.Module]] = [
    lambda: load_model("cifar_resnet", depth=20),
    lambda: load_model("cifar_resnet", depth=8, shortcut="B"),
    lambda: load_model("densenet22"),
    lambda: load_model("wide_resnet"),
    lambda: load_model("vgg", depth=11),
]


@pytest.mark.parametrize("build", NETWORKS)
def test_networks_answer_in_windows_as_they_do_whole(build: Callable[[], nn.Module]) -> None:
    with seeded(0):
        model = build().eval()
        image = torch.randn(3, 32, 32)
        windows = Windows(optimise_for_inference(model, image))
        with torch.no_grad():
            windows.set_reference(image)
            for top, left in (0, 0), (14, 9), (30, 30):
                images = image.repeat(2, 1, 1, 1)
                images[0, :, top : top + 2, left : left + 2] = 0
                images[1, :, top, left] = 0
                logits = windows.evaluate(
                    images[:, :, top : top + 2, left : left + 2], (top, top + 2, left, left + 2)
                )
                torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-4)


def test_layers_see_no_more_than_their_windows() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, 2, 1), nn.Conv2d(2, 1, 3))
    windows = Windows(net)
    convolve = F.conv2d
    shapes = []

    def record_shape(maps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shapes.append(tuple(maps.shape))
        return convolve(maps, *args, **kwargs)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        windows.set_reference(torch.ones(1, 20, 20))
        patch.setattr(F, "conv2d", record_shape)
        windows.evaluate(torch.zeros(4, 1, 2, 2), (8, 10, 0, 2))
    assert shapes == [(4, 1, 6, 5), (4, 2, 7, 5), (4, 2, 7, 4)], "a block at the left edge"


class Overwriting(nn.Module):
    """A network that overwrites values which it uses again, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(1, 1, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "input":
            return self.conv(self.relu(x))
        out = self.conv(x)
        if self.way == "module":
            return self.relu(out) + out
        if self.way == "view":
            return self.relu(out[:, :, ::2]).sum() + out
        other = out * 2
        if self.way == "sum":
            other += out
            return other + out.relu_()
        return F.relu(out, True) + out


@pytest.mark.parametrize("way", ["input", "module", "view", "sum", "function"])
def test_networks_that_overwrite_what_they_use_again_are_refused(way: str) -> None:
    with pytest.raises(StructureError, match=r"overwrites in .* what it uses again"):
        Windows(Overwriting(way))


class Sums(nn.Module):
    """Sums that may be larger than their first operand, and an operand that is used again."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(2, 1, 1)
        self.wide = nn.Conv2d(2, 2, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        broadcast = self.narrow(x) + self.wide(x)
        used_again = self.wide(x)
        return (
            self.relu(self.wide(x) + x)
            + self.relu(broadcast)
            + self.relu(used_again) * used_again
            + F.relu(self.wide(x) + 1)
        )


def test_a_simplified_network_has_the_same_output_again_and_again() -> None:
    net, image = Sums(), torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, lean = net(image), simplify(torch.fx.symbolic_trace(net))
        before = image.clone()
        for _ in range(2):
            torch.testing.assert_close(lean(image), expected, rtol=0, atol=0)
            assert torch.equal(image, before)
    refuse_overwritten(lean)
    assert (
        sum(
            node.name.startswith("relu") and node.target is torch.relu_ for node in lean.graph.nodes
        )
        == 3
    )


def test_new_memory_may_be_overwritten() -> None:
    refuse_overwritten(torch.fx.symbolic_trace(Residual(2, 1, inplace=True)))


def test_a_window_in_a_box_apart_from_its_own_is_the_reference() -> None:
    window = Window(torch.ones(2, 1, 2, 2), (0, 2, 0, 2), torch.zeros(1, 1, 5, 5))
    assert window.extract((3, 5, 1, 4)).tolist() == torch.zeros(2, 1, 2, 3).tolist()


@pytest.mark.parametrize(("block", "near"), [(1, 1), (1, 16), (2, 3), (5, 1), (5, 16)])
def test_the_number_of_blocks_tried_at_once_changes_nothing(
    block: int, near: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seeded(0):
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48, 3),
        ).double()
        image = torch.randn(2, 9, 8, dtype=torch.float64)
    image[:, 3:6, 2:5] = 0
    monkeypatch.setattr(pruning.analysis.back_select, "NEAR", near)
    order = select_backwards(net, image, 1, block)
    monkeypatch.setattr(pruning.analysis.back_select, "_make_windows", lambda model: None)
    assert torch.equal(order, select_backwards(net, image, 1, block))


def test_of_blocks_that_hide_nothing_the_first_goes() -> None:
    net, image = load_model("cifar_resnet", depth=8), torch.zeros(3, 32, 32)
    assert select_backwards(optimise_for_inference(net, image), image, 0, 2, steps=3).tolist() == [
        0,
        1,
        2,
    ]
    image[:, 16:] = 1
    order = select_backwards(optimise_for_inference(net, image), image, 0, 8).tolist()
    still = [block for block in order if block < 8]
    assert still == sorted(still), "as sure with as without"
