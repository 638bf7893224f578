"""Architectures: the kinds of networks that a job can name, one kind a file."""

from pruning.registry import Registry
from pruning.types import Architecture

architectures: Registry[Architecture] = Registry("architecture", __name__)

__all__ = ["architectures"]
