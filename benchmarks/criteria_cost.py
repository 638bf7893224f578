"""What SynFlow's stages cost beyond their arithmetic: ResNet-20, 100 stages to a sparsity of 90 %.

`python benchmarks/criteria_cost.py` times a whole `prune_` with SynFlow (float64 network, scores, checks, selection, masks)
against as many bare forward and backward passes of the float64 network at batch 1, in turn in one process, and prints the
median of both and of their quotient.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from pruning.evidence import Evidence
from pruning.library import load_model
from pruning.masks import full_masks, prunable
from pruning.round import Seams, prune_
from pruning.schemas.recipe import Method, Recipe, Targets

SHAPE, ROUNDS, SPARSITY, REPEATS = (3, 32, 32), 100, 0.9, 7


def main() -> int:
    """Measure both in turn and print the medians."""
    pairs = [(_ours(), _limit()) for _ in range(REPEATS + 1)][1:]
    quotient = statistics.median(ours / limit for ours, limit in pairs)
    ours, limit = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"synflow, {ROUNDS} stages: {ours:.2f} s, {ROUNDS} bare passes {limit:.2f} s: {quotient:.2f} times, "
          f"{torch.get_num_threads()} threads")
    return 0


def _ours() -> float:
    model = load_model("cifar_resnet", depth=20)
    seams = Seams.of(Recipe(targets=Targets(sparsity=(SPARSITY,))), Method(name="synflow", params={"rounds": ROUNDS}))
    begin = time.perf_counter()
    prune_(model, full_masks(prunable(model)), 1 - SPARSITY, seams, lambda masks, stage: Evidence(model, masks, shape=SHAPE),
           generator=torch.Generator())
    return time.perf_counter() - begin


def _limit() -> float:
    model = load_model("cifar_resnet", depth=20).double()
    ones = torch.ones(1, *SHAPE, dtype=torch.float64)
    begin = time.perf_counter()
    for _ in range(ROUNDS):
        model.zero_grad(set_to_none=True)
        model(ones).sum().backward()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
