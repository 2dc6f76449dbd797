"""Tables from files and frames: CSV read in blocks, Parquet, pandas; only the columns that are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from offbench.datasets.file_limits import require_plausible_size
from offbench.errors import DatasetError, UnknownNameError

CSV_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")
BLOCK = 2**24  # bytes of CSV text that are parsed at once
FAILURES = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn every failure of pyarrow inside the block into a DatasetError naming the file."""
    if not path.exists():
        raise DatasetError(f"no dataset at {path}", "", "check the path")
    try:
        yield
    except FAILURES as error:
        raise DatasetError(
            f"{path} cannot be read as a table",
            f"{type(error).__name__}: {error}",
            "check the columns' types in the schema, or write the file again",
        ) from error


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a CSV or Parquet file (or a folder of Parquet files)."""
    with naming(path):
        if _is_csv(path):
            with pa_csv.open_csv(path, **_csv_options(path, block=2**16)) as reader:
                names = list(reader.schema.names)
        else:
            names = list(pq.read_schema(_parts(path)[0]).names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{path.name} has several columns named {', '.join(twice)}", "", "rename them")
    return names


def read_table_file(
    path: Path, columns: Sequence[str], types: Mapping[str, pa.DataType], rows: int | None = None
) -> pa.Table:
    """Return the given columns of a CSV or Parquet file.

    Args:
        columns: names; all must be there.
        types: of the columns of a CSV file, where they are not to be told from the first rows.
        rows: read no more than about so many (a whole number of blocks).

    Raises:
        DatasetError: a damaged file, or a cell that does not fit its type.
        UnknownNameError: no such column.
    """
    require_columns(columns, column_names(path), path.name)
    with naming(path):
        if _is_csv(path):
            return _read_csv(path, columns, types, rows)
        parts = _parts(path)
        sizes = [pq.read_metadata(part).num_rows for part in parts]
        stored = sum(part.stat().st_size for part in parts)
        require_plausible_size(path, "all columns", sum(sizes) * 4 * len(columns), stored)
        found = pa.concat_tables([pq.read_table(part, columns=list(columns), partitioning=None) for part in parts])
        return found if rows is None else found.slice(0, rows)


def table_of_frame(frame: Any, columns: Sequence[str] | None) -> pa.Table:
    """Return the given columns (all of them if None) of a pandas DataFrame or a pyarrow Table.

    Raises:
        DatasetError: a column holds values of several types.
        UnknownNameError: no such column.
    """
    names = list(frame.column_names) if isinstance(frame, pa.Table) else [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"the frame has several columns named {', '.join(twice)}", "", "rename them")
    chosen = names if columns is None else list(columns)
    require_columns(chosen, names, "the frame")
    if isinstance(frame, pa.Table):
        return frame.select(chosen)
    try:
        return pa.Table.from_pandas(frame.loc[:, [name in set(chosen) for name in names]], preserve_index=False).select(
            chosen
        )
    except FAILURES as error:
        raise DatasetError(
            "the frame cannot be read as a table", f"{type(error).__name__}: {error}", "give each column one type"
        ) from error


def require_columns(wanted: Sequence[str], present: Sequence[str], where: str) -> None:
    """Raise UnknownNameError for the first name that `where` does not have."""
    for name in wanted:
        if name not in present:
            raise UnknownNameError(f"column of {where}:", name, present)


def _is_csv(path: Path) -> bool:
    return path.name.lower().endswith(CSV_SUFFIXES)


def _parts(path: Path) -> list[Path]:
    """Return the Parquet file, or those of a folder in the order of their names and numbers."""
    if not path.is_dir():
        return [path]
    parts = [part for part in path.iterdir() if part.name.lower().endswith(PARQUET_SUFFIXES)]
    if not parts:
        raise FileNotFoundError(f"there is no Parquet file in {path}")
    return sorted(parts, key=lambda part: (len(part.name), part.name))


def _csv_options(path: Path, block: int) -> dict[str, Any]:
    tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
    return {
        "read_options": pa_csv.ReadOptions(block_size=block, use_threads=False),
        "parse_options": pa_csv.ParseOptions(delimiter="\t" if tabs else ","),
    }


def _read_csv(path: Path, columns: Sequence[str], types: Mapping[str, pa.DataType], rows: int | None) -> pa.Table:
    convert = pa_csv.ConvertOptions(include_columns=list(columns), column_types=dict(types), strings_can_be_null=True)
    batches: list[pa.RecordBatch] = []
    count = size = 0
    stored = path.stat().st_size
    with pa_csv.open_csv(path, convert_options=convert, **_csv_options(path, BLOCK)) as reader:
        for batch in reader:
            batches.append(batch)
            count += batch.num_rows
            size += batch.nbytes
            require_plausible_size(path, "all columns", size, stored)
            if rows is not None and count >= rows:
                break
        schema = reader.schema
    return pa.Table.from_batches(batches, schema)
