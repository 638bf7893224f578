"""The registry of sparsifiers: one file each, found without a list."""

from pruning.registry import Registry
from pruning.types import Sparsifier

sparsifiers: Registry[Sparsifier] = Registry("sparsifier", __name__)

__all__ = ["sparsifiers"]
