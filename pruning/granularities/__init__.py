"""The registry of granularities: one file each, found by itself."""

from pruning.registry import Registry
from pruning.types import Granularity

granularities: Registry[Granularity] = Registry("granularity", __name__)

__all__ = ["granularities"]
