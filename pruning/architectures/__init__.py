"""The registry of architectures: one file each, found by itself."""

from pruning.registry import Registry
from pruning.types import Architecture

architectures: Registry[Architecture] = Registry("architecture", __name__)

__all__ = ["architectures"]
