"""Criteria and segmentation: each says whether it scores networks that answer for every pixel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.criteria import criteria
from pruning.errors import EvidenceError
from pruning.evidence import Evidence
from pruning.measurement.objective import choose_loss


@pytest.mark.parametrize("name", criteria.names())
def test_a_criterion_says_whether_it_supports_segmentation(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 3, 1),
    )
    images = torch.rand(6, 3, 8, 8, generator=rng)
    masks = torch.randint(0, 3, (6, 8, 8), generator=rng).to(torch.uint8)
    evidence = Evidence(
        network, None, [(images, masks)], rng, loss=choose_loss(masks), shape=(3, 8, 8)
    )
    criterion = criteria.create(name)
    if getattr(criterion, "supports_segmentation", True):
        assert all(scores.isfinite().all() for scores in criterion.score(evidence).values())
    else:
        with pytest.raises(EvidenceError, match="not for masks"):
            criterion.score(evidence)
