"""The column-wise beside the exact optimal brain surgeon on a 3 x 3 convolution of 512 channels.

`python benchmarks/reconstruction_speed.py` times the scores and the update of all 512 rows by
`column_obs` against those of `exact_obs`, of which it runs ROWS rows and counts the time of all:
its rows take equally long. The Hessian of the layer's 4,608 inputs is computed beforehand for both.
Times are CPU seconds. Limit: at least 30 times as fast.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from pruning.criteria.column_obs import ColumnOBS
from pruning.criteria.exact_obs import ExactOBS
from pruning.evidence.evidence import Evidence
from pruning.evidence.layer_hessians import compute_layer_hessians
from pruning.seeding import generator

CHANNELS = 512
ROWS = 2
"""The rows of which the exact removal is timed."""
LIMIT = 30.0


def main() -> int:
    """Measure and print the ratio; 1 where the limit is not held."""
    images = torch.randn(16, CHANNELS, 7, 7, generator=generator(0, "images"))
    whole, part = build_evidence(CHANNELS, images), build_evidence(ROWS, images)
    for evidence in (whole, part):
        compute_layer_hessians(evidence, None)
    by_columns = time_removal(ColumnOBS(), whole)
    exact = time_removal(ExactOBS(damping=0.01), part) * CHANNELS / ROWS
    ratio = exact / by_columns
    print(
        f"column_obs {by_columns:.1f} s, exact_obs {exact:,.0f} s from {ROWS} of {CHANNELS} rows: "
        f"{ratio:,.0f} times as fast, limit {LIMIT:g}"
    )
    return int(ratio < LIMIT)


def build_evidence(rows: int, images: torch.Tensor) -> Evidence:
    """A convolution with so many filters, and the images that it sees."""
    layer = nn.Conv2d(CHANNELS, rows, 3, padding=1, bias=False)
    network = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    labels = torch.zeros(len(images), dtype=torch.int64)
    return Evidence(network, batches=[(images, labels)])


def time_removal(criterion: ColumnOBS | ExactOBS, evidence: Evidence) -> float:
    """The CPU seconds of scores, and of the update that makes up for the lower half of them."""

    def run() -> None:
        (score,) = criterion.score(evidence).values()
        masks = {name: score >= score.median() for name in evidence.weights}
        criterion.compensate(evidence, masks)

    return _time(run)


def _time(work: Callable[[], None]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    sys.exit(main())
