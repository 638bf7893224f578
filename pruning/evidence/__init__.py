"""Evidence: what a criterion may know of a network, each quantity computed once, on first use."""

from pruning.evidence.evidence import Batches, Evidence

__all__ = ["Batches", "Evidence"]
