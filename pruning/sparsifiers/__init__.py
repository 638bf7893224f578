"""Sparsifiers: how a layer's share is spent, one file each."""

from pruning.registry import Registry
from pruning.types import Sparsifier

sparsifiers: Registry[Sparsifier] = Registry("sparsifier", __name__)

__all__ = ["sparsifiers"]
