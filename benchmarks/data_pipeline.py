"""Training data as uint8 tensors against the usual PIL loader, on 10,000 synthetic 32x32 images.

`python benchmarks/data_pipeline.py` prints images per second of one epoch of random crop, flip and
normalisation, both ways, one thread each, and the ratio.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps

from pruning.data.augmentation import PADDING, augment
from pruning.data.tensors import Data, Split
from pruning.seeding import generator

IMAGES = 10_000
BATCH = 128
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def main() -> int:
    """Measure both in turn, three times, and print the medians."""
    torch.set_num_threads(1)
    pixels = torch.randint(
        0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator(0, "images")
    )
    split = Split(pixels, torch.zeros(IMAGES, dtype=torch.int64))
    data = Data(fit=split, val=split, test=split, classes=("a", "b"), mean=MEAN, std=STD)
    pictures = [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).numpy()]
    pairs = []
    for _ in range(3):
        tensor_rate = _measure_rate(lambda: _run_tensor_epoch(data))
        pillow_rate = _measure_rate(lambda: _run_pillow_epoch(pictures))
        pairs.append((tensor_rate, pillow_rate))
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    ours, theirs = (sorted(column)[1] for column in zip(*pairs, strict=True))
    print(
        f"tensors {ours:,.0f} images/s, PIL one image at a time {theirs:,.0f} images/s: "
        f"{ratios[1]:.1f}x ({ratios[0]:.1f}-{ratios[2]:.1f})"
    )
    return 0


def _run_tensor_epoch(data: Data) -> None:
    order = torch.randperm(IMAGES, generator=generator(0, "order"))
    for step, index in enumerate(torch.split(order, BATCH)):
        data.normalize(augment(data.fit.images[index], "crop_flip", generator(0, "augment", step)))


def _run_pillow_epoch(pictures: list[Image.Image]) -> None:
    draw = random.Random(0)
    mean = np.array(MEAN, np.float32)[:, None, None]
    std = np.array(STD, np.float32)[:, None, None]
    batch = []
    for number in draw.sample(range(IMAGES), IMAGES):
        padded = ImageOps.expand(pictures[number], PADDING)
        x = draw.randint(0, 2 * PADDING)
        y = draw.randint(0, 2 * PADDING)
        image = padded.crop((x, y, x + 32, y + 32))
        if draw.random() < 0.5:
            image = ImageOps.mirror(image)
        values = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
        batch.append((values - mean) / std)
        if len(batch) == BATCH:
            torch.from_numpy(np.stack(batch))
            batch = []


def _measure_rate(epoch: Callable[[], None]) -> float:
    begin = time.process_time()
    epoch()
    return IMAGES / (time.process_time() - begin)


if __name__ == "__main__":
    sys.exit(main())
