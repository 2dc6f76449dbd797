"""Numbers as sentences print them: as many digits as their uncertainty supports."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """Three significant digits, never an exponent for the sizes that returns have.

    >>> number(0.12345), number(52.71), number(-234246.0), number(1.5e12)
    ('0.123', '52.7', '-234246', '1.5e+12')
    """
    return f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def with_interval(point: float, low: float, high: float, reason: str = "") -> str:
    """A number and its interval with as many decimals as the interval's width supports.

    >>> with_interval(0.1123, 0.0812, 0.1433)
    '0.11 [0.08, 0.14]'
    """
    if not math.isfinite(low + high):
        return f"{number(point)} (no interval: {reason or 'undefined'})"
    half = (high - low) / 2
    digits = 1 if half < 1e-12 else min(6, max(1, -math.floor(math.log10(half))))
    digits = 0 if half >= 50 else max(digits, 2 if abs(point) < 1 else 1)
    values = (round(value, digits) + 0.0 for value in (point, low, high))  # + 0.0 removes the sign of -0
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*values, d=digits)


def p_in_words(p: float) -> str:
    """A p value as it is printed.

    >>> p_in_words(0.0123), p_in_words(3e-7)
    ('p = 0.012', 'p < 0.0001')
    """
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def counted(how_many: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "loss"), counted(2, "loss"), counted(0, "dataset")
    ('1 loss', '2 losses', '0 datasets')
    """
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{how_many} {noun if how_many == 1 else plural}"
