"""Reader of tables of logs (CSV, Parquet, pandas) with an explicit schema of their columns.

Rules, none of which guesses: a column without a role is not read; an empty cell is an error except in
`next_observations`; rows of an episode stand together and in the order of `timestep`, or the schema says to sort them;
a step that is missing is an error, or ends the episode, as the schema says. An episode ends where a flag is set or,
if there are such columns, where `episode` changes or `timestep` starts again; without a column `truncated` such a
change that is no termination counts as a truncation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from gymnasium import spaces

from offbench.datasets import columns
from offbench.datasets.columns import Array
from offbench.datasets.dataset import Dataset
from offbench.datasets.parquet_write import restore_parquet
from offbench.datasets.records import Provenance, Reference
from offbench.datasets.restored import restored_dataset
from offbench.datasets.table_files import CSV_SUFFIXES, naming, read_table_file, table_of_frame
from offbench.datasets.table_inference import infer_schema
from offbench.datasets.table_schema import OBSERVATION_TYPES, TableSchema
from offbench.errors import DatasetError

__all__ = ["TableSchema", "from_frame", "infer_schema", "read_table"]

TRUE = ("true", "1", "1.0", "t", "yes", "y")
FALSE = ("false", "0", "0.0", "f", "no", "n")


def read_table(
    path: str | Path,
    *,
    schema: TableSchema | str | Path | Mapping[str, Any] | None = None,
    environment: str | None = None,
    reference: Reference | None = None,
    action_space: spaces.Space[Any] | None = None,
    observation_space: spaces.Space[Any] | None = None,
    name: str | None = None,
    source: str | None = None,
) -> Dataset:
    """Read a CSV file (.csv, .tsv, also .gz), a Parquet file, or a folder of Parquet files.

    Args:
        path: the file or folder.
        schema: a `TableSchema`, its YAML file or text, or a mapping. Only for Parquet files of `write_parquet` it can
            be left out: they are restored as they were.
        environment: Gymnasium id; defaults to the schema's.
        reference: of the normalized score.
        action_space: instead of the one that the schema describes, with the same shape.
        observation_space: defaults to an unbounded Box.
        name: defaults to the file's stem.
        source: recorded in the provenance; defaults to "file:NAME".

    Raises:
        DatasetError: no schema, a damaged file, cells that do not fit, unsorted rows, missing steps (rows are named,
            counted from 0 after the header).
        UnknownNameError: the schema names a column that is not there.
        SpecError: the schema cannot be read.
    """
    path = Path(path)
    if schema is None:
        with naming(path):
            stored = None if path.name.lower().endswith(CSV_SUFFIXES) or path.is_dir() else restore_parquet(path)
        if stored is None:
            raise DatasetError(
                f"{path.name} is a table whose columns mean nothing yet",
                "which columns are observations, actions or flags is never guessed silently",
                f"offbench data schema {path.name} > schema.yaml, check it, then pass schema='schema.yaml'",
            )
        return restored_dataset(
            stored,
            path,
            environment=environment,
            reference=reference,
            action_space=action_space,
            observation_space=observation_space,
            name=name,
        )
    if not isinstance(schema, TableSchema):
        schema = TableSchema.from_yaml(schema)
    table = read_table_file(path, schema.columns, _types(schema))
    return _build(
        table,
        schema,
        path.name,
        environment=environment,
        reference=reference,
        action_space=action_space,
        observation_space=observation_space,
        name=name or path.name.partition(".")[0],
        source=source or f"file:{path.name}",
    )


def from_frame(
    frame: Any,
    schema: TableSchema | str | Path | Mapping[str, Any],
    *,
    environment: str | None = None,
    reference: Reference | None = None,
    action_space: spaces.Space[Any] | None = None,
    observation_space: spaces.Space[Any] | None = None,
    name: str = "frame",
    source: str = "frame",
) -> Dataset:
    """Return the dataset in a pandas DataFrame or a pyarrow Table; arguments and errors as for `read_table`."""
    if not isinstance(schema, TableSchema):
        schema = TableSchema.from_yaml(schema)
    return _build(
        table_of_frame(frame, schema.columns),
        schema,
        "the frame",
        environment=environment,
        reference=reference,
        action_space=action_space,
        observation_space=observation_space,
        name=name,
        source=source,
    )


def _types(schema: TableSchema) -> dict[str, pa.DataType]:
    """Return the types as which a CSV file's cells are read; timestep is told from the file."""
    number = pa.from_numpy_dtype(OBSERVATION_TYPES[schema.observation_type])
    types = dict.fromkeys((*schema.observations, *schema.next_observations), number)
    single = [name for name in (schema.reward, schema.cost, schema.log_prob) if name is not None]
    types |= dict.fromkeys([*schema.goals, *single], pa.float32())
    types |= dict.fromkeys(schema.infos, pa.float64())
    action = pa.float32() if schema.action_type == "box" else pa.float64()
    types |= dict.fromkeys(schema.actions, action if schema.labels is None else pa.string())
    text = [name for name in (schema.terminated, schema.truncated, schema.episode) if name is not None]
    return types | dict.fromkeys(text, pa.string())


def _build(table: pa.Table, schema: TableSchema, where: str, *, source: str, **properties: Any) -> Dataset:
    if not table.num_rows:
        raise DatasetError(f"{where} has no rows")
    episodes = None if schema.episode is None else _codes(table, schema.episode)
    times = None if schema.timestep is None else _times(table, schema.timestep)
    if schema.sort and episodes is not None:
        order = np.lexsort((times, episodes) if times is not None else (episodes,))
        if (np.diff(order) < 0).any():
            table, episodes = table.take(pa.array(order)), episodes[order]
            times = None if times is None else times[order]
    starts, splits = _starts(episodes, times, schema, where)
    terminated = np.zeros(table.num_rows, np.bool_) if schema.terminated is None else _flags(table, schema.terminated)
    truncated = None if schema.truncated is None else _flags(table, schema.truncated)
    kind = OBSERVATION_TYPES[schema.observation_type]
    observations = _shaped(_matrix(table, schema.observations, kind), schema, where)
    following, unknown = None, None
    if schema.next_observations:
        empty = np.logical_or.reduce([_column(table, name).is_null().to_numpy() for name in schema.next_observations])
        unknown = empty if empty.any() else None
        following = _shaped(_matrix(table, schema.next_observations, kind, fill=empty), schema, where)
        if unknown is not None:
            following = _completed(observations, following, unknown)
    scalars = {"costs": schema.cost, "log_probs": schema.log_prob}
    properties |= {key: _matrix(table, (name,), np.float32) for key, name in scalars.items() if name is not None}
    details: dict[str, Any] = {"format": "table", "columns": list(schema.columns), "terminated": schema.terminated}
    if splits:
        details["gaps"] = f"{splits} missing steps begin an episode"
    properties["environment"] = properties["environment"] or schema.environment
    properties["action_space"] = properties["action_space"] or schema.action_space()
    dataset = Dataset.from_arrays(
        observations,
        _actions(table, schema),
        _matrix(table, (schema.reward,), np.float32),
        terminated,
        truncated,
        next_observations=following,
        episode_starts=starts,
        horizon=schema.horizon,
        infos={name: _matrix(table, (name,), None)[:, 0] for name in schema.infos},
        goals=_matrix(table, schema.goals, np.float32) if schema.goals else None,
        provenance=Provenance(source, details),
        **properties,
    )
    return dataset if unknown is None else _forget(dataset, unknown)


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table.column(name)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece."""
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _numbers(table: pa.Table, name: str, fill: Array | None = None) -> Array:
    """Return a column of numbers [N] or of lists of numbers [N, size]; empty cells are an error unless in `fill`."""
    column = _whole(_column(table, name))
    empty = column.is_null().to_numpy(zero_copy_only=False)
    if fill is None and empty.any():
        raise DatasetError(
            f"column {name!r} has empty cells in {columns.first_rows(empty)}",
            "rows are counted from 0",
            "fill them in or remove their episodes",
        )
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        sizes = pc.list_value_length(column).drop_null().to_numpy(zero_copy_only=False)
        if len(sizes) == 0 or (sizes != sizes[0]).any():
            raise DatasetError(f"the lists in column {name!r} are of different lengths", "", "give all the same length")
        inner = column.flatten()
        values = np.zeros((len(column), int(sizes[0])), _dtype(inner, name))
        values[~empty] = _plain(inner, name).reshape(-1, int(sizes[0]))
        return values
    _require_numbers(kind, name)
    if column.null_count:
        column = column.fill_null(False if pa.types.is_boolean(kind) else pa.scalar(0).cast(kind))
    return _plain(column, name)


def _dtype(array: pa.Array, name: str) -> Any:
    return _plain(array.slice(0, 0), name).dtype


def _require_numbers(kind: pa.DataType, name: str) -> None:
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DatasetError(f"column {name!r} holds {kind}, not numbers", "", "leave it out, or convert it first")


def _plain(array: pa.Array, name: str) -> Array:
    _require_numbers(array.type, name)
    if array.null_count:
        raise DatasetError(f"lists in column {name!r} have empty entries", "", "fill them in")
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _matrix(table: pa.Table, names: Sequence[str], dtype: Any, fill: Array | None = None) -> Array:
    """Return the columns side by side [N, entries] as `dtype` (None: their own); infinities are found later."""
    parts = [_numbers(table, name, fill) for name in names]
    parts = [part[:, None] if part.ndim == 1 else part for part in parts]
    for name, part in zip(names, parts, strict=True):
        if dtype is not None and np.dtype(dtype).kind in "iu" and part.dtype.kind == "f":
            raise DatasetError(f"column {name!r} holds fractions", "", "use observation_type: number")
        if dtype is np.uint8 and ((part < 0) | (part > 255)).any():
            raise DatasetError(f"column {name!r} holds values outside 0 to 255", "", "use observation_type: integer")
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [part if dtype is None else part.astype(dtype, copy=False) for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _shaped(values: Array, schema: TableSchema, where: str) -> Array:
    if schema.observation_shape is None:
        return values
    if values.shape[1] != int(np.prod(schema.observation_shape)):
        raise DatasetError(
            f"an observation in {where} has {values.shape[1]} entries, but observation_shape is "
            f"{schema.observation_shape}",
            "",
            "correct observation_shape in the schema",
        )
    return values.reshape(len(values), *schema.observation_shape)


def _actions(table: pa.Table, schema: TableSchema) -> Array:
    if schema.labels is None:
        values = _matrix(table, schema.actions, None)
        return values[:, 0] if schema.action_type == "discrete" else values
    name = schema.actions[0]
    column = _column(table, name)
    kinds = {type(label) for label in schema.labels}
    try:
        if kinds == {bool}:
            words = pc.utf8_lower(column.cast(pa.string()))
            found = pc.index_in(words, pa.array([str(label).lower() for label in schema.labels]))
        elif kinds <= {int, float}:
            found = pc.index_in(column.cast(pa.float64()), pa.array([float(label) for label in schema.labels]))
        else:
            found = pc.index_in(column.cast(pa.string()), pa.array([str(label) for label in schema.labels]))
    except pa.ArrowException as error:
        raise DatasetError(f"column {name!r} does not hold the labels of the schema", str(error)) from error
    missing = found.is_null().to_numpy()
    if missing.any():
        row = int(np.argmax(missing))
        raise DatasetError(
            f"column {name!r} holds values that are no label of the schema in {columns.first_rows(missing)}",
            f"row {row} holds {column[row].as_py()!r}; the labels are {', '.join(map(repr, schema.labels))}",
            "add the missing label, or correct the rows",
        )
    return found.to_numpy().astype(np.int64)


def _codes(table: pa.Table, name: str) -> Array:
    """Return the episode of each row as a number, in the order of their first rows."""
    column = _column(table, name)
    empty = column.is_null().to_numpy()
    if empty.any():
        raise DatasetError(f"column {name!r} has empty cells in {columns.first_rows(empty)}", "", "name every episode")
    try:
        return np.asarray(pc.dictionary_encode(_whole(column)).indices.to_numpy(zero_copy_only=False)).astype(np.int64)
    except pa.ArrowException as error:
        raise DatasetError(f"column {name!r} cannot tell episodes apart", str(error)) from error


def _times(table: pa.Table, name: str) -> Array:
    """Return the timestep of each row: int64 if it may count steps, float64 if it is a time."""
    column = _column(table, name)
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())
        return _numbers(pa.table({name: column}), name).astype(np.float64)  # a date is never a count of steps
    values = _numbers(table, name)
    if values.ndim != 1:
        raise DatasetError(f"column {name!r} holds lists, not time steps")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DatasetError(f"column {name!r} is not finite in {columns.first_rows(~np.isfinite(values))}")
    if values.dtype.kind == "f" and not ((values == np.floor(values)) & (np.abs(values) < 2**53)).all():
        return values.astype(np.float64)
    return values.astype(np.int64)


def _flags(table: pa.Table, name: str) -> Array:
    """Return a column of truth values: booleans, 0 and 1, or the words of `TRUE` and `FALSE`."""
    column = _column(table, name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return columns.flags(name, _numbers(table, name))
    words = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    true = pc.is_in(words, pa.array(TRUE)).to_numpy()
    unclear = ~(true | pc.is_in(words, pa.array(FALSE)).to_numpy())
    if unclear.any():
        row = int(np.argmax(unclear))
        raise DatasetError(
            f"column {name!r} is neither true nor false in {columns.first_rows(unclear)}",
            f"row {row} holds {column[row].as_py()!r}",
            "write true or false, or 1 or 0",
        )
    return np.asarray(true)


def _starts(episodes: Array | None, times: Array | None, schema: TableSchema, where: str) -> tuple[Array | None, int]:
    """Return (first row of each episode, or None if nothing tells; number of gaps that begin one)."""
    if episodes is None and times is None:
        return None, 0
    splits = 0
    change = np.ones(0, np.bool_)
    if episodes is not None:
        change = episodes[1:] != episodes[:-1]
        back = np.append(False, episodes[1:] < episodes[:-1])
        if back.any():
            raise _unsorted(back, f"{where} returns to an earlier {schema.episode!r}")
    if times is not None:
        before, after = times[:-1], times[1:]
        if episodes is None:
            change = after <= before
        falls = np.append(False, ~change & (after < before))
        if falls.any():
            raise _unsorted(falls, f"{schema.timestep!r} falls within an episode of {where}")
        same = np.append(False, ~change & (after == before))
        if same.any():
            raise DatasetError(
                f"{schema.timestep!r} repeats within an episode of {where} in {columns.first_rows(same)}",
                "two rows claim to be the same step",
                "remove the duplicates",
            )
        if times.dtype.kind == "i" and schema.gaps != "allow":
            missing = ~change & (after != before + 1)
            if missing.any() and schema.gaps == "error":
                raise DatasetError(
                    f"steps are missing within episodes of {where} before "
                    f"{columns.first_rows(np.append(False, missing))}",
                    f"{schema.timestep!r} rises by more than 1, so the next observation of the row before is not known",
                    "set gaps: split to begin an episode there, or gaps: allow if the column is a time and not a count",
                )
            splits = int(np.count_nonzero(missing))
            change = change | missing
    return np.append(0, np.flatnonzero(change) + 1), splits


def _unsorted(rows: Array, what: str) -> DatasetError:
    return DatasetError(
        f"{what} in {columns.first_rows(rows)}",
        "rows are counted from 0; each would follow the wrong one",
        "sort the table, or set sort: true in the schema",
    )


def _completed(observations: Array, following: Array, unknown: Array) -> Array:
    """Fill unknown next observations with the next row's observation; at an episode's end it is removed later."""
    shifted = np.concatenate([observations[1:], observations[-1:]])
    mask = unknown.reshape(-1, *([1] * (observations.ndim - 1)))
    return np.where(mask, shifted, following)


def _forget(dataset: Dataset, unknown: Array) -> Dataset:
    """Mark next observations at the end of episodes that were empty as unknown."""
    lost = unknown & dataset.is_last
    if not lost.any():
        return dataset
    if dataset.next_observations_override is not None:
        return dataset.replace(next_known=~lost)
    if not dataset.last_known.any():
        return dataset
    last = np.append(dataset.episode_starts[1:], dataset.num_transitions) - 1
    keep = np.ones(dataset.num_frames, np.bool_)
    keep[dataset.next_frame_index[lost]] = False
    return dataset.replace(observations=dataset.observations[keep], last_known=dataset.last_known & ~lost[last])
