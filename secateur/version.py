"""The version of this distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("secateur")
except PackageNotFoundError:
    VERSION = "0+unknown"
