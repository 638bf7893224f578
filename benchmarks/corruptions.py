"""All 19 corruptions of CIFAR-sized images in batches against one image at a time.

`python benchmarks/corruptions.py [--images 5000] [--severity 3]` corrupts as many 32x32 colour
images both ways, one thread each: with `pruning.library.corrupt`, and image by image with NumPy,
SciPy and Pillow as the usual packages do (the oracles of the tests, frost's texture kept in
memory). It prints images per second and the quotient of the times for each corruption and for all
together. Limit: all together are at least 5 times as fast.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from pruning.data.corruptions import corruptions
from pruning.data.corruptions.frost import draw_sheets
from pruning.library import corrupt

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support import corruption_oracles as oracles

LIMIT = 5.0


def main() -> int:
    """Measure each corruption both ways and print the quotients; 1 when the limit is not held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--severity", type=int, default=3, choices=range(1, 6))
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = _make_pictures(options.images)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    ice = draw_sheets(images.device).numpy()
    rng = np.random.default_rng(0)

    def corrupt_batch(name: str) -> None:
        corrupt(images, name, options.severity)

    def corrupt_singly(name: str) -> None:
        for picture in pictures:
            oracles.corrupted(picture, name, options.severity, "cifar", rng, ice)

    ours = theirs = 0.0
    for name in corruptions.names():
        corrupt(images[:2], name, options.severity)  # tables and textures are made once
        batch = _measure_seconds(functools.partial(corrupt_batch, name))
        single = _measure_seconds(functools.partial(corrupt_singly, name))
        ours += batch
        theirs += single
        print(
            f"{name:18} {len(images) / batch:9,.0f} images/s, one at a time "
            f"{len(images) / single:7,.0f} images/s: "
            f"{single / batch:5.1f} times as fast"
        )
    print(
        f"all {len(corruptions.names())} on {len(images):,} images: {ours:.1f} s, one at a time "
        f"{theirs:.1f} s: {theirs / ours:.1f} times as fast (limit {LIMIT}), "
        f"{torch.get_num_threads()} thread"
    )
    return 0 if theirs / ours >= LIMIT else 1


def _make_pictures(number: int) -> np.ndarray:
    """Smooth coloured shapes with fine noise, uint8 (N, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((number, 32, 32, 3), dtype=np.float32)
    shapes = gaussian_filter(noise, (0, 3, 3, 0), mode="wrap") * 500
    shapes += gaussian_filter(noise, (0, 0.5, 0.5, 0)) * 10
    return np.clip(shapes + 128, 0, 255).astype(np.uint8)


def _measure_seconds(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


if __name__ == "__main__":
    sys.exit(main())
