"""Randomness by name: every random choice has its own generator, derived from the job's seed and
the choice's name.

No generator's state has to be saved: a resumed job derives the same ones. Code that can draw from
the global generators only (dropout, the first weights of layers) does so inside `seeded`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for the choice `names` under `seed`.

    >>> a, b = generator(0, "shuffle", 1), generator(0, "shuffle", 1)
    >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
    True
    """
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *names))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Start the global generators of the CPU and of `device` from `seed`, and restore them after.

    They are seeded one by one: `torch.manual_seed` walks every backend, and formats a stack trace
    for each that waits for its first use, which takes a good part of the time of a small network's
    step.

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
    states = [global_generator.get_state() for global_generator in generators]
    try:
        for global_generator in generators:
            global_generator.manual_seed(seed)
        yield
    finally:
        for global_generator, state in zip(generators, states, strict=True):
            global_generator.set_state(state)
