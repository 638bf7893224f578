"""The distances of two networks' outputs, by hand in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.analysis.output_distances import (
    average_finite,
    average_paired_change,
    measure_output_distances,
)
from pruning.masks import apply_masks_
from pruning.seeding import seeded
from tests.support import cases
from tests.support.distances import mean_relative_error


def apply_linear(net: nn.Module, name: str, x: Tensor) -> Tensor:
    """Apply the linear layer of a network by its definition."""
    return F.linear(x, net.get_parameter(f"{name}.weight"), net.get_parameter(f"{name}.bias"))


def test_a_perceptron_by_hand() -> None:
    dense, pruned = cases.mlp().double(), cases.mlp().double()
    apply_masks_(pruned, cases.half_masks(pruned))
    x = torch.randn(7, 1, 4, 4, dtype=torch.float64)
    distances = measure_output_distances(dense, pruned, x.split(3))
    with torch.no_grad():
        a1, b1 = (apply_linear(net, "1", x.flatten(1)) for net in (dense, pruned))
        z = apply_linear(dense, "3", a1.relu())
        y = apply_linear(pruned, "3", b1.relu())
    for index in range(7):
        assert float(distances.layers["1"][index]) == pytest.approx(
            math.dist(a1[index], b1[index]) / math.hypot(*a1[index])
        )
        p, q = z[index].softmax(0).tolist(), y[index].softmax(0).tolist()
        assert float(distances.softmax[index]) == pytest.approx(math.dist(p, q))
        assert float(distances.kl[index]) == pytest.approx(
            sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        )
        assert bool(distances.agrees[index]) == (int(z[index].argmax()) == int(y[index].argmax()))
        c, d = (row - row.mean() for row in (z[index], y[index]))
        assert float(distances.centred[index]) == pytest.approx(math.dist(c, d) / math.hypot(*c))
    assert torch.equal(distances.hidden, distances.layers["1"])
    assert torch.equal(distances.logits, distances.layers["3"])
    assert bool((distances.softmax <= 0.5 * distances.logits * z.norm(dim=1)).all())
    assert average_finite(distances.layers["1"]) == average_finite(
        torch.cat([distances.layers["1"], torch.tensor([math.nan])])
    )


def test_a_convolution_by_hand_before_an_activation_in_place() -> None:
    def net() -> nn.Sequential:
        with seeded(3):
            return (
                nn.Sequential(
                    nn.Conv2d(1, 3, 3),
                    nn.BatchNorm2d(3),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(3, 2, 2),
                    nn.ReLU(inplace=True),
                    nn.Flatten(),
                    nn.Linear(2, 3),
                )
                .double()
                .train()
            )

    dense, pruned = net(), net()
    apply_masks_(pruned, cases.half_masks(pruned))
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    distances = measure_output_distances(dense, pruned, [x])
    assert dense.training
    assert not any(
        module._forward_hooks for network in (dense, pruned) for module in network.modules()
    )
    with torch.no_grad():
        (a, a3), (b, b3) = (
            (network[0](x), network[3](network[1](network[0](x)).relu()))
            for network in (dense.eval(), pruned.eval())
        )
    first = mean_relative_error(a.flatten(1), b.flatten(1))
    second = mean_relative_error(a3.flatten(1), b3.flatten(1))
    assert list(distances.layers) == ["0", "3", "6"]
    assert float(distances.layers["0"].mean()) == pytest.approx(first)
    assert float(distances.layers["3"].mean()) == pytest.approx(second)
    assert float(distances.hidden.mean()) == pytest.approx((first + second) / 2)


def test_a_layer_that_is_called_twice_counts_once_with_all_its_outputs() -> None:
    layer, other_layer = nn.Linear(3, 3), nn.Linear(3, 3)
    first, second = (
        nn.Sequential(layer, nn.ReLU(), layer),
        nn.Sequential(other_layer, nn.ReLU(), other_layer),
    )
    x = torch.randn(4, 3)
    distances = measure_output_distances(first, second, [x])
    with torch.no_grad():
        a, b = (torch.cat([net[0](x), net(x)], 1).double() for net in (first, second))
    assert float(distances.layers["0"].mean()) == pytest.approx(mean_relative_error(a, b), rel=1e-5)
    assert average_finite(distances.hidden) is None


def test_softmax_and_centred_logits_do_not_see_what_all_logits_share() -> None:
    network = nn.Linear(4, 3)
    shifted = copy.deepcopy(network)
    with torch.no_grad():
        shifted.bias.add_(5)
    distances = measure_output_distances(network, shifted, [torch.randn(6, 4)])
    assert float(distances.logits.min()) > 0.5
    assert (
        max(
            float(values.abs().max())
            for values in (distances.centred, distances.softmax, distances.kl)
        )
        < 1e-5
    )
    assert bool(distances.agrees.all())


class Folding(nn.Module):
    """Sees every row of an image by itself in its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.Linear(4, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.reshape(-1, 4)).reshape(len(x), 8))


def test_layers_without_one_output_for_each_image_are_left_out() -> None:
    distances = measure_output_distances(Folding(), Folding(), [torch.randn(5, 1, 4, 4)])
    assert distances.unmatched == ("rows",)
    assert list(distances.layers) == ["head"]


@pytest.mark.parametrize(
    ("before", "after", "value"),
    [
        ([1.0, 2.0], [2.0, 5.0], 2.0),
        ([1.0, math.nan], [2.0, math.nan], 1.0),
        ([math.nan], [math.nan], None),
        ([1.0, math.inf], [2.0, 1.0], None),
        ([1.0, 1.0], [math.inf, 1.0], None),
    ],
)
def test_changes_are_paired_and_none_off_the_scale(
    before: list[float], after: list[float], value: float | None
) -> None:
    change = average_paired_change(torch.tensor(before), torch.tensor(after))
    assert (change and change.value) == value
