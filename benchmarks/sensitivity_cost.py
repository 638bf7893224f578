"""Measure the cost of the sensitivities of SiPP and PFP against a loop over images, on a ResNet-20.

`python benchmarks/sensitivity_cost.py` computes the sensitivities of all edges (SiPP: mean over
positions; PFP: maximum) of a ResNet-20 over 8 images, in batches and image by image as the
definition reads, the loop with one or two threads, whichever is the faster for it; ours runs with
as many. The two run in turn in one process, and the medians of both and of their quotient are
printed, with the spread and the largest difference of the results. Limits: SiPP is at least 8 times
as fast, PFP 5 times.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torch import Tensor, nn

from pruning.evidence.sensitivities import SMALLEST, Positions, compute_sensitivities, split_signs
from pruning.library import load_model
from pruning.masks import find_prunable
from pruning.networks.layers import extract_patches, record_uses
from pruning.types import Scores

IMAGES = 8
PROBE = 1
REPEATS = 3
LIMITS: dict[Positions, float] = {"mean": 8.0, "max": 5.0}


def main() -> int:
    """Measure in turn and print the medians; 1 when a limit is not held."""
    model = load_model("cifar_resnet", depth=20)
    images = torch.randn(IMAGES, 3, 32, 32)
    held = True
    for positions, limit in LIMITS.items():
        torch.set_num_threads(_choose_threads(model, images, positions))
        pairs, error = [], 0.0
        for _ in range(REPEATS):
            begin = time.perf_counter()
            batches = [(part, torch.zeros(len(part))) for part in images.split(8)]
            ours = compute_sensitivities(model, list(find_prunable(model)), batches, positions)
            between = time.perf_counter()
            theirs = _loop(model, images, positions)
            pairs.append((between - begin, time.perf_counter() - between))
            error = max(error, *(float((ours[name] - theirs[name]).abs().max()) for name in ours))
        quotients = [loop / ours_s for ours_s, loop in pairs]
        quotient = statistics.median(quotients)
        medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
        print(
            f"{positions} over positions: {medians[0]:.2f} s, loop over images {medians[1]:.2f} "
            f"s: {quotient:.1f} times as fast ({min(quotients):.1f} to "
            f"{max(quotients):.1f}, limit {limit}), difference {error:.1e}, "
            f"{torch.get_num_threads()} threads"
        )
        held = held and quotient >= limit
    return 0 if held else 1


def _choose_threads(model: nn.Module, images: Tensor, positions: Positions) -> int:
    """Choose the number of threads with which the loop is the faster on a few images."""
    seconds = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        _loop(model, images[:1], positions)
        begin = time.perf_counter()
        _loop(model, images[:PROBE], positions)
        seconds[threads] = time.perf_counter() - begin
    return min(seconds, key=lambda threads: seconds[threads])


def _loop(model: nn.Module, images: Tensor, positions: Positions) -> Scores:
    """Image by image: every part |w| a / z of either sign as one tensor (out, K, positions)."""
    largest = {name: torch.zeros_like(weight) for name, weight in find_prunable(model).items()}
    with torch.no_grad():
        for image in images:
            with record_uses(model, largest) as uses:
                model(image[None])
            for name, (use,) in uses.items():
                rows = model.get_parameter(name).flatten(1)
                for point in split_signs(use.inputs):
                    patches = extract_patches(use.layer, point[None])[0, 0]
                    parts = torch.zeros(())
                    for side in (rows.clamp_min(0.0), (-rows).clamp_min(0.0)):
                        sums = side @ patches
                        received = torch.where(sums > SMALLEST, sums, torch.inf)
                        parts = torch.maximum(parts, side[:, :, None] * patches / received[:, None])
                    worst = parts.mean(-1) if positions == "mean" else parts.amax(-1)
                    largest[name] = torch.maximum(largest[name], worst.reshape(largest[name].shape))
    return largest


if __name__ == "__main__":
    sys.exit(main())
