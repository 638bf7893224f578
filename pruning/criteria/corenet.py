"""CoreNet: weights are drawn by the largest part they have in a sum, layers weigh by how errors
grow behind them.

Source: Baykal, Liebenwein, Gilitschenski, Feldman and Rus, Data-dependent coresets for compressing
neural networks with applications to generalization bounds, ICLR 2019; constants as recalled and as
in an independent implementation, the rule of CoreNet+ is not verified. Convolutions, inputs below 0
and the division of one budget are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pruning.bounds.corenet import Constants, Growth, bound_errors, bound_relative_error
from pruning.bounds.forms import Paper, PrunedLayer
from pruning.channels.graph import ChannelGraph
from pruning.criteria import criteria
from pruning.evidence.amplification import measure_amplifications
from pruning.evidence.calibration import take_first
from pruning.evidence.evidence import Batches, Evidence
from pruning.evidence.layer_inputs import HELD_OUT, count_held_out
from pruning.evidence.sensitivities import compute_sensitivities, count_known_positions
from pruning.networks.layers import count_groups, name_layer
from pruning.schemas.recipe import Method
from pruning.types import Calibration, Scores

LARGEST_LOG = 600.0
"""The largest logarithm of a layer's factor against that of the last layer; larger ones count as
this.
"""


@criteria.register("corenet")
@dataclass(frozen=True)
class CoreNet:
    """Empirical sensitivity: the largest part of a weight in the sum of its side, over images.

    The maximum is over positions too; a side is the weights of one sign in one filter. `corenet`
    draws weights by the sensitivity, and divides the draws over the sides so that the bound of the
    layers' relative errors is least. `plus` spends nothing on weights into neurons that no image
    needs. `plus_plus` also repeats the draws of every filter, and keeps the best on held-out images
    (biased). With `depth`, each layer is weighted by the square of how much errors grow behind it,
    for which the bound of the whole network is least. Use that only to study the bound: its
    constant alone makes errors grow by kappa, a hundred and more, in every layer, so that the last
    layers are pruned to nothing.

    >>> import torch
    >>> layer = torch.nn.Linear(4, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, 1.0, -1.0, 0.5]]))
    >>> image = torch.tensor([[1.0, 1.0, 1.0, 2.0]])
    >>> CoreNet().score(Evidence(layer, batches=[(image, torch.zeros(1))], shape=(1, 1, 4)))
    {'weight': tensor([[0.5000, 0.2500, 1.0000, 0.2500]], dtype=torch.float64)}
    """

    allocation: ClassVar[str] = "proportional"
    variant: Literal["corenet", "plus", "plus_plus"] = "corenet"
    delta: Annotated[
        float,
        Field(
            ge=1e-100,
            lt=1,
            description="failure probability of the bound; an independent implementation has 0.5",
        ),
    ] = 0.1
    k: Annotated[
        float | None, Field(gt=0, description="K of the bound; by default ln(eta eta_max)")
    ] = None
    kappa: Annotated[
        float | None,
        Field(ge=0, description="added to the mean of Delta; by default by its formula"),
    ] = None
    depth: Annotated[bool, Field(description="layers weigh by how errors grow behind them")] = False

    @property
    def sparsifier(self) -> Method:
        """The sparsifier: draws in proportion to the scores, repeated for `plus_plus`."""
        if self.variant == "plus_plus":
            params = {"division": "proportional", "delta": self.delta}
            return Method(name="amplified", params=params)
        return Method(name="sample", params={"division": "proportional"})

    def calibration(self, classes: int) -> Calibration:
        """Ask for |S| images as if eta and eta_max were both 10^7, and `HELD_OUT` more.

        The first |S| of them are used, for the network's own eta and eta_max.
        """
        size = math.ceil(math.log(8e14 / self.delta) * math.log(1e14))
        return Calibration(size + HELD_OUT)

    def units(self, classes: int) -> int:
        """Count two forward passes, and four products of their size for every image."""
        return 6 * self.calibration(classes).images

    def score(self, evidence: Evidence) -> Scores:
        """Compute s_ij = max over x in S and positions of |w_ij| a_j / z_i.

        With `depth` times prod_(k >= l) Delta_k^2 / Delta_L^2. float64, shape of the weight. z_i is
        the sum over the weights of the sign of w_ij, Delta_k the mean over S of sum |w a| / |sum w
        a|, largest of the layer's outputs, plus kappa; the product is at most e^600. |S| =
        ceil(ln(8 eta eta_max / delta) ln(eta eta_max)) images, eta the output elements of all
        layers, eta_max of the largest hidden one; fewer where there are no more, and for
        `plus_plus` never the last ones, which are held out. An image with inputs below 0 counts as
        two, its positive and its negative part. In a network that is not a chain, the product runs
        over all layers behind in the order of the network: a heuristic. Raises `EvidenceError`
        without data or for a weight used without a call of its layer, `StructureError` (`plus`,
        `plus_plus`) for a network whose channels cannot be distinguished.
        """
        model = evidence.model
        names = list(evidence.weights)
        constants = self._compute_constants(evidence)
        batches = self._take_scored(evidence.batches, constants.sample_size)
        sensitivities = compute_sensitivities(model, names, batches, "max")
        edges_by_name = {name: edges.double() for name, edges in sensitivities.items()}
        if self.variant != "corenet":
            graph = ChannelGraph.of(model, evidence.shape, names)
            edges_by_name = keep_needed(graph, evidence, edges_by_name)
        factors = self.prepare(evidence).factors
        return {name: edges * factors[name] for name, edges in edges_by_name.items()}

    def prepare(self, evidence: Evidence) -> Growth:
        """Return the constants, the mean Delta of each layer, and the factor on its sensitivities.

        All factors are 1 unless `depth` is set.
        """
        names = list(evidence.weights)
        constants = self._compute_constants(evidence)
        batches = self._take_scored(evidence.batches, constants.sample_size)
        amplifications = measure_amplifications(evidence.model, names, batches)
        means = {name: amplification.mean for name, amplification in amplifications.items()}
        factors = dict.fromkeys(names, 1.0)
        log = 0.0
        for name in reversed(names[:-1]):
            if self.depth:
                log += math.log(means[name] + constants.kappa)
            factors[name] = math.exp(min(LARGEST_LOG, 2 * log))
        return Growth(constants, means, factors)

    def bound(self, layer: PrunedLayer) -> Paper:
        """Compute `pruning.bounds.corenet.bound_errors` with these constants."""
        return bound_errors(layer, layer.prepared)

    def relative(self, layers: Sequence[PrunedLayer]) -> Mapping[str, Tensor]:
        """Compute `pruning.bounds.corenet.bound_relative_error` with these constants."""
        return bound_relative_error(layers, layers[0].prepared)

    def _compute_constants(self, evidence: Evidence) -> Constants:
        image = evidence.batches[0][0][:1]
        positions = count_known_positions(evidence)
        widths = [max(1, count * len(evidence.weights[name])) for name, count in positions.items()]
        constants = Constants.from_widths([image.numel(), *widths], self.delta)
        return replace(
            constants,
            k=constants.k if self.k is None else self.k,
            kappa=constants.kappa if self.kappa is None else self.kappa,
        )

    def _take_scored(self, batches: Batches, images: int) -> Batches:
        """Take the first `images` images, at least one.

        `plus_plus` does not take those held out where there are several.
        """
        total = sum(len(labels) for _, labels in batches)
        free = total - count_held_out(total) if self.variant == "plus_plus" else total
        return take_first(batches, max(1, min(images, free)))


def keep_needed(graph: ChannelGraph, evidence: Evidence, edges: Scores) -> Scores:
    """Set the sensitivities of weights into neurons that no image needs to 0.

    A channel is needed if it is an output of the network (or cannot be removed for another reason),
    or if a weight with a sensitivity above 0 leads from it into a channel that is needed.
    """
    needed = _find_needed(graph, evidence, edges)
    kept = dict(edges)
    for name, edge in edges.items():
        outputs = graph.outputs.get(name_layer(name))
        if outputs is not None:
            by_output = needed[outputs].to(edge.device).reshape(-1, *[1] * (edge.dim() - 1))
            kept[name] = edge * by_output
    return kept


def _find_needed(graph: ChannelGraph, evidence: Evidence, edges: Scores) -> Tensor:
    """Find the channels that are needed, bool by channel number."""
    needed = torch.ones(graph.size, dtype=torch.bool)
    for group in graph.removable:
        needed[group.span] = False
    links = [
        _link_channels(graph, evidence, name, edge)
        for name, edge in edges.items()
        if name_layer(name) in graph.inputs
    ]
    source, target = torch.cat([*links, graph.carried], 1)
    # Walk the links backwards from the outputs until no channel is added.
    while True:
        before = int(needed.sum())
        needed[source[needed[target]]] = True
        if int(needed.sum()) == before:
            return needed


def _link_channels(graph: ChannelGraph, evidence: Evidence, name: str, edge: Tensor) -> Tensor:
    """List the channels (source, target) that weights with a sensitivity above 0 link, (2, n)."""
    owner = name_layer(name)
    groups = count_groups(evidence.model.get_submodule(owner))  # type: ignore[arg-type]
    by_channel = edge.flatten(2).amax(2) if edge.dim() > 2 else edge
    rows, columns = by_channel.cpu().gt(0).nonzero().T
    group = rows // (len(edge) // groups)
    # A column counts the inputs of its group: the layer's input is that many groups further on.
    inputs = graph.inputs[owner][group * edge.shape[1] + columns]
    return torch.stack([inputs, graph.outputs[owner][rows]])
