"""Deviations of measured errors from a law, in words."""

from __future__ import annotations

from pruning import wording


def relative_misses(mean: float, deviation: float) -> str:
    """Return how a law lies about the points that it is fitted to, relative to their errors.

    >>> relative_misses(0.0009, 0.0743)
    'the law deviates from them by a standard deviation of 7.4 % of the error, by +0.1 % on average'
    """
    spread = wording.percent(deviation)
    return (
        f"the law deviates from them by a standard deviation of {spread} of the error, "
        f"by {wording.signed(f'{100 * mean:+.1f}')} % on average"
    )


def sparser_misses(points: int, mean_absolute: float, bias: float) -> str:
    """Return how far a law missed points that are sparser than those that it is fitted to, relative
    to their errors.

    >>> sparser_misses(1, 0.274, -0.274)
    'the law missed 1 sparser point by 27.4 % of the error, too low'
    >>> sparser_misses(3, 0.05, 0.01)[:64]
    'the law missed 3 sparser points by 5.0 % of the error on average'
    >>> sparser_misses(3, 0.05, 0.01)[64:]
    ', and with signs 1.0 % too high'
    """
    side = "too low" if bias < 0 else "too high"
    sparser = wording.count_of(points, "sparser point")
    missed = f"{sparser} by {wording.percent(mean_absolute)} of the error"
    if points == 1:
        return f"the law missed {missed}, {side}"
    return f"the law missed {missed} on average, and with signs {wording.percent(abs(bias))} {side}"
