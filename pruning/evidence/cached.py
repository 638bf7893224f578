"""Results that are computed once for each evidence, because the score, the prediction and the
update of one stage all ask for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from pruning.evidence.evidence import Evidence

P = ParamSpec("P")
T = TypeVar("T")


def once_per_evidence(
    compute: Callable[Concatenate[Evidence, P], T],
) -> Callable[Concatenate[Evidence, P], T]:
    """Compute once for each evidence and arguments; the result lives as long as the evidence.

    The arguments must be hashable. The result is shared: callers must not change it. It must not
    hold the evidence.

    >>> from torch import nn
    >>> @once_per_evidence
    ... def names(evidence: Evidence) -> list[str]:
    ...     print("computed")
    ...     return list(evidence.weights)
    >>> evidence = Evidence(nn.Linear(1, 1))
    >>> names(evidence), names(evidence)
    computed
    (['weight'], ['weight'])
    """
    results: WeakKeyDictionary[Evidence, dict[object, T]] = WeakKeyDictionary()

    @wraps(compute)
    def recall_or_compute(evidence: Evidence, /, *args: P.args, **kwargs: P.kwargs) -> T:
        results_by_arguments = results.setdefault(evidence, {})
        key = (args, tuple(sorted(kwargs.items())))
        if key not in results_by_arguments:
            results_by_arguments[key] = compute(evidence, *args, **kwargs)
        return results_by_arguments[key]

    return recall_or_compute
