"""Makes torchvision importable beside a torch of another build; to import before torchvision.

torchvision's compiled library belongs to one build of torch. Beside another (a CPU torch and a CUDA
torchvision, of the same release) it does not load, and the schemas of two operators that
torchvision's Python code names at import are missing. They are declared here where this is so, and
only there: declaring what the library declares itself ends the process.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

OPERATORS = ("nms", "qnms")
"""The operators that torchvision names at import.

They have no implementation here: detection does not work, classification does.
"""


def is_mismatched(torch_cuda: str | None, torch_hip: str | None, version: str | None) -> bool:
    """Whether torchvision is a CUDA build beside a CPU build of torch.

    `version` is that of torchvision, None where it is not installed.

    >>> is_mismatched(None, None, "0.28.0+cu130"), is_mismatched("13.0", None, "0.28.0+cu130")
    (True, False)
    """
    return version is not None and "+cu" in version and torch_cuda is None and torch_hip is None


def _read_installed_version() -> str | None:
    """The version of the installed torchvision with its build (`0.28.0+cu130`), read from its
    version.py without importing it; None where it is not installed or the file names no version.

    `importlib.metadata` leaves the build out.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("version.py")
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        if line.startswith("__version__"):
            return line.partition("=")[2].strip(" '\"")
    return None


def _declare_operators() -> torch.library.Library | None:
    """Declare the operators where the builds do not match; nothing otherwise."""
    if not is_mismatched(torch.version.cuda, torch.version.hip, _read_installed_version()):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in OPERATORS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library


LIBRARY = _declare_operators()
"""The declarations, kept for as long as the process lives: the schemas go with them."""
