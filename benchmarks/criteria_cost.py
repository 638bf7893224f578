"""Measure the cost of SynFlow's stages, SNIP and Taylor beyond their arithmetic, on a ResNet-20.

`python benchmarks/criteria_cost.py` times a whole `prune_` to 90 % with SynFlow (100 stages in
float64: scores, checks, selection, masks) against as many bare forward and backward passes of the
float64 network at batch 1; and the scores of SNIP and Taylor against one bare forward and backward
pass over the same 200 images. Our code and the bare passes run in turn in one process; the medians
of both and of their quotient are printed, in CPU seconds. Limit for SynFlow: 1.3.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pruning.criteria import criteria
from pruning.evidence.evidence import Evidence
from pruning.library import load_model
from pruning.masks import build_full_masks, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Method, Recipe, Targets

SHAPE = (3, 32, 32)
ROUNDS = 100
SPARSITY = 0.9
REPEATS = 7
LIMIT = 1.3


def main() -> int:
    """Measure in turn and print the medians; 1 when the limit is not held."""
    quotient = _compare(
        f"synflow, {ROUNDS} stages", f"{ROUNDS} bare passes", _time_synflow, _time_bare_passes
    )
    for name in ("snip", "taylor"):
        _compare(name, "one bare pass", lambda name=name: _time_score(name), _time_bare_pass)  # type: ignore[misc]
    return 0 if quotient <= LIMIT else 1


def _compare(
    name: str, against: str, ours: Callable[[], float], limit: Callable[[], float]
) -> float:
    pairs = [(ours(), limit()) for _ in range(REPEATS + 1)][1:]
    quotients = [ours_s / limit_s for ours_s, limit_s in pairs]
    quotient = statistics.median(quotients)
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(
        f"{name}: {medians[0]:.2f} s, {against} {medians[1]:.2f} s: {quotient:.2f} times "
        f"({min(quotients):.2f} to {max(quotients):.2f}), "
        f"{torch.get_num_threads()} threads"
    )
    return quotient


def _draw_images() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(100, *SHAPE), torch.arange(100) % 10) for _ in range(2)]


def _time_score(name: str) -> float:
    model = load_model("cifar_resnet", depth=20)
    batches = _draw_images()
    begin = time.process_time()
    criteria.create(name).score(Evidence(model, batches=batches))
    return time.process_time() - begin


def _time_bare_pass() -> float:
    model = load_model("cifar_resnet", depth=20)
    batches = _draw_images()
    begin = time.process_time()
    for inputs, labels in batches:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(inputs), labels).backward()
    return time.process_time() - begin


def _time_synflow() -> float:
    model = load_model("cifar_resnet", depth=20)
    method = PruningMethod.of(
        Recipe(targets=Targets(sparsity=(SPARSITY,))),
        Method(name="synflow", params={"rounds": ROUNDS}),
    )
    begin = time.process_time()
    prune_(
        model,
        build_full_masks(find_prunable(model)),
        1 - SPARSITY,
        method,
        lambda masks, stage: Evidence(model, masks, shape=SHAPE),
        generator=torch.Generator(),
    )
    return time.process_time() - begin


def _time_bare_passes() -> float:
    model = load_model("cifar_resnet", depth=20).double()
    ones = torch.ones(1, *SHAPE, dtype=torch.float64)
    begin = time.process_time()
    for _ in range(ROUNDS):
        model.zero_grad(set_to_none=True)
        model(ones).sum().backward()
    return time.process_time() - begin


if __name__ == "__main__":
    sys.exit(main())
