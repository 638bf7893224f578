"""Randomness by name: every random choice has its own generator, derived from the job's seed and
the choice's name.

No generator's state has to be saved: a resumed job derives the same ones. What can draw from the
global generators only (dropout, the first weights of layers) does so inside `seeded`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for the choice `names` under `seed`.

    >>> a, b = generator(0, "shuffle", 1), generator(0, "shuffle", 1)
    >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
    True
    """
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *names))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """The global generators of the CPU and of `device` start from `seed`, and are afterwards as
    they were before.

    Of `torch.manual_seed`, only what these need: that one walks every backend, and formats a stack
    trace for each that waits for its first use, a good part of the time of a small network's step.

    >>> before = torch.get_rng_state()
    >>> with seeded(0):
    ...     first = torch.rand(3)
    >>> bool((torch.rand(3, generator=torch.Generator().manual_seed(0)) == first).all())
    True
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    generators = [torch.default_generator]
    if device is not None and device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [one.get_state() for one in generators]
    try:
        for one in generators:
            one.manual_seed(seed)
        yield
    finally:
        for one, state in zip(generators, states, strict=True):
            one.set_state(state)
