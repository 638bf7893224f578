"""Batches that are read while the batch before them is used. Free of torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")
AHEAD = 2
"""The most batches that are ready before they are asked for."""


def read_ahead(read: Callable[[Key], Value], keys: Iterable[Key]) -> Generator[Value, None, None]:
    """The values of the keys in order, at most `AHEAD` of which are read before they are needed.

    A thread reads them one after the other; what it raises is raised where the value is asked for.

    >>> list(read_ahead(lambda number: number**2, range(4)))
    [0, 1, 4, 9]
    """
    remaining = iter(keys)
    with ThreadPoolExecutor(1) as reader:
        pending: deque[Future[Value]] = deque(
            reader.submit(read, key) for key in islice(remaining, AHEAD)
        )
        try:
            while pending:
                value = pending.popleft().result()
                pending.extend(reader.submit(read, key) for key in islice(remaining, 1))
                yield value
                del value
        finally:
            reader.shutdown(cancel_futures=True)
