"""Errors of layers carried to the logits against the errors of networks with other weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures.cifar_resnet import CifarResNet
from pruning.bounds.carrier import Carrier, ValueWithError
from pruning.errors import StructureError
from pruning.graphs.tracing import LIPSCHITZ, fold_batchnorm
from pruning.masks import find_prunable
from pruning.networks.layers import record_uses
from tests.support.bound_cases import randomise


class Net(nn.Module):
    """Two convolutions, or other layers of these names, and a function that calls them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def change_weights(model: nn.Module, size: float) -> nn.Module:
    """The network with other weights: noise of `size` relative to each, some zero, some of another
    sign.
    """
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for weight in find_prunable(changed).values():
            weight += size * weight.abs().mean() * torch.randn_like(weight)
            weight *= torch.rand_like(weight) > 0.3
    return changed


def measure_own_errors(
    model: nn.Module, changed: nn.Module, x: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The other network's weights, and the change that each alone makes in its layer."""
    weights = {name: weight.detach() for name, weight in find_prunable(changed).items()}
    with torch.no_grad(), record_uses(model, list(weights)) as uses:
        model(x)
    errors = {}
    for name, use in ((name, calls[0]) for name, calls in uses.items() if calls):
        layer = copy.deepcopy(use.layer)
        with torch.no_grad():
            layer.weight.copy_(weights[name])
            errors[name] = (layer(use.inputs) - use.layer(use.inputs)).abs()
    return weights, errors


def carry_and_measure(model: nn.Module, x: Tensor, size: float = 0.3) -> tuple[Tensor, Tensor]:
    """The bound that is carried to the logits, and how much they differ."""
    changed = change_weights(model, size)
    weights, errors = measure_own_errors(model, changed, x)
    with torch.no_grad():
        return Carrier(model).carry(x.clone(), weights, errors), (
            changed(x.clone()) - model(x.clone())
        ).abs()


def make_plain(
    between: Any, end: Callable[[Tensor], Tensor] = lambda h: h.mean((2, 3))
) -> nn.Module:
    """A network with a module or a function between its two convolutions."""
    if isinstance(between, nn.Module):
        return Net(lambda net, x: net.fc(end(net.b(net.between(net.a(x))))), between=between)
    return Net(lambda net, x: net.fc(end(net.b(between(net.a(x))))))


PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES: tuple[PaddingMode, ...] = ("reflect", "circular", "replicate", "zeros")
SHORTCUTS: tuple[Literal["A", "B"], ...] = ("A", "B")


def make_padded(mode: PaddingMode) -> nn.Module:
    return Net(
        lambda net, x: net.fc(net.b(net.a(x).relu()).mean((2, 3))),
        a=nn.Conv2d(2, 4, 3, padding=1, padding_mode=mode),
        b=nn.Conv2d(4, 4, (3, 1), padding=(2, 1), padding_mode=mode),
    )


def make_convolution(**fields: Any) -> nn.Module:
    return Net(
        lambda net, x: net.fc(net.b(net.a(x).relu()).mean((2, 3))), b=nn.Conv2d(4, 4, 3, **fields)
    )


def joined(net: Any, x: Tensor) -> Tensor:
    h = net.a(x)
    return net.wide(torch.cat([h.relu(), -1.0 + net.b(h), h[:, :2]], dim=1).mean((2, 3)))


def flowing(net: Any, x: Tensor) -> Tensor:
    h = net.a(x).relu()
    h = h.sub(net.b(h)) + 3.0
    h = 1.0 - torch.sub(h, net.c(h))
    h += net.d(h)
    return net.fc(
        h.permute(0, 2, 3, 1).reshape(h.shape[0], -1, h.size(1)).transpose(1, 2).contiguous().sum(2)
        - 2
    )


def make_convolutions() -> dict[str, nn.Module]:
    return {"c": nn.Conv2d(4, 4, 1), "d": nn.Conv2d(4, 4, 1)}


def normed(net: Any, x: Tensor) -> Tensor:
    """BatchNorm before a layer, which nothing folds."""
    return net.fc(net.flat(net.b(net.norm(net.a(x).relu())).mean((2, 3))))


def gated(net: Any, x: Tensor) -> Tensor:
    """Squeeze and excitation: channels times a gate between 0 and 1."""
    h = net.b(net.a(x).relu())
    gate = torch.sigmoid(net.squeeze(h.mean((2, 3)))).unsqueeze(2).unsqueeze(3)
    return net.fc((h * gate).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{
        name: partial(make_plain, function)
        for name, function in {
            "relu": torch.relu,
            "tanh": torch.tanh,
            "sigmoid": torch.sigmoid,
            "softplus": F.softplus,
            "gelu": F.gelu,
            "silu": F.silu,
            "leaky_relu": F.leaky_relu,
            "relu6": F.relu6,
            "steep leaky_relu": lambda h: F.leaky_relu(h, -3.0),
            "named leaky_relu": lambda h: F.leaky_relu(h, negative_slope=4.0),
            "method": lambda h: h.sigmoid().tanh().relu(),
            "max_pool": lambda h: F.max_pool2d(h, 3, 2, padding=1),
            "avg_pool": lambda h: F.avg_pool2d(h, 2, 1, padding=1),
            "adaptive": lambda h: F.adaptive_avg_pool2d(h, 3),
            "pad": lambda h: F.pad(h, (1, 0, 2, 1)),
            "negative pad": lambda h: F.pad(h, (1, 1, 1, 1), value=-5.0),
            "positional pad": lambda h: F.pad(h, (1, 1), "constant", 7.0),
            "reflected pad": lambda h: F.pad(h, (1, 1, 1, 1), "reflect"),
            "dropout": lambda h: F.dropout(h, 0.5, False),
            "by name": lambda h: F.dropout(input=F.relu(input=h), training=False),
            "hardtanh": F.hardtanh,
            "hardswish": F.hardswish,
            "hardsigmoid": F.hardsigmoid,
            "times a constant": lambda h: -2.0 * h,
            "times a tensor": lambda h: h * torch.arange(-1.0, 3.0).double().reshape(4, 1, 1),
            "square": lambda h: h.mul(h),
            "parts": lambda h: torch.cat(torch.chunk(h, 2, 1), 1),
            "parts by a method": lambda h: torch.cat([h.split(1, 1)[0], h.chunk(4, 1)[3]] * 2, 1),
            "constant": lambda h: h + torch.arange(4.0).double().reshape(4, 1, 1),
        }.items()
    },
    **{
        type(module).__name__ + repr(module)[-12:]: partial(make_plain, module)
        for module in (
            nn.ReLU(inplace=True),
            nn.Tanh(),
            nn.Sigmoid(),
            nn.Softplus(beta=3.0),
            nn.GELU(),
            nn.GELU(approximate="tanh"),
            nn.SiLU(),
            nn.LeakyReLU(2.5),
            nn.Hardtanh(),
            nn.MaxPool2d(2),
            nn.AvgPool2d(3, 1),
            nn.AdaptiveAvgPool2d(2),
            nn.Dropout(),
            nn.ReLU6(),
            nn.Hardswish(),
            nn.Hardsigmoid(),
            nn.LayerNorm(6),
            nn.LayerNorm([4, 6, 6]),
            nn.LayerNorm([6, 6], elementwise_affine=False),
            nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1),
            nn.ConvTranspose2d(4, 4, 2, groups=2, bias=False),
        )
    },
    "gate": lambda: Net(gated, squeeze=nn.Linear(4, 4)),
    "hard gate": lambda: Net(
        lambda net, x: net.fc((F.hardsigmoid(net.a(x)) * net.b(net.a2(x))).mean((2, 3))),
        a2=nn.Conv2d(2, 4, 3, padding=1),
    ),
    "rows": lambda: Net(
        lambda net, x: net.fc(net.up(net.row(net.a(x).flatten(2)).relu()).mean(2)),
        row=nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"),
        up=nn.ConvTranspose1d(4, 4, 3, stride=2),
    ),
    "flatten": lambda: make_plain(
        torch.relu, lambda h: torch.flatten(F.adaptive_avg_pool2d(h, 1), 1)
    ),
    "modules": lambda: Net(
        lambda net, x: net.end(net.b(net.a(x).relu())),
        end=nn.Sequential(
            nn.MaxPool2d(3, 2, 1),
            nn.Flatten(2),
            nn.Unflatten(2, (3, 3)),
            nn.Flatten(),
            nn.Linear(36, 3),
            nn.Identity(),
        ),
    ),
    **{mode: partial(make_padded, mode) for mode in PADDING_MODES},
    "grouped": lambda: make_convolution(groups=2),
    "depthwise": lambda: make_convolution(groups=4, padding="same"),
    "strided": lambda: make_convolution(stride=2),
    "dilated": lambda: make_convolution(dilation=2, padding=2),
    "cat": lambda: Net(joined, wide=nn.Linear(10, 3)),
    "sums": lambda: Net(flowing, **make_convolutions()),
    "cat with a constant": lambda: Net(
        lambda net, x: net.fc(
            torch.cat([net.b(net.a(x))[:, :3], torch.full((5, 1, 6, 6), -100.0).double()], 1).mean(
                (2, 3)
            )
        )
    ),
    "batchnorm": lambda: Net(normed, norm=nn.BatchNorm2d(4), flat=nn.BatchNorm1d(4, affine=False)),
    **{
        f"shortcut {kind}": CifarResNet(
            depth=8, width=0.25, shortcut=kind, channels=2, classes=3
        ).build
        for kind in SHORTCUTS
    },
    "tokens": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2), nn.Flatten(), nn.Linear(24, 3)
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_never_further_off_than_what_is_carried(name: str) -> None:
    any_error = False
    for fold in (False, True):
        torch.manual_seed(fold)
        model = randomise(NETWORKS[name]())
        model = fold_batchnorm(model) if fold else model
        for scale, size in ((1.0, 1.0), (100.0, 0.1)):
            bound, error = carry_and_measure(
                model, scale * torch.randn(5, 2, 6, 6, dtype=torch.float64), size
            )
            assert bool((error <= bound * (1 + 1e-9) + 1e-9 * error.amax()).all())
            any_error = any_error or bool((error > 0).any())
    assert any_error


def test_what_is_carried_is_what_a_linear_network_with_nonnegative_weights_does() -> None:
    """All inequalities are equalities there: nothing is carried twice."""
    model = (
        Net(
            lambda net, x: net.fc(
                (net.b(net.a(x)) + F.avg_pool2d(net.a2(x), 3, 1, 1)).mean((2, 3))
            ),
            a2=nn.Conv2d(2, 4, 3, padding=1),
        )
        .double()
        .eval()
    )
    for parameter in model.parameters():
        parameter.data.abs_()
    changed = copy.deepcopy(model)
    for weight in find_prunable(changed).values():
        weight.data *= 0.5 + torch.rand_like(weight) / 2
    x = torch.rand(5, 2, 6, 6, dtype=torch.float64)
    weights, errors = measure_own_errors(model, changed, x)
    with torch.no_grad():
        torch.testing.assert_close(
            Carrier(model).carry(x, weights, errors), model(x) - changed(x), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize(
    "between",
    [
        nn.LeakyReLU(-3.0),
        nn.LeakyReLU(3.0),
        lambda h: F.leaky_relu(h, 3.0),
        lambda h: F.leaky_relu(h, negative_slope=-3.0),
    ],
)
def test_where_a_leaky_relu_is_steeper_below_zero_errors_grow_by_that(between: Any) -> None:
    model = Net(
        lambda net, x: (
            net.b(net.between(net.a(x)))
            if isinstance(between, nn.Module)
            else net.b(between(net.a(x)))
        ),
        a=nn.Linear(1, 1),
        b=nn.Linear(1, 1),
        **({"between": between} if isinstance(between, nn.Module) else {}),
    )
    errors = {"a.weight": torch.tensor([[0.5]])}
    bound = Carrier(model).carry(-torch.ones(1, 1), {"b.weight": torch.tensor([[-2.0]])}, errors)
    assert float(bound) == pytest.approx(3 * 2 * 0.5)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (F.gelu, nn.GELU),
        (lambda z: F.gelu(z, approximate="tanh"), nn.GELU),
        (F.silu, nn.SiLU),
        (torch.sigmoid, nn.Sigmoid),
        (F.softplus, nn.Softplus),
        (torch.tanh, nn.Tanh),
        (F.relu6, nn.ReLU6),
        (F.hardtanh, nn.Hardtanh),
        (F.hardswish, nn.Hardswish),
        (F.hardsigmoid, nn.Hardsigmoid),
        (F.leaky_relu, nn.LeakyReLU),
    ],
)
def test_no_slope_is_larger_than_the_constant(
    function: Callable[[Tensor], Tensor], kind: Any
) -> None:
    z = torch.linspace(-12, 12, 1_000_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(function(z).sum(), z)
    assert LIPSCHITZ[kind] * 0.999 <= float(slope.abs().max()) <= LIPSCHITZ[kind]


# what has no rule


def overwritten(net: Any, x: Tensor) -> Tensor:
    h = net.a(x)
    g = h.add_(net.b(h))
    return net.fc((h + g).mean((2, 3)))


REFUSED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a quotient": lambda net, x: net.fc((net.a(x) / net.a2(x)).mean((2, 3))),
    "a scaled sum": lambda net, x: net.fc(torch.add(net.a(x), net.a2(x), alpha=-2).mean((2, 3))),
    "a functional layer": lambda net, x: F.linear(net.a(x).mean((2, 3)), net.fc.weight),
    "indices": lambda net, x: net.fc(
        (F.max_pool2d(net.a(x), 2, return_indices=True)[0]).mean((2, 3))
    ),
    "a number": lambda net, x: net.fc(net.a(x).mean((2, 3)) + net.a2(x).sum().item()),
    "attention": lambda net, x: net.fc(net.attention(h := net.a(x).flatten(2).mT, h, h)[0].mean(1)),
    "an average that is not running": lambda net, x: net.fc(net.norm(net.a(x)).mean((2, 3))),
    "another norm": lambda net, x: net.fc(net.group_norm(net.a(x)).mean((2, 3))),
    "a softplus that jumps": lambda net, x: net.fc(F.softplus(net.a(x), 1.0, 0.5).mean((2, 3))),
    "overwritten": overwritten,
    "by name": lambda net, x: net.fc(input=net.a(x).mean((2, 3))),
    "nothing seen": lambda net, x: net.fc(torch.ones(5, 4).double()),
    "a choice": lambda net, x: net.fc(net.a(x).mean((2, 3))) if x.sum() > 0 else net.fc(x),
    "comparison": lambda net, x: net.fc((net.a(x) * (net.a(x) > 0)).mean((2, 3))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_a_named_error(name: str) -> None:
    model = (
        Net(
            REFUSED[name],
            a2=nn.Conv2d(2, 4, 3, padding=1),
            attention=nn.MultiheadAttention(4, 1, batch_first=True),
            norm=nn.BatchNorm2d(4, track_running_stats=False),
            group_norm=nn.GroupNorm(2, 4),
        )
        .double()
        .eval()
    )
    weights = {name: weight.detach() for name, weight in find_prunable(model).items()}
    with pytest.raises(StructureError):
        Carrier(model).carry(torch.randn(5, 2, 6, 6, dtype=torch.float64), weights, {})


def test_a_value_without_an_error_has_an_error_of_zero() -> None:
    assert ValueWithError(torch.ones(1), torch.zeros(1)).error == 0
