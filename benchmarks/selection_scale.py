"""Measure time and memory of score, allocation and mask against the number of weights.

`python benchmarks/selection_scale.py` prunes networks from 3 to 304 million weights to 90 % by
magnitude, under three allocations, each in a process of its own, and prints CPU seconds and the
peak of resident memory, less what the process held before it built the network, as a multiple of
the network's own bytes. Stacks of square layers stand for the smaller sizes; ResNet-101 and
ViT-L/16 have their own shapes. `python benchmarks/selection_scale.py 100` stops at 100 million
weights.

Limits: 3 times the network's memory, the network itself included, and a time that grows with a
power of the weights of at most 1.15.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict

import torch
from torch import nn

from pruning.evidence.evidence import Evidence
from pruning.library import load_model
from pruning.masks import build_full_masks, count_parameters, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Method, Recipe, Targets

SIZES = {"3M": 3, "10M": 10, "30M": 30, "resnet101": 44, "100M": 100, "vit_l_16": 304}
"""The networks, each with its weights in millions."""
ALLOCATIONS = ("global", "uniform", "erk")
SIDE = 1000
"""The rows and columns of a layer in a stack: a million weights."""
SPARSITY = 0.9
MOST_MEMORY = 3.0
MOST_POWER = 1.15
WIDTH = 40
"""The characters of the plot."""


class Cost(TypedDict):
    """The cost of one pruning."""

    weights: int
    seconds: float
    memory: float
    """Peak memory as a multiple of the network's."""


def main() -> int:
    """Measure every network and allocation and print them; 1 when a limit is not held."""
    largest = float(sys.argv[1]) if len(sys.argv) > 1 else math.inf
    networks = [name for name, millions in SIZES.items() if millions <= largest]
    held = True
    for allocation in ALLOCATIONS:
        costs = {name: _measure_apart(name, allocation) for name in networks}
        slowest = max(cost["seconds"] for cost in costs.values())
        for name, cost in costs.items():
            bar = "#" * max(1, round(WIDTH * cost["seconds"] / slowest))
            print(
                f"{allocation:8} {name:10} {cost['weights'] / 1e6:6.1f} million weights: "
                f"{cost['seconds']:6.2f} CPU-s, {1e9 * cost['seconds'] / cost['weights']:5.1f} ns "
                f"each, {cost['memory']:.2f} times the memory {bar}"
            )
        power = _fit_power(list(costs.values()))
        most = max(cost["memory"] for cost in costs.values())
        print(
            f"{allocation}: time grows with power {power:.2f} of the weights (limit {MOST_POWER}), "
            f"memory at most {most:.2f} times (limit {MOST_MEMORY})"
        )
        held = held and power <= MOST_POWER and most <= MOST_MEMORY
    return 0 if held else 1


def _fit_power(costs: list[Cost]) -> float:
    """Fit b of seconds = a weights^b by least squares in logarithms."""
    x = torch.tensor([math.log(cost["weights"]) for cost in costs])
    y = torch.tensor([math.log(cost["seconds"]) for cost in costs])
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def _measure_apart(name: str, allocation: str) -> Cost:
    """Measure in a process of its own, whose peak of memory is that of one pruning."""
    command = [sys.executable, str(Path(__file__)), "--child", name, allocation]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    cost: Cost = json.loads(answer.stdout)
    return cost


def _measure(name: str, allocation: str) -> Cost:
    # A small pruning first: what libraries load and keep does not grow with the network.
    _prune(_build("1M"), allocation)
    base = _read_resident_bytes()
    with torch.device("meta"):
        model = _build(name)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    seconds = _prune(model, allocation)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
    own = sum(value.nbytes for value in model.state_dict().values())
    return Cost(weights=count_parameters(model), seconds=seconds, memory=peak / own)


def _prune(model: nn.Module, allocation: str) -> float:
    """Score, allocate and mask; return the CPU seconds."""
    masks = build_full_masks(find_prunable(model))
    recipe = Recipe(
        targets=Targets(sparsity=(SPARSITY,)), allocation=Method(name=allocation, params={})
    )
    method = PruningMethod.of(recipe, Method(name="magnitude"))
    begin = time.process_time()
    prune_(
        model,
        masks,
        1 - SPARSITY,
        method,
        lambda masks, stage: Evidence(model, masks, shape=(3, 224, 224)),
        generator=torch.Generator(),
    )
    return time.process_time() - begin


def _build(name: str) -> nn.Module:
    if name.endswith("M"):
        layers = [nn.Linear(SIDE, SIDE, bias=False) for _ in range(int(name[:-1]))]
        return nn.Sequential(nn.Flatten(), *layers)
    return load_model(name)


def _read_resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(_measure(*sys.argv[2:4])))
    else:
        sys.exit(main())
