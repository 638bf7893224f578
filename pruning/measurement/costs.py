"""What a network costs: FLOPs, file sizes and measured latency."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.networks.loading import resolve
from pruning.networks.modes import evaluate_mode
from pruning.schemas.report import Latency
from pruning.storage.checkpoints import WRITERS
from pruning.types import Masks

PASSES, FEWEST = 13, 5
"""Of a measured latency, and of one whose passes take longer than `PATIENCE_S` together."""
PATIENCE_S = 10.0


@cache
def dense_costs(architecture: str, parameters: str, shape: tuple[int, int, int]) -> tuple[int, int]:
    """FLOPs of one image, and the values that the modules without children put out for it: what a
    backward pass keeps.

    `parameters` are all of the architecture's, as JSON: equal networks are traced once. Nothing of
    their size is allocated.
    """
    with torch.device("meta"):
        model = resolve(architecture, json.loads(parameters)).build().eval()
    kept = 0

    def count(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal kept
        kept += output.numel()

    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if not list(module.children())
    ]
    try:
        return count_flops(model, shape), kept
    finally:
        for hook in hooks:
            hook.remove()


def count_flops(model: nn.Module, shape: tuple[int, int, int], masks: Masks | None = None) -> int:
    """Two times the multiply-adds of one image through every Linear and Conv2d; pruned weights
    count nothing.

    FLOPs = 2 sum_l nnz(W_l) P_l, P_l the output positions of layer l (Lost in Pruning). Equals the
    dense count of `torch.utils.flop_counter` when nothing is pruned.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    names = {
        id(parameter): name for name, parameter in model.named_parameters()
    }  # a tied weight has its first name
    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        weight = module.get_parameter("weight")
        name = names[id(weight)]
        kept = int(masks[name].sum()) if masks is not None and name in masks else weight.numel()
        positions = (
            output[0, 0].numel()
            if isinstance(module, nn.Conv2d)
            else output[0].numel() // output.shape[-1]
        )
        total += 2 * kept * positions

    hooks = [module.register_forward_hook(count) for module in layers]
    try:
        device = next(model.parameters()).device
        with torch.no_grad(), evaluate_mode(model):
            model(torch.zeros(1, *shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def measure_latency(
    model: nn.Module,
    shape: tuple[int, int, int],
    given: nn.Module | None = None,
    batches: tuple[int, ...] = (1, 64),
) -> tuple[Latency, ...]:
    """Measured wall-clock time of a forward pass in milliseconds (median, 95th percentile), fp32,
    dense kernels.

    With `given`, the two networks run in turn, and the ratio of their fastest passes is kept: other
    work on the machine can only slow a pass down.
    """
    model, given = model.eval(), given.eval() if given is not None else None
    device = next(model.parameters()).device
    found = []
    for batch in batches:
        inputs = torch.zeros(batch, *shape, device=device)
        times: list[float] = []
        given_times: list[float] = []
        begin = time.perf_counter()
        while len(times) < (PASSES if time.perf_counter() - begin < PATIENCE_S else FEWEST) or (
            len(times) < 100 and time.perf_counter() - begin < 0.5
        ):
            times.append(_forward_ms(model, inputs))
            if given is not None:
                given_times.append(_forward_ms(given, inputs))
        ordered = sorted(times[3:])
        found.append(
            Latency(
                device=device.type,
                threads=torch.get_num_threads(),
                batch=batch,
                p50=statistics.median(ordered),
                p95=ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
                against_given=ordered[0] / min(given_times[3:]) if given_times else None,
            )
        )
    return tuple(found)


def _forward_ms(model: nn.Module, inputs: Tensor) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        model(inputs)
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
    return (time.perf_counter() - start) * 1000


def measure_file_sizes(
    state: Mapping[str, Tensor], masks: Masks, *, compacted: bool = False, **info: Any
) -> dict[str, int]:
    """Bytes of every checkpoint format, and of the dense and the sparse file after gzip (as a plain
    archive would be).

    `compacted` where the state is without the channels that the masks remove.
    """
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for format, write in WRITERS.items():
            path = Path(folder) / format
            write(path, state, {} if compacted and format != "masks" else masks, **info)
            sizes[format] = path.stat().st_size
        sizes |= {
            f"{format}_gzip": _gzip_size(Path(folder) / format) for format in ("sparse", "dense")
        }
    return sizes


def _gzip_size(path: Path) -> int:
    packer = zlib.compressobj(6, wbits=31)
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            size += len(packer.compress(chunk))
    return size + len(packer.flush())
