"""Simulated prune-and-retrain cascades: the errors of one cascade share what its seed does, and
what is left over is correlated along the cascade.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Relative standard deviations of ln error: of the seed on a whole curve, of the correlated
    rest (an autoregressive process along the densities), and of independent noise.
    """

    seed_sd: float = 0.034
    rest_sd: float = 0.02
    correlation: float = 0.7
    noise_sd: float = 0.01
    images: int = 10_000
    moves_unpruned: bool = True
    """Whether the unpruned network shares the seed's effect; else it has one of its own."""

    def draw(
        self, truth: Floats, unpruned: float, rng: np.random.Generator
    ) -> tuple[Floats, float]:
        """The measured errors (n,) and the measured unpruned error of one cascade."""
        n = len(truth)
        moved = self.seed_sd * rng.standard_normal()
        own = moved if self.moves_unpruned else self.seed_sd * rng.standard_normal()
        rest = np.zeros(n)
        rest[0] = self.rest_sd * rng.standard_normal()
        fresh = self.rest_sd * np.sqrt(1 - self.correlation**2)
        for i in range(1, n):
            rest[i] = self.correlation * rest[i - 1] + fresh * rng.standard_normal()
        noise = self.noise_sd * rng.standard_normal(n + 1)
        errors = np.minimum(0.9, truth * np.exp(moved + rest + noise[1:]))
        measured = rng.binomial(self.images, errors) / self.images
        dense = rng.binomial(self.images, unpruned * np.exp(own + noise[0])) / self.images
        return measured, float(dense)


def repeat_coverage(once: Callable[[np.random.Generator], list[bool]], times: int) -> float:
    """The fraction of hits over `times` repetitions, each under a seed of its own."""
    hits: list[bool] = []
    for seed in range(times):
        hits += once(np.random.default_rng(seed))
    return float(np.mean(hits))


def tell(figure: str) -> None:
    """Print a figure of a simulation."""
    print(figure)  # noqa: T201
