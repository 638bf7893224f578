"""What ordering pixels costs against one mask at a time, on a ResNet-20.

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
    model, pairs, same = load_model("cifar_resnet", depth=20), [], 0
    for image in torch.randn(REPEATS + 1, 3, 32, 32):
        ours, ordered = _seconds(
            lambda image=image: select_backwards(  # type: ignore[misc]
                optimise_for_inference(model, image), image, 0, BLOCK, steps=STEPS
            ).tolist()
        )
        theirs, looped = _seconds(lambda image=image: _loop(model, image))  # type: ignore[misc]
        pairs.append((ours, theirs))
        same += ordered == looped
    quotient = statistics.median(loop / one for one, loop in pairs[1:])
    medians = [statistics.median(column) for column in zip(*pairs[1:], strict=True)]
    print(
        f"{STEPS} steps of BackSelect: {medians[0]:.2f} s an image, one mask at a time "
        f"{medians[1]:.2f} s: {quotient:.1f} "
        f"times as fast (limit {LIMIT:g}), the same blocks on {same} of {len(pairs)} images, "
        f"{torch.get_num_threads()} threads"
    )
    return 0 if quotient >= LIMIT else 1


def _loop(model: nn.Module, image: Tensor) -> list[int]:
    numbers = number_blocks(*image.shape[1:], BLOCK)
    left, order, current = list(range(int(numbers.max()) + 1)), list[int](), image
    with torch.no_grad():
        for _ in range(STEPS):
            sure = [
                float(
                    model(current.masked_fill(numbers == number, 0.0)[None])
                    .double()
                    .softmax(1)[0, 0]
                )
                for number in left
            ]
            order.append(left.pop(sure.index(max(sure))))
            current = current.masked_fill(numbers == order[-1], 0.0)
    return order


def _seconds(work: Callable[[], list[int]]) -> tuple[float, list[int]]:
    begin = time.perf_counter()
    found = work()
    return time.perf_counter() - begin, found


if __name__ == "__main__":
    sys.exit(main())
