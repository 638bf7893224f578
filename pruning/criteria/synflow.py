"""SynFlow: pruning by synaptic flow, without looking at any data.

Source: Tanaka, Kunin, Yamins and Ganguli, Pruning neural networks without any data by iteratively
conserving synaptic flow, NeurIPS 2020; the authors' released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from pruning.criteria import criteria
from pruning.errors import ScoreError
from pruning.evidence.evidence import Evidence
from pruning.evidence.local_models import FORWARD_AND_BACKWARD
from pruning.networks.modes import evaluate_mode
from pruning.schedules import Steps, space_densities
from pruning.types import Scores

CAUSE = "the network is too deep or its weights are too large"


@criteria.register("synflow")
@dataclass(frozen=True)
class SynFlow:
    """Synaptic flow |w dR/dw| of the network of absolute values, in `rounds` stages; needs no data.

    >>> from torch import nn, tensor
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> _ = net[1].weight.data.copy_(tensor([[1.0, -2.0], [3.0, 4.0]]))
    >>> _ = net[2].weight.data.copy_(tensor([[-5.0, 6.0]]))
    >>> SynFlow().score(Evidence(net, shape=(1, 1, 2)))["1.weight"]
    tensor([[ 5., 10.],
            [18., 24.]], dtype=torch.float64)
    """

    allocation: ClassVar[str] = "global"
    rounds: Annotated[
        int,
        Field(ge=1, le=10_000, description="stages of one pruning; nothing is retrained between"),
    ] = 100
    stages: Steps = "exponential"

    def stage_densities(self, start: float, target: float) -> Sequence[float]:
        """Return d_i = start (target / start)^(i / rounds), or start + (target - start) i / rounds.

        i = 1 ... rounds.
        """
        return space_densities(start, target, self.rounds, self.stages)

    def units(self, classes: int) -> int:
        """Count one forward and backward pass of one image."""
        return FORWARD_AND_BACKWARD

    def score(self, evidence: Evidence) -> Scores:
        """Compute s = |w dR/dw|, float64, shape of the weight; what is pruned scores 0.

        R = sum f(1; |state|): the outputs in eval mode for one image of ones, every floating-point
        entry of the state dict (weights, biases, BatchNorm's scale, shift and statistics) replaced
        by its absolute value; no data are looked at. Raises `ScoreError` where R or a score is
        beyond float64, `EvidenceError` where the shape of an image is not known.
        """
        model = evidence.model
        state = _build_absolute_state(model)
        weights = [state[name].requires_grad_() for name in evidence.weights]
        ones = torch.ones(1, *evidence.shape, dtype=torch.float64, device=weights[0].device)
        with evaluate_mode(model), torch.enable_grad():
            # The state names a shared tensor wherever it is used: none is looked for.
            flow = functional_call(model, state, (ones,), tie_weights=False).sum()
        if not torch.isfinite(flow):
            raise ScoreError(f"SynFlow: R = {flow.item()} is beyond float64: {CAUSE}")
        gradients = torch.autograd.grad(flow, weights, materialize_grads=True)
        scores = {
            name: (weight.detach() * gradient).abs_()
            for name, weight, gradient in zip(evidence.weights, weights, gradients, strict=True)
        }
        for name, score in scores.items():
            if not float(score.max()) < torch.inf:
                raise ScoreError(f"{name}: SynFlow scores are beyond float64: {CAUSE}")
        return scores


def _build_absolute_state(model: nn.Module) -> dict[str, Tensor]:
    """Build the absolute values of the state in float64, by every name that a module has for them.

    A shared tensor has one absolute value, under each of its names.
    """
    absolute: dict[int, Tensor] = {}
    state = {}
    for prefix, module in model.named_modules():
        for own_name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is None:
                continue
            if id(value) not in absolute:
                floating = value.is_floating_point()
                absolute[id(value)] = value.detach().abs().double() if floating else value
            state[f"{prefix}.{own_name}" if prefix else own_name] = absolute[id(value)]
    return state
