"""The speed of answering images under shift against the plain forward pass, on a ResNet-20.

`python benchmarks/evaluation_speed.py` answers 2,000 noisy images with eight pruned networks as an
evaluation under shift does (BatchNorm folded, channels last, bfloat16 where the processor has
instructions for it, images in doubt answered again by the plain network), and in turn by the plain
fp32 forward pass in batches of 128. It prints images per second, the median ratio with the smallest
and the largest, the share of images in doubt, and the answers that differ. Limits: no answer
differs; 2.5 times as fast with bfloat16 instructions, 1.2 times without.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torch import Tensor, nn

from pruning.analysis.fast_answers import FastClassifier
from pruning.library import load_model
from pruning.masks import find_prunable
from pruning.measurement.measure import EVAL_BATCH
from pruning.measurement.objective import choose_answers
from pruning.networks.device import choose_dtypes

IMAGES, NETWORKS = 2000, 8
LIMITS = {torch.bfloat16: 2.5, torch.float32: 1.2}


def main() -> int:
    """Measure both in turn and print the ratio; 1 where a limit is not held."""
    torch.manual_seed(0)
    images = torch.randn(IMAGES, 3, 32, 32)
    networks = [_make_network(number / NETWORKS) for number in range(NETWORKS)]
    pairs, differing, doubtful = [], 0, 0
    for network in networks:
        classifier = FastClassifier(network)
        classifier.choose_answers(images[:EVAL_BATCH])  # calibrates, as the first shift does
        _answer_plainly(network, images[:EVAL_BATCH])
        classifier.doubtful = 0
        begin = time.perf_counter()
        fast = classifier.choose_answers(images)
        between = time.perf_counter()
        plain = _answer_plainly(network, images)
        pairs.append((between - begin, time.perf_counter() - between))
        differing += int((fast != plain).sum())
        doubtful += classifier.doubtful
    ratios = sorted(plain_s / fast_s for fast_s, plain_s in pairs)
    ratio = statistics.median(ratios)
    fast_s, plain_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    dtype = choose_dtypes(images.device)[0]
    print(
        f"{IMAGES / fast_s:,.0f} images/s, plain forward pass {IMAGES / plain_s:,.0f} images/s: "
        f"{ratio:.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}, limit {LIMITS[dtype]} "
        f"with {dtype}), {doubtful / IMAGES / NETWORKS:.1%} in doubt, {differing} of "
        f"{IMAGES * NETWORKS} answers differ, {torch.get_num_threads()} threads"
    )
    return 0 if ratio >= LIMITS[dtype] and not differing else 1


def _make_network(sparsity: float) -> nn.Module:
    """A ResNet-20 whose BatchNorm has statistics of its own, with its smallest weights at zero."""
    network = load_model("cifar_resnet", depth=20)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    for weight in find_prunable(network).values():
        limit = weight.detach().abs().quantile(sparsity)
        weight.data[weight.abs() < limit] = 0
    return network.eval()


@torch.no_grad()
def _answer_plainly(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([choose_answers(network(part)) for part in torch.split(images, EVAL_BATCH)])


if __name__ == "__main__":
    sys.exit(main())
