"""Sparsifiers: how a layer chooses the weights it keeps, those of highest score or by random draws;
one file each.
"""

from pruning.registry import Registry
from pruning.types import Sparsifier

sparsifiers: Registry[Sparsifier] = Registry("sparsifier", __name__)

__all__ = ["sparsifiers"]
