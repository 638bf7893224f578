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
from pruning.evidence.evidence import Evidence
from pruning.networks.activation import find_activation
from pruning.networks.layers import Layer, as_matrices, count_groups
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
    """Importance of a neuron: its largest outgoing weight times the most its activation can be for
    inputs of a ball.

    `bound_importance` draws neurons by it, and reweights what reads them: right on average. The
    paper's baselines are biased: `uniform` keeps a random subset, `top_k` the neurons with the
    largest incoming weights, neither reweighted. For ReLU, `beta` does not matter for what is
    drawn. No data are needed.

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
        """Draws for `bound_importance`, the best as they are for the baselines."""
        return "sample" if self.variant == "importance" else "top_k"

    def score(self, evidence: Evidence) -> Scores:
        """s_j = max_i |w_ij| sup |phi(z)| over |z| <= beta ||p_j||, float64, shape (1, in, 1, 1) or
        (1, in).

        p_j is what writes channel j and its bias, BatchNorm folded in (see `ChannelNorms`); |w_ij|
        is summed over a kernel, and over the inputs that a flattening makes of a channel, so that
        s_j holds for every output. `top_k` has the norm of p_j without its bias, `uniform` a random
        number. In a grouped convolution, j is the same position of every group; for channels of the
        image, which stay, ||p_j|| counts as 1. Raises `EvidenceError` where not even the shape of
        an image is known, `ParameterError` for a network of several or unknown activations,
        `StructureError` where its channels cannot be told apart.
        """
        if self.variant == "uniform":
            return {
                name: torch.rand(
                    _faced(weight), generator=evidence.generator, dtype=torch.float64
                ).to(weight.device)
                for name, weight in evidence.weights.items()
            }
        model, weights = evidence.model, evidence.weights
        graph, points, image = _graph(evidence)
        norms = torch.where(points.written, points.norms, 1.0)
        kind = self.activation or (
            find_activation(model, image, LARGEST) if self.variant == "importance" else "identity"
        )
        found = {}
        for name, weight in weights.items():
            owner = name.rpartition(".")[0]
            if owner not in graph.inputs:  # it has no part in the outputs
                found[name] = torch.zeros(_faced(weight), dtype=torch.float64, device=weight.device)
                continue
            layer, inputs = model.get_submodule(owner), graph.inputs[owner]
            assert isinstance(layer, Layer)
            incoming = torch.stack([norms, points.biases], 1)[inputs]
            each = (
                incoming[:, 0]
                if self.variant == "top_k"
                else bound_importance(
                    incoming, _outgoing(layer, weight.cpu(), inputs), kind, self.beta
                )
            )
            found[name] = (
                each.reshape(count_groups(layer), -1)
                .amax(0)
                .reshape(_faced(weight))
                .to(weight.device)
            )
        return found

    def prepare(self, evidence: Evidence) -> Incoming:
        """What the bound of a layer asks of the layers before it."""
        graph, points, image = _graph(evidence)
        return Incoming(
            graph,
            (points.norms.square() + points.biases.square()).sqrt(),
            self.activation or find_activation(evidence.model, image, LARGEST),
        )

    def bound(self, layer: PrunedLayer) -> Paper:
        """`pruning.bounds.mussay.bound_errors` with these constants."""
        incoming: Incoming = layer.prepared
        inputs = incoming.graph.inputs.get(layer.name.rpartition(".")[0])
        norms = (
            torch.ones(layer.kept.shape[1]).double() if inputs is None else incoming.norms[inputs]
        )
        before = incoming.writers(layer.name)
        squares = [layer.seen[name].squares for name in before if name in layer.seen]
        one = layer.patches.new_ones(len(layer.patches))
        dimension = sum(
            layer.seen[name].layer.weight[0].numel() for name in before if name in layer.seen
        )
        return bound_errors(
            layer,
            norms.to(layer.patches),
            radius=torch.stack([one, *squares]).sum(0).sqrt(),
            activation=incoming.activation,
            dimension=dimension + 1,
            c=self.c,
        )


@dataclass(frozen=True)
class Incoming:
    """What writes the channels that layers read."""

    graph: ChannelGraph
    norms: Tensor
    """By channel number, of the point with its bias."""
    activation: str

    def writers(self, name: str) -> list[str]:
        """The weights whose layers write what a layer reads, directly or through a shortcut."""
        inputs = self.graph.inputs.get(name.rpartition(".")[0])
        if inputs is None:
            return []
        read = set(inputs.tolist())
        pairs = self.graph.carried.T.tolist()
        while more := {source for source, target in pairs if target in read and source not in read}:
            read |= more
        return [
            f"{owner}.weight"
            for owner, outputs in self.graph.outputs.items()
            if read & set(outputs.tolist())
        ]


def _graph(evidence: Evidence) -> tuple[ChannelGraph, ChannelNorms, Tensor]:
    example = next(iter(evidence.weights.values()))
    image = torch.zeros(1, *evidence.shape, dtype=example.dtype, device=example.device)
    graph = ChannelGraph.of(evidence.model, evidence.shape, evidence.weights)
    return graph, ChannelNorms.of(evidence.model, graph, image), image


def _faced(weight: Tensor) -> tuple[int, ...]:
    """The shape of a score for every input channel of a weight."""
    return (1, weight.shape[1], *[1] * (weight.dim() - 2))


def _outgoing(layer: Layer, weight: Tensor, inputs: Tensor) -> Tensor:
    """|w_ij|, (out / groups, in), summed over the kernel and over all inputs that are one channel."""
    matrices = as_matrices(layer, weight.abs().double())
    each = (
        matrices.reshape(*matrices.shape[:2], weight.shape[1], -1).sum(3).transpose(0, 1).flatten(1)
    )
    if count_groups(layer) > 1:
        return each
    _, numbers = torch.unique(inputs, return_inverse=True)
    sums = torch.zeros(len(each), int(numbers.max()) + 1, dtype=torch.float64).index_add_(
        1, numbers, each
    )
    return sums[:, numbers]
