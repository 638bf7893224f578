"""The registry of granularities: one file each, found without a list."""

from pruning.registry import Registry
from pruning.types import Granularity

granularities: Registry[Granularity] = Registry("granularity", __name__)

__all__ = ["granularities"]
