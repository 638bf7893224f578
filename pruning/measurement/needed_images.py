"""The numbers of images that would decide, as people read them."""

from __future__ import annotations

import math

from pruning import wording


def round_up_images(number: int) -> int:
    """Return a count rounded up to two significant digits: an estimate supports no more.

    >>> [round_up_images(number) for number in (5355, 87, 100_001)]
    [5400, 87, 110000]
    """
    scale: int = 10 ** max(0, len(str(number)) - 2)
    return math.ceil(number / scale) * scale


def describe_proving_images(needed: int, noun: str = "test images") -> str:
    """Return the images that would prove an error to be at most a tolerated one.

    >>> describe_proving_images(9692)
    'about 9,700 test images would prove it in four of five cases, were the error as measured'
    """
    about = wording.count(round_up_images(needed))
    return f"about {about} {noun} would prove it in four of five cases, were the error as measured"
