"""Criteria: how much each weight matters, one file each."""

from pruning.evidence.criterion import Criterion
from pruning.registry import Registry

criteria: Registry[Criterion] = Registry("criterion", __name__)

__all__ = ["criteria"]
