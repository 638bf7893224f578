"""Evaluations: one question a file, asked of all networks of a job."""

from pruning.analysis.applicability import Evaluation
from pruning.registry import Registry

evaluations: Registry[Evaluation] = Registry("evaluation", __name__)

__all__ = ["evaluations"]
