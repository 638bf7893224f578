"""Granularities: what is removed together (weights, blocks, N of M, channels), one file each."""

from pruning.registry import Registry
from pruning.types import Granularity

granularities: Registry[Granularity] = Registry("granularity", __name__)

__all__ = ["granularities"]
