"""Counting distinct keys of a stream: exactly while they fit, by a HyperLogLog sketch with a stated error beyond."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offbench.analysis.quality_bins import Keys, scramble
from offbench.errors import SpecError

EXACT_LIMIT = 20_000_000  # distinct keys that are kept: 160 MB, and three times that while they are merged
PRECISION = 16  # 65,536 registers: a standard error of 0.41 %
_PIECE = 1 << 18  # keys that a sketch takes at once, which bounds its scratch memory
_BATCH = 1 << 21  # keys that are gathered before they are merged


@dataclass(frozen=True)
class Count:
    """A number of distinct keys.

    Attributes:
        value: the number, or its estimate.
        rows: how many keys were looked at.
        exact: whether it was counted.
        error: relative standard error of the estimate; 0 where it was counted.
    """

    value: int
    rows: int
    exact: bool
    error: float


class Sketch:
    """HyperLogLog (Flajolet et al. 2007) with the estimator of Ertl 2017 (arXiv 1702.01284, algorithm 6).

    That estimator is nearly unbiased from 0 to 2^60 distinct keys, without tables of corrections. The relative
    standard error is 1.04 / sqrt(2^precision).
    """

    _WIDTH = 48  # bits of a hash beside the register's number that are looked at: few enough to be exact as float64

    def __init__(self, precision: int = PRECISION) -> None:
        if not 4 <= precision <= 16:
            raise SpecError(f"a sketch of precision {precision}", "", "give 4 to 16")
        self.precision = precision
        self.registers = np.zeros(1 << precision, np.uint8)

    @property
    def error(self) -> float:
        """Relative standard error."""
        return 1.04 / math.sqrt(len(self.registers))

    def add(self, keys: Keys) -> None:
        """Take keys [n] into account."""
        for start in range(0, len(keys), _PIECE):
            self._add(keys[start : start + _PIECE])

    def _add(self, keys: Keys) -> None:
        hashed = scramble(keys.copy())
        register = (hashed >> np.uint64(64 - self.precision)).astype(np.intp)
        rest = (hashed >> np.uint64(64 - self.precision - self._WIDTH)) & np.uint64((1 << self._WIDTH) - 1)
        _, length = np.frexp(rest.astype(np.float64))  # the number of bits up to the first one; 0 for 0
        rank = (self._WIDTH + 1 - length).astype(np.uint8)
        np.maximum.at(self.registers, register, rank)

    def estimate(self) -> float:
        """Return the estimated number of distinct keys."""
        m, q = len(self.registers), self._WIDTH
        histogram = np.bincount(self.registers, minlength=q + 2)
        z = m * _tau(1 - histogram[q + 1] / m)
        for count in histogram[q:0:-1]:
            z = 0.5 * (z + count)
        z += m * _sigma(histogram[0] / m)
        return m * m / (2 * math.log(2) * z)


def _sigma(x: float) -> float:
    if x == 1:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x, before = x * x, z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0, 1):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x, before = math.sqrt(x), z
        y *= 0.5
        z -= (1 - x) ** 2 * y
    return z / 3


class DistinctCounter:
    """Counts the distinct keys that it is given, in memory bounded by `exact_limit` keys.

    Args:
        exact_limit: distinct keys up to which all of them are kept; beyond, only a sketch is.
        precision: of the sketch, see `Sketch`.
    """

    def __init__(self, exact_limit: int = EXACT_LIMIT, precision: int = PRECISION) -> None:
        self._limit, self._precision = exact_limit, precision
        self._kept: Keys | None = None
        self._waiting: list[Keys] = []
        self._waiting_rows = self._rows = 0
        self._sketch: Sketch | None = None

    def add(self, keys: Keys) -> None:
        """Take keys [n] into account."""
        self._rows += len(keys)
        if self._sketch is not None:
            self._sketch.add(keys)
            return
        self._waiting.append(keys)
        self._waiting_rows += len(keys)
        if self._waiting_rows >= max(_BATCH, 0 if self._kept is None else len(self._kept) // 2):
            self._merge()

    def _merge(self) -> None:
        if not self._waiting:
            return
        parts = self._waiting if self._kept is None else [self._kept, *self._waiting]
        self._waiting, self._waiting_rows = [], 0
        joined = np.concatenate(parts)
        joined.sort()
        self._kept = joined[_first_of_run(joined)]
        if len(self._kept) > self._limit:
            self._sketch = Sketch(self._precision)
            self._sketch.add(self._kept)
            self._kept = None

    def count(self) -> Count:
        """Return how many distinct keys there were so far."""
        self._merge()
        if self._sketch is not None:
            return Count(round(self._sketch.estimate()), self._rows, False, self._sketch.error)
        return Count(0 if self._kept is None else len(self._kept), self._rows, True, 0.0)


def count_distinct(chunks: Iterable[Keys], *, exact_limit: int = EXACT_LIMIT, precision: int = PRECISION) -> Count:
    """Count the distinct keys of a stream of [n] arrays; see `DistinctCounter`."""
    counter = DistinctCounter(exact_limit, precision)
    for keys in chunks:
        counter.add(keys)
    return counter.count()


def occurrences(keys: Keys) -> NDArray[np.int64]:
    """Return how often each distinct one of keys [n] occurs."""
    return np.diff(np.flatnonzero(_first_of_run(np.sort(keys))), append=len(keys))


def _first_of_run(ordered: Keys) -> NDArray[np.bool_]:
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return first
