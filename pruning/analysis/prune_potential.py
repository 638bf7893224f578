"""The prune ratio of a network, and the largest one within a margin of the dense error.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021, and the code released with it (any later success counts;
regression without intercept).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.masks import count_parameters


def compute_prune_ratio(round_record: RoundRecord, parameters: int) -> float:
    """PR: the fraction of all parameters of the dense network that pruning removed."""
    removed = sum(int((~mask).sum()) for mask in round_record.masks().values())
    return removed / parameters


def compute_prune_ratios(record: JobRecord) -> dict[str, dict[str, float]]:
    """The prune ratio of every checkpoint, by criterion and by checkpoint, the smallest first."""
    parameters = count_parameters(record.dense())
    ratios: dict[str, dict[str, float]] = {}
    for row in record.rounds:
        if row.target is not None:
            ratios.setdefault(row.label, {})[row.id] = compute_prune_ratio(row, parameters)
    return {
        label: dict(sorted(by_checkpoint.items(), key=lambda item: item[1]))
        for label, by_checkpoint in ratios.items()
    }


def find_prune_potential(
    ratios: Tensor, errors: Tensor, reference: Tensor, margin: float
) -> Tensor:
    """The largest PR with error <= reference + margin, 0 without one; any later success counts.

    `ratios` (K,) and `errors` (K, ...) are of the checkpoints, `reference` (K, ...) or (...) are
    errors of the dense networks that each or all are compared with, on one distribution.

    >>> ratios = torch.tensor([0.2, 0.5, 0.8])
    >>> float(
    ...     find_prune_potential(ratios, torch.tensor([0.1, 0.3, 0.105]), torch.tensor(0.1), 0.005)
    ... )
    0.800000011920929
    >>> float(find_prune_potential(ratios, torch.tensor([0.2, 0.3, 0.4]), torch.tensor(0.1), 0.005))
    0.0
    """
    within = errors <= reference + margin + 1e-12
    by_checkpoint = ratios.reshape(-1, *[1] * (errors.dim() - 1))  # (K, 1, ...)
    return torch.where(within, by_checkpoint, 0.0).amax(0)
