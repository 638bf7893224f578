"""What every sparsifier must keep."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pruning
from pruning.sparsifiers import sparsifiers
from pruning.types import LayerView, LooksAtInputs, Sparse


def sparsified(name: str, weight: Tensor, score: Tensor, keep: int) -> Sparse:
    """One layer, seen where the sparsifier looks."""
    sparsifier, generator = sparsifiers.create(name), torch.Generator().manual_seed(0)
    if not isinstance(sparsifier, LooksAtInputs):
        return sparsifier.sparsify(weight, score, keep, generator)
    inputs = torch.rand(
        6, 1, weight[0].numel() if weight.dim() > 1 else len(weight), 3, generator=torch.Generator()
    )
    return sparsifier.sparsify_seeing(weight, score, keep, generator, LayerView(3, lambda: inputs))


@pytest.mark.parametrize("name", sparsifiers.names())
class TestSparsifier:
    @pytest.mark.parametrize(
        ("shape", "tied"),
        [((7,), False), ((3, 5), True), ((4, 2, 3, 3), False), ((1, 1), False)],
    )
    def test_keeps_the_count(self, name: str, shape: tuple[int, ...], tied: bool) -> None:
        rng = torch.Generator().manual_seed(0)
        weight = torch.randn(shape, generator=rng)
        score = torch.ones(shape) if tied else weight.abs()
        for keep in {0, 1, weight.numel() // 2, weight.numel()}:
            before = weight.clone(), score.clone()
            sparse, again = (sparsified(name, weight, score, keep) for _ in range(2))
            if getattr(sparsifiers.get(name), "reweights", False):  # so many are expected
                assert abs(int(sparse.mask.sum()) - keep) <= 4 * math.sqrt(keep)
            else:
                assert int(sparse.mask.sum()) == keep
            assert sparse.mask.dtype == torch.bool
            assert sparse.mask.shape == sparse.weight.shape == weight.shape
            assert sparse.weight.dtype == weight.dtype
            assert not sparse.weight[~sparse.mask].any()
            assert torch.equal(weight, before[0])
            assert torch.equal(score, before[1])
            assert torch.equal(sparse.mask, again.mask)
            assert torch.equal(sparse.weight, again.weight)

    def test_filters_stay_whole(self, name: str) -> None:
        weight = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
        if getattr(sparsifiers.get(name), "reweights", False):
            with pytest.raises(
                pruning.errors.ParameterError, match="a score for every single weight"
            ):
                sparsifiers.create(name).sparsify(
                    weight, weight.abs().mean((1, 2, 3), keepdim=True), 36, torch.Generator()
                )
            return
        sparse = sparsifiers.create(name).sparsify(
            weight, weight.abs().mean((1, 2, 3), keepdim=True), 36, torch.Generator().manual_seed(0)
        )
        assert sorted(sparse.mask.flatten(1).sum(1).tolist()) == [0, 0, 18, 18]
