"""The prune ratio of a network, and the largest one within a margin of the dense error.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021, and the code released with it (any later success counts;
regression without intercept). The limits are ours: the paper has none over images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.masks import count_parameters
from pruning.measurement.paired import find_limits


def compute_prune_ratio(round_record: RoundRecord, parameters: int) -> float:
    """PR: the fraction of all parameters of the dense network that pruning removed."""
    return round_record.count_removed(parameters) / parameters


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


def find_safe_limit(ratios: Tensor, high: Tensor, margin: float) -> float:
    """The lower limit of the prune potential by a walk from the densest checkpoint to the first
    whose increase is not shown to be within the margin; the last before it is the limit, 0 for
    none.

    `high` (K,) are upper limits of the increases of the error, each one-sided at some confidence.
    The limit holds at the same confidence: the walk goes on after proofs alone, so that it errs
    only where the first false one is taken for proven. Fixed-sequence testing, Maurer, Hothorn and
    Lehmacher, 1995.

    >>> ratios = torch.tensor([0.25, 0.5, 0.75])
    >>> find_safe_limit(ratios, torch.tensor([0.001, 0.02, 0.001]), 0.005)
    0.25
    """
    safe = 0.0
    for place in ratios.argsort().tolist():
        if float(high[place]) > margin + 1e-12:
            break
        safe = float(ratios[place])
    return safe


def find_largest_potential(ratios: Tensor, low: Tensor, margin: float) -> float:
    """The upper limit of the prune potential: the largest PR whose increase is not shown to be
    above the margin, 0 for none.

    `low` (K,) are lower limits of the increases, each one-sided at some confidence. The limit holds
    at the same confidence, as it is too small only where the checkpoint of the true potential is
    falsely shown to be above the margin: one test.

    >>> ratios = torch.tensor([0.25, 0.5, 0.75])
    >>> find_largest_potential(ratios, torch.tensor([-0.01, 0.001, 0.02]), 0.005)
    0.5
    """
    possible = ratios[low <= margin + 1e-12]
    return float(possible.max()) if len(possible) else 0.0


def limit_increases(
    pairs: Mapping[str, tuple[Tensor, Tensor]], confidence: float
) -> dict[str, tuple[Tensor, Tensor]]:
    """The lower and the upper limits of e(network) - e(reference) by distribution, each one-sided
    at `confidence`: float64 (K,) both.

    A pair is the errors of K networks (K, n) and of their references, (K, n) or one (n,), on the
    same images. Where they are bool, limits are those of `pruning.measurement.paired`; errors of
    images in [0, 1] have Student's, which are [-1, 1] for a single image.

    >>> wrong = torch.tensor([[True] + [False] * 999])
    >>> pairs = {"nominal": (wrong, torch.zeros(1000, dtype=torch.bool))}
    >>> low, high = limit_increases(pairs, 0.95)["nominal"]
    >>> round(float(high), 4)
    0.006
    """
    limits = {}
    counted = [name for name, (wrong, _) in pairs.items() if wrong.dtype == torch.bool]
    if counted:  # in one search for all of them, which takes no longer than that for one
        only_first = [(pairs[name][0] & ~pairs[name][1]).sum(1) for name in counted]
        only_second = [(pairs[name][1] & ~pairs[name][0]).sum(1) for name in counted]
        images = torch.tensor([[pairs[name][0].shape[1]] for name in counted])
        low, high = find_limits(
            torch.stack(only_first), torch.stack(only_second), images, confidence
        )
        for place, name in enumerate(counted):
            limits[name] = (torch.from_numpy(low[place]), torch.from_numpy(high[place]))
    for name, (wrong, reference) in pairs.items():
        if name not in limits:
            limits[name] = _limit_means(wrong.double() - reference.double(), confidence)
    return limits


def _limit_means(gaps: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """Student's limits of the means of gaps (K, n) in [-1, 1].

    Networks that err alike on all images get the limits of as many images without a difference.
    """
    from scipy.special import stdtrit

    networks, n = gaps.shape
    if n == 1:
        return -torch.ones(networks).double(), torch.ones(networks).double()
    mean = gaps.mean(1)
    width = float(stdtrit(n - 1, confidence)) / math.sqrt(n) * gaps.std(1)
    low, high = find_limits(0, 0, n, confidence)
    alike = gaps.std(1) == 0
    return (
        torch.where(alike, mean + float(low), mean - width).clamp(min=-1.0),
        torch.where(alike, mean + float(high), mean + width).clamp(max=1.0),
    )
