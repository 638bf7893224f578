"""Numbers as people read them: percentages, percentage points, bytes, durations, each with its unit
and interval.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from pruning.schemas.recipe import Method
from pruning.schemas.report import Estimate

LOG_AXIS = "(log axis)"
"""The ending of the label of a logarithmic axis."""
LOG_SPARSITY = f"sparsity {LOG_AXIS}"
"""The label of an axis on which small sparsities are distinguished."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MINUS = "\N{MINUS SIGN}"
DIFFERENCES = frozenset({"above", "delta", "difference", "excess", "increase"})
CHANGES = DIFFERENCES | {"change", "minus", "predicted", "measured"}
FRACTIONS = frozenset(
    {
        "accuracy",
        "agreement",
        "confidence",
        "density",
        "disagreement",
        "error",
        "iou",
        "missed",
        "potential",
        "sparsity",
    }
)
CORRELATIONS = frozenset({"correlation", "pearson", "spearman"})
NOT_FRACTIONS = CORRELATIONS | frozenset(
    {
        "coefficient",
        "count",
        "factor",
        "intercept",
        "log",
        "r2",
        "ratio",
        "relative",
        "slope",
        "tightness",
    }
)


def signed(text: str) -> str:
    """Return a formatted number with a typographic minus, and no minus before a zero.

    >>> signed("-0.0"), signed("-1.5")
    ('0.0', '−1.5')
    """
    if text.startswith("-"):
        return text[1:] if not text.strip("-0.") else MINUS + text[1:]
    return text


def percent(fraction: float, digits: int = 1) -> str:
    """Return a fraction in percent.

    >>> percent(0.1834)
    '18.3 %'
    """
    return signed(f"{100 * fraction:.{digits}f}") + " %"


def short_percent(fraction: float) -> str:
    """Return a sparsity or density in percent, with as many digits as it needs and no more.

    >>> short_percent(0.8), short_percent(0.985), short_percent(0.79987), short_percent(0.99995)
    ('80 %', '98.5 %', '79.99 %', '99.995 %')
    """
    digits = 2 if 0.001 <= fraction <= 0.999 or fraction in (0.0, 1.0) else 4
    return f"{100 * fraction:.{digits}f}".rstrip("0").rstrip(".") + " %"


def percent_with_interval(estimate: Estimate, digits: int = 1) -> str:
    """Return an error or accuracy in percent with its interval.

    >>> percent_with_interval(Estimate(value=0.25, low=0.2, high=0.31))
    '25.0 % [20.0, 31.0]'
    """

    def form(fraction: float) -> str:
        return signed(f"{100 * fraction:.{digits}f}")

    return percent(estimate.value, digits) + _format_interval(estimate, form)


def points_with_interval(estimate: Estimate, digits: int = 1) -> str:
    """Return a difference of two percentages in percentage points with its interval.

    >>> points_with_interval(Estimate(value=0.012, low=-0.003, high=0.027))
    '+1.2 pp [−0.3, +2.7]'
    """

    def plus(value: float) -> str:
        text = f"{100 * value:+.{digits}f}"
        return text[1:] if not text.strip("+-0.") else signed(text)

    return plus(estimate.value) + " pp" + _format_interval(estimate, plus)


def percentage_points(fraction: float, digits: int = 2) -> str:
    """Return a difference of two percentages that needs no plus, such as a margin, in percentage
    points.

    >>> percentage_points(0.005)
    '0.50 pp'
    """
    return signed(f"{100 * fraction:.{digits}f}") + " pp"


def file_size(size_bytes: float) -> str:
    """Return a size in bytes, kB, MB or GB (powers of 1000).

    >>> file_size(999), file_size(4_812_345)
    ('999 B', '4.81 MB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= 0.9995 * scale:
            return f"{_round_to_digits(size_bytes / scale)} {unit}"
    return f"{size_bytes:.0f} B"


def operations(flops: float) -> str:
    """Return a count of floating point operations.

    >>> operations(81_200_000)
    '81.2 MFLOP'
    """
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if flops >= 0.9995 * scale:
            return f"{_round_to_digits(flops / scale)} {unit}FLOP"
    return f"{flops:.0f} FLOP"


def count(number: int) -> str:
    """Return a count with its thousands separated.

    >>> count(272474)
    '272,474'
    """
    return f"{number:,}"


def count_of(number: int, noun: str) -> str:
    """Return a count of things.

    >>> count_of(1, "thread"), count_of(1200, "image")
    ('1 thread', '1,200 images')
    """
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def duration(seconds: float) -> str:
    """Return a duration.

    >>> duration(2.5), duration(75), duration(7260)
    ('2.50 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{_round_to_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def milliseconds(value: float) -> str:
    """Return a latency.

    >>> milliseconds(1.9234)
    '1.92 ms'
    """
    return f"{_round_to_digits(value)} ms"


def factor(value: float, digits: int = 3) -> str:
    """Return a factor to a number of significant digits.

    >>> factor(10.0), factor(1.996), factor(0.00881, 2)
    ('10×', '2×', '0.0088×')
    """
    text = signed(_round_to_digits(value, digits))
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "×"


def number(value: float) -> str:
    """Return a number whose unit is unknown, to four significant digits.

    >>> number(0.123456), number(-3.0), number(2.5e9)
    ('0.1235', '−3', '2.5e+09')
    """
    return signed(f"{value:.4g}")


def nats(estimate: Estimate, plus: bool = False) -> str:
    """Return a loss with as many digits as its interval supports, three significant ones without.

    >>> (
    ...     nats(Estimate(value=0.13716, low=0.128, high=0.1462), plus=True),
    ...     nats(Estimate(value=1234.5)),
    ... )
    ('+0.137 [+0.128, +0.146]', '1234')
    >>> nats(Estimate(value=3.2e-7)), nats(Estimate(value=-2.5e8))
    ('3.20 × 10⁻⁷', '−2.50 × 10⁸')
    """
    largest = max(map(abs, _list_values(estimate)))
    if largest >= 1e5 or 0 < largest < 1e-4:
        return _format_power(estimate.value) + _format_interval(estimate, _format_power)
    digits = _count_decimals(estimate)

    def form(loss: float) -> str:
        text = f"{loss:{'+' if plus else ''}.{digits}f}"
        is_zero = not text.strip("+-0.")
        return signed(text.lstrip("+") if is_zero else text)

    return form(estimate.value) + _format_interval(estimate, form)


def _count_decimals(estimate: Estimate) -> int:
    """Return the decimals of a loss that a third of its interval's half-width resolves, those of
    three significant digits without one.
    """
    low, high = estimate.low, estimate.high
    half_width = (high - low) / 2 if low is not None and high is not None else 0.0
    resolution = half_width / 3 if half_width else abs(estimate.value) * 1.0005 / 100
    if not resolution:
        return 0
    return min(6, max(0, -math.floor(math.log10(resolution))))


def _format_power(value: float) -> str:
    """Return a number as a power of ten."""
    if value == 0:
        return "0"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{signed(digits)} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def by_name(name: str, estimate: Estimate, digits: int = 1) -> str:
    """Return an estimate in the unit that its name implies: percent, percentage points for
    differences, `_ms`, `_s` and `_bytes` as such.

    Nats are written without their unit, which stands in the name.

    >>> (
    ...     by_name("delta_excess_error", Estimate(value=0.02)),
    ...     by_name("spearman", Estimate(value=0.5)),
    ... )
    ('+2.0 pp', '0.50')
    """
    words = _split_words(name)
    if "nats" in words:
        return nats(estimate, plus=bool(words & CHANGES))
    unit = unit_of(name)
    if unit and max(map(abs, _list_values(estimate))) <= 1:
        if unit == "pp":
            return points_with_interval(estimate, digits)
        return percent_with_interval(estimate, digits)
    if "factor" in words and estimate.low is None:
        return factor(estimate.value, 2)
    form = _format_correlation if words & CORRELATIONS else _choose_form(name, estimate)
    return form(estimate.value) + _format_interval(estimate, form)


def _choose_form(name: str, estimate: Estimate) -> Callable[[float], str]:
    """Return how the values of a quantity that is no fraction are written, by how its name ends."""
    lowest = estimate.value if estimate.low is None else min(estimate.value, estimate.low)
    if lowest >= 0:
        for suffix, form in (("_ms", milliseconds), ("_bytes", file_size), ("_s", duration)):
            if name.endswith(suffix):
                return form
    return number


def _format_correlation(value: float) -> str:
    return signed(f"{value:.2f}")


def unit_of(name: str) -> str:
    """Return the unit of a fraction of this name, `%` or for a difference `pp`, percentage points;
    the empty text for what is not a fraction.

    >>> (
    ...     unit_of("test error"),
    ...     unit_of("test error above the dense control's"),
    ...     unit_of("loss change (nats)"),
    ...     unit_of("prune_ratio"),
    ... )
    ('%', 'pp', '', '%')
    """
    words = _split_words(name)
    if {"prune", "ratio"} <= words:
        return "%"
    if "nats" in words or not words & FRACTIONS or words & NOT_FRACTIONS:
        return ""
    return "pp" if words & DIFFERENCES else "%"


def method_call(value: Method) -> str:
    """Return a method with its parameters.

    >>> method_call(Method(name="magnitude", params={"p": 2}))
    'magnitude (p=2)'
    """
    if not value.params:
        return value.name
    parameters = ", ".join(f"{key}={value.params[key]}" for key in sorted(value.params))
    return f"{value.name} ({parameters})"


def _split_words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower()))


def _format_interval(estimate: Estimate, form: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" [{form(estimate.low)}, {form(estimate.high)}]"


def _list_values(estimate: Estimate) -> list[float]:
    """Return the value and the ends of the interval, as far as they are known."""
    values = (estimate.value, estimate.low, estimate.high)
    return [value for value in values if value is not None]


def _round_to_digits(value: float, digits: int = 3) -> str:
    """Return a number to a number of significant digits, without an exponent."""
    if value == 0:
        return "0"
    # rounding may carry into the next power of ten, as 9.996 does to 10.0
    carried = abs(value) * (1 + 0.5 * 10.0**-digits)
    decimals = max(0, digits - 1 - math.floor(math.log10(carried)))
    return f"{value:.{min(decimals, 6)}f}"
