"""What is computed from an evidence and asked for again: by the score, the prediction and the
update of one stage.
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
    """Compute once for each evidence and arguments, which must be hashable; the result lives as
    long as the evidence.

    The result is shared: who takes it does not change it. It must not hold the evidence.

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
    found: WeakKeyDictionary[Evidence, dict[object, T]] = WeakKeyDictionary()

    @wraps(compute)
    def remembered(evidence: Evidence, /, *args: P.args, **kwargs: P.kwargs) -> T:
        known = found.setdefault(evidence, {})
        key = (args, tuple(sorted(kwargs.items())))
        if key not in known:
            known[key] = compute(evidence, *args, **kwargs)
        return known[key]

    return remembered
