"""The device that a job asks for."""

from __future__ import annotations

import torch

from pruning.errors import DeviceError


def pick_device(wanted: str) -> torch.device:
    """The device of a name: `auto` is CUDA where there is a device, else the CPU.

    Raises `DeviceError` where CUDA is asked for and missing.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "the job asks for a CUDA device and this worker has none; use 'auto' or 'cpu'"
        )
    return torch.device(wanted)
