"""Student's t distribution (distribution function and quantile), so that the package needs no scipy.

The distribution function is the regularised incomplete beta function, evaluated with its continued fraction
(Abramowitz & Stegun 26.5.8) by Lentz's method; the quantile inverts it by Newton steps kept inside a bracket.
Degrees of freedom need not be whole: Welch and Satterthwaite give fractions.
"""

from __future__ import annotations

import math
from statistics import NormalDist

_NORMAL = NormalDist()
_EXPANSION_FROM_DF = 1e5  # beyond this an expansion around the normal is more accurate than log-gamma differences
_TINY = 1e-300


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Continued fraction of the incomplete beta function; converges fast for x < (a+1)/(a+b+2)."""
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1.0), _TINY)
    value = d
    for m in range(1, 20_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > _TINY else _TINY)
            c = 1.0 + numerator / c
            c = c if abs(c) > _TINY else _TINY
            value *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return value


def _incomplete_beta(x: float, y: float, a: float, b: float) -> float:
    """Regularised incomplete beta I_x(a, b); `y` is 1 - x, passed separately to keep its digits."""
    if x <= 0.0:
        return 0.0
    if y <= 0.0:
        return 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)
    if x < (a + 1.0) / (a + b + 2.0):
        return math.exp(log_front) * _beta_fraction(x, a, b) / a
    return 1.0 - math.exp(log_front) * _beta_fraction(y, b, a) / b


def _upper_tail(t: float, df: float) -> float:
    """P(T > t) for t >= 0, exact in the far tail (never computed as one minus something)."""
    square = t * t
    return 0.5 * _incomplete_beta(df / (df + square), square / (df + square), df / 2.0, 0.5)


def t_cdf(t: float, df: float) -> float:
    """P(T <= t) of Student's t with `df` > 0 degrees of freedom (`math.inf`: the normal distribution)."""
    _check_df(df)
    if df >= _EXPANSION_FROM_DF:  # Abramowitz & Stegun 26.7.8
        return _NORMAL.cdf(t * (1.0 - 0.25 / df) / math.sqrt(1.0 + 0.5 * t * t / df))
    tail = _upper_tail(abs(t), df)
    return 1.0 - tail if t > 0 else tail


def t_quantile(probability: float, df: float) -> float:
    """The t with P(T <= t) = `probability`; relative error below 1e-9 for df >= 0.5.

    Raises:
        ValueError: if `probability` is not inside (0, 1) or `df` is not positive.
    """
    _check_df(df)
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability must lie strictly between 0 and 1, got {probability}")
    if probability == 0.5:
        return 0.0
    if df >= _EXPANSION_FROM_DF:  # Cornish-Fisher, Abramowitz & Stegun 26.7.5
        z = _NORMAL.inv_cdf(probability)
        return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df * df)
    if probability < 0.5:
        return -_upper_quantile(probability, df)
    return _upper_quantile(1.0 - probability, df)


def _upper_quantile(tail: float, df: float) -> float:
    """The t > 0 with P(T > t) = tail, for 0 < tail < 0.5."""
    low, high = 0.0, 1.0
    while _upper_tail(high, df) > tail:
        low, high = high, 2.0 * high
    log_density_0 = (
        math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    )  # log of the density at 0
    t = 0.5 * (low + high)
    for _ in range(200):
        excess = _upper_tail(t, df) - tail
        if excess > 0:
            low = t
        else:
            high = t
        density = math.exp(log_density_0 - (df + 1) / 2 * math.log1p(t * t / df))
        step = t + excess / density if density > 0 else high
        following = step if low < step < high else 0.5 * (low + high)
        if abs(following - t) <= 1e-14 * following:
            return following
        t = following
    return t


def _check_df(df: float) -> None:
    if not df > 0:
        raise ValueError(f"degrees of freedom must be positive, got {df}")
