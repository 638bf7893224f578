"""What the exact diagonal of the curvature costs: ResNet-20 with 10 classes, random weights, 100
images of 32x32.

`python benchmarks/curvature_cost.py` times `diagonal(..., "ggn")` against C + 1 = 11 plain forward
and backward passes over the same images, in turn in one process, and prints the median quotient of
the pairs; the sampled Fisher beside it. The number of threads is that of `OMP_NUM_THREADS`.
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

IMAGES, CLASSES, REPEATS = 100, 10, 7


def main() -> int:
    """Measure in turn and print the medians."""
    torch.manual_seed(0)
    model = load_model("cifar_resnet", depth=20).eval()
    names = list(find_prunable(model))
    inputs = torch.randn(IMAGES, 3, 32, 32, generator=generator(0, "images"))
    batches = [(inputs, torch.randint(0, CLASSES, (IMAGES,), generator=generator(0, "labels")))]

    def plain() -> None:
        model.zero_grad()
        F.cross_entropy(model(inputs), batches[0][1]).backward()

    def passes() -> None:
        for _ in range(CLASSES + 1):
            plain()

    timed = [
        (
            _seconds(
                lambda: compute_diagonal(
                    model, names, batches=batches, kind="ggn", generator=generator(0)
                )
            ),
            _seconds(passes),
            _seconds(
                lambda: compute_diagonal(
                    model, names, batches=batches, kind="mc_fisher", generator=generator(0)
                )
            ),
            _seconds(plain),
        )
        for _ in range(REPEATS + 1)
    ][1:]
    exact, plain_s, sampled = (
        statistics.median(column) for column in list(zip(*timed, strict=True))[:3]
    )
    quotients = [ggn / reference for ggn, reference, _, _ in timed]
    sampled_passes = statistics.median(fisher / single for _, _, fisher, single in timed)
    print(
        f"ggn {exact:.2f} s, {CLASSES + 1} plain passes {plain_s:.2f} s over {IMAGES} images: "
        f"{statistics.median(quotients):.2f} ({min(quotients):.2f} to {max(quotients):.2f}); "
        f"mc_fisher {sampled:.2f} s, {sampled_passes:.2f} passes; {torch.get_num_threads()} threads"
    )
    return 0


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
