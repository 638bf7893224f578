"""The registry of allocations: one file each, found without a list."""

from pruning.registry import Registry
from pruning.types import Allocation

allocations: Registry[Allocation] = Registry("allocation", __name__)

__all__ = ["allocations"]
