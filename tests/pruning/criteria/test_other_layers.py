"""Transposed and one-dimensional convolutions, which are left dense, and tied weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pruning.channels.compaction import build_compact
from pruning.channels.graph import ChannelGraph
from pruning.criteria import criteria
from pruning.evidence import Evidence
from pruning.masks import build_full_masks, explain_dense, find_prunable
from pruning.measurement.costs import count_flops
from tests.support.transformer_oracle import STEP, Array, softmax


class Other(nn.Module):
    """Convolutions of every kind around those that are pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
        self.second, self.third = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 4, 1)
        self.rows, self.head = nn.Conv1d(4, 3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.third(torch.relu(self.second(self.up(self.first(x))))))
        return self.head(self.rows(x.flatten(2)).mean(2))


def test_other_convolutions_are_left_dense_by_name_and_counted() -> None:
    torch.manual_seed(0)
    model = Other().eval()
    weights = find_prunable(model)
    assert set(weights) == {f"{name}.weight" for name in ("first", "second", "third", "head")}
    assert explain_dense(model, "up.weight", ()).startswith("a ConvTranspose2d: of convolutions")
    assert explain_dense(model, "rows.weight", ()).startswith("a Conv1d: of convolutions")
    graph = ChannelGraph.of(model, (2, 6, 6), weights)
    reasons = {group.name: group.reason for group in graph.groups}
    assert reasons["first"] == "a ConvTranspose2d uses them"
    assert reasons["second"] is None
    assert reasons["third"] == "a Conv1d uses them"
    keep = torch.ones(graph.size, dtype=torch.bool)
    keep[graph.removable[0].start] = False
    small = build_compact(model, build_full_masks(weights) | graph.masks(model, keep), (2, 6, 6))
    for network in (model, small):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 2, 6, 6))
        assert count_flops(network, (2, 6, 6)) == counter.get_total_flops()


class Tied(nn.Module):
    """Two layers that share their weight, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x.flatten(1)))
        return self.head(torch.relu(self.second(hidden)))


def run(state: dict[str, Array], images: Array) -> tuple[Array, list[Array]]:
    """The logits in plain numpy, and the inputs of the shared weight."""
    x, seen = images, []
    for name in ("first", "second"):
        seen.append(x)
        x = x @ state["first.weight"].T + state[f"{name}.bias"]
        x = x * (x.real > 0)
    return x @ state["head.weight"].T + state["head.bias"], seen


def differentiate(function: Callable[[dict[str, Array]], Array], state: dict[str, Array]) -> Array:
    """The derivatives in the shared weight, (4, 4, *value)."""
    rows = []
    for index in np.ndindex(4, 4):
        moved = state["first.weight"].astype(complex)
        moved[index] += 1j * STEP
        rows.append(np.imag(function({**state, "first.weight": moved})) / STEP)
    return np.stack(rows).reshape(4, 4, *rows[0].shape)


@pytest.mark.parametrize("name", ["magnitude", "lm", "obd", "qm", "snip", "taylor", "wanda", "obs"])
def test_a_tied_weight_is_scored_by_both_of_its_uses(name: str) -> None:
    torch.manual_seed(0)
    model = Tied().double()
    images = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 1, 0])
    params: dict[str, Any] = {"lambda": 0.0, "pi": 1} if name in ("lm", "obd", "qm") else {}
    options: dict[str, dict[str, Any]] = {"wanda": {"per_row": False}, "obs": {"damping": 1e-3}}
    params |= options.get(name, {})
    evidence = Evidence(model, batches=[(images, labels)])
    scores = criteria.create(name, params).score(evidence)
    assert set(scores) == {"first.weight", "head.weight"}

    state = {key: value.numpy() for key, value in model.state_dict().items()}
    x, weight = images.flatten(1).numpy(), state["first.weight"]
    p = softmax(run(state, x)[0])
    logits = differentiate(lambda moved: run(moved, x)[0], state)  # (4, 4, images, classes)
    gradients = (logits * (p - np.eye(3)[labels.numpy()])).sum(-1)
    curvature = ((p * logits**2).sum(-1) - (p * logits).sum(-1) ** 2).mean(-1)
    linear, quadratic = -gradients.mean(-1) * weight, curvature * weight**2 / 2
    expected = {
        "magnitude": np.abs(weight),
        "lm": np.abs(linear),
        "obd": quadratic,
        "qm": np.abs(linear + quadratic),
        "snip": np.abs(linear),
        "taylor": linear**2,
        "wanda": np.abs(weight) * np.sqrt(sum((part**2).sum(0) for part in run(state, x)[1])),
        "obs": score_obs(weight, gradients.reshape(16, -1)),
    }[name]
    got = scores["first.weight"].numpy()
    if name == "snip":  # relative to the sum over all layers
        got, expected = got / got.sum(), expected / expected.sum()
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def score_obs(weight: Array, gradients: Array) -> Array:
    """theta^2 / (2 [F^-1]_kk) in one block, every image a group of its own."""
    fisher = 1e-3 * np.eye(16) + gradients @ gradients.T / gradients.shape[1]
    return weight**2 / (2 * np.linalg.inv(fisher).diagonal().reshape(4, 4))


def test_tied_weights_lose_no_channels_and_say_so() -> None:
    model = Tied()
    graph = ChannelGraph.of(model, (1, 2, 2), find_prunable(model))
    reasons = {group.name: group.reason for group in graph.groups}
    assert reasons["first"] is not None
    assert "shares a parameter with another layer" in reasons["first"]
