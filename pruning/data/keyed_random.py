"""Random numbers by key: those of image 17 depend on its own number and on nothing else.

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
"""2^32 over the golden ratio, an odd number: its multiples mark the streams."""
NORMAL_BITS = 17


@dataclass(frozen=True)
class Draws:
    """The random numbers of N images, by two 32-bit keys for each image.

    A word is h(h(p ^ k1) + k2) with p the hashed position and h the bijection x ^= x >> 16, x *= a,
    x ^= x >> 15, x *= b, x ^= x >> 16 modulo 2^32, found for its low bias by Wellons (Prospecting
    for hash functions, 2018). Streams are independent of one another.

    >>> both = Draws.from_key(0, "fog", indices=torch.tensor([4, 9]))
    >>> nine = Draws.from_key(0, "fog", indices=torch.tensor([9]))
    >>> (
    ...     torch.equal(both.words(2, 3)[1:], nine.words(2, 3)),
    ...     torch.equal(both.words(6)[1], both.words(6, stream=1)[1]),
    ... )
    (True, False)
    """

    keys: Tensor
    """int32 (N, 2)."""

    @classmethod
    def from_key(cls, seed: int, *names: str | int, indices: Tensor) -> Draws:
        """The draws for the choice `names` under `seed`.

        `indices` are the numbers of the images, int64 (N,).
        """
        digest = hashlib.sha256("\x1f".join(map(str, (seed, *names))).encode()).digest()
        low = _wrap_to_int32(indices)
        high = (indices >> 32).to(torch.int32)
        keys = []
        for start in (0, 8):
            first = int.from_bytes(digest[start : start + 4], "big", signed=True)
            second = int.from_bytes(digest[start + 4 : start + 8], "big", signed=True)
            keys.append(hash_(hash_(low ^ first) + (high ^ second)))
        return cls(torch.stack(keys, 1))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, part: slice) -> Draws:
        return Draws(self.keys[part])

    def words(self, *shape: int, stream: int = 0) -> Tensor:
        """Words of 32 random bits, int32 (N, *shape)."""
        positions = _hash_positions(int(np.prod(shape)), stream, self.keys.device)
        words = positions ^ self.keys[:, :1]
        return hash_(hash_(words).add_(self.keys[:, 1:])).reshape(len(self), *shape)

    def integers(self, limit: int, *shape: int, stream: int = 0) -> Tensor:
        """Uniform on 0 ... limit - 1, limit <= 2^31, int64: floor(word limit / 2^32)."""
        unsigned = self.words(*shape, stream=stream).to(torch.int64) & 0xFFFFFFFF
        return (unsigned * limit) >> 32

    def signed(self, *shape: int, stream: int = 0) -> Tensor:
        """Uniform on [-1, 1) in steps of 2^-15, float32."""
        return (self.words(*shape, stream=stream) >> 16).to(torch.float32).mul_(2.0**-15)

    def normal(self, *shape: int, stream: int = 0) -> Tensor:
        """Standard normal in steps of 2^-12, float32.

        A number is the quantile of a 17-bit uniform one, so |z| < 4.5.
        """
        words = self.words(*shape, stream=stream)
        uniform = words.bitwise_and_((1 << NORMAL_BITS) - 1).view(-1)
        return _tabulate_quantiles(words.device).index_select(0, uniform).view(words.shape)


def hash_(words: Tensor) -> Tensor:
    """Apply the bijection of `Draws` to int32 words in place; they are shifted as unsigned words.

    >>> hash_(torch.tensor([1], dtype=torch.int32)).item() & 0xFFFFFFFF
    1753845952
    """
    shifted = torch.empty_like(words)
    for shift, factor in (*ROUNDS, (16, 1)):
        torch.bitwise_right_shift(words, shift, out=shifted)
        # The shift of a signed word copies its sign bit, which is cut off here.
        words.bitwise_xor_(shifted.bitwise_and_((1 << (32 - shift)) - 1))
        if factor != 1:
            words.mul_(factor)
    return words


def _wrap_to_int32(numbers: Tensor) -> Tensor:
    """Whole numbers modulo 2^32, as int32."""
    return (((numbers + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)).to(torch.int32)


@lru_cache(maxsize=16)
def _hash_positions(count: int, stream: int, device: torch.device) -> Tensor:
    """The hashed positions of a stream, int32 (count,)."""
    mark = _wrap_to_int32(torch.tensor(stream * GOLDEN & 0xFFFFFFFF)).to(device)
    positions = torch.arange(count, dtype=torch.int32, device=device)
    return hash_(hash_(positions) ^ mark)


@lru_cache(maxsize=4)
def _tabulate_quantiles(device: torch.device) -> Tensor:
    """The normal quantiles at the middles of 2^17 equal parts of [0, 1]."""
    parts = 1 << NORMAL_BITS
    middles = (np.arange(parts) + 0.5) / parts
    quantiles = np.round(ndtri(middles) * 4096) / 4096
    return torch.from_numpy(quantiles.astype(np.float32)).to(device)
