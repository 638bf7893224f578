"""Scores of every registered criterion on a transformer of two blocks, against plain mathematics
in float64: of weights, and of heads and MLP widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pruning.allocations import allocations
from pruning.channels.graph import ChannelGraph
from pruning.criteria import criteria
from pruning.errors import StructureError
from pruning.evidence import Evidence
from pruning.granularities.channel import Channel
from pruning.masks import build_full_masks
from pruning.sparsifiers import sparsifiers
from pruning.types import Selection
from tests.support.transformer_oracle import HEADS, HIDDEN, LAYER, WIDTH, Array, Oracle
from tests.support.transformer_oracle import build_network as build

Scores = dict[str, Array]
SIZES = [3, 2]
"""The images of each batch."""
POSITIONS = {"conv_proj.weight": 4, "heads.head.weight": 1}
"""The positions of a layer's output; 5 in the blocks."""
PENALTY = {"lambda": 0.3, "pi": 1}


@dataclass
class World:
    """The network in torch with its evidence, and the oracle of both."""

    model: nn.Module
    evidence: Evidence
    oracle: Oracle
    scores: dict[str, Scores] = field(default_factory=dict)


@pytest.fixture(scope="module")
def world() -> World:
    model = build()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1, 0])
    batches = list(zip(images.split(SIZES), labels.split(SIZES), strict=True))
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    evidence = Evidence(model, batches=batches, generator=torch.Generator().manual_seed(7))
    oracle = Oracle(state, images.numpy(), labels.numpy())
    assert set(oracle.names) == set(evidence.weights)
    return World(model, evidence, oracle)


def each(oracle: Oracle, score: Callable[[str, Array], Array]) -> Scores:
    """A score of every weight by its name and values."""
    return {name: score(name, oracle.state[name]) for name in oracle.names}


def penalise(oracle: Oracle, change: Scores) -> Scores:
    return each(oracle, lambda name, w: np.abs(change[name]) + PENALTY["lambda"] / 2 * w**2)


def score_lamp(name: str, weight: Array) -> Array:
    sizes = np.abs(weight).ravel()
    return np.array([s**2 / sum(t**2 for t in sizes if t >= s) for s in sizes]).reshape(
        weight.shape
    )


def score_by_filter(oracle: Oracle) -> Scores:
    total: Scores = {name: np.zeros(len(oracle.state[name])) for name in oracle.names}
    for gradient in oracle.batch_gradients(SIZES):
        for name in oracle.names:
            products = (gradient[name] * oracle.state[name]).reshape(len(total[name]), -1)
            total[name] += products.sum(1) ** 2 / len(SIZES)
    return each(oracle, lambda name, w: total[name].reshape(-1, *[1] * (w.ndim - 1)))


def score_taylor(oracle: Oracle) -> Scores:
    gradients = list(oracle.batch_gradients(SIZES))

    def score(name: str, weight: Array) -> Array:
        squares = np.stack([(gradient[name] * weight) ** 2 for gradient in gradients])
        mean: Array = squares.mean(0)
        return mean

    return each(oracle, score)


def score_grasp(oracle: Oracle) -> Scores:
    _, product = oracle.multiply_hessian(200.0)
    flows = each(oracle, lambda name, w: w * product[name])
    total = sum(np.abs(flow).sum() for flow in flows.values()) + 1e-10
    return {name: flow / total for name, flow in flows.items()}


def score_snip(oracle: Oracle) -> Scores:
    sizes = each(oracle, lambda name, w: np.abs(w * oracle.gradient[name]))
    total = sum(size.sum() for size in sizes.values())
    return {name: size / total for name, size in sizes.items()}


def score_wanda(oracle: Oracle) -> Scores:
    def score(name: str, weight: Array) -> Array:
        norms = np.sqrt((oracle.inputs[name] ** 2).sum((0, 1)))
        return (np.abs(oracle.rows(name)) * norms).reshape(weight.shape)

    return each(oracle, score)


def score_obs(oracle: Oracle) -> Scores:
    """Every layer is one block, every image a group of its own."""

    def score(name: str, weight: Array) -> Array:
        gradients = oracle.image_gradients[name].reshape(weight.size, -1)
        fisher = 1e-3 * np.eye(weight.size) + gradients @ gradients.T / gradients.shape[1]
        inverse = np.linalg.inv(fisher).diagonal()
        return weight**2 / (2 * inverse.reshape(weight.shape))

    return each(oracle, score)


def score_column_obs(oracle: Oracle) -> Scores:
    def score(name: str, weight: Array) -> Array:
        inputs = oracle.inputs[name].reshape(-1, weight[0].size)
        hessian = 2 / len(oracle.images) * inputs.T @ inputs
        hessian += 1e-3 * hessian.diagonal().mean() * np.eye(len(hessian))
        # The inverse for the inputs from j on, when those before it are settled.
        prices = [np.linalg.inv(hessian[j:, j:])[0, 0] for j in range(len(hessian))]
        return (oracle.rows(name) ** 2 / (2 * np.array(prices))).reshape(weight.shape)

    return each(oracle, score)


def score_exact_obs(oracle: Oracle) -> Scores:
    def score(name: str, weight: Array) -> Array:
        inputs = oracle.inputs[name].reshape(-1, weight[0].size)
        hessian = 2 / len(oracle.images) * inputs.T @ inputs
        hessian += 1e-3 * hessian.diagonal().mean() * np.eye(len(hessian))
        costs = np.zeros((len(weight), len(hessian)))
        for row, values in enumerate(oracle.rows(name)):
            left, w, last = list(range(len(hessian))), values.copy(), 0.0
            while left:
                inverse = np.linalg.inv(hessian[np.ix_(left, left)])
                prices = w[left] ** 2 / (2 * inverse.diagonal())
                place = int(prices.argmin())
                last = max(last, prices[place])
                costs[row, left[place]] = last
                w[left] -= w[left[place]] / inverse[place, place] * inverse[:, place]
                del left[place]
        return costs.reshape(weight.shape)

    return each(oracle, score)


def score_pfp(oracle: Oracle) -> Scores:
    def score(name: str, weight: Array) -> Array:
        edges = oracle.sensitivities(name, np.max)
        kernel = weight[0, 0].size
        alpha = 2 * 3.0 * math.log(8 * (POSITIONS.get(name, 5) + 1) * kernel / 1e-16)
        others = tuple(axis for axis in range(weight.ndim) if axis != 1)
        return alpha * edges.max(others, keepdims=True)

    return each(oracle, score)


def score_thinet(oracle: Oracle) -> Scores:
    """One output of every image, drawn from the same generator."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randperm(5, generator=generator).sort().values.numpy()
    draws = {
        name: torch.rand(3, 5, generator=generator, dtype=torch.float64).numpy()
        for name in oracle.evidence_order
    }

    def score(name: str, weight: Array) -> Array:
        inputs, contributions = oracle.inputs[name], []
        for image, (_, row, place) in zip(images, draws[name].T, strict=True):
            seen = inputs[image, int(place * inputs.shape[1])]
            terms = seen * oracle.rows(name)[int(row * len(weight))]
            contributions.append(terms.reshape(weight.shape[1], -1).sum(1))
        x = np.array(contributions)  # (images, channels)
        channels = x.shape[1]
        removed: list[int] = []
        at_once = math.ceil(math.sqrt(channels))
        while len(removed) < channels:
            base = x[:, removed].sum(1)
            left = [channel for channel in range(channels) if channel not in removed]
            left.sort(key=lambda channel: ((base + x[:, channel]) ** 2).sum())
            removed += left[:at_once]
        places = np.empty(channels)
        places[removed] = np.arange(1, channels + 1) / channels
        return places.reshape(1, -1, *[1] * (weight.ndim - 2))

    return each(oracle, score)


def list_oracles() -> Iterator[tuple[str, dict[str, Any], Callable[[Oracle], Scores]]]:
    """Every criterion with its parameters, and its score in plain mathematics."""
    yield "magnitude", {}, lambda o: each(o, lambda _, w: np.abs(w))
    yield "lamp", {}, lambda o: each(o, score_lamp)
    yield (
        "filter_norm",
        {},
        lambda o: each(o, lambda _, w: np.abs(w).sum(tuple(range(1, w.ndim)), keepdims=True)),
    )
    yield "lm", PENALTY, lambda o: penalise(o, each(o, lambda n, w: o.gradient[n] * w))
    yield "obd", PENALTY, lambda o: penalise(o, each(o, lambda n, w: o.gauss_newton[n] * w**2 / 2))
    yield (
        "qm",
        PENALTY,
        lambda o: penalise(
            o, each(o, lambda n, w: o.gauss_newton[n] * w**2 / 2 - o.gradient[n] * w)
        ),
    )
    yield "snip", {}, score_snip
    yield "grasp", {}, score_grasp
    yield "taylor", {}, score_taylor
    yield "taylor_filter", {}, score_by_filter
    yield (
        "synflow",
        {},
        lambda o: (lambda flow: each(o, lambda n, w: np.abs(w * flow[n])))(o.flow()),
    )
    yield "wanda", {"per_row": False}, score_wanda
    yield "obs", {"damping": 1e-3}, score_obs
    yield "exact_obs", {"damping": 1e-3}, score_exact_obs
    yield "column_obs", {"damping": 1e-3}, score_column_obs
    yield "sipp", {}, lambda o: each(o, lambda n, _: o.sensitivities(n, np.mean))
    yield "corenet", {}, lambda o: each(o, lambda n, _: o.sensitivities(n, np.max))
    yield "pfp", {}, score_pfp
    yield "thinet", {}, score_thinet


ORACLES = {name: (params, oracle) for name, params, oracle in list_oracles()}
SLOW = {"grasp"}
"""Scores whose oracle takes seconds."""
every_oracle = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ORACLES],
)
CHANCE = {"random"}
"""Scores that are draws and depend on nothing."""
REFUSED = {"mussay"}
"""Criteria whose mathematics know no attention."""


def test_no_criterion_is_left_out() -> None:
    assert set(ORACLES) | CHANCE | REFUSED == set(criteria.names())


@every_oracle
def test_scores_of_weights_are_those_of_plain_mathematics(name: str, world: World) -> None:
    params, oracle = ORACLES[name]
    world.evidence.generator.manual_seed(7)
    world.oracle.evidence_order = list(world.evidence.weights)
    scores = criteria.create(name, params).score(world.evidence)
    expected = oracle(world.oracle)
    world.scores[name] = expected
    tolerance = 1e-6 if name == "grasp" else 1e-9
    for key, value in expected.items():
        scale = np.abs(value).max()
        assert scale > 0, key
        got = scores[key].double().numpy()
        assert got.shape == value.shape, key
        np.testing.assert_allclose(got / scale, value / scale, rtol=0, atol=tolerance, err_msg=key)


@every_oracle
def test_scores_of_heads_and_widths_are_means_of_their_channels(name: str, world: World) -> None:
    params, oracle = ORACLES[name]
    world.evidence.generator.manual_seed(7)
    world.oracle.evidence_order = list(world.evidence.weights)
    expected = world.scores.get(name) or oracle(world.oracle)
    scores = criteria.create(name, params).score(world.evidence)
    importance = compute_importance(world, scores)
    for number in range(2):
        block = f"{LAYER}{number}"
        attention = f"{block}.self_attention"
        heads = average_units(
            expected[f"{attention}.in_proj_weight"], expected[f"{attention}.out_proj.weight"],
            [list_head_rows(head) for head in range(HEADS)],
            [list_head_columns(head) for head in range(HEADS)],
        )  # fmt: skip
        widths = average_units(
            expected[f"{block}.mlp.0.weight"], expected[f"{block}.mlp.3.weight"],
            [[unit] for unit in range(HIDDEN)], [[unit] for unit in range(HIDDEN)],
        )  # fmt: skip
        tolerance = 1e-5 if name == "grasp" else 1e-9
        for group, plain in ((f"{attention}.in_proj", heads), (f"{block}.mlp.0", widths)):
            mean = np.abs(plain).mean()
            np.testing.assert_allclose(
                importance[group].numpy(), plain / mean, rtol=tolerance, atol=tolerance
            )


def list_head_rows(head: int) -> list[int]:
    """The rows of queries, keys and values of a head in the packed weight."""
    return [part * WIDTH + row for part in range(3) for row in list_head_columns(head)]


def list_head_columns(head: int) -> list[int]:
    """The columns of a head in the projection behind it."""
    size = WIDTH // HEADS
    return list(range(head * size, (head + 1) * size))


def average_units(
    writing: Array, reading: Array, rows: list[list[int]], columns: list[list[int]]
) -> Array:
    """The mean score of the channels of each unit: of what writes them, or for a score of input
    channels, of what reads them.
    """
    if len(reading) == 1:
        return np.array([reading[0, own].mean() for own in columns])
    sums = writing.reshape(len(writing), -1).sum(1)
    return np.array([sums[own].mean() for own in rows])


def compute_importance(world: World, scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The importance of every unit, as the granularity `channel` sees it."""
    weights = world.evidence.weights
    selection = Selection(
        model=world.model,
        weights=weights,
        scores=scores,
        masks=build_full_masks(weights),
        density=0.5,
        allocation=allocations.create("global"),
        sparsifier=sparsifiers.create("top_k"),
        generator=torch.Generator(),
        shape=lambda: (3, 4, 4),
    )
    graph = ChannelGraph.of_selection(selection)
    before = torch.ones(graph.size, dtype=torch.bool)
    return Channel().compute_importance(graph, selection, before)


def test_bounds_of_neurons_are_refused_where_attention_lies_between(world: World) -> None:
    with pytest.raises(
        StructureError, match=r"encoder_layer_0\.self_attention\.in_proj.* attention"
    ):
        criteria.create("mussay").score(world.evidence)


def test_random_scores_are_uniform_draws(world: World) -> None:
    world.evidence.generator.manual_seed(7)
    scores = criteria.create("random").score(world.evidence)
    generator = torch.Generator().manual_seed(7)
    for name, weight in world.evidence.weights.items():
        assert torch.equal(scores[name], torch.rand(weight.shape, generator=generator))
