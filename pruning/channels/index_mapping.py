"""How torch-pruning maps the channels of one operation to those of the next; the only use of its
private index type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch_pruning._helpers import _HybridIndex

Positions: TypeAlias = NDArray[np.int64]
IndexMapping: TypeAlias = Callable[..., Any]
"""An index mapping of a dependency of torch-pruning."""


def map_positions(count: int, mappings: Sequence[IndexMapping]) -> tuple[Positions, Positions]:
    """Where the mappings, one after the other, take the positions below `count`: pairs of a
    position before and one after.

    A mapping may drop a position, as slicing does, or take it to several, as flattening does.
    """
    indices = [_HybridIndex(idx=position, root_idx=position) for position in range(count)]
    for mapping in mappings:
        indices = mapping(indices)
    before = np.array([index.root_idx for index in indices], np.int64)
    after = np.array([index.idx for index in indices], np.int64)
    return before, after
