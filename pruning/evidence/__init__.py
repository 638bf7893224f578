"""The evidence that a criterion scores: each quantity is computed once, on first use."""

from pruning.evidence.evidence import Batches, Evidence

__all__ = ["Batches", "Evidence"]
