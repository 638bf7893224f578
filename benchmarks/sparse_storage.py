"""The bytes of checkpoints: a ResNet-20 pruned by global magnitude, stored in every format.

`python benchmarks/sparse_storage.py [--weights FILE]` prunes a trained ResNet-20 (without the file
one as it is initialised, and says so) to densities from 1 to 0, writes `sparse`, `compressed` and
`compressed` rounded to bfloat16, reads them back, and prints bytes, shares of the dense file and of
the floor, and speeds. The floor is the entropy of each layer's mask, the raw values that remain and
the other tensors. Speeds are dense megabytes in a second of CPU time, medians of files that are
written and read in turn. Limits: `compressed` is below the floor at every density, and at most
6.5 % of the dense file at density .05; what is read back is equal.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pruning.library import load_model
from pruning.storage.checkpoints import read_sparse, write_dense, write_sparse
from pruning.storage.compressed import read_compressed, write_compressed
from pruning.types import Masks

DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.0)
REPEATS = 5
LIMITED_DENSITY, LIMIT = 0.05, 0.065
FORMATS: dict[str, tuple[Callable[..., None], Callable[[Path], dict[str, Tensor]]]] = {
    "sparse": (write_sparse, read_sparse),
    "compressed": (write_compressed, read_compressed),
    "bfloat16": (partial(write_compressed, values="bfloat16"), read_compressed),
}
State = dict[str, Tensor]


def main() -> int:
    """Measure and print; 1 when a limit is not held."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path("../shared/data/resnet20-cifar10.safetensors")
    parser.add_argument("--weights", type=Path, default=default)
    arguments = parser.parse_args()
    if arguments.weights.is_file():
        state = load_file(arguments.weights)
        print(f"weights: {arguments.weights.name}")
    else:
        torch.manual_seed(0)
        state = dict(load_model("cifar_resnet", depth=20).state_dict())
        print(f"weights: a ResNet-20 as it is initialised (there is no {arguments.weights})")
    print(
        f"{'density':>7} {'format':>10} {'bytes':>10} {'of dense':>9} {'of floor':>9} "
        f"{'write MB/s':>11} {'read MB/s':>10}"
    )
    outcomes = [_measure_density(state, density) for density in DENSITIES]
    held = all(outcomes)
    print("all limits held" if held else "a limit is NOT held")
    return 0 if held else 1


def _measure_density(dense: State, density: float) -> bool:
    """Print the rows of a density; whether its limits hold."""
    masks = prune_globally(dense, density)
    state = dict(dense)
    for name, mask in masks.items():
        state[name] = state[name].masked_fill(~mask, 0.0)
    floor = count_floor_bytes(state, masks)
    held = True
    with tempfile.TemporaryDirectory() as folder:
        write_dense(Path(folder) / "dense", state)
        dense_bytes = (Path(folder) / "dense").stat().st_size
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMATS}
        for _ in range(REPEATS):
            for name, (write, read) in FORMATS.items():
                path = Path(folder) / name
                writing, _ = _time(partial(write, path, state, masks))
                reading, loaded = _time(partial(read, path))
                times[name].append((writing, reading))
                held &= name == "bfloat16" or is_equal(loaded, state)
        for name, pairs in times.items():
            size = (Path(folder) / name).stat().st_size
            speeds = [
                dense_bytes / 1e6 / statistics.median(column) for column in zip(*pairs, strict=True)
            ]
            print(
                f"{density:>7} {name:>10} {size:>10,} {size / dense_bytes:>9.2%} "
                f"{size / floor:>9.1%} {speeds[0]:>11.1f} {speeds[1]:>10.1f}"
            )
            if name == "compressed":
                held &= size < floor
                held &= density != LIMITED_DENSITY or size <= LIMIT * dense_bytes
    return held


def prune_globally(state: State, density: float) -> Masks:
    """The masks of the largest weights of all layers together."""
    weights = {name: tensor.abs() for name, tensor in state.items() if tensor.dim() > 1}
    flat = torch.cat([tensor.reshape(-1) for tensor in weights.values()])
    keep = torch.zeros(len(flat), dtype=torch.bool)
    keep[flat.topk(round(density * len(flat))).indices] = True
    parts = keep.split([tensor.numel() for tensor in weights.values()])
    return {
        name: part.reshape(weights[name].shape) for name, part in zip(weights, parts, strict=True)
    }


def count_floor_bytes(state: State, masks: Masks) -> float:
    """The entropy of each layer's mask, the raw values that remain, and the other tensors."""
    total = 0.0
    for name, tensor in state.items():
        mask = masks.get(name)
        if mask is None:
            total += tensor.numel() * tensor.element_size()
            continue
        density = float(mask.double().mean())
        bits = sum(-share * math.log2(share) for share in (density, 1 - density) if share)
        total += bits * mask.numel() / 8 + int(mask.sum()) * tensor.element_size()
    return total


def is_equal(first: State, second: State) -> bool:
    """Whether two state dicts hold the same numbers under the same names."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def _time(call: Callable[[], Any]) -> tuple[float, Any]:
    """The CPU seconds of a call, and what it returns."""
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result


if __name__ == "__main__":
    sys.exit(main())
