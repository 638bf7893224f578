"""What a network loses and what it costs: errors on the plain fp32 path, FLOPs, file sizes, measured latency."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.checkpoints import WRITERS
from pruning.data.tensors import Data, Split
from pruning.intervals import Z95, binomial, bounded, mean, paired_difference
from pruning.modes import evaluating
from pruning.networks import resolve
from pruning.objective import losses as losses_of
from pruning.overlap import image_errors, overlaps
from pruning.schemas.report import Estimate, Evaluated, Latency
from pruning.types import Masks

EVAL_BATCH = 128
PASSES, FEWEST = 13, 5
"""Of a measured latency, and of one whose passes take longer than `PATIENCE_S` together."""
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Measured:
    """One network on the test and validation splits: how wrong it is on each image, and its loss on each test image."""

    wrong: Tensor
    """bool (test images,): True is wrong; for segmentation float64, 1 - mean IoU of the image"""
    losses: Tensor
    """float32 (test images,): cross-entropy, of an image with a mask the mean over its pixels"""
    val_wrong: Tensor
    """As `wrong`, of the validation images."""
    overlaps: Tensor | None = None
    """For segmentation, int64 (test images, 2, classes): pixels in intersections and unions"""

    def document(self) -> Evaluated:
        """The numbers with their intervals."""
        losses = self.losses.to(torch.float64)
        return Evaluated(error=mean_error(self.wrong), val_error=mean_error(self.val_wrong),
                         loss=mean(float(losses.sum()), float((losses**2).sum()), len(losses)))

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The tensors, for a stage file."""
        parts = {"wrong": self.wrong, "losses": self.losses, "val_wrong": self.val_wrong, "overlaps": self.overlaps}
        return {f"{prefix}.{part}": value for part, value in parts.items() if value is not None}

    @staticmethod
    def restore(tensors: Mapping[str, Tensor], prefix: str) -> Measured:
        """What `tensors` gave."""
        wrong, losses, val_wrong = (tensors[f"{prefix}.{part}"] for part in ("wrong", "losses", "val_wrong"))
        return Measured(wrong, losses, val_wrong, tensors.get(f"{prefix}.overlaps"))


def mean_error(wrong: Tensor) -> Estimate:
    """The error over images: the exact interval where each is right or wrong, Student's where each has its own error.

    >>> mean_error(torch.tensor([True, False])).value, mean_error(torch.tensor([0.5, 0.25])).value
    (0.5, 0.375)
    """
    if wrong.dtype == torch.bool:
        return binomial(int(wrong.sum()), len(wrong))
    values = wrong.double()
    return bounded(float(values.sum()), float((values**2).sum()), len(values))


def increase(first: Tensor, second: Tensor, z: float = Z95) -> Estimate:
    """Error of the first network minus that of the second, paired; both bool (images,), True is wrong, or their errors."""
    if first.dtype == torch.bool:
        return paired_difference(int((first & ~second).sum()), int((second & ~first).sum()), len(first), z)
    gaps = first.double() - second.double()
    return bounded(float(gaps.sum()), float((gaps**2).sum()), len(gaps), -1.0, 1.0, z)


def measure(model: nn.Module, data: Data, advance: Callable[[int], None] = lambda images: None) -> Measured:
    """Errors and losses in eval mode, fp32, batches of `EVAL_BATCH`, contiguous layout: a user can recompute them.

    With masks a batch has as many images as `Data.at_once` allows. A loss that is no number (a collapsed network can
    overflow) counts as the largest finite float32.
    """
    model.eval()
    (wrong, losses, regions), (val_wrong, _, _) = (_run(model, data, split, advance) for split in (data.test, data.val))
    return Measured(wrong, losses, val_wrong, regions)


def _run(model: nn.Module, data: Data, split: Split, advance: Callable[[int], None]) -> (
        tuple[Tensor, Tensor, Tensor | None]):
    answers, losses = [], []
    with torch.no_grad():
        for inputs, labels in data.batches(split, EVAL_BATCH):
            logits = model(inputs).to(torch.float32)
            found = logits.argmax(1)
            answers.append((overlaps(found, labels, logits.shape[1]) if data.segmentation else found != labels).cpu())
            losses.append(losses_of(logits, labels).cpu())
            advance(len(labels))
    each = torch.nan_to_num(torch.cat(losses), nan=math.inf).clamp_max(torch.finfo(torch.float32).max)
    every = torch.cat(answers)
    return (image_errors(every), each, every) if data.segmentation else (every, each, None)


@cache
def traced(architecture: str, parameters: str, shape: tuple[int, int, int]) -> tuple[int, int]:
    """FLOPs of one image, and the values that the modules without children put out for it: what a backward pass keeps.

    `parameters` are all of the architecture's, as JSON: equal networks are traced once. Nothing of their size is allocated.
    """
    with torch.device("meta"):
        model = resolve(architecture, json.loads(parameters)).build().eval()
    kept = 0

    def count(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal kept
        kept += output.numel()

    hooks = [module.register_forward_hook(count) for module in model.modules() if not list(module.children())]
    try:
        return flops(model, shape), kept
    finally:
        for hook in hooks:
            hook.remove()


def flops(model: nn.Module, shape: tuple[int, int, int], masks: Masks | None = None) -> int:
    """Two times the multiply-adds of one image through every Linear and Conv2d; pruned weights count nothing.

    FLOPs = 2 sum_l nnz(W_l) P_l, P_l the output positions of layer l (Lost in Pruning). Equals the dense count of
    `torch.utils.flop_counter` when nothing is pruned.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    names = {id(parameter): name for name, parameter in model.named_parameters()}  # a tied weight has its first name
    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        weight = module.get_parameter("weight")
        name = names[id(weight)]
        kept = int(masks[name].sum()) if masks is not None and name in masks else weight.numel()
        positions = output[0, 0].numel() if isinstance(module, nn.Conv2d) else output[0].numel() // output.shape[-1]
        total += 2 * kept * positions

    hooks = [module.register_forward_hook(count) for module in layers]
    try:
        device = next(model.parameters()).device
        with torch.no_grad(), evaluating(model):
            model(torch.zeros(1, *shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def latency(model: nn.Module, shape: tuple[int, int, int], given: nn.Module | None = None,
            batches: tuple[int, ...] = (1, 64)) -> tuple[Latency, ...]:
    """Measured wall-clock time of a forward pass in milliseconds (median, 95th percentile), fp32, dense kernels.

    With `given`, the two networks run in turn, and the ratio of their fastest passes is kept: other work on the machine
    can only slow a pass down.
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
                len(times) < 100 and time.perf_counter() - begin < 0.5):
            times.append(_forward_ms(model, inputs))
            if given is not None:
                given_times.append(_forward_ms(given, inputs))
        ordered = sorted(times[3:])
        found.append(Latency(device=device.type, threads=torch.get_num_threads(), batch=batch,
                             p50=statistics.median(ordered), p95=ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
                             against_given=ordered[0] / min(given_times[3:]) if given_times else None))
    return tuple(found)


def _forward_ms(model: nn.Module, inputs: Tensor) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        model(inputs)
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
    return (time.perf_counter() - start) * 1000


def file_sizes(state: Mapping[str, Tensor], masks: Masks, *, compacted: bool = False, **info: Any) -> dict[str, int]:
    """Bytes of every checkpoint format, and of the dense and the sparse file after gzip (as a plain archive would be).

    `compacted` where the state is without the channels that the masks remove.
    """
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for format, write in WRITERS.items():
            path = Path(folder) / format
            write(path, state, {} if compacted and format != "masks" else masks, **info)
            sizes[format] = path.stat().st_size
        sizes |= {f"{format}_gzip": _gzip_size(Path(folder) / format) for format in ("sparse", "dense")}
    return sizes


def _gzip_size(path: Path) -> int:
    packer = zlib.compressobj(6, wbits=31)
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            size += len(packer.compress(chunk))
    return size + len(packer.flush())
