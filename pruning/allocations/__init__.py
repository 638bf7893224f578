"""The registry of allocations: one file each, found by itself."""

from pruning.registry import Registry
from pruning.types import Allocation

allocations: Registry[Allocation] = Registry("allocation", __name__)

__all__ = ["allocations"]
