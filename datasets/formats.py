"""File formats by name: which one a path holds, and the one way to read a dataset from a path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offbench.datasets.column_cache import cached_read
from offbench.datasets.d4rl import read_d4rl, row_sizes
from offbench.datasets.d4rl_write import DESCRIPTION
from offbench.datasets.dataset import Dataset
from offbench.datasets.dsrl import REQUIRED as DSRL_COLUMNS
from offbench.datasets.dsrl import read_dsrl
from offbench.datasets.hdf5_files import find_column, open_hdf5
from offbench.datasets.minari_format import dataset_folder, read_minari
from offbench.datasets.minari_write import DATA_FILE
from offbench.datasets.neorl2 import REQUIRED as NEORL_COLUMNS
from offbench.datasets.neorl2 import read_neorl2
from offbench.datasets.npz import read_npz
from offbench.datasets.npz_files import open_npz
from offbench.datasets.ogbench import REQUIRED as OGBENCH_COLUMNS
from offbench.datasets.ogbench import read_ogbench
from offbench.datasets.references import D4RLEntry, entry_for_file_name
from offbench.datasets.table_files import CSV_SUFFIXES, PARQUET_SUFFIXES
from offbench.datasets.tables import read_table
from offbench.errors import DatasetError, UnknownNameError

HDF5_SUFFIXES = (".hdf5", ".h5")
NPZ_SUFFIXES = (".npz",)


@dataclass(frozen=True)
class Format:
    """One format that can be read.

    Attributes:
        name: what `format=` takes.
        description: one line for people.
        suffixes: how its files end; empty for folders.
        read: the reader, called as `read(path, **options)`; its keyword-only parameters are the options.
    """

    name: str
    description: str
    suffixes: tuple[str, ...]
    read: Callable[..., Dataset]


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("d4rl", "HDF5, one row per step, in D4RL's layout", HDF5_SUFFIXES, read_d4rl),
        Format("minari", "folder of a Minari dataset (HDF5, Arrow or Parquet)", (), read_minari),
        Format("dsrl", "HDF5 in D4RL's layout with costs, as DSRL has it", HDF5_SUFFIXES, read_dsrl),
        Format("ogbench", "npz of OGBench: trajectories of L + 1 rows without rewards", NPZ_SUFFIXES, read_ogbench),
        Format("neorl2", "npz of NeoRL or NeoRL-2", NPZ_SUFFIXES, read_neorl2),
        Format("csv", "CSV table with a schema of its columns", CSV_SUFFIXES, read_table),
        Format("parquet", "Parquet table, a file or a folder, with a schema", PARQUET_SUFFIXES, read_table),
        Format("npz", "npz with columns named as in a Dataset or in D4RL", NPZ_SUFFIXES, read_npz),
    )
}


def looks_like_path(name: str) -> bool:
    """Whether `name` can be meant as a path: it ends as the files of a format do, or is the folder of a dataset."""
    suffixes = tuple(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
    return name.lower().endswith(suffixes) or dataset_folder(Path(name).expanduser()) is not None


def detect_format(path: Path) -> str:
    """Return the name of the format of the file or folder at `path`, by its suffix and content.

    Raises:
        DatasetError: nothing is there, or no format fits.
    """
    if not path.exists():
        raise DatasetError(f"no dataset at {path}", "", "check the path; `offbench data list` shows the known ids")
    if path.is_dir():
        if dataset_folder(path) is not None:
            return "minari"
        if any(part.name.lower().endswith(PARQUET_SUFFIXES) for part in path.iterdir()):
            return "parquet"
        raise DatasetError(
            f"no Minari dataset at {path}",
            "there is no data/metadata.json, and no Parquet file either",
            "pass the folder <root>/<namespace>/<name>-v<k> of a Minari dataset, or a file",
        )
    name = path.name.lower()
    if name.endswith(HDF5_SUFFIXES):
        if path.name == DATA_FILE and dataset_folder(path.parent) is not None:
            return "minari"
        return _of_hdf5(path)
    if name.endswith(NPZ_SUFFIXES):
        return _of_npz(path)
    for entry in FORMATS.values():
        if name.endswith(entry.suffixes):
            return entry.name
    raise DatasetError(
        f"the format of {path} is not known",
        f"files end in {', '.join(sorted({s for entry in FORMATS.values() for s in entry.suffixes}))}",
        f"pass format= one of {', '.join(FORMATS)}",
    )


def _of_hdf5(path: Path) -> str:
    with open_hdf5(path) as file:
        found = set(file)
    return "dsrl" if found.issuperset(DSRL_COLUMNS) and not _says_its_task(path) else "d4rl"


def _of_npz(path: Path) -> str:
    with open_npz(path) as file:
        found = set(file)
    if found.issuperset(NEORL_COLUMNS):
        return "neorl2"
    return "ogbench" if found.issuperset(OGBENCH_COLUMNS) and "rewards" not in found else "npz"


def read_path(path: str | Path, *, format: str | None = None, **options: Any) -> Dataset:
    """Read the dataset at `path`, from the column cache if it was read before and has not changed.

    Args:
        path: a file, or the folder of a dataset.
        format: a name of `FORMATS`; found by `detect_format` if it is not given.
        options: those of the format's reader.

    Raises:
        UnknownNameError: no such format, or an option that its reader does not take.
        DatasetError: the data are missing, damaged or of no known format.
    """
    path = Path(path).expanduser()
    if format is not None and format not in FORMATS:
        raise UnknownNameError("dataset format", format, FORMATS)
    entry = FORMATS[format or detect_format(path)]
    if entry.name == "minari" and path.name == DATA_FILE:
        path = path.parent
    check_options(str(path), options, entry.read)
    return cached_read(path, lambda: _read(entry, path, options), options=options, format=entry.name)


def _read(entry: Format, path: Path, options: dict[str, Any]) -> Dataset:
    """Read `path`; a file in D4RL's layout that is named after a task of D4RL is taken to be of that task."""
    if entry.name != "d4rl" or "environment" in options:
        return entry.read(path, **options)
    task = _task_by_name(path)
    if task is None:
        return entry.read(path, **options)
    dataset = entry.read(path, **{**task_options(task), **options})
    note = f"the task is D4RL's {task.id}, by the file's name and the sizes of its rows"
    details = {**dataset.provenance.details, "inferred": note}
    return dataset.replace(provenance=replace(dataset.provenance, details=details))


def check_options(dataset: str, options: Mapping[str, Any], reader: Callable[..., Any]) -> None:
    """Raise UnknownNameError for an option that is no keyword-only parameter of `reader`."""
    parameters = inspect.signature(reader).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            raise UnknownNameError(f"option for dataset {dataset!r}:", name, known)


def task_options(entry: D4RLEntry) -> dict[str, Any]:
    """Return what D4RL's table knows about a task, as options of `read_d4rl`."""
    known = {
        "environment": entry.environment,
        "reference": entry.reference,
        "horizon": entry.horizon,
        "action_space": entry.action_space,
    }
    return {name: value for name, value in known.items() if value is not None}


def _says_its_task(path: Path) -> bool:
    """Whether `write_d4rl` wrote the file, with the environment and all else that a name could suggest."""
    with open_hdf5(path) as file:
        return find_column(file, DESCRIPTION) is not None


def _task_by_name(path: Path) -> D4RLEntry | None:
    """Return the D4RL entry that the name suggests, if the rows of the file have its sizes."""
    entry = entry_for_file_name(path.stem)
    if entry is None or None in (entry.observation_size, entry.action_size) or _says_its_task(path):
        return None
    return entry if row_sizes(path) == (entry.observation_size, entry.action_size) else None
