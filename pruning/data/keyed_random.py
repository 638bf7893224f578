"""Random numbers by key: what image 17 gets depends on its own number and on nothing else.

Every number is a function of (seed, name, index of the image, stream, position), computed in 32-bit
integers, so that it is the same in every batch, in every order and on every device, and thousands
of images are drawn at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B - (1 << 32)))
"""Shift and odd factor of each round of the hash; a last shift by 16 follows."""
GOLDEN = 0x9E3779B9
NORMAL_BITS = 17


@dataclass(frozen=True)
class Draws:
    """The random numbers of N images, by two 32-bit keys an image.

    A word is h(h(p ^ k1) + k2) with p the hashed position and h the bijection x ^= x >> 16, x *= a,
    x ^= x >> 15, x *= b, x ^= x >> 16 modulo 2^32, found for its low bias by Wellons (Prospecting
    for hash functions, 2018). Streams are independent of one another.

    >>> both = Draws.keyed(0, "fog", indices=torch.tensor([4, 9]))
    >>> nine = Draws.keyed(0, "fog", indices=torch.tensor([9]))
    >>> (
    ...     torch.equal(both.words(2, 3)[1:], nine.words(2, 3)),
    ...     torch.equal(both.words(6)[1], both.words(6, stream=1)[1]),
    ... )
    (True, False)
    """

    keys: Tensor
    """int32 (N, 2)."""

    @classmethod
    def keyed(cls, seed: int, *names: str | int, indices: Tensor) -> Draws:
        """The draws of the images numbered `indices`, int64 (N,), for the choice `names` under
        `seed`.
        """
        digest = hashlib.sha256("\x1f".join(map(str, (seed, *names))).encode()).digest()
        low, high = _wrapped(indices), (indices >> 32).to(torch.int32)
        columns = []
        for place in (0, 8):
            first, second = (
                int.from_bytes(digest[i : i + 4], "big", signed=True) for i in (place, place + 4)
            )
            columns.append(hash_(hash_(low ^ first) + (high ^ second)))
        return cls(torch.stack(columns, 1))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, part: slice) -> Draws:
        return Draws(self.keys[part])

    def words(self, *shape: int, stream: int = 0) -> Tensor:
        """32 random bits each, int32 (N, *shape)."""
        words = _positions(int(np.prod(shape)), stream, self.keys.device) ^ self.keys[:, :1]
        return hash_(hash_(words).add_(self.keys[:, 1:])).reshape(len(self), *shape)

    def integers(self, limit: int, *shape: int, stream: int = 0) -> Tensor:
        """Uniform on 0 ... limit - 1, limit <= 2^31, int64: floor(word limit / 2^32)."""
        return ((self.words(*shape, stream=stream).to(torch.int64) & 0xFFFFFFFF) * limit) >> 32

    def signed(self, *shape: int, stream: int = 0) -> Tensor:
        """Uniform on [-1, 1) in steps of 2^-15, float32."""
        return (self.words(*shape, stream=stream) >> 16).to(torch.float32).mul_(2.0**-15)

    def normal(self, *shape: int, stream: int = 0) -> Tensor:
        """Standard normal in steps of 2^-12, float32: the quantile of a 17-bit uniform number, so
        |z| < 4.5.
        """
        words = self.words(*shape, stream=stream)
        found = _quantiles(words.device).index_select(
            0, words.bitwise_and_((1 << NORMAL_BITS) - 1).view(-1)
        )
        return found.view(words.shape)


def hash_(words: Tensor) -> Tensor:
    """The bijection of `Draws` applied to int32 words in place; the shifts are those of unsigned
    words.

    >>> hash_(torch.tensor([1], dtype=torch.int32)).item() & 0xFFFFFFFF
    1753845952
    """
    shifted = torch.empty_like(words)
    for shift, factor in (*ROUNDS, (16, 1)):
        torch.bitwise_right_shift(words, shift, out=shifted)
        words.bitwise_xor_(shifted.bitwise_and_((1 << (32 - shift)) - 1))
        if factor != 1:
            words.mul_(factor)
    return words


def _wrapped(numbers: Tensor) -> Tensor:
    """Modulo 2^32, as int32."""
    return (((numbers + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)).to(torch.int32)


@lru_cache(maxsize=16)
def _positions(count: int, stream: int, device: torch.device) -> Tensor:
    """The hashed positions of a stream, int32 (count,)."""
    mark = _wrapped(torch.tensor(stream * GOLDEN & 0xFFFFFFFF)).to(device)
    return hash_(hash_(torch.arange(count, dtype=torch.int32, device=device)) ^ mark)


@lru_cache(maxsize=4)
def _quantiles(device: torch.device) -> Tensor:
    """The normal quantiles at the middles of 2^17 equal parts of [0, 1]."""
    middles = (np.arange(1 << NORMAL_BITS) + 0.5) / (1 << NORMAL_BITS)
    return torch.from_numpy((np.round(ndtri(middles) * 4096) / 4096).astype(np.float32)).to(device)
