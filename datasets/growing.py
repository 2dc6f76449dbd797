"""A column that is put together from parts, in one array: for sources that store episode after episode."""

from __future__ import annotations

import math

import numpy as np

from offbench.datasets.allocation import allocate
from offbench.datasets.columns import Array, freeze, numeric

# What a file promises is not believed beyond this; a column that is really larger grows by doubling.
FIRST_BYTES = 1 << 30


class GrowingColumn:
    """Rows that are appended part by part, without a list of all parts beside the whole.

    Args:
        name: for messages.
        rows: how many there will be in all, as far as is known; more or fewer may come.
        narrow: store floats as float32, the type that a `Dataset` brings them to.
    """

    def __init__(self, name: str, rows: int, *, narrow: bool = False) -> None:
        self._name, self._rows, self._narrow = name, rows, narrow
        self._array: Array | None = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def accepts(self, part: Array) -> bool:
        """Whether `part` [n, ...] has rows like those before it."""
        return self._array is None or self._array.shape[1:] == part.shape[1:]

    def append(self, part: Array) -> None:
        """Add the rows of `part` [n, ...].

        Raises:
            DatasetError: they are no numbers.
            ValueError: they have another shape than those before.
        """
        part = numeric(self._name, part)
        if not self.accepts(part):
            raise ValueError(f"{self._name} change their shape from row to row: {part.shape[1:]}")
        dtype = np.dtype(np.float32) if self._narrow and part.dtype.kind == "f" else part.dtype
        end = self._length + len(part)
        if self._array is None:
            row = max(1, math.prod(part.shape[1:]) * dtype.itemsize)
            capacity = max(end, min(self._rows, FIRST_BYTES // row))
            self._array = allocate((capacity, *part.shape[1:]), dtype)
        elif end > len(self._array) or np.result_type(self._array.dtype, dtype) != self._array.dtype:
            self._move(max(end, len(self._array), 2 * self._length), np.result_type(self._array.dtype, dtype))
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, which is reported later
            self._array[self._length : end] = part
        self._length = end

    def _move(self, capacity: int, dtype: np.dtype[np.generic]) -> None:
        old = self.finish()
        self._array = allocate((capacity, *old.shape[1:]), dtype)
        self._array[: self._length] = old

    def finish(self) -> Array:
        """Return the rows, read-only."""
        if self._array is None:
            return freeze(np.empty(0))
        return freeze(self._array)[: self._length]
