"""The prune potential against a slow loop."""

from __future__ import annotations

import pytest
import torch

from pruning.analysis.prune_potential import find_prune_potential


@pytest.mark.parametrize("seed", range(5))
def test_a_potential_is_that_of_a_slow_loop(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    ratios, errors = (
        torch.rand(7, generator=rng).double(),
        torch.randint(0, 20, (7, 9), generator=rng).double() / 20,
    )
    reference = torch.randint(0, 20, (9,), generator=rng).double() / 20
    for margin in (-1.0, -0.1, -0.05, 0.0, 0.05, 0.3, 1.0):
        slow = [
            max(
                [
                    0.0,
                    *(
                        float(r)
                        for r, e in zip(ratios, errors[:, d].tolist(), strict=True)
                        if round(20 * e) <= round(20 * (float(reference[d]) + margin))
                    ),
                ]
            )
            for d in range(9)
        ]
        assert find_prune_potential(ratios, errors, reference, margin).tolist() == slow


def test_a_potential_counts_later_successes_and_is_0_where_there_is_none() -> None:
    ratios, errors = torch.tensor([0.2, 0.5, 0.8]), torch.tensor([0.5, 0.6, 0.1])
    assert float(find_prune_potential(ratios, errors, torch.tensor(0.1), 0.0)) == pytest.approx(0.8)
    assert float(find_prune_potential(ratios, errors, torch.tensor(0.1), -0.001)) == 0
    assert float(find_prune_potential(ratios, errors, torch.tensor(0.6), -0.1)) == pytest.approx(
        0.8
    )
