"""Evaluations, one file each: a question about the networks of a finished job (accuracy,
robustness, ...), answered by a section of its report.
"""

from pruning.analysis.applicability import Evaluation
from pruning.registry import Registry

evaluations: Registry[Evaluation] = Registry("evaluation", __name__)

__all__ = ["evaluations"]
