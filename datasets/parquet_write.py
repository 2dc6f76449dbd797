"""Writer of datasets as one Parquet table, a row per transition, and the restoring of what it wrote.

The table opens in pandas, Polars, DuckDB or R. Its columns: episode, step, then the dataset's own: a number per row as
one column (`rewards`), a vector of up to 128 entries as `observations_0`, `observations_1`, ..., more (images) as one
column of lists. `last_observation` holds the frame after an episode's last row, a list, where that frame is known;
elsewhere it is null. Spaces, environment, reference, provenance and the shapes are JSON under the key "offbench" of
the file's metadata, from which `restore_parquet` restores an equal dataset. Rows are copied in blocks both ways.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offbench.datasets.allocation import allocate
from offbench.datasets.columns import Array, freeze
from offbench.datasets.d4rl_write import restored_frames
from offbench.datasets.dataset import CORE_COLUMNS, Dataset
from offbench.datasets.description import describe, restore
from offbench.datasets.episodes import last_frame_index, starts_after, step_frames
from offbench.datasets.write_aside import write_aside
from offbench.errors import DatasetError

METADATA_KEY = b"offbench"
SCHEMA = "offbench-parquet-1"
EPISODE, STEP, LAST = "episode", "step", "last_observation"
MAXIMUM_COLUMNS = 128
ROW_GROUP_BYTES = 8 << 20
# Stored per episode or as rows of another kind: not columns of the table.
NOT_PER_ROW = ("episode_starts", "last_known")


@dataclass(frozen=True)
class _Field:
    """How one column of a dataset is stored: entries of `shape` per row, as the table's columns `names`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def listed(self) -> bool:
        return self.size > 1 and len(self.names) == 1

    def types(self) -> list[pa.Field]:
        kind = pa.from_numpy_dtype(self.dtype)
        return [pa.field(name, pa.list_(kind, self.size) if self.listed else kind) for name in self.names]

    def encode(self, rows: Array) -> Iterator[pa.Array]:
        """Yield one Arrow array for each name."""
        flat = rows.reshape(len(rows), -1)
        if self.listed:
            yield pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), self.size)
        else:
            yield from (pa.array(np.ascontiguousarray(flat[:, i])) for i in range(len(self.names)))

    def decode(self, batch: pa.RecordBatch, target: Array) -> None:
        """Fill `target` [rows, *shape] from a batch of the table."""
        flat = target.reshape(len(target), -1)
        for i, name in enumerate(self.names):
            column = batch.column(name)
            if column.null_count:
                raise DatasetError(f"column {name!r} has empty cells", "", "fill them in, or pass schema=")
            if self.listed:
                flat[:] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(target), self.size)
            else:
                flat[:, i] = column.to_numpy(zero_copy_only=False)


def write_parquet(dataset: Dataset, path: str | Path, *, compression: str = "zstd", overwrite: bool = False) -> Path:
    """Write `dataset` to a Parquet file and return its path. The file appears complete or not at all.

    Args:
        path: the file, e.g. "hopper-medium.parquet".
        compression: "zstd", "snappy", "gzip" or "none".
        overwrite: replace a file.

    Raises:
        DatasetError: the file exists, or an info has a type that Parquet lacks.
        StorageError: writing failed.
    """
    return write_aside(path, lambda aside: _write(dataset, aside, compression), overwrite=overwrite)


def _fields(dataset: Dataset) -> dict[str, _Field]:
    per_row = {name: getattr(dataset, name) for name in CORE_COLUMNS if name not in NOT_PER_ROW}
    per_row |= {f"infos/{name}": column for name, column in dataset.infos.items()}
    present = {name: column for name, column in per_row.items() if column is not None}

    def spelled(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        if not shape or math.prod(shape) > MAXIMUM_COLUMNS:
            return (name,)
        return tuple(f"{name}_{i}" for i in range(math.prod(shape)))

    names = {name: spelled(name, column.shape[1:]) for name, column in present.items()}
    uses = Counter(column for columns in names.values() for column in columns)
    for name, columns in names.items():
        if any(uses[column] > 1 for column in columns):  # an info "x" of two entries beside an info "x_0"
            names[name] = (f"{name}/list",) if len(columns) > 1 else (f"{name}/value",)
    return {name: _Field(column.shape[1:], column.dtype, names[name]) for name, column in present.items()}


def _rows_per_group(fields: dict[str, _Field]) -> int:
    return max(1, ROW_GROUP_BYTES // max(1, sum(field.size * field.dtype.itemsize for field in fields.values())))


def _write(dataset: Dataset, path: Path, compression: str) -> None:
    fields = _fields(dataset)
    try:
        types = [part for field in fields.values() for part in field.types()]
        kind = pa.list_(pa.from_numpy_dtype(dataset.observations.dtype))
    except pa.ArrowException as error:
        raise DatasetError("a column has a type that Parquet cannot store", str(error), "convert it first") from error
    metadata = {
        "schema": SCHEMA,
        "fingerprint": dataset.fingerprint,
        "fields": {
            name: {"shape": list(field.shape), "dtype": field.dtype.str, "names": list(field.names)}
            for name, field in fields.items()
        },
        **describe(dataset),
    }
    schema = pa.schema(
        [pa.field(EPISODE, pa.int64()), pa.field(STEP, pa.int64()), *types, pa.field(LAST, kind)],
        metadata={METADATA_KEY: json.dumps(metadata).encode()},
    )
    starts = dataset.episode_starts
    ends = np.append(starts[1:], dataset.num_transitions) - 1
    last = last_frame_index(starts, dataset.last_known, dataset.num_transitions)
    with pq.ParquetWriter(path, schema, compression=compression, use_dictionary=False) as writer:
        step = _rows_per_group(fields)
        for begin in range(0, dataset.num_transitions, step):
            rows = slice(begin, min(begin + step, dataset.num_transitions))
            numbers = np.arange(rows.start, rows.stop)
            episodes = np.searchsorted(starts, numbers, side="right") - 1
            frames = step_frames(starts, dataset.last_known, rows)
            encoded = [pa.array(episodes), pa.array(numbers - starts[episodes])]
            for name, field in fields.items():
                if name == "observations":
                    values = dataset.observations[frames]
                elif name.startswith("infos/"):
                    values = dataset.infos[name.removeprefix("infos/")][rows]
                else:
                    values = getattr(dataset, name)[rows]
                encoded += field.encode(values)
            encoded.append(_last_frames(dataset, numbers, ends, last, kind))
            writer.write_table(pa.Table.from_arrays(encoded, schema=schema))


def _last_frames(dataset: Dataset, rows: Array, ends: Array, last: Array, kind: pa.DataType) -> pa.Array:
    """Return the column of last frames for consecutive `rows`: a list at known ends of episodes, null elsewhere."""
    begin, end = np.searchsorted(ends, [rows[0], rows[-1] + 1])  # the episodes that end in these rows
    known = dataset.last_known[begin:end]
    present = np.zeros(len(rows), np.bool_)
    present[ends[begin:end][known] - rows[0]] = True
    before = int(np.count_nonzero(dataset.last_known[:begin]))
    frames = dataset.observations[last[before : before + int(known.sum())]].reshape(-1)
    size = math.prod(dataset.observations.shape[1:])
    offsets = np.concatenate(([0], np.cumsum(present) * size)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(frames), type=kind, mask=pa.array(~present))


def restore_parquet(path: Path) -> dict[str, Any] | None:
    """Return the fields of the `Dataset` that `write_parquet` wrote to `path`; None if it was written by others.

    Raises:
        DatasetError: the file is damaged, or its rows or columns were changed after it was written.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:  # which would hold the whole file
            stored = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
            if stored is None:
                return None
            metadata = json.loads(stored)
            if metadata.get("schema") != SCHEMA:
                raise DatasetError(
                    f"{path.name} was written in a layout that this version does not know",
                    f"its key 'offbench' is not of {SCHEMA}",
                    "read it with the version of offbench that wrote it, or pass schema=",
                )
            return _restore(file, metadata, path)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path} is damaged, or was changed after offbench wrote it",
            f"{type(error).__name__}: {error}",
            "write it again, or pass schema= to read the columns that are there",
        ) from error


def _restore(file: pq.ParquetFile, metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    rows = file.metadata.num_rows
    fields = {
        name: _Field(tuple(stored["shape"]), np.dtype(stored["dtype"]), tuple(stored["names"]))
        for name, stored in metadata["fields"].items()
    }
    columns = {name: allocate((rows, *field.shape), field.dtype) for name, field in fields.items()}
    episodes, steps, ends_known = np.empty(rows, np.int64), np.empty(rows, np.int64), np.empty(rows, np.bool_)
    kept: list[Array] = [np.empty(0, fields["observations"].dtype)]
    done = 0
    for batch in file.iter_batches(batch_size=_rows_per_group(fields), use_threads=False):
        block = slice(done, done + batch.num_rows)
        episodes[block], steps[block] = batch.column(EPISODE).to_numpy(), batch.column(STEP).to_numpy()
        for name, field in fields.items():
            field.decode(batch, columns[name][block])
        last = batch.column(LAST)
        ends_known[block] = last.is_valid().to_numpy(zero_copy_only=False)
        kept.append(last.drop_null().flatten().to_numpy(zero_copy_only=False))
        done = block.stop
    starts = starts_after(np.append(np.diff(episodes) != 0, True))
    if not rows or not np.array_equal(steps, np.arange(rows) - np.repeat(starts, np.diff(starts, append=rows))):
        raise DatasetError(
            f"the rows of {path.name} are not the ones that offbench wrote",
            f"the columns {EPISODE!r} and {STEP!r} do not count on: rows were removed, added or sorted",
            "write it again, or pass schema= to read it as a plain table",
        )
    known = ends_known[np.append(starts[1:], rows) - 1]
    observations = freeze(columns.pop("observations"))
    last_frames = np.concatenate(kept).reshape(-1, *observations.shape[1:])
    infos = {name: columns.pop(name) for name in list(columns) if name.startswith("infos/")}
    return {
        **restore(metadata),
        "observations": restored_frames(observations, last_frames, starts, known, rows, path),
        "episode_starts": starts,
        "last_known": known,
        "infos": {name.removeprefix("infos/"): freeze(column) for name, column in infos.items()},
        **{name: freeze(column) for name, column in columns.items()},
    }
