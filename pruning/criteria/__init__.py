"""The registry of criteria: one file each, found by itself."""

from pruning.registry import Registry
from pruning.types import Criterion

criteria: Registry[Criterion] = Registry("criterion", __name__)

__all__ = ["criteria"]
