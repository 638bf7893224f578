"""Allocations: how one budget is divided over the layers, one file each."""

from pruning.registry import Registry
from pruning.types import Allocation

allocations: Registry[Allocation] = Registry("allocation", __name__)

__all__ = ["allocations"]
