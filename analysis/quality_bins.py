"""Rows of numbers as cells of a grid: equal-width bins per column, and one short key per cell for counting.

The bins are those of `numpy.digitize(x, numpy.linspace(low, high, edges))`, index for index, but found by arithmetic:
a multiplication places almost every value, and only values within rounding distance of an edge are looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offbench.errors import DatasetError, SpecError

Rows = NDArray[Any]
Keys = NDArray[np.uint64]

BLOCK_VALUES = 1 << 17  # float64 values of a block: one megabyte stays in the cache between the passes
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Bins:
    """Equal-width bins for the D columns of a table of numbers.

    Attributes:
        low, high: [D] float64, first and last edge of each column; equal ones where a column is constant.
        edges: number of edges. Index 0 lies below `low`, index `edges` at or above `high`; between them are
            `edges` - 1 bins.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    edges: int

    def __post_init__(self) -> None:
        if self.edges < 2 or self.edges >= 1 << 16:
            raise SpecError(f"bins with {self.edges} edges", "", "give at least 2 edges and fewer than 65,536")
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise DatasetError("the bounds of the bins are not finite", "", "remove NaN and infinity from the data")

    @classmethod
    def around(cls, chunks: Iterable[Rows], edges: int) -> Bins:
        """Bins from the smallest to the largest value of each column.

        Args:
            chunks: [n, D] arrays, read once; NaN is passed over.

        Raises:
            DatasetError: there are no rows, or a column has infinite values or only NaN.
        """
        low = high = None
        for chunk in chunks:
            if len(chunk):
                least, most = _extremes(np.asarray(chunk))
                low = least if low is None else np.fmin(low, least)
                high = most if high is None else np.fmax(high, most)
        if low is None or high is None:
            raise DatasetError("bins need at least one row")
        return cls(low, high, edges)

    @property
    def columns(self) -> int:
        """D, the number of columns."""
        return len(self.low)

    @property
    def bits(self) -> int:
        """Bits that hold one index."""
        return self.edges.bit_length()

    def indices(self, rows: ArrayLike) -> NDArray[np.int64]:
        """Return [n, D], the index of each value in 0..edges, as `numpy.digitize` gives it; NaN goes to `edges`."""
        table = self._table(np.asarray(rows))
        blocks = [self._indices(block, _Scratch(block.shape)).T for block in _blocks(table)]
        return np.concatenate(blocks).astype(np.int64) if blocks else np.zeros((0, self.columns), np.int64)

    def keys(self, rows: ArrayLike) -> Keys:
        """Return [n], one number per row, equal for two rows of the same cell and different for two of others.

        If the indices of a row fit into 64 bits they are the number. Otherwise it is a hash: the chance that any two
        of n cells share one is below n^2 / 2^65, which is 3e-8 for a million cells and 1e-5 for 20 million.
        """
        table = self._table(np.asarray(rows))
        keys = np.empty(len(table), np.uint64)
        per_word = 64 // self.bits
        start, scratch = 0, None
        for block in _blocks(table):
            if scratch is None or scratch.shape != block.shape:
                scratch = _Scratch(block.shape)
            indices = self._indices(block, scratch)
            key = _pack(indices[:per_word], self.bits)
            for first in range(per_word, self.columns, per_word):
                key = scramble(key) ^ _pack(indices[first : first + per_word], self.bits)
            keys[start : start + len(block)] = scramble(key) if self.columns > per_word else key
            start += len(block)
        return keys

    def _table(self, rows: Rows) -> Rows:
        if rows.ndim != 2 or rows.shape[1] != self.columns:
            raise DatasetError(f"rows of shape {rows.shape} do not fit bins of {self.columns} columns")
        return rows

    def _indices(self, block: Rows, scratch: _Scratch) -> NDArray[np.int32]:
        """[D, n] int32, columns apart, so that every pass runs over contiguous numbers; a part of the scratch."""
        values, place, indices = scratch.values, scratch.place, scratch.indices
        others, doubtful = scratch.others, scratch.flags
        np.copyto(values, block.T)
        scale, offset, doubt, searched = self._arithmetic
        unknown = None
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(values, scale, out=place)
            place += offset
            # Extremes are found faster than values are clipped, and most blocks lie inside; NaN fails the comparison.
            if not (place.min() >= 0.25 and place.max() <= self.edges + 0.25):
                np.clip(place, 0.25, self.edges + 0.25, out=place)
                unknown = np.isnan(place)
                place[unknown] = 0.25
        np.copyto(indices, place, casting="unsafe")
        place += doubt
        np.copyto(others, place, casting="unsafe")
        np.not_equal(indices, others, out=doubtful)
        if unknown is not None:
            doubtful |= unknown
        for column in np.nonzero(doubtful.any(axis=1) | searched)[0]:
            rows = slice(None) if searched[column] else doubtful[column]
            edges = np.linspace(self.low[column], self.high[column], self.edges)
            indices[column, rows] = np.digitize(values[column, rows], edges)
        return indices

    @cached_property
    def _arithmetic(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """([D, 1] scale, offset, doubt; [D] columns that are searched without arithmetic).

        scale * x + offset is the index of x and a fraction, less what rounding of an edge or of x may change. Where
        adding that much twice gives another index, x is looked up among the edges.
        """
        width = self.high - self.low
        with np.errstate(over="ignore"):
            scale = (self.edges - 1) / np.where(width > 0, width, 1.0)
            size = np.maximum(np.abs(self.low), np.abs(self.high))
            doubt = 1e-9 + 16 * np.finfo(np.float64).eps * (size * scale + self.edges)
        searched = (width <= 0) | ~np.isfinite(width) | (doubt > 0.2)
        scale, doubt = np.where(searched, 1.0, scale), np.where(searched, 0.0, doubt)
        offset = np.where(searched, 0.0, 1.0 - self.low * scale - doubt)
        return scale[:, None], offset[:, None], 2 * doubt[:, None], searched


class _Scratch:
    """Arrays for the passes over a block of shape [n, D]: asking for memory anew takes longer than a pass."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        columns = shape[::-1]
        self.values, self.place = np.empty(columns), np.empty(columns)
        self.indices, self.others = np.empty(columns, np.int32), np.empty(columns, np.int32)
        self.flags = np.empty(columns, np.bool_)


def scramble(words: Keys) -> Keys:
    """Mix the bits of 64-bit words in place (the finalizer of SplitMix64, Steele et al. 2014) and return them."""
    with np.errstate(over="ignore"):
        words += _GOLDEN
        for shift, factor in ((30, _MIX[0]), (27, _MIX[1])):
            words ^= words >> np.uint64(shift)
            words *= factor
        words ^= words >> np.uint64(31)
    return words


def _pack(indices: NDArray[np.int32], bits: int) -> Keys:
    """One word per row out of the few columns [d, n] that fit into it, joined in halves of 31 bits first."""
    half, shift = max(1, 31 // bits), np.int32(bits)
    word: Keys | None = None
    for start in range(0, len(indices), half):
        columns = indices[start : start + half]
        part = columns[0].copy()
        for column in columns[1:]:
            part <<= shift
            part |= column
        if word is None:
            word = part.astype(np.uint64)
        else:
            word <<= np.uint64(bits * len(columns))
            word |= part.astype(np.uint64)
    if word is None:
        raise DatasetError("rows without columns have no cells")
    return word


def _extremes(table: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the largest value of each column; NaN only where a column has nothing else."""
    results = []
    fold = 64  # rows that are compared as one long row: reductions over short rows are slow
    whole = len(table) // fold * fold
    for plain, careful in ((np.minimum, np.fmin), (np.maximum, np.fmax)):
        if table.flags.c_contiguous and whole:
            folded = plain.reduce(table[:whole].reshape(whole // fold, -1), axis=0).reshape(fold, -1)
            extreme = plain.reduce(np.concatenate([folded, table[whole:]]), axis=0)
        else:
            extreme = plain.reduce(table, axis=0)
        if extreme.dtype.kind == "f" and np.isnan(extreme).any():
            extreme = careful.reduce(table, axis=0)
        results.append(extreme.astype(np.float64))
    return results[0], results[1]


def _blocks(table: Rows) -> Iterator[Rows]:
    step = max(1, BLOCK_VALUES // max(1, table.shape[1]))
    for start in range(0, len(table), step):
        yield table[start : start + step]
