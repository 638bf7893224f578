"""Random numbers by key: the same for an image in every batch, uniform and independent."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pruning.data.keyed_random import Draws, hash_


def unsigned_hash(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D % (1 << 32)
    x ^= x >> 15
    x = x * 0x846CA68B % (1 << 32)
    return x ^ x >> 16


def test_words_are_those_of_unsigned_arithmetic_and_stay_so() -> None:
    numbers = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xDEADBEEF, 0xFFFFFFFF]
    words = torch.tensor(
        [number - (1 << 32) if number >> 31 else number for number in numbers], dtype=torch.int32
    )
    assert [word & 0xFFFFFFFF for word in hash_(words).tolist()] == [
        unsigned_hash(number) for number in numbers
    ]
    draws = Draws.from_key(3, "fog", 2, indices=torch.tensor([0, 11, 1 << 40]))
    first, second = ([key & 0xFFFFFFFF for key in column] for column in draws.keys.T.tolist())
    for stream in (0, 1, 5):
        words_by_image = draws.words(4, stream=stream).tolist()
        for row, k1, k2 in zip(words_by_image, first, second, strict=True):
            for position, word in enumerate(row):
                place = unsigned_hash(unsigned_hash(position) ^ (stream * 0x9E3779B9) % (1 << 32))
                assert word & 0xFFFFFFFF == unsigned_hash(
                    (unsigned_hash(place ^ k1) + k2) % (1 << 32)
                )
    assert Draws.from_key(0, "fog", 1, indices=torch.tensor([5])).words(2).tolist() == [
        [-143189812, 295269214]
    ]


def test_words_are_uniform_and_independent() -> None:
    words = Draws.from_key(0, "test", indices=torch.arange(200)).words(2500).numpy()
    values = words.view(np.uint32).astype(np.float64) / 2**32
    assert stats.kstest(values.ravel(), "uniform").pvalue > 1e-3
    for shift in range(0, 32, 8):
        counts = np.bincount((words.ravel() >> shift) & 0xFF, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-3
    bits = (words[:, :1000, None] >> np.arange(32)) & 1
    assert abs(bits.mean((0, 1)) - 0.5).max() < 5 * 0.5 / math.sqrt(200_000)
    limit = 5 / math.sqrt(values.size)
    centred = (values - 0.5) * math.sqrt(12)
    other = (
        Draws.from_key(1, "test", indices=torch.arange(200)).words(2500).numpy().view(np.uint32)
        / 2**32
    )
    stream = (
        Draws.from_key(0, "test", indices=torch.arange(200))
        .words(2500, stream=1)
        .numpy()
        .view(np.uint32)
        / 2**32
    )
    for shifted in (
        np.roll(centred, 1, 0),
        np.roll(centred, 1, 1),
        np.roll(centred, 32, 1),
        np.roll(centred, 1024, 1),
        np.roll(centred, (1, 1), (0, 1)),
        (other - 0.5) * math.sqrt(12),
        (stream - 0.5) * math.sqrt(12),
    ):
        assert abs((centred * shifted).mean()) < limit
    pairs = np.bincount(
        ((values[:, :-1] * 16).astype(int) * 16 + (values[:, 1:] * 16).astype(int)).ravel(),
        minlength=256,
    )
    assert stats.chisquare(pairs).pvalue > 1e-3
    assert len(np.unique(words)) > words.size - 3 * words.size**2 / 2**33


def test_normal_numbers_are_normal() -> None:
    normal = (
        Draws.from_key(0, "test", indices=torch.arange(400)).normal(2500).numpy().astype(np.float64)
    )
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    assert abs(normal.mean()) < 5e-3
    assert normal.var() == pytest.approx(1.0, abs=7e-3)
    assert stats.kurtosis(normal.ravel()) == pytest.approx(0.0, abs=0.025)
    assert (np.abs(normal) > 3).mean() == pytest.approx(0.0027, abs=3e-4)
    assert (normal * 4096 == np.round(normal * 4096)).all()


def test_integers_and_signed_numbers_are_uniform() -> None:
    draws = Draws.from_key(0, "test", indices=torch.arange(100))
    for limit in (1, 3, 5, 512):
        integers = draws.integers(limit, 2000).numpy()
        assert integers.min() == 0
        assert integers.max() == limit - 1
        if limit > 1:
            assert stats.chisquare(np.bincount(integers.ravel())).pvalue > 1e-3
    signed = draws.signed(2000).numpy().astype(np.float64)
    assert stats.kstest(signed.ravel(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert -1 <= signed.min() < -0.999
    assert 0.999 < signed.max() < 1
