"""Randomness by name: every random choice has its own generator, derived from the job's seed and the choice's name.

Nothing draws from a global generator, and no generator's state has to be saved: a resumed job derives the same ones.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for the choice `names` under `seed`.

    >>> a, b = generator(0, "shuffle", 1), generator(0, "shuffle", 1)
    >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
    True
    """
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *names))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
