"""Selection to the exact count, of scores that are looked at in chunks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning import masks as masks_module
from pruning.masks import select_top_together
from tests.support import oracles

numbers = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -math.inf]), st.floats(-1e6, 1e6, width=32)
)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(parts=st.lists(st.lists(numbers, min_size=1, max_size=12), min_size=1, max_size=4))
def test_histograms_of_chunks_agree_with_sorting(
    dtype: torch.dtype, chunk: int, parts: list[list[float]]
) -> None:
    """Scores that do not fit into one chunk are ranked digit by digit."""
    scores = [torch.tensor(values, dtype=torch.float64).to(dtype) for values in parts]
    flat = torch.cat(scores).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks_module, "CHUNK", chunk)
        patch.setattr(masks_module, "GATHERED", chunk)
        for keep in {0, 1, len(flat) // 2, len(flat) - 1, len(flat)}:
            masks = select_top_together(scores, keep)
            assert [len(mask) for mask in masks] == [len(score) for score in scores]
            assert torch.cat(masks).tolist() == oracles.kept_by_sorting(flat, keep)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_scores_are_ranked_in_chunks(dtype: torch.dtype) -> None:
    """Some begin alike, many are equal, and some are pruned."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3_000_000, generator=generator, dtype=torch.float64).to(dtype)
    scores[::3] = scores[::3].round()
    scores[1::3] = 1.0 + scores[1::3] * 1e-6
    scores[::5] = -math.inf
    order = scores.argsort(descending=True, stable=True)
    for keep in (1, 100_000, 1_500_000, 2_400_000, 2_999_999):
        expected = torch.zeros(len(scores), dtype=torch.bool)
        expected[order[:keep]] = True
        masks = select_top_together(scores.split([1_700_000, 1_300_000]), keep)
        assert torch.equal(torch.cat(masks), expected)
