"""Values of chosen transitions replaced column by column: nothing else moves, and the clean values can return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from offbench.datasets.allocation import blocks
from offbench.datasets.columns import Array, freeze
from offbench.datasets.marks import missing
from offbench.datasets.transforms.base import Transform
from offbench.errors import IncompatibleError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset

# Rows whose moments are summed in float32; their differences from the centre stay in the processor's cache.
STD_BLOCK_BYTES = 1 << 19


class Edits:
    """A dataset's columns as they will be after a transform, copied when they are first written to.

    Observations and next observations are stored once, as frames. Writing to s_t must not move s' of the row before
    it, nor writing to s' the s of the next row: the first such write keeps s' as an explicit column, with a mask where
    it is unknown.

    Args:
        dataset: what the transform is applied to.
        keep_clean: leave the values before the change in infos "clean/<column>", for `restore`.
    """

    def __init__(self, dataset: Dataset, *, keep_clean: bool = True) -> None:
        self._dataset, self._keep_clean = dataset, keep_clean
        self._columns: dict[str, Array] = {}
        self._touched: dict[str, Array] = {}

    def array(self, column: str) -> Array:
        """A writable array [F or N, ...] that holds a column; transitions are at its `places`.

        Args:
            column: observations (s), next_observations (s'), or a column of the dataset: actions, rewards, costs.

        Raises:
            IncompatibleError: some values of the column are missing; what stands there is a filler.
        """
        dataset = self._dataset
        if missing(dataset, column) is not None:
            raise IncompatibleError(
                f"some {column} of {dataset.name} are missing, and fillers cannot be corrupted",
                "",
                f"apply this before drop_{column}, or after fill_{column}",
            )
        if column == "observations":
            self._explicit_next()
            return self._copy("observations", dataset.observations)
        if column == "next_observations":
            self._explicit_next()
            known = self._columns["next_observations_override"]
            if not known.flags.writeable:
                self._columns["next_observations_override"] = known = known.copy()
            return known
        return self._copy(column, getattr(dataset, column))

    def places(self, column: str, rows: Array) -> Array:
        """Where the transitions `rows` are in a column's array."""
        return self._dataset.frame_index[rows] if column == "observations" else rows

    def frames(self) -> Array:
        """The recorded frames [F, ...], writable: a change shows in s of a row and in s' of the row before it.

        Raises:
            IncompatibleError: s' is a column of its own, so that it does not follow the frames.
        """
        if self._dataset.next_observations_override is not None or "next_observations_override" in self._columns:
            raise IncompatibleError(
                f"next observations of {self._dataset.name} are a column of their own",
                "a fault of a sensor shows in s and in s' of the row before, and here the two are not the same reading",
                "apply the fault before other transforms, or choose next=clean where there is such a parameter",
            )
        return self._copy("observations", self._dataset.observations)

    def touch_frames(self, frames: Array) -> None:
        """Mark the transitions as changed whose s or s' is one of the frames [F] bool."""
        self.touch("observations", frames[self._dataset.frame_index])
        self.touch("next_observations", frames[self._dataset.next_frame_index] & self._dataset.next_valid)

    def write(self, column: str, rows: Array, values: Array) -> None:
        """Replace a column's values [n, ...] in the transitions `rows` [n] and mark them as touched."""
        self.array(column)[self.places(column, rows)] = values
        self.touch(column, rows)

    def read(self, column: str, rows: Array) -> Array:
        """The values [n, ...] of a column in the transitions `rows` as they are now, a copy."""
        if column == "observations":
            return self._columns.get(column, self._dataset.observations)[self._dataset.frame_index[rows]]
        if column == "next_observations":
            array = self._columns.get("next_observations_override")
            if array is None:
                array = self._dataset.next_observations
            return array[rows]
        return self._columns.get(column, getattr(self._dataset, column))[rows]

    def touch(self, column: str, rows: Array) -> None:
        """Mark transitions as changed in a column; `rows` is a mask or row numbers."""
        mask = self._touched.setdefault(column, np.zeros(len(self._dataset), np.bool_))
        mask[rows] = True

    def changed(self, transform: Transform, measured: Mapping[str, Any] | None = None) -> Dataset:
        """The dataset with the edits, and the transform in its provenance."""
        dataset = self._dataset
        clean: dict[str, Array] = {}
        if self._keep_clean:
            views = {"observations": "step_observations", "next_observations": "next_observations"}
            clean = {column: getattr(dataset, views.get(column, column)) for column in self._touched}
        for array in (*self._columns.values(), *self._touched.values()):
            freeze(array)
        return transform.changed(dataset, touched=self._touched, clean=clean, measured=measured, **self._columns)

    def _copy(self, column: str, values: Array) -> Array:
        if column not in self._columns:
            self._columns[column] = values.copy()
        return self._columns[column]

    def _explicit_next(self) -> None:
        """Hold s' as a column of its own from here on."""
        if "next_observations_override" in self._columns:
            return
        self._columns["next_observations_override"] = self._dataset.next_observations
        if not self._dataset.next_valid.all():
            self._columns["next_known"] = self._dataset.next_valid


def column_std(values: Array, excluded: Array | None = None) -> Array:
    """Standard deviation of each dimension over rows, [*shape] float64: population (ddof 0), as numpy's `std(axis=0)`.

    Args:
        values: [N, ...].
        excluded: row numbers that are left out.
    """
    counted = np.ones(len(values), np.float32)
    sample: Array = np.arange(0, len(values), max(1, len(values) // 1024))
    if excluded is not None and len(excluded):
        counted[excluded] = 0.0
        sample = np.flatnonzero(counted)
        sample = sample[:: max(1, len(sample) // 1024)]
    count, width = int(np.count_nonzero(counted)), int(np.prod(values.shape[1:]))
    if not count:
        return np.zeros(values.shape[1:])
    # Moments about a value near the mean, so that a large mean costs no digits and a constant column gives exactly 0;
    # sums within a block by a matrix product, as exact as numpy's float32 sums and several times faster.
    centre = values[sample].mean(0, dtype=np.float64).reshape(-1).astype(np.float32)
    total, square = np.zeros(width), np.zeros(width)
    tiled = np.empty(0, np.float32)
    for block in blocks(values, size=STD_BLOCK_BYTES):
        part = values[block].reshape(-1)
        if len(tiled) < len(part):
            tiled = np.tile(centre, len(part) // max(width, 1))  # long vectors: rows are too short to be quick
        moved = np.subtract(part, tiled[: len(part)], dtype=np.float32)
        total += counted[block] @ moved.reshape(-1, width)
        np.multiply(moved, moved, out=moved)
        square += counted[block] @ moved.reshape(-1, width)
    variance = np.maximum(square / count - (total / count) ** 2, 0.0)
    return np.sqrt(variance).reshape(values.shape[1:])


def step_std(dataset: Dataset, column: str) -> Array:
    """Per-dimension std of a column over the transitions; of s' over those where it is known."""
    if column == "observations":
        last = np.append(dataset.episode_starts[1:], len(dataset)) - 1
        return column_std(dataset.observations, dataset.next_frame_index[last][dataset.last_known])
    if column == "next_observations":
        if dataset.next_observations_override is not None:
            return column_std(dataset.next_observations_override, np.flatnonzero(~dataset.next_valid))
        # Known next observations are all frames but the first of each episode.
        return column_std(dataset.observations, dataset.frame_index[dataset.episode_starts])
    return column_std(getattr(dataset, column))


def as_column(values: Array, dtype: np.dtype[Any], space: spaces.Space[Any] | None = None) -> Array:
    """Real numbers in a column's type: integers are rounded and kept within the space's bounds, or the type's."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    rounded = np.rint(values)
    if low is not None and high is not None:
        rounded = np.clip(rounded, low, high)
    if dtype == np.uint8:
        rounded = np.clip(rounded, 0, 255)
    return rounded.astype(dtype)
