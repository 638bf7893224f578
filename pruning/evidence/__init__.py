"""Evidence: the data and statistics that a criterion may read (gradients, activations, Hessians),
each computed once, on first use.
"""

from pruning.evidence.evidence import Batches, Evidence

__all__ = ["Batches", "Evidence"]
