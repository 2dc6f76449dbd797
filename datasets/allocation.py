"""Where the large arrays of a dataset live while it is made: in memory, or in files that the system pages in and out.

Readers take their arrays from `allocate` and work on `blocks` of rows, so the same code reads what fits into memory
and what does not: inside `on_disk(folder)` arrays are memory-mapped files, whose pages the system drops when memory
is short. What is left in memory is a few bytes per row (flags, masks) and a few blocks.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from offbench.errors import StorageError

# Small enough to stay in a processor's cache between two passes, large enough that Python's part is not felt.
BLOCK_BYTES = 2 << 20
LEAST_BYTES = 1 << 20  # arrays below stay in memory

_folder: ContextVar[Path | None] = ContextVar("offbench_allocation_folder", default=None)


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Let `allocate` make its arrays in files below `folder`, which must exist and outlive them."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def allocate(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array with arbitrary content: in memory, or a new .npy file mapped into it inside `on_disk`.

    Raises:
        StorageError: the file cannot be made.
    """
    dtype, folder = np.dtype(dtype), _folder.get()
    if folder is None or math.prod(shape) * dtype.itemsize < LEAST_BYTES:
        return np.empty(shape, dtype)
    file = folder / f"{uuid.uuid4().hex}.npy"
    try:
        return np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=tuple(shape))
    except OSError as error:
        raise StorageError(
            f"cannot keep a column of shape {tuple(shape)} in {folder}",
            str(error),
            "free disk space, or set OFFBENCH_CACHE to another folder",
        ) from error


def blocks(array: Any, *, multiple: int = 1, size: int | None = None) -> Iterator[slice]:
    """Yield slices that cover the rows of `array` (anything with shape and dtype) in order.

    Args:
        array: [N, ...].
        multiple: rows per block are a multiple of this, e.g. of the rows of a file's chunk.
        size: bytes per block, about; BLOCK_BYTES if it is not given.
    """
    row = math.prod(array.shape[1:]) * array.dtype.itemsize
    step = max(1, (size or BLOCK_BYTES) // max(1, row * multiple)) * multiple
    for start in range(0, array.shape[0], step):
        yield slice(start, min(start + step, array.shape[0]))
