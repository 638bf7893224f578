"""The registry of schedules: one file each, found by itself."""

from pruning.registry import Registry
from pruning.types import Schedule

schedules: Registry[Schedule] = Registry("schedule", __name__)

__all__ = ["schedules"]
