"""ONNX files as networks: run in onnxruntime, and compared with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.data.tensors import Data
from pruning.errors import CheckpointError
from pruning.measurement.agreement import measure_agreement
from pruning.measurement.measure import estimate_error
from pruning.schemas.outputs import OnnxCheck
from pruning.storage.onnx_files import INPUT, OPSET, OUTPUT

LARGEST_RELATIVE_DIFFERENCE = 1e-3
"""The difference of logits, over the largest of them, from which runtimes disagree: sums of
float32 in another order differ by less than a hundredth of it.
"""


class OnnxNetwork(nn.Module):
    """An ONNX file in onnxruntime on the CPU, called as the network in PyTorch is.

    `threads` is the number of threads of each operation.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.version = f"onnxruntime {onnxruntime.__version__}"
        try:
            self.session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has no common class of its errors
            raise CheckpointError(f"{path.name}: {self.version} cannot open it: {error}") from error

    def forward(self, images: Tensor) -> Tensor:
        """The logits of normalised images, on the device of the images."""
        inputs = {INPUT: images.detach().cpu().contiguous().numpy()}
        try:
            (logits,) = self.session.run([OUTPUT], inputs)
        except Exception as error:  # onnxruntime has no common class of its errors
            raise CheckpointError(f"{self.version} cannot run the network: {error}") from error
        return torch.from_numpy(logits).to(images.device)


def check_onnx(path: Path, model: nn.Module, data: Data) -> OnnxCheck:
    """Compare the file with its network on the test images."""
    runtime = OnnxNetwork(path, torch.get_num_threads())
    agreement = measure_agreement(model, runtime, data)
    return OnnxCheck(
        opset=OPSET,
        runtime=runtime.version,
        images=len(agreement.errors),
        error=estimate_error(agreement.errors),
        largest_difference=agreement.largest_difference,
        largest_logit=agreement.largest_logit,
        differing_images=agreement.differing_images,
    )


def describe_disagreement(check: OnnxCheck, error: float) -> str | None:
    """The warning where a file answers unlike its network, whose test error is `error`; None where
    they agree.
    """
    same_error = abs(check.error.value - error) < 1e-6
    limit = LARGEST_RELATIVE_DIFFERENCE * max(check.largest_logit, 1e-3)
    if same_error and check.largest_difference <= limit:
        return None
    return (
        f"the ONNX file disagrees with PyTorch: its test error in {check.runtime} is "
        f"{100 * check.error.value:.4g} %, in PyTorch {100 * error:.4g} %; "
        f"{check.differing_images} of {check.images} answers differ, and logits by up to "
        f"{check.largest_difference:.2g} (the largest is {check.largest_logit:.3g})"
    )
