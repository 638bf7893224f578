"""Evaluations of a finished job (accuracy, robustness, loss model, ...), one file each."""

from pruning.analysis.applicability import Evaluation
from pruning.registry import Registry

evaluations: Registry[Evaluation] = Registry("evaluation", __name__)

__all__ = ["evaluations"]
