"""Neuron coresets: neurons are drawn by how much they could contribute, whatever the input.

Source: Mussay, Osadchy, Braverman, Zhou and Feldman, Data-independent neural pruning via coresets,
ICLR 2020, and the code released with it, of which two things are not taken over: it reads the
biases from the wrong column, and it draws until a number of distinct neurons is reached, which is
not right on average. Convolutions, BatchNorm, residual additions and activations that are negative
or fall are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pruning.bounds.forms import Paper, PrunedLayer
from pruning.bounds.mussay import LARGEST, bound_errors, bound_importance
from pruning.channels.channel_norms import ChannelNorms
from pruning.channels.graph import ChannelGraph
from pruning.criteria import criteria
from pruning.errors import StructureError
from pruning.evidence.evidence import Evidence
from pruning.networks.activation import find_activation
from pruning.networks.layers import Layer, as_matrices, count_groups, name_layer
from pruning.types import Scores

Activation = Literal[
    "relu",
    "identity",
    "sigmoid",
    "softplus",
    "binary_step",
    "tanh",
    "leaky_relu",
    "gelu",
    "silu",
    "gaussian",
    "sin",
]


@criteria.register("mussay")
@dataclass(frozen=True)
class Mussay:
    """Importance of a neuron: its largest outgoing weight times its largest activation in a ball.

    The ball is that of inputs of norm `beta`. `bound_importance` draws neurons by it, and reweights
    what reads them: right on average. The paper's baselines are biased: `uniform` keeps a random
    subset, `top_k` the neurons with the largest incoming weights, neither reweighted. For ReLU,
    `beta` does not matter for what is drawn. No data are needed.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    >>> _ = net[1].weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    >>> _ = net[3].weight.data.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.25]]))
    >>> Mussay().score(Evidence(net, shape=(1, 1, 2)))["3.weight"]
    tensor([[5., 2.]], dtype=torch.float64)
    """

    granularity: ClassVar[str] = "channel"
    allocation: ClassVar[str] = "uniform"
    variant: Literal["importance", "uniform", "top_k"] = "importance"
    beta: Annotated[
        float, Field(gt=0, description="norm of the inputs, with the one for the bias")
    ] = 1.0
    activation: Annotated[Activation | None, Field(description="default: the network's")] = None
    c: Annotated[
        float, Field(gt=0, description="constant of the paper's bound, which does not give it")
    ] = 1.0

    @property
    def sparsifier(self) -> str:
        """The sparsifier: draws for `importance`, the best as they are for the baselines."""
        return "sample" if self.variant == "importance" else "top_k"

    def score(self, evidence: Evidence) -> Scores:
        """Compute s_j = max_i |w_ij| sup |phi(z)| over |z| <= beta ||p_j||, float64.

        Shape (1, in, 1, 1) or (1, in). p_j is what writes channel j and its bias, BatchNorm folded
        in, or read with the layer behind it (see `ChannelNorms`); |w_ij| is summed over a kernel,
        and over the inputs that a flattening makes of a channel, so that s_j holds for every
        output. `top_k` scores the norm of p_j without its bias, `uniform` a random number. In a
        grouped convolution, j is the same position of every group; for channels of the image,
        which stay, ||p_j|| counts as 1. Raises `EvidenceError` where not even the shape of an image
        is known, `ParameterError` for a network of several or unknown activations,
        `StructureError` where its channels cannot be distinguished.
        """
        if self.variant == "uniform":
            return _draw_uniform(evidence)
        graph, channel_norms, image = _read_network(evidence)
        activation: str = self.activation or "identity"
        if self.activation is None and self.variant == "importance":
            activation = find_activation(evidence.model, image, LARGEST)
        scores = {}
        for name, weight in evidence.weights.items():
            owner = name_layer(name)
            shape = _shape_by_input(weight)
            if owner not in graph.inputs:  # it has no part in the outputs
                scores[name] = torch.zeros(shape, dtype=torch.float64, device=weight.device)
                continue
            layer = evidence.model.get_submodule(owner)
            assert isinstance(layer, Layer)
            inputs = graph.inputs[owner]
            norms, biases = channel_norms.read_by(owner, inputs)
            norms = torch.where(channel_norms.written[inputs], norms, 1.0)
            incoming = torch.stack([norms, biases], 1)
            if self.variant == "top_k":
                importance = incoming[:, 0]
            else:
                outgoing = _sum_outgoing(layer, weight.cpu(), inputs)
                importance = bound_importance(incoming, outgoing, activation, self.beta)
            largest = importance.reshape(count_groups(layer), -1).amax(0)
            scores[name] = largest.reshape(shape).to(weight.device)
        return scores

    def prepare(self, evidence: Evidence) -> Incoming:
        """Return what the bound of a layer asks of the layers before it."""
        graph, channel_norms, image = _read_network(evidence)
        activation = self.activation or find_activation(evidence.model, image, LARGEST)
        return Incoming(graph, channel_norms, activation)

    def bound(self, layer: PrunedLayer) -> Paper:
        """Compute `pruning.bounds.mussay.bound_errors` with these constants."""
        incoming: Incoming = layer.prepared
        owner = name_layer(layer.name)
        inputs = incoming.graph.inputs.get(owner)
        if inputs is None:
            norms = torch.ones(layer.kept.shape[1], dtype=torch.float64)
        else:
            norms = torch.stack(incoming.channel_norms.read_by(owner, inputs)).norm(dim=0)
        writers = [
            layer.seen[name] for name in incoming.find_writers(layer.name) if name in layer.seen
        ]
        # The point of a neuron has a last coordinate of 1, for its bias.
        bias_square = layer.patches.new_ones(len(layer.patches))
        squares = torch.stack([bias_square, *(writer.squares for writer in writers)])
        dimension = sum(writer.layer.weight[0].numel() for writer in writers)
        return bound_errors(
            layer,
            norms.to(layer.patches),
            radius=squares.sum(0).sqrt(),
            beta=self.beta,
            activation=incoming.activation,
            dimension=dimension + 1,
            c=self.c,
        )


@dataclass(frozen=True)
class Incoming:
    """The points of the channels that layers read, and the activation behind them."""

    graph: ChannelGraph
    channel_norms: ChannelNorms
    activation: str

    def find_writers(self, name: str) -> list[str]:
        """Find the weights whose layers write what a layer reads, also through shortcuts."""
        inputs = self.graph.inputs.get(name_layer(name))
        if inputs is None:
            return []
        read = set(inputs.tolist())
        pairs = self.graph.carried.T.tolist()
        # Follow the channels back over additions until there are no further ones.
        while True:
            further = {source for source, target in pairs if target in read} - read
            if not further:
                break
            read |= further
        return [
            f"{owner}.weight"
            for owner, outputs in self.graph.outputs.items()
            if read & set(outputs.tolist())
        ]


def _draw_uniform(evidence: Evidence) -> Scores:
    """Draw a random number for every input channel."""
    scores = {}
    for name, weight in evidence.weights.items():
        shape = _shape_by_input(weight)
        drawn = torch.rand(shape, generator=evidence.generator, dtype=torch.float64)
        scores[name] = drawn.to(weight.device)
    return scores


def _read_network(evidence: Evidence) -> tuple[ChannelGraph, ChannelNorms, Tensor]:
    """Return the channels of the network, the norms of what writes them, and an example image."""
    weight = next(iter(evidence.weights.values()))
    image = torch.zeros(1, *evidence.shape, dtype=weight.dtype, device=weight.device)
    graph = ChannelGraph.of(evidence.model, evidence.shape, evidence.weights)
    for group in graph.removable:
        if group.head_size is not None:
            raise StructureError(
                f"{group.name} writes the heads of an attention, which no bound of a neuron's "
                "activation describes; exclude the attention's weights"
            )
    return graph, ChannelNorms.of(evidence.model, graph, image), image


def _shape_by_input(weight: Tensor) -> tuple[int, ...]:
    """Return the shape of a score for every input channel of a weight."""
    return (1, weight.shape[1], *[1] * (weight.dim() - 2))


def _sum_outgoing(layer: Layer, weight: Tensor, inputs: Tensor) -> Tensor:
    """Sum |w_ij| over the kernel and over all inputs that are one channel, (out / groups, in)."""
    matrices = as_matrices(layer, weight.abs().double())
    by_position = matrices.reshape(*matrices.shape[:2], weight.shape[1], -1)
    by_input = by_position.sum(3).transpose(0, 1).flatten(1)
    if count_groups(layer) > 1:
        return by_input
    # Inputs that a flattening made of one channel have its number: each gets the sum of them all.
    channels, numbers = torch.unique(inputs, return_inverse=True)
    sums = torch.zeros(len(by_input), len(channels), dtype=torch.float64)
    sums.index_add_(1, numbers, by_input)
    return sums[:, numbers]
