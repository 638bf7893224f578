"""The cost of ordering pixels against that of one mask at a time, on a ResNet-20.

`python benchmarks/back_select.py` runs the first steps of BackSelect on images of 32x32 in blocks
of 2 pixels (256 masks in the first step): on the folded network, in batches, early layers only
around what is hidden; and as the definition reads, one mask at a time through the model as it is.
The two run in turn in one process; the medians of both and of their quotient are printed, and
whether they hide the same blocks. Limit: 4 times as fast, on two cores or more; with
OMP_NUM_THREADS=1 it is 3 to 4 times, for single masks gain nothing from a second core.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pruning.analysis.back_select import number_blocks, optimise_for_inference, select_backwards
from pruning.library import load_model

BLOCK, STEPS, REPEATS, LIMIT = 2, 4, 5, 4.0


def main() -> int:
    """Measure in turn and print the medians; 1 when the limit is not held."""
    torch.manual_seed(0)
    model = load_model("cifar_resnet", depth=20)
    pairs = []
    same = 0
    for image in torch.randn(REPEATS + 1, 3, 32, 32):
        fast_s, blocks = _measure_seconds(lambda image=image: _select(model, image))  # type: ignore[misc]
        slow_s, looped = _measure_seconds(lambda image=image: _loop(model, image))  # type: ignore[misc]
        pairs.append((fast_s, slow_s))
        same += blocks == looped
    timed = pairs[1:]  # the first image warms up
    quotient = statistics.median(slow_s / fast_s for fast_s, slow_s in timed)
    fast_s, slow_s = (statistics.median(column) for column in zip(*timed, strict=True))
    print(
        f"{STEPS} steps of BackSelect: {fast_s:.2f} s an image, one mask at a time "
        f"{slow_s:.2f} s: {quotient:.1f} "
        f"times as fast (limit {LIMIT:g}), the same blocks on {same} of {len(pairs)} images, "
        f"{torch.get_num_threads()} threads"
    )
    return 0 if quotient >= LIMIT else 1


def _select(model: nn.Module, image: Tensor) -> list[int]:
    """The blocks in the order in which they are hidden, as the evaluation finds it."""
    optimised = optimise_for_inference(model, image)
    return select_backwards(optimised, image, 0, BLOCK, steps=STEPS).tolist()


def _loop(model: nn.Module, image: Tensor) -> list[int]:
    """The blocks in the order in which they are hidden, one mask at a time."""
    height, width = image.shape[1:]
    numbers = number_blocks(height, width, BLOCK)
    left = list(range(int(numbers.max()) + 1))
    order: list[int] = []
    with torch.no_grad():
        for _ in range(STEPS):
            confidences = []
            for number in left:
                masked = image.masked_fill(numbers == number, 0.0)
                confidences.append(float(model(masked[None]).double().softmax(1)[0, 0]))
            hidden = left.pop(confidences.index(max(confidences)))
            order.append(hidden)
            image = image.masked_fill(numbers == hidden, 0.0)
    return order


def _measure_seconds(work: Callable[[], list[int]]) -> tuple[float, list[int]]:
    start = time.perf_counter()
    blocks = work()
    return time.perf_counter() - start, blocks


if __name__ == "__main__":
    sys.exit(main())
