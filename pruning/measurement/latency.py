"""Measured latency of networks, each in turn with the network as given, in one runtime."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from scipy import stats
from torch import Tensor, nn

from pruning.networks.modes import evaluate_mode
from pruning.schemas.outputs import Latency, Runtime

PASSES = 13
"""The forward passes by which a latency is measured."""
FEWEST_PASSES = 9
"""The forward passes where they take longer than `PATIENCE_S` together: six that count, the fewest
whose median has an interval.
"""
PATIENCE_S = 10.0
WARM_UP = 3
"""The first passes, which do not count: caches and kernels are being prepared."""


def measure_latency(
    model: nn.Module,
    shape: tuple[int, int, int],
    reference: nn.Module | None = None,
    batches: Sequence[int] = (1, 64),
    *,
    runtime: Runtime = "torch",
    threads: int | None = None,
) -> tuple[Latency, ...]:
    """Measured wall-clock time of a forward pass in milliseconds (median, 95th percentile), fp32,
    dense kernels.

    With a `reference`, the two networks run in turn, each first in every second pair, and the ratio
    is the median over pairs: work beside them slows both passes of a pair down. `threads`
    (default: as PyTorch has them) are PyTorch's for this measurement; a network in onnxruntime has
    its own.
    """
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    used_threads = threads or torch.get_num_threads()
    latencies = []
    with evaluate_mode(model), evaluate_mode(reference or model), _limit_threads(used_threads):
        for batch in batches:
            inputs = torch.zeros(batch, *shape, device=device)
            times, ratios = _time_in_turn(model, reference, inputs)
            low, high = find_median_interval(ratios) or (None, None)
            latencies.append(
                Latency(
                    device=device.type,
                    runtime=runtime,
                    threads=used_threads,
                    batch=batch,
                    p50=statistics.median(times),
                    p95=times[min(len(times) - 1, int(0.95 * len(times)))],
                    against_given=statistics.median(ratios) if ratios else None,
                    against_given_low=low,
                    against_given_high=high,
                )
            )
    return tuple(latencies)


def find_median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The exact 95 % interval of a median from order statistics, values taken as independent; None
    for fewer than six.

    It is [x_(k), x_(n + 1 - k)] with the largest k for which P(Bin(n, 1/2) < k) is at most 2.5 %.

    >>> find_median_interval([1, 2, 3, 4, 5, 6]), find_median_interval([1, 2, 3, 4, 5])
    ((1, 6), None)
    """
    ordered = sorted(values)
    count = int(stats.binom.ppf(0.025, len(ordered), 0.5)) if ordered else 0
    # The quantile is the first count whose probability reaches 2.5 %: those below it do not.
    if count < 1:
        return None
    return ordered[count - 1], ordered[-count]


def _time_in_turn(
    model: nn.Module, reference: nn.Module | None, inputs: Tensor
) -> tuple[list[float], list[float]]:
    """The times of a network in milliseconds, ascending, and its ratios to the reference, both
    without the warm-up.
    """
    times: list[float] = []
    ratios: list[float] = []
    begin = time.perf_counter()
    while _needs_more_passes(len(times), time.perf_counter() - begin):
        if reference is None:
            times.append(_time_forward_ms(model, inputs))
            continue
        goes_first = len(times) % 2 == 0
        pair = (model, reference) if goes_first else (reference, model)
        first, second = (_time_forward_ms(network, inputs) for network in pair)
        own, other = (first, second) if goes_first else (second, first)
        times.append(own)
        ratios.append(own / other)
    return sorted(times[WARM_UP:]), ratios[WARM_UP:]


def _needs_more_passes(passes: int, elapsed_s: float) -> bool:
    """Whether a latency needs more passes: a fast network is run for half a second, 100 times at
    most, a slow one no longer than patience lasts.
    """
    fewest = PASSES if elapsed_s < PATIENCE_S else FEWEST_PASSES
    return passes < fewest or (passes < 100 and elapsed_s < 0.5)


def _time_forward_ms(model: nn.Module, inputs: Tensor) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        model(inputs)
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
    return max((time.perf_counter() - start) * 1000, math.ulp(1.0))


@contextmanager
def _limit_threads(threads: int) -> Iterator[None]:
    """Let PyTorch use so many threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
