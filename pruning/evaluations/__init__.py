"""The registry of evaluations: one file each, found by itself."""

from pruning.registry import Registry
from pruning.trial import Evaluation

evaluations: Registry[Evaluation] = Registry("evaluation", __name__)

__all__ = ["evaluations"]
