"""The index mappings of torch-pruning, which take channels of one operation to those of the next.

This module alone uses the private index type of torch-pruning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pruning.channels._torch_pruning import HybridIndex

Positions: TypeAlias = NDArray[np.int64]
IndexMapping: TypeAlias = Callable[..., Any]
"""An index mapping of a dependency of torch-pruning."""


def map_positions(count: int, mappings: Sequence[IndexMapping]) -> tuple[Positions, Positions]:
    """The pairs of a position below `count` and one that the mappings, applied in turn, take it to.

    A mapping may drop a position, as slicing does, or take it to several, as flattening does.
    """
    indices = [HybridIndex(idx=position, root_idx=position) for position in range(count)]
    for mapping in mappings:
        indices = mapping(indices)
    before = np.array([index.root_idx for index in indices], np.int64)
    after = np.array([index.idx for index in indices], np.int64)
    return before, after
