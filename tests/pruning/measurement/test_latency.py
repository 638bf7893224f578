"""Latencies of pairs of passes, their intervals, and memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pruning.measurement import latency
from pruning.measurement.latency import find_median_interval, measure_latency
from pruning.measurement.peak_memory import measure_onnx_memory, measure_torch_memory
from pruning.storage.onnx_files import write_onnx
from tests.support.onnx_cases import SHAPE, build_conv_net


def test_the_interval_of_a_median_is_the_widest_that_the_order_allows() -> None:
    for count in range(1, 60):
        interval = find_median_interval(range(count))
        missed = [stats.binom.cdf(k - 1, count, 0.5) for k in range(1, count // 2 + 1)]
        allowed = [k for k, tail in enumerate(missed, 1) if tail <= 0.025]
        wanted = (allowed[-1] - 1, count - allowed[-1]) if allowed else None
        assert interval == wanted


def test_the_interval_of_a_median_covers_it() -> None:
    """Skewed ratios: passes that other work of the machine slowed down."""
    generator = np.random.default_rng(5)
    ratios = np.exp(generator.exponential(1.0, (4000, 20)) ** 2)
    median = float(np.exp(np.log(2.0) ** 2))
    ends = [find_median_interval(row) for row in ratios]
    covered = np.mean([low <= median <= high for low, high in filter(None, ends)])
    assert len(ends) == 4000
    assert 0.95 <= covered <= 0.975  # exact: 1 - 2 P(Bin(20, 1/2) < 6) = 95.9 %


def test_the_ratio_is_that_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as slow in every pair, while the machine becomes slower from pair to pair."""
    own, other = nn.Identity(), nn.Identity()
    order: list[nn.Module] = []

    def time_forward(model: nn.Module, inputs: Tensor) -> float:
        order.append(model)
        pair = (len(order) - 1) // 2
        return (2.0 if model is own else 1.0) * 1.5**pair

    monkeypatch.setattr(latency, "_time_forward_ms", time_forward)
    (row,) = measure_latency(own, (1, 1, 1), other, batches=(1,))
    assert (row.against_given, row.against_given_low, row.against_given_high) == (2.0, 2.0, 2.0)
    assert order[:4] == [own, other, other, own]


def test_threads_are_those_asked_for_and_then_as_before() -> None:
    before = torch.get_num_threads()
    seen = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return x

    (row,) = measure_latency(Watching(), (1, 1, 1), batches=(1,), threads=2)
    assert (row.threads, set(seen), torch.get_num_threads()) == (2, {2}, before)


@pytest.mark.slow  # the import of PyTorch's compiler behind it
def test_memory_of_live_tensors() -> None:
    """A chain frees what nothing reads any more: at most two activations are alive at once."""
    chain = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(5)))
    weights, activation = 5 * 100 * 100 * 4, 50 * 100 * 4
    assert measure_torch_memory(chain, (50, 100)) == weights + 3 * activation  # with the images


@pytest.mark.slow
def test_memory_of_onnxruntime_grows_with_the_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "f.onnx"
    write_onnx(path, build_conv_net(), SHAPE)
    small, large = (measure_onnx_memory(path, (batch, *SHAPE), 1) for batch in (1, 4096))
    assert small is not None
    assert large is not None
    assert large - small > 4096 * 8 * 8 * 8 * 4  # the activations of the convolution
    assert measure_onnx_memory(tmp_path / "absent.onnx", (1, *SHAPE), 1) is None
