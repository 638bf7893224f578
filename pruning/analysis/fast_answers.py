"""Answers of a classifier in less time than its plain forward pass takes, and the same ones.

BatchNorm is folded into the layers before it, convolutions run on images whose channels come last,
and in bfloat16 where the processor multiplies such numbers. That moves the logits a little: images
whose two largest logits are too close for it are given to the plain network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.errors import StructureError
from pruning.graphs.tracing import fold_batchnorm
from pruning.measurement.measure import EVAL_BATCH
from pruning.measurement.objective import choose_answers
from pruning.networks.device import choose_dtypes
from pruning.training.layout import choose_layout

CALIBRATION = 64
"""The images from which it is measured how far the fast network's logits lie from the plain ones.
"""
SAFETY = 2.0
"""An image is doubtful within this multiple of the largest change among the calibration images."""
MOST_DOUBTFUL = 0.4
"""The share of doubtful calibration images from which on the plain network alone is faster."""
MOST_BYTES = 2**30
"""The most memory for networks that are kept from one distribution to the next."""


@dataclass(frozen=True)
class _FastNetwork:
    """A network that is faster than the plain one, and by how much its logits may differ."""

    network: nn.Module
    dtype: torch.dtype
    layout: torch.memory_format
    tolerance: float
    """The gap between the two largest logits up to which an answer is in doubt."""

    def compute_logits(self, inputs: Tensor) -> Tensor:
        """The logits of a batch, float32 (n, classes)."""
        if inputs.dim() == 4:
            inputs = inputs.to(self.dtype, memory_format=self.layout)
        logits: Tensor = self.network(inputs.to(self.dtype))
        return logits.float()


class FastClassifier:
    """The answers of a classifier, those of its plain fp32 forward pass.

    With delta_i the change of the logits of calibration image i by the fast path, and spread(x) =
    max x - min x, the tolerance is t = 2 max_i spread(delta_i): as long as no other image's logits
    change by more, an image whose two largest logits differ by more than t has the same class on
    both paths. All others, and those with logits that are not finite, are answered by the plain
    network. The first images asked for are the calibration images; they are answered by the plain
    network too.

    >>> network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten()).eval()
    >>> images = torch.randn(5, 1, 2, 2)
    >>> answers = FastClassifier(network).choose_answers(images)
    >>> torch.equal(answers, network(images).argmax(1))
    True
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype | None = None) -> None:
        """Take a network; `dtype` is what the fast path computes in, by default what the processor
        multiplies fastest.
        """
        self._plain = network.eval()
        self._dtype = dtype
        self._fast: _FastNetwork | None = None
        self._is_calibrated = False
        self.doubtful = 0
        """The number of images that the plain network answered after the fast one."""

    @property
    def size_bytes(self) -> int:
        """The memory of the plain and of the fast network's weights."""
        return 2 * sum(int(value.nbytes) for value in self._plain.state_dict().values())

    @torch.no_grad()
    def choose_answers(
        self,
        inputs: Tensor,
        batch: int = EVAL_BATCH,
        advance: Callable[[int], None] = lambda images: None,
    ) -> Tensor:
        """The class of each input, int64 (n,), on the device of the inputs; `NO_ANSWER` where the
        outputs are not finite. `advance` is called with the number of inputs of each batch.
        """
        if not self._is_calibrated:
            self._calibrate(inputs[:CALIBRATION])
        fast = self._fast
        if fast is None:
            return self._answer_plainly(inputs, batch, advance)
        answers, in_doubt = [], []
        for part in torch.split(inputs, batch):
            logits = fast.compute_logits(part)
            answers.append(choose_answers(logits))
            in_doubt.append(find_doubtful(logits, fast.tolerance))
            advance(len(part))
        classes = torch.cat(answers)
        doubtful = torch.cat(in_doubt).nonzero().flatten()
        self.doubtful += len(doubtful)
        if len(doubtful):
            classes[doubtful] = self._answer_plainly(inputs[doubtful], batch)
        return classes

    def _answer_plainly(
        self, inputs: Tensor, batch: int, advance: Callable[[int], None] = lambda images: None
    ) -> Tensor:
        answers = []
        for part in torch.split(inputs.contiguous(), batch):
            answers.append(choose_answers(self._plain(part).float()))
            advance(len(part))
        return torch.cat(answers)

    def _calibrate(self, inputs: Tensor) -> None:
        """Find the fast network, if there is one, and its tolerance on these images."""
        self._is_calibrated = True
        expected = self._plain(inputs).float()
        if expected.dim() != 2 or expected.shape[1] < 2 or not expected.isfinite().all():
            return
        layout = choose_layout(self._plain)
        for dtype in [self._dtype] if self._dtype else choose_dtypes(inputs.device):
            try:
                network = fold_batchnorm(self._plain)
                if dtype == torch.float32 and _is_like(network, self._plain, layout):
                    return
                network = network.to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]
                fast = _FastNetwork(network, dtype, layout, tolerance=0.0)
                changes = fast.compute_logits(inputs) - expected
            except (StructureError, RuntimeError, TypeError):
                continue  # a network that cannot be traced, or that makes float32 tensors itself
            tolerance = SAFETY * float((changes.amax(1) - changes.amin(1)).max())
            if float(find_doubtful(expected, tolerance).double().mean()) <= MOST_DOUBTFUL:
                self._fast = _FastNetwork(network, dtype, layout, tolerance)
                return


class FastClassifiers:
    """The classifiers of a job by name, kept while they fit in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, FastClassifier] = {}
        self._bytes = 0

    def load(self, name: str, load: Callable[[], nn.Module]) -> FastClassifier:
        """The classifier of this name, which `load` loads where it is not kept."""
        kept = self._kept.get(name)
        if kept is not None:
            return kept
        classifier = FastClassifier(load())
        if self._bytes + classifier.size_bytes <= MOST_BYTES:
            self._kept[name] = classifier
            self._bytes += classifier.size_bytes
        return classifier


def find_doubtful(logits: Tensor, tolerance: float) -> Tensor:
    """Whether the two largest logits are within the tolerance, or one is not finite; bool (n,).

    >>> find_doubtful(torch.tensor([[0.0, 1.0], [0.0, 0.1], [torch.inf, 0.0]]), 0.5).tolist()
    [False, True, True]
    """
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return ~(first - second > tolerance) | ~logits.isfinite().all(1)


def _is_like(network: nn.Module, plain: nn.Module, layout: torch.memory_format) -> bool:
    """Whether a folded network has the plain one's layers, and its images the plain layout."""
    return layout == torch.contiguous_format and network.state_dict().keys() == (
        plain.state_dict().keys()
    )
