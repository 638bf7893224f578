"""Networks evaluated again from the first operation on that a change touches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.graphs.prefixes import Prefixes, replace_values
from pruning.networks.layers import forward_hooks
from pruning.seeding import seeded


@dataclass(frozen=True)
class Negated:
    """A change of sign of some parameters."""

    names: tuple[str, ...]

    def build_values(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The parameters with the other sign."""
        return {name: -model.get_parameter(name) for name in self.names}


class Tangled(nn.Module):
    """Branches, sums and ReLUs in place, a weight that two layers share, and a free parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.left = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.right = nn.Conv2d(3, 3, 1, bias=False)
        self.again = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.again.weight = self.left.weight
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits."""
        stem = self.relu(self.stem(inputs))
        branch = self.left(stem)
        branch += self.right(stem) * self.scale
        branch = self.again(self.relu(branch))
        return self.head(F.dropout(branch, 0.5, self.training).mean((2, 3)))


class Branching(Tangled):
    """The same, with a course that depends on its inputs."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits."""
        return super().forward(inputs) if inputs.sum() < 1e9 else inputs


CHANGES = [
    Negated(("head.weight", "head.bias")),
    Negated(("stem.weight",)),
    Negated(("left.weight",)),
    Negated(("right.weight",)),
    Negated(("scale",)),
    Negated(("right.weight", "head.weight")),
    Negated(("head.bias",)),
]


def build(kind: type[Tangled] = Tangled) -> Tangled:
    """A seeded network, in training mode."""
    with seeded(0):
        return kind()


@pytest.mark.parametrize("kind", [Tangled, Branching])
def test_outputs_are_those_of_whole_passes_to_the_last_digit(kind: type[Tangled]) -> None:
    net, inputs = build(kind), torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    prefixes = Prefixes(net)
    assert prefixes.traced == (kind is Tangled)
    outputs = dict(prefixes.evaluate(inputs, CHANGES))
    assert sorted(outputs) == list(range(-1, len(CHANGES)))
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    net.eval()
    with torch.no_grad():
        assert torch.equal(outputs[-1], net(inputs))
        for number, change in enumerate(CHANGES):
            with replace_values(net, change.build_values(net)):
                assert torch.equal(outputs[number], net(inputs)), change
    assert not torch.equal(outputs[0], outputs[-1])


def test_what_lies_before_a_change_is_computed_once() -> None:
    net = build()
    calls: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: object, output: object) -> None:
        calls[module] = calls.get(module, 0) + 1

    prefixes = Prefixes(net)
    with forward_hooks([net.stem, net.right, net.head], count):
        list(prefixes.evaluate(torch.randn(2, 2, 6, 6), CHANGES))
    assert calls[net.stem] == 1 + 1  # the network as it is, and the change of the stem
    assert calls[net.head] == 1 + len(CHANGES)
    # As it is; stem; left, whose weight is read before; right, twice. `scale` comes after it.
    assert calls[net.right] == 1 + 1 + 1 + 2
