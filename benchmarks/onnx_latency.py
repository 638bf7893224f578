"""Measure how much faster a ResNet-18 of half the FLOPs is in onnxruntime than the dense one.

`python benchmarks/onnx_latency.py` removes channels of torchvision's ResNet-18 (random weights, 224
x 224 pixels), in multiples of 8 and one by one, until half the FLOPs remain. All are exported to
ONNX, and each runs in turn with the dense network, with one and with all threads, 1 and 8 images.
The medians of the ratios of neighbouring passes are printed with 95 % intervals, and the peak
memory. Limit: with one thread and one image the network in multiples is at least 1.4 times as fast
as the dense one. Needs the extra `onnx`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from pruning.allocations import allocations
from pruning.channels.compaction import build_compact
from pruning.granularities.channel import Channel
from pruning.library import load_model
from pruning.masks import build_full_masks, find_prunable
from pruning.measurement.costs import count_flops
from pruning.measurement.latency import measure_latency
from pruning.measurement.onnx_network import OnnxNetwork
from pruning.measurement.peak_memory import measure_onnx_memory
from pruning.sparsifiers import sparsifiers
from pruning.storage.onnx_files import explain_missing, list_missing_packages, write_onnx
from pruning.types import Selection

SHAPE = (3, 224, 224)
SMALL_SHAPE = (3, 64, 64)
"""The images with which channels are chosen: the share of the FLOPs that remains is nearly the
same, and tracing is faster.
"""
BATCHES = (1, 8)
LIMIT = 1.4


def main() -> int:
    """Measure in turn and print the ratios; 1 when the limit is not held."""
    missing = list_missing_packages()
    if missing:
        print(explain_missing(missing))
        return 1
    torch.manual_seed(0)
    dense = load_model("torchvision", name="resnet18", classes=1000)
    fastest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        dense_path = Path(folder) / "dense.onnx"
        write_onnx(dense_path, dense, SHAPE)
        _print_memory("dense", dense_path)
        for round_to in (8, 1):
            small = find_half(dense, round_to)
            share = count_flops(small, SHAPE) / count_flops(dense, SHAPE)
            path = Path(folder) / f"{round_to}.onnx"
            write_onnx(path, small, SHAPE)
            name = f"{share:.1%} of the FLOPs, multiples of {round_to}"
            _print_memory(name, path)
            for threads in dict.fromkeys((1, torch.get_num_threads())):
                own, reference = OnnxNetwork(path, threads), OnnxNetwork(dense_path, threads)
                rows = measure_latency(
                    own, SHAPE, reference, BATCHES, runtime="onnxruntime", threads=threads
                )
                for row in rows:
                    assert row.against_given is not None
                    assert row.against_given_low is not None
                    assert row.against_given_high is not None
                    print(
                        f"{name}, {threads} threads, batch {row.batch}: {row.p50:.1f} ms, "
                        f"{1 / row.against_given:.2f} times as fast as the dense network "
                        f"[{1 / row.against_given_high:.2f}, {1 / row.against_given_low:.2f}]"
                    )
                if round_to > 1 and threads == 1:
                    fastest = 1 / (rows[0].against_given or 1.0)
    print(f"limit {LIMIT}: {'held' if fastest >= LIMIT else 'not held'}")
    return 0 if fastest >= LIMIT else 1


def find_half(dense: nn.Module, round_to: int) -> nn.Module:
    """The largest network without channels, by bisection of its density, that needs at most half
    the FLOPs.
    """
    low, high = 0.3, 0.7
    best = None
    half = count_flops(dense, SMALL_SHAPE) / 2
    for _ in range(6):
        density = (low + high) / 2
        small = remove_channels(dense, density, round_to)
        if count_flops(small, SMALL_SHAPE) <= half:
            low, best = density, small
        else:
            high = density
    assert best is not None
    return best


def remove_channels(dense: nn.Module, density: float, round_to: int) -> nn.Module:
    """The network without the channels of the smallest weights, the same share in each group."""
    weights = {name: weight.detach() for name, weight in find_prunable(dense).items()}
    selection = Selection(
        model=dense,
        weights=weights,
        scores={name: weight.abs() for name, weight in weights.items()},
        masks=build_full_masks(weights),
        density=density,
        allocation=allocations.create("uniform"),
        sparsifier=sparsifiers.create("top_k"),
        generator=torch.Generator(),
        shape=lambda: SMALL_SHAPE,
    )
    return build_compact(dense, Channel(round_to=round_to).select(selection).masks, SMALL_SHAPE)


def _print_memory(name: str, path: Path) -> None:
    """Print what one image takes at most in a process of its own."""
    peak = measure_onnx_memory(path, (1, *SHAPE), 1)
    print(f"{name}: " + ("memory not measured" if peak is None else f"{peak / 1e6:.0f} MB at most"))


if __name__ == "__main__":
    sys.exit(main())
