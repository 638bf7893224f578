"""Packages that are not in the base install, imported where a network needs them and not before."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from pruning.architectures import _torchvision_shim  # noqa: F401 (goes before torchvision)
from pruning.errors import MissingPackageError


def import_extra(package: str) -> ModuleType:
    """The package of the extra of the same name, kept from the network.

    Raises `MissingPackageError` where it is not installed.
    """
    # Weights are uploaded and never downloaded; both packages read this when they are imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingPackageError(
            f"this network needs a package that is not installed here ({package}): "
            f"pip install 'secateur[{package}]'"
        ) from None
