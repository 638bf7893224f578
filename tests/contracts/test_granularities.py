"""What every granularity must keep."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pruning
from pruning.evidence.evidence import Evidence
from pruning.granularities import granularities
from pruning.masks import build_full_masks, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Method
from pruning.seeding import seeded
from pruning.types import Masks
from tests.support import cases


@pytest.mark.parametrize("name", granularities.names())
class TestGranularity:
    def prune(self, name: str, *densities: float) -> tuple[nn.Module, list[Masks]]:
        """A seeded network pruned to one density after another, and the masks of each."""
        with seeded(0):
            model = nn.Sequential(
                nn.Conv2d(4, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 12, 2),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(108, 8),
                nn.ReLU(),
                nn.Linear(8, 4),
            ).eval()
        method = PruningMethod.of(
            cases.recipe(0.5, granularity={"name": name}), Method(name="magnitude")
        )
        masks_by_round = [build_full_masks(find_prunable(model))]
        for density in densities:
            masks_by_round.append(
                prune_(
                    model,
                    masks_by_round[-1],
                    density,
                    method,
                    generator=torch.Generator().manual_seed(0),
                    evidence=lambda masks, stage: Evidence(model, masks, shape=(4, 4, 4)),
                )
            )
        return model, masks_by_round

    def test_masks_are_nested_and_at_most_as_dense_as_asked_for(self, name: str) -> None:
        densities = (0.9, 0.7, 0.5)
        model, masks = self.prune(name, *densities)
        for before, after, density in zip(masks, masks[1:], densities, strict=False):
            assert not any(bool((after[key] & ~before[key]).any()) for key in before)
            assert 0.8 * density < pruning.masks.density(after) <= density + 1e-3
        parameters = dict(model.named_parameters())
        for key, mask in masks[-1].items():
            assert mask.shape == parameters[key].shape
            assert not parameters[key][~mask].detach().any()

    def test_prunes_alike_twice(self, name: str) -> None:
        (first, first_masks), (second, second_masks) = (
            self.prune(name, 0.7, 0.5) for _ in range(2)
        )
        assert all(
            torch.equal(first_masks[-1][key], mask) for key, mask in second_masks[-1].items()
        )
        assert all(
            torch.equal(value, second.state_dict()[key])
            for key, value in first.state_dict().items()
        )
