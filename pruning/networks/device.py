"""The device that a job asks for, and the types that it multiplies fastest."""

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


def choose_dtypes(device: torch.device) -> list[torch.dtype]:
    """The types in which a forward pass may be computed on a device, the fastest first: bfloat16
    where the processor has instructions for it.
    """
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = torch.cpu._is_avx512_bf16_supported()
    return [torch.bfloat16, torch.float32] if has_bfloat16 else [torch.float32]
