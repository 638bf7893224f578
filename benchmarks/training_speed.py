"""The cost of a training beyond its arithmetic: ResNet-20, batches of 128 images of 32x32.

`python benchmarks/training_speed.py` times `train_` (uint8 images, crop, flip, normalisation, masks
re-applied after every step) against bare optimiser steps on one batch that is ready in memory, the
limit, in turn in one process, and prints images per second and the share of the limit reached;
then the same training under bf16 autocast, which jobs take where it is at least 1.2 times as fast.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Literal

import torch
from torch.nn import functional as F

from pruning.data.tensors import Data, Split
from pruning.library import load_model
from pruning.masks import build_full_masks, find_prunable
from pruning.networks.device import choose_dtypes
from pruning.schemas.training import Training
from pruning.seeding import generator
from pruning.training.loop import train_
from pruning.training.optimizer import make_optimizer

IMAGES, BATCH, REPEATS = 2560, 128, 5


def main() -> int:
    """Measure both in turn and print the medians."""
    pixels = torch.randint(
        0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator(0, "images")
    )
    split = Split(pixels, torch.randint(0, 10, (IMAGES,), generator=generator(0, "labels")))
    data = Data(
        fit=split,
        val=split,
        test=split,
        classes=tuple("0123456789"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    runs = [(_ours(data, "fp32"), _limit(data), _ours(data, "bf16")) for _ in range(REPEATS + 1)][
        1:
    ]
    share = statistics.median(ours / limit for ours, limit, _ in runs)
    ratios = sorted(bf16 / ours for ours, _, bf16 in runs)
    ours, limit, bf16 = (statistics.median(column) for column in zip(*runs, strict=True))
    print(
        f"train_ {ours:,.0f} images/s, bare steps {limit:,.0f} images/s: {share:.0%} of the limit, "
        f"{torch.get_num_threads()} threads\nunder bf16 autocast {bf16:,.0f} images/s: "
        f"{statistics.median(ratios):.2f} times as fast as fp32 ({ratios[0]:.2f} to "
        f"{ratios[-1]:.2f}); {choose_dtypes(torch.device('cpu'))[0]} is the fastest type here"
    )
    return 0


def _ours(data: Data, precision: Literal["fp32", "bf16"]) -> float:
    model = load_model("cifar_resnet", depth=20)
    begin = time.perf_counter()
    train_(
        model,
        data,
        Training(epochs=1, batch_size=BATCH, precision=precision),
        seed=0,
        name="benchmark",
        masks=build_full_masks(find_prunable(model)),
    )
    return IMAGES / (time.perf_counter() - begin)


def _limit(data: Data) -> float:
    model = load_model("cifar_resnet", depth=20).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, Training().optimizer)
    inputs = data.normalize(data.fit.images[:BATCH]).to(memory_format=torch.channels_last)
    labels = data.fit.labels[:BATCH]
    begin = time.perf_counter()
    for _ in range(IMAGES // BATCH):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return IMAGES / (time.perf_counter() - begin)


if __name__ == "__main__":
    sys.exit(main())
