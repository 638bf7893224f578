"""Random pruning: the control that every criterion must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.types import Scores


@criteria.register("random")
@dataclass(frozen=True)
class Random:
    """Score uniform on [0, 1): every weight is as likely to remain as any other.

    >>> from torch import nn
    >>> score = Random().score(Evidence(nn.Linear(3, 2)))["weight"]
    >>> score.shape, bool(((score >= 0) & (score < 1)).all())
    (torch.Size([2, 3]), True)
    """

    def score(self, evidence: Evidence) -> Scores:
        """Draw s ~ U[0, 1), shape of the weight, on the CPU so that all devices prune the same."""
        scores = {}
        for name, weight in evidence.weights.items():
            drawn = torch.rand(weight.shape, generator=evidence.generator, dtype=torch.float32)
            scores[name] = drawn.to(weight.device)
        return scores
