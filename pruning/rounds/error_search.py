"""The search for the sparsest network whose validation error is within a limit.

Networks are tried at steps k = 1 ... 30 of density 0.85^k (times the density of the network as it
comes), each pruned from the dense network. The error is taken to grow with the steps: one that is
within a limit lets all denser ones be, one that is beyond it all sparser ones. Where that holds the
answer is that of a sweep over all steps; where noise breaks it, it is a step that was tried and is
within, and the step after it was tried and is beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

RATIO = 0.85
"""The density of a step beside that of the step before."""
STEPS = 30
FIRST = 10
"""The first step that is tried where nothing is known: a sparsity of 80 %."""
SPARE = 1
"""The networks that a search may try beyond those of a bisection, for a forecast to be followed."""
Increases = Mapping[int, float]
"""The validation error of the networks that were tried above that of their control, by step;
infinite where the network cannot be pruned so far.
"""


def space_steps(given: float) -> list[float]:
    """The density of every step, from that of the network as it comes.

    >>> [round(density, 3) for density in space_steps(1.0)[:3]], len(space_steps(1.0))
    ([0.85, 0.722, 0.614], 30)
    """
    return [given * RATIO**step for step in range(1, STEPS + 1)]


def find_bracket(increases: Increases, limit: float) -> tuple[int, int]:
    """Find the sparsest step within the limit (0: the dense network), and the densest one beyond
    it that is sparser (one more than there are steps where none is).

    >>> find_bracket({10: 0.004, 20: 0.03}, 0.01)
    (10, 20)
    """
    within = max((step for step, increase in increases.items() if increase <= limit), default=0)
    beyond = [step for step, increase in increases.items() if increase > limit and step > within]
    return within, min(beyond, default=STEPS + 1)


def count_halvings(width: int) -> int:
    """Count the networks with which a bisection closes a bracket of so many steps: ceil(log2).

    >>> [count_halvings(width) for width in (1, 2, 3, 21, 31)]
    [0, 1, 2, 5, 5]
    """
    return (width - 1).bit_length()


def count_most_tried(limits: int) -> int:
    """Count the networks that the searches for so many limits try at the most.

    The first may try one more than a bisection of all steps does. The later ones begin with a
    bracket that the first network left.

    >>> [count_most_tried(limits) for limits in (1, 2, 3, 4)]
    [6, 11, 16, 21]
    """
    later = count_halvings(max(FIRST, STEPS + 1 - FIRST))
    return min(STEPS, count_halvings(STEPS + 1) + SPARE + later * (limits - 1))


def choose_step(
    increases: Increases, limit: float, left: int, forecast: Sequence[float] | None = None
) -> int | None:
    """Choose the step to try next with `left` networks that may still be tried; None where the
    search has ended.

    `forecast` says the increase at each step, the first at index 0. The step at which it crosses
    the limit is tried, first from within and then from beyond, as long as a bisection of what
    remains ends with the networks that are left whatever is found.

    >>> choose_step({}, 0.01, 6)
    10
    >>> choose_step({10: 0.004}, 0.01, 5)
    20
    >>> choose_step({10: 0.004, 20: 0.03}, 0.01, 4, [0.0005 * step for step in range(1, 31)])
    18
    """
    within, beyond = find_bracket(increases, limit)
    if beyond - within == 1:
        return None
    wanted = (within + beyond) // 2
    if not increases:
        wanted = FIRST
    if forecast is not None:
        crossing = max(
            (step for step, increase in enumerate(forecast, 1) if increase <= limit), default=0
        )
        wanted = crossing if crossing > within else crossing + 1
    widest: int = 2 ** (left - 1)
    return min(max(wanted, beyond - widest, within + 1), within + widest, beyond - 1)


def search(
    limits: Sequence[float],
    increases: Increases,
    predict: Callable[[], Sequence[float] | None] = lambda: None,
) -> Iterator[int]:
    """The steps to try for the limits, one search after the other; each is to be in `increases`
    before the next is asked for.

    `predict` makes a forecast from what is known by then. The steps follow from what was found
    alone, so that a search which is run again goes the same way.

    >>> increases: dict[int, float] = {}
    >>> for step in search([0.01], increases):
    ...     increases[step] = 0.0006 * step
    >>> list(increases), find_bracket(increases, 0.01)
    ([10, 20, 15, 17, 16], (16, 17))
    """
    for limit in sorted(limits):
        within, beyond = find_bracket(increases, limit)
        left = count_halvings(beyond - within) + (0 if increases else SPARE)
        while (step := choose_step(increases, limit, left, predict())) is not None:
            yield step
            left -= 1
