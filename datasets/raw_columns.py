"""Reads the columns of a file without any demand on them, so that a file that cannot be loaded can still be linted."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offbench.datasets.columns import Array
from offbench.datasets.minari_format import dataset_folder
from offbench.datasets.minari_write import DATA_FILE
from offbench.datasets.table_files import CSV_SUFFIXES, PARQUET_SUFFIXES
from offbench.datasets.table_schema import TableSchema

# What the formats and logs of the field call the same thing.
ROLES: dict[str, tuple[str, ...]] = {
    "observations": ("observations", "obs", "observation", "states", "state"),
    "next_observations": ("next_observations", "next_obs", "next_observation", "next_states", "next_state"),
    "actions": ("actions", "action", "acts", "act"),
    "rewards": ("rewards", "reward", "rew"),
    "terminated": ("terminated", "terminals", "terminal", "terminations", "done", "dones"),
    "truncated": ("truncated", "timeouts", "timeout", "truncations"),
    "costs": ("costs", "cost"),
}
EPISODE_NAMES = ("episode", "episode_id", "episode_ids", "ep", "trajectory", "trajectory_id", "traj_id")
STEP_NAMES = ("timestep", "timesteps", "step", "steps", "t", "time", "time_step", "timestamp")


@dataclass(frozen=True)
class RawColumns:
    """The columns of a file as they are stored.

    Attributes:
        path: the file or folder.
        layout: "HDF5", "NumPy archive", "table" or "Minari".
        columns: arrays by stored name, one row per step where the file is in order.
        unreadable: why a column could not be read, by its stored name ("" for the file as a whole).
        error: why the file could not be loaded as a dataset; "" if it could.
        fix: what the loader suggests.
        episode_problems: (episode, what is wrong with its columns) for files with one group per episode.
        starts: [K] the first row of each episode of such files; empty otherwise.
        episode, step: columns with the number of the episode and of the step in it, by the schema or by their names.
        excused: columns that may hold text or empty cells, by the schema (flags, labels, next observations).
    """

    path: Path
    layout: str
    columns: dict[str, Array] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    error: str = ""
    fix: str = ""
    episode_problems: tuple[tuple[int, str], ...] = ()
    starts: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    episode: str | None = None
    step: str | None = None
    excused: frozenset[str] = frozenset()

    def role(self, role: str) -> Array | None:
        """The column that plays `role` (a key of ROLES), if it is there under one of its names."""
        name = self.stored_name(role)
        return None if name is None else self.columns[name]

    def stored_name(self, role: str) -> str | None:
        """The stored name of the column that plays `role`."""
        words = {normalized(name): name for name in reversed(self.columns)}
        return next((words[word] for word in ROLES[role] if word in words), None)

    def episodes_of(self, rows: Array) -> Array:
        """The episodes of `rows`, each once; empty where episodes are not known."""
        if not len(self.starts) or not len(rows):
            return np.zeros(0, np.int64)
        return np.unique(np.searchsorted(self.starts, rows, side="right") - 1)


def normalized(name: str) -> str:
    """A column's name in lower case with single underscores: "Episode ID" -> "episode_id"."""
    return re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_")


def read_raw(path: Path, schema: TableSchema | None = None) -> RawColumns:
    """Read what can be read of the file or folder at `path`; never raises for its content.

    Args:
        schema: of a table: only its columns are read, and it says which of them count episodes and steps.
    """
    if path.is_dir():
        return _read_minari(path)
    suffix = path.suffix.lower()
    try:
        if suffix in (".hdf5", ".h5"):
            return _read_hdf5(path)
        if suffix == ".npz":
            return _read_npz(path)
        if path.name.lower().endswith((*CSV_SUFFIXES, *PARQUET_SUFFIXES)):
            return _read_table(path, schema)
    except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile, pa.ArrowException) as error:
        # pandas' parser errors are ValueErrors, h5py's are OSError, RuntimeError and KeyError
        return RawColumns(path, "file", unreadable={"": f"{type(error).__name__}: {error}"})
    return RawColumns(path, "file")


def _read_hdf5(path: Path) -> RawColumns:
    columns: dict[str, Array] = {}
    unreadable: dict[str, str] = {}
    with h5py.File(path, "r") as file:
        for name in _leaves(file):
            try:
                values = np.asarray(file[name][()])
            except (OSError, RuntimeError, ValueError, TypeError) as error:
                unreadable[name] = str(error)
                continue
            if values.ndim and not name.startswith("metadata/"):
                columns[name] = values
    return RawColumns(path, "HDF5", columns, unreadable)


def _leaves(group: h5py.Group, prefix: str = "") -> Iterator[str]:
    """Names of all arrays below `group`, also where the file is damaged in parts."""
    for key in group:
        try:
            item = group.get(key)
        except (OSError, RuntimeError, KeyError):
            continue
        if isinstance(item, h5py.Group):
            yield from _leaves(item, f"{prefix}{key}/")
        elif isinstance(item, h5py.Dataset):
            yield f"{prefix}{key}"


def _read_npz(path: Path) -> RawColumns:
    columns: dict[str, Array] = {}
    unreadable: dict[str, str] = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            try:
                values = archive[name]
            except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
                unreadable[name] = str(error)
                continue
            if values.ndim:
                columns[name] = values
    return RawColumns(path, "NumPy archive", columns, unreadable)


def _read_table(path: Path, schema: TableSchema | None) -> RawColumns:
    import pandas as pd

    if path.name.lower().endswith(PARQUET_SUFFIXES):
        frame = pq.read_table(path).to_pandas()
    else:
        frame = pd.read_csv(path, low_memory=False, sep="\t" if ".tsv" in path.suffixes else ",")
    columns = {str(name): frame[name].to_numpy() for name in frame.columns}
    if schema is None:
        episode, step = (
            next((name for name in columns if normalized(name) in names), None) for names in (EPISODE_NAMES, STEP_NAMES)
        )
        return RawColumns(path, "table", columns, episode=episode, step=step)
    text = {schema.terminated, schema.truncated, schema.episode, *schema.next_observations}
    text |= set(schema.actions if schema.labels is not None else ())
    return RawColumns(
        path,
        "table",
        {name: values for name, values in columns.items() if name in schema.columns},
        episode=schema.episode,
        step=schema.timestep,
        excused=frozenset(name for name in text if name is not None),
    )


def _read_minari(path: Path) -> RawColumns:
    """Join the episodes of a Minari HDF5 file; other layouts are left to the loader's own message."""
    folder = dataset_folder(path)
    if folder is None or not (folder / DATA_FILE).is_file():
        return RawColumns(path, "Minari")
    parts: dict[str, list[Array]] = {}
    problems: list[tuple[int, str]] = []
    lengths: list[int] = []
    try:
        promised = int(json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["total_episodes"])
        with h5py.File(folder / DATA_FILE, "r") as file:
            for index in range(promised):
                columns = _episode(file, index)
                if columns is None:
                    problems.append((index, "is missing or unreadable"))
                    continue
                sizes = {name: len(values) for name, values in columns.items()}
                steps = sizes.get("rewards", 0)
                expected = {name: steps + (name == "observations") for name in sizes}
                wrong = [f"{size} {name}" for name, size in sizes.items() if size != expected[name]]
                if wrong or len(columns) < len(_MINARI_COLUMNS):
                    absent = [f"no {name}" for name in _MINARI_COLUMNS if name not in columns]
                    problems.append((index, f"has {', '.join([*wrong, *absent])} for {steps} rewards"))
                    continue
                lengths.append(steps)
                for name, values in columns.items():
                    parts.setdefault(name, []).append(values[:steps])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        return RawColumns(path, "Minari", unreadable={"": f"{type(error).__name__}: {error}"})
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items() if len({a.shape[1:] for a in arrays}) == 1}
    steps_of = np.asarray([] if problems else lengths, np.int64)
    starts = np.cumsum(steps_of) - steps_of
    return RawColumns(path, "Minari", joined, episode_problems=tuple(problems), starts=starts)


_MINARI_COLUMNS = ("observations", "actions", "rewards", "terminations", "truncations")


def _episode(file: h5py.File, index: int) -> dict[str, Array] | None:
    """The plain columns of one episode (composite observations are groups and are left out), or None."""
    try:
        group = file[f"episode_{index}"]
        return {
            name: np.asarray(group[name][()]) for name in _MINARI_COLUMNS if isinstance(group.get(name), h5py.Dataset)
        }
    except (OSError, RuntimeError, KeyError, ValueError):
        return None
