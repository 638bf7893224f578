"""Numbers as people read them: percentages, percentage points, bytes, durations, each with its unit
and interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from pruning.schemas.recipe import Method
from pruning.schemas.report import Estimate, Unit

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MINUS = "\N{MINUS SIGN}"


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


def percent_at_least(fraction: float, digits: int = 1) -> str:
    """Return a lower limit in percent, rounded down: what is promised is never more than was shown.

    >>> percent_at_least(0.8637), percent_at_least(0.29)
    ('86.3 %', '29.0 %')
    """
    scale = 10 ** (digits + 2)
    return percent(math.floor(fraction * scale + 1e-6) / scale, digits)


def percent_at_most(fraction: float, digits: int = 1) -> str:
    """Return an upper limit in percent, rounded up.

    >>> percent_at_most(0.8631), percent_at_most(0.29)
    ('86.4 %', '29.0 %')
    """
    scale = 10 ** (digits + 2)
    return percent(math.ceil(fraction * scale - 1e-6) / scale, digits)


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


def choose_digits_apart(estimate: Estimate, limit: float, digits: int = 2) -> int:
    """Return the fewest decimals of percentage points, from `digits` on, at which the value and the
    ends of the interval look different from a limit that they differ from.

    >>> (
    ...     choose_digits_apart(Estimate(value=0.00503), 0.005),
    ...     choose_digits_apart(Estimate(value=0.005), 0.005),
    ... )
    (3, 2)
    """
    form = percentage_points
    return max(count_digits_apart(value, limit, form, digits) for value in _list_values(estimate))


def count_digits_apart(
    value: float, limit: float, form: Callable[[float, int], str], digits: int
) -> int:
    """Return the fewest digits, from `digits` on, at which two different numbers are written
    differently; `digits` where ten more do not tell them apart.

    >>> count_digits_apart(81_040_000, 81_000_000, operations, 3)
    4
    """
    for count in range(digits, digits + 10):
        if form(value, count) != form(limit, count):
            return count
    return digits


def file_size(size_bytes: float, digits: int = 3) -> str:
    """Return a size in bytes, kB, MB or GB (powers of 1000).

    >>> file_size(999), file_size(4_812_345)
    ('999 B', '4.81 MB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= 0.9995 * scale:
            return f"{_round_to_digits(size_bytes / scale, digits)} {unit}"
    return f"{size_bytes:.0f} B"


def operations(flops: float, digits: int = 3) -> str:
    """Return a count of floating point operations.

    >>> operations(81_200_000)
    '81.2 MFLOP'
    """
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if flops >= 0.9995 * scale:
            return f"{_round_to_digits(flops / scale, digits)} {unit}FLOP"
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


def factor_with_interval(estimate: Estimate, digits: int = 3) -> str:
    """Return a factor with its interval.

    >>> factor_with_interval(Estimate(value=0.9, low=0.85, high=1.0))
    '0.9× [0.85×, 1×]'
    """

    def form(value: float) -> str:
        return factor(value, digits)

    return form(estimate.value) + _format_interval(estimate, form)


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


def correlation(estimate: Estimate) -> str:
    """Return a correlation coefficient with its interval, to two decimals. A perfect order has
    none: no resample of its individuals breaks it.

    >>> correlation(Estimate(value=0.5, low=-0.1, high=0.8))
    '0.50 [−0.10, 0.80]'
    >>> correlation(Estimate(value=1.0, low=1.0, high=1.0))
    '1.00'
    """
    text = _format_correlation(estimate.value)
    if estimate.low == estimate.high:
        return text
    return text + _format_interval(estimate, _format_correlation)


def quantity(estimate: Estimate, digits: int = 1, unit: Unit | None = None) -> str:
    """Return an estimate in its own unit, or in `unit` where it has none, as a plain number without
    either. `digits` is the number of decimals of percentages.

    Nats are written without their unit, which stands beside the name: see `name_with_unit`.

    >>> quantity(Estimate(value=0.02, unit="points")), quantity(Estimate(value=0.5))
    ('+2.0 pp', '0.5')
    >>> quantity(Estimate(value=0.985), unit="share"), quantity(Estimate(value=2.0, unit="factor"))
    ('98.5 %', '2×')
    >>> quantity(Estimate(value=0.77159, unit="fraction_at_least"))
    '77.1 %'
    >>> quantity(Estimate(value=0.0159, low=0.01566, high=0.01612))
    '0.01590 [0.01566, 0.01612]'
    """
    match estimate.unit or unit:
        case "fraction":
            return percent_with_interval(estimate, digits)
        case "fraction_at_least":
            return percent_at_least(estimate.value, digits)
        case "fraction_at_most":
            return percent_at_most(estimate.value, digits)
        case "points":
            return points_with_interval(estimate, digits)
        case "nats":
            return nats(estimate)
        case "nats_difference":
            return nats(estimate, plus=True)
        case "correlation":
            return correlation(estimate)
        case other:
            form = FORMS.get(other) or _choose_number_form(estimate)
            return form(estimate.value) + _format_interval(estimate, form)


def name_with_unit(name: str, unit: Unit | None) -> str:
    """Return the name of a quantity whose values are written without their unit, with that unit.

    >>> name_with_unit("loss change", "nats_difference"), name_with_unit("error", "fraction")
    ('loss change (nats)', 'error')
    """
    return f"{name} (nats)" if unit in ("nats", "nats_difference") else name


def method_call(value: Method) -> str:
    """Return a method with its parameters.

    >>> method_call(Method(name="magnitude", params={"p": 2}))
    'magnitude (p=2)'
    """
    if not value.params:
        return value.name
    parameters = ", ".join(f"{key}={value.params[key]}" for key in sorted(value.params))
    return f"{value.name} ({parameters})"


def _choose_number_form(estimate: Estimate) -> Callable[[float], str]:
    """Return the writing of a number whose unit is unknown: with an interval, value and ends with
    as many decimals as it supports.
    """
    values = _list_values(estimate)
    largest = max(map(abs, values))
    if len(values) < 3 or largest >= 1e5 or 0 < largest < 1e-4:
        return number
    digits = _count_decimals(estimate)

    def form(value: float) -> str:
        return signed(f"{value:.{digits}f}")

    return form


def _format_correlation(value: float) -> str:
    return signed(f"{value:.2f}")


def _format_factor(value: float) -> str:
    return factor(value, 2)


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


FORMS: Mapping[Unit | None, Callable[[float], str]] = {
    "share": short_percent,
    "factor": _format_factor,
    "milliseconds": milliseconds,
    "seconds": duration,
    "bytes": file_size,
}
"""The writing of a value by its unit, where every value is written by itself."""
