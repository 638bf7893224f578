"""The registry of criteria: one file each, found without a list."""

from pruning.evidence.criterion import Criterion
from pruning.registry import Registry

criteria: Registry[Criterion] = Registry("criterion", __name__)

__all__ = ["criteria"]
