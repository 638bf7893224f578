"""The registry of evaluations: one file each, found by itself."""

from pruning.analysis.applicability import Evaluation
from pruning.registry import Registry

evaluations: Registry[Evaluation] = Registry("evaluation", __name__)

__all__ = ["evaluations"]
