"""Measure the cost of the exact diagonal of the curvature on a ResNet-20.

The network has 10 classes and random weights; there are 100 images of 32x32.

`python benchmarks/curvature_cost.py` times `compute_diagonal(..., kind="ggn")` against C + 1 = 11
plain forward and backward passes over the same images, in turn in one process, and prints the
median quotient of the pairs; the sampled Fisher beside it. The number of threads is that of
`OMP_NUM_THREADS`; times are CPU seconds. Limit for `ggn`: 1.2 times.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from pruning.evidence.curvature import compute_diagonal
from pruning.library import load_model
from pruning.masks import find_prunable
from pruning.seeding import generator

IMAGES = 100
CLASSES = 10
REPEATS = 7
LIMIT = 1.2


def main() -> int:
    """Measure in turn and print the medians; 1 when the limit is not held."""
    torch.manual_seed(0)
    model = load_model("cifar_resnet", depth=20).eval()
    names = list(find_prunable(model))
    inputs = torch.randn(IMAGES, 3, 32, 32, generator=generator(0, "images"))
    batches = [(inputs, torch.randint(0, CLASSES, (IMAGES,), generator=generator(0, "labels")))]

    def run_pass() -> None:
        model.zero_grad()
        F.cross_entropy(model(inputs), batches[0][1]).backward()

    def run_passes() -> None:
        for _ in range(CLASSES + 1):
            run_pass()

    def run_ggn() -> None:
        compute_diagonal(model, names, batches=batches, kind="ggn", generator=generator(0))

    def run_sampled() -> None:
        compute_diagonal(model, names, batches=batches, kind="mc_fisher", generator=generator(0))

    works = (run_ggn, run_passes, run_sampled, run_pass)
    # The first repetition warms up.
    seconds = [[_time(work) for work in works] for _ in range(REPEATS + 1)][1:]
    exact_s, passes_s, sampled_s, _ = (
        statistics.median(column) for column in zip(*seconds, strict=True)
    )
    quotients = [ggn / passes for ggn, passes, _, _ in seconds]
    sampled_passes = statistics.median(sampled / single for _, _, sampled, single in seconds)
    print(
        f"ggn {exact_s:.2f} s, {CLASSES + 1} plain passes {passes_s:.2f} s over {IMAGES} images: "
        f"{statistics.median(quotients):.2f} ({min(quotients):.2f} to {max(quotients):.2f}); "
        f"mc_fisher {sampled_s:.2f} s, {sampled_passes:.2f} passes; "
        f"{torch.get_num_threads()} threads"
    )
    return 0 if statistics.median(quotients) <= LIMIT else 1


def _time(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    sys.exit(main())
