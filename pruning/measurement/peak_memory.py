"""The most memory that a network takes for one batch, in PyTorch and in onnxruntime."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pruning.networks.modes import evaluate_mode

RUN_ALONE = """\
import sys

import numpy
import onnxruntime


def read(field):
    with open("/proc/self/status") as status:
        return 1024 * int(next(line for line in status if line.startswith(field)).split()[1])


path, threads, *shape = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
options.inter_op_num_threads = 1
images = numpy.zeros([int(size) for size in shape], numpy.float32)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is counted from here on
before = read("VmRSS")
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: images})
print(read("VmHWM") - before)
"""
TIME_LIMIT_S = 120


def measure_onnx_memory(path: Path, shape: Sequence[int], threads: int) -> int | None:
    """The bytes by which a process of its own grows at most while it opens an ONNX file in
    onnxruntime and runs one batch of `shape` (N, C, H, W).

    None where Linux's counters are not to be had.
    """
    command = [sys.executable, "-I", "-c", RUN_ALONE, str(path), str(threads), *map(str, shape)]
    try:
        result = subprocess.run(
            command, capture_output=True, check=True, text=True, timeout=TIME_LIMIT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return int(result.stdout)


def measure_torch_memory(model: nn.Module, shape: Sequence[int]) -> int:
    """The most bytes that tensors hold at once during a forward pass in eval mode of one batch of
    `shape`: weights, images and outputs of operations, without what an operation takes inside.
    """
    parameter = next(model.parameters(), None)
    inputs = torch.zeros(*shape, device=None if parameter is None else parameter.device)
    counter = _LiveBytes()
    for tensor in chain(model.parameters(), model.buffers(), [inputs]):
        counter.add(tensor)
    with torch.no_grad(), evaluate_mode(model), counter:
        model(inputs)
    return counter.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, storage.nbytes())

    def _drop(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(
        self,
        operation: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count its outputs."""
        outputs = operation(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor):
                self.add(output)
        return outputs
