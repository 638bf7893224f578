"""Measure how much faster a DeiT-tiny with half its heads and half its MLP widths is.

`python benchmarks/attention_heads.py` builds a vision transformer of DeiT-tiny's shape (width 192,
12 blocks of 3 heads, MLPs of 768, patches of 16 in images of 224; random weights) and removes half
the heads and half the MLP widths. Three heads have no half: blocks keep 1 and 2 in turn, which are
18 of all 36. It runs in turn with the network as torchvision builds it, whose attention is one
kernel of PyTorch, and in onnxruntime with that network's export, with one and with all threads, 1
and 8 images. The medians of the ratios of neighbouring passes are printed with 95 % intervals.
Limit: with one thread and 8 images it is at least 1.6 times as fast in both. Needs the extra
`onnx`.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from pruning.architectures import _torchvision_shim  # noqa: F401 (goes before torchvision)
from pruning.architectures._attention import open_attention_
from pruning.channels.compaction import build_compact
from pruning.channels.graph import ChannelGraph
from pruning.masks import build_full_masks, find_prunable
from pruning.measurement.costs import count_flops
from pruning.measurement.latency import measure_latency
from pruning.measurement.onnx_network import OnnxNetwork
from pruning.schemas.outputs import Latency
from pruning.storage.onnx_files import explain_missing, list_missing_packages, write_onnx

SHAPE = (3, 224, 224)
BATCHES = (1, 8)
LIMIT = 1.6


def main() -> int:
    """Measure in turn and print the ratios; 1 when the limit is not held."""
    missing = list_missing_packages()
    if missing:
        print(explain_missing(missing))
        return 1
    given = build_deit_tiny()
    dense = open_attention_(copy.deepcopy(given))
    small = remove_half(dense)
    flops = [count_flops(network, SHAPE) for network in (dense, small)]
    print(f"{flops[1] / flops[0]:.1%} of the FLOPs ({flops[0] / 1e9:.2f} G) remain")
    slowest = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "dense.onnx", Path(folder) / "small.onnx"
        for path, network in zip(paths, (dense, small), strict=True):
            write_onnx(path, network, SHAPE)
        for threads in dict.fromkeys((1, torch.get_num_threads())):
            own, reference = (OnnxNetwork(path, threads) for path in reversed(paths))
            rows = (
                *measure_latency(small, SHAPE, given, BATCHES, threads=threads),
                *measure_latency(
                    own, SHAPE, reference, BATCHES, runtime="onnxruntime", threads=threads
                ),
            )
            for row in rows:
                print_row(row)
                if threads == 1 and row.batch == BATCHES[-1]:
                    slowest = min(slowest, 1 / (row.against_given or float("inf")))
    print(f"limit {LIMIT}: {'held' if slowest >= LIMIT else 'not held'}")
    return 0 if slowest >= LIMIT else 1


def build_deit_tiny() -> nn.Module:
    """A vision transformer of DeiT-tiny's shape, as torchvision builds it."""
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    net = VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768
    )
    return net.eval()


def remove_half(dense: nn.Module) -> nn.Module:
    """The network without half the heads of all blocks, and without half of each MLP."""
    weights = find_prunable(dense)
    graph = ChannelGraph.of(dense, SHAPE, weights)
    keep = torch.ones(graph.size, dtype=torch.bool)
    attentions = 0
    for group in graph.removable:
        kept = group.size // 2
        if group.head_size is not None:
            kept += attentions % 2 * (group.size % 2)
            attentions += 1
        keep[group.start + kept : group.start + group.size] = False
    masks = build_full_masks(weights) | graph.masks(dense, keep)
    return build_compact(dense, masks, SHAPE)


def print_row(row: Latency) -> None:
    """Print the ratio of a row with its interval."""
    assert row.against_given is not None
    interval = "too few passes for an interval"
    if row.against_given_low is not None and row.against_given_high is not None:
        interval = f"[{1 / row.against_given_high:.2f}, {1 / row.against_given_low:.2f}]"
    print(
        f"{row.runtime}, {row.threads} threads, batch {row.batch}: {row.p50:.1f} ms, "
        f"{1 / row.against_given:.2f} times as fast as the dense network {interval}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
