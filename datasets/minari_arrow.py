"""Columns of Minari datasets stored as Arrow or Parquet: one directory per episode with one or more part files.

A part holds T + 1 rows per episode; all columns but the observations are padded in the last row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from gymnasium import spaces

from offbench.datasets.columns import Array
from offbench.datasets.minari_images import decode_images, is_image_space
from offbench.errors import DatasetError

# What pyarrow and NumPy raise for damaged files and for columns of another type than the space says.
FAILURES = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, MemoryError)
COLUMNS = ("observations", "actions", "rewards", "terminations", "truncations")


def read_arrow_columns(
    folder: Path,
    data_format: str,
    episodes: int,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    jpeg: bool,
) -> Iterator[dict[str, Any]]:
    """Yield observations, actions, rewards, terminated, truncated and infos of each episode, in order.

    Raises:
        DatasetError: an episode is missing or damaged, or its number of rows is not its steps + 1.
    """
    for index in range(episodes):
        try:
            yield _read_episode(folder, data_format, index, observation_space, action_space, jpeg)
        except FAILURES as error:
            raise DatasetError(
                f"episode {index} in {folder} does not hold what metadata.json says",
                f"{type(error).__name__}: {error}",
                "download or copy the dataset again",
            ) from error


def _read_episode(
    folder: Path,
    data_format: str,
    index: int,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    jpeg: bool,
) -> dict[str, Any]:
    table = _read_table(folder / str(index), data_format)
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DatasetError(f"episode {index} in {folder} lacks {', '.join(missing)}")
    _check_rows(folder / str(index), index, table.num_rows)
    columns = {name: _one_array(table.column(name)) for name in table.column_names}
    steps = max(0, table.num_rows - 1)
    infos: dict[str, Array] = {}
    if "infos" in columns:
        _collect_infos(columns["infos"], "", infos)
    return {
        "observations": _decode(columns["observations"], observation_space, jpeg),
        "actions": _decode(columns["actions"].slice(0, steps), action_space, jpeg),
        "rewards": _numbers(columns["rewards"].slice(0, steps)),
        "terminated": _numbers(columns["terminations"].slice(0, steps)),
        "truncated": _numbers(columns["truncations"].slice(0, steps)),
        "infos": infos,
    }


def _read_table(episode: Path, data_format: str) -> pa.Table:
    parts = sorted(episode.glob(f"*.{data_format}"), key=lambda part: (len(part.name), part.name))
    if not parts:
        raise DatasetError(
            f"no {data_format} file in {episode}",
            "metadata.json promises this episode",
            "download or copy the dataset again",
        )
    try:
        if data_format == "parquet":
            table = pa.concat_tables([pq.read_table(part, partitioning=None) for part in parts])
        else:
            table = pa.concat_tables([pa.ipc.open_file(part).read_all() for part in parts])
        table.validate(full=True)  # a damaged offset would be read beyond the end of its buffer
        return table
    except FAILURES as error:
        raise DatasetError(
            f"{episode} is damaged or incomplete", str(error), "download or copy the dataset again"
        ) from error


def _check_rows(episode: Path, index: int, rows: int) -> None:
    """Compare the number of rows with the steps that the episode's own metadata promises, if it has any."""
    try:
        steps = json.loads((episode / "metadata.json").read_text(encoding="utf-8")).get("total_steps", rows - 1)
    except FileNotFoundError:
        return
    except (ValueError, AttributeError, OSError) as error:
        raise DatasetError(f"{episode / 'metadata.json'} is damaged", str(error)) from error
    if rows != steps + 1:
        raise DatasetError(
            f"episode {index} has {rows} observations for {steps} steps, expected {steps + 1}",
            "an episode stores the observation after its last step too",
            "download a newer version of the dataset",
        )


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks)


def _numbers(array: pa.Array) -> Array:
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _decode(array: pa.Array, space: spaces.Space[Any], jpeg: bool) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _decode(_field(array, key), part, jpeg) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return [_decode(_field(array, str(i)), part, jpeg) for i, part in enumerate(space.spaces)]
    if jpeg and is_image_space(space):
        return decode_images(array.to_pylist(), space.shape or ())
    if pa.types.is_fixed_size_list(array.type):
        # flatten() honours a slice's offset; `.values` would not.
        return _numbers(array.flatten()).reshape(len(array), *(space.shape or ()))
    return _numbers(array)


def _field(array: pa.StructArray, name: str) -> pa.Array:
    index = array.type.get_field_index(name)
    if index < 0:
        raise KeyError(f"there is no {name!r} in {array.type}")
    return array.flatten()[index]


def _collect_infos(array: pa.StructArray, prefix: str, infos: dict[str, Array]) -> None:
    """Collect numeric leaves [T + 1, ...] under names joined by "/"; others are left out."""
    for field, column in zip(array.type, array.flatten(), strict=True):
        name = f"{prefix}{field.name}"
        if pa.types.is_struct(field.type):
            _collect_infos(column, f"{name}/", infos)
        elif pa.types.is_fixed_size_list(field.type):
            shape = (field.metadata or {}).get(b"shape", b"").decode()
            sizes = [int(size) for size in shape.split(",") if size] or ([] if shape == "" and field.metadata else [-1])
            infos[name] = _numbers(column.flatten()).reshape(len(column), *sizes)
        else:
            infos[name] = _numbers(column)
