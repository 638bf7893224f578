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
"""How the label of a logarithmic axis ends."""
LOG_SPARSITY = f"sparsity {LOG_AXIS}"
"""The label of an axis on which small sparsities are told apart."""
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
    return percent(estimate.value, digits) + _interval(
        estimate, lambda v: signed(f"{100 * v:.{digits}f}")
    )


def points_with_interval(estimate: Estimate, digits: int = 1) -> str:
    """Return a difference of two percentages in percentage points with its interval.

    >>> points_with_interval(Estimate(value=0.012, low=-0.003, high=0.027))
    '+1.2 pp [−0.3, +2.7]'
    """

    def plus(value: float) -> str:
        text = f"{100 * value:+.{digits}f}"
        return text[1:] if not text.strip("+-0.") else signed(text)

    return plus(estimate.value) + " pp" + _interval(estimate, plus)


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
            return f"{_three(size_bytes / scale)} {unit}"
    return f"{size_bytes:.0f} B"


def operations(flops: float) -> str:
    """Return a count of floating point operations.

    >>> operations(81_200_000)
    '81.2 MFLOP'
    """
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if flops >= 0.9995 * scale:
            return f"{_three(flops / scale)} {unit}FLOP"
    return f"{flops:.0f} FLOP"


def count(number: int) -> str:
    """Return a count with its thousands apart.

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
        return f"{_three(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def milliseconds(value: float) -> str:
    """Return a latency.

    >>> milliseconds(1.9234)
    '1.92 ms'
    """
    return f"{_three(value)} ms"


def factor(value: float, digits: int = 3) -> str:
    """Return a factor to so many significant digits.

    >>> factor(10.0), factor(1.996), factor(0.00881, 2)
    ('10×', '2×', '0.0088×')
    """
    text = signed(_significant(value, digits))
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
    value, low, high = estimate.value, estimate.low, estimate.high
    half = (high - low) / 2 if low is not None and high is not None else 0.0
    largest = max(abs(v) for v in (value, low, high) if v is not None)
    if largest >= 1e5 or 0 < largest < 1e-4:
        return _power(value) + _interval(estimate, _power)
    scale = half / 3 if half else abs(value) * 1.0005 / 100
    digits = min(6, max(0, -math.floor(math.log10(scale)))) if scale else 0

    def form(number: float) -> str:
        text = f"{number:{'+' if plus else ''}.{digits}f}"
        return signed(text.lstrip("+") if not text.strip("+-0.") else text)

    return form(value) + _interval(estimate, form)


def _power(value: float) -> str:
    """A number as a power of ten."""
    if value == 0:
        return "0"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{signed(digits)} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def by_name(name: str, estimate: Estimate, digits: int = 1) -> str:
    """Return an estimate in the unit its name tells: percent, points for differences, `_ms`, `_s`
    and `_bytes` as such.

    Nats go without their name, which the name holds.

    >>> (
    ...     by_name("delta_excess_error", Estimate(value=0.02)),
    ...     by_name("spearman", Estimate(value=0.5)),
    ... )
    ('+2.0 pp', '0.50')
    """
    words = _words(name)
    if "nats" in words:
        return nats(estimate, plus=bool(words & CHANGES))
    fraction = unit_of(name)
    if fraction and _all_within_one(estimate):
        return (
            points_with_interval(estimate, digits)
            if fraction == "pp"
            else percent_with_interval(estimate, digits)
        )
    if "factor" in words and estimate.low is None:
        return factor(estimate.value, 2)
    if words & CORRELATIONS:
        return signed(f"{estimate.value:.2f}") + _interval(estimate, lambda v: signed(f"{v:.2f}"))
    for suffix, form in (("_ms", milliseconds), ("_bytes", file_size), ("_s", duration)):
        if (
            name.endswith(suffix)
            and min(estimate.value, estimate.value if estimate.low is None else estimate.low) >= 0
        ):
            return form(estimate.value) + _interval(estimate, form)
    return number(estimate.value) + _interval(estimate, number)


def unit_of(name: str) -> str:
    """Return what a fraction of this name is shown in, `%` or, a difference, `percentage_points`;
    nothing for what is no fraction.

    >>> (
    ...     unit_of("test error"),
    ...     unit_of("test error above the dense control's"),
    ...     unit_of("loss change (nats)"),
    ...     unit_of("prune_ratio"),
    ... )
    ('%', 'pp', '', '%')
    """
    words = _words(name)
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
    return (
        f"{value.name} ({', '.join(f'{key}={value.params[key]}' for key in sorted(value.params))})"
    )


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower()))


def _interval(estimate: Estimate, form: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" [{form(estimate.low)}, {form(estimate.high)}]"


def _all_within_one(estimate: Estimate) -> bool:
    return all(abs(v) <= 1 for v in (estimate.value, estimate.low, estimate.high) if v is not None)


def _three(value: float) -> str:
    """Three significant digits, without an exponent."""
    return _significant(value, 3)


def _significant(value: float, digits: int) -> str:
    """So many significant digits, without an exponent."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value) * (1 + 0.5 * 10.0**-digits))))
    return f"{value:.{min(decimals, 6)}f}"
