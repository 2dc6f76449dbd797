"""Reader of HDF5 files in D4RL's flat layout: one row per step, episodes one after another.

Layout (Fu et al. 2020, https://github.com/Farama-Foundation/D4RL): observations, actions, rewards, terminals, and
optionally timeouts, next_observations, costs, infos/*, metadata/*. Row t holds s_t, a_t, r_t and whether the
environment ended (terminals) or the episode was cut (timeouts) at that step. Sets that are too large for one array
hold the same columns under `virtual/<number of the chunk>`. Unlike `d4rl.qlearning_dataset` no step is dropped, and
the next observation is never taken from the following episode. What `write_d4rl` stored beside the columns is restored.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces

from offbench.datasets import columns
from offbench.datasets.columns import Array, freeze
from offbench.datasets.d4rl_write import GROUP, restore_d4rl
from offbench.datasets.dataset import Dataset
from offbench.datasets.episodes import starts_after, truncated_at_horizon
from offbench.datasets.hdf5_files import find, find_column, open_hdf5, read_column
from offbench.datasets.records import Provenance, Reference
from offbench.datasets.restored import restored_dataset
from offbench.datasets.task_facts import task_facts
from offbench.errors import DatasetError

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations", "costs")
CHUNKS = "virtual"


def read_d4rl(
    path: str | Path,
    *,
    environment: str | None = None,
    reference: Reference | None = None,
    horizon: int | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
    chunk: int | None = None,
    name: str | None = None,
    source: str | None = None,
) -> Dataset:
    """Read an HDF5 file in D4RL's layout.

    Args:
        path: the file.
        environment: Gymnasium id, e.g. "Hopper-v4". The action space and the time limit follow from it unless
            they are given, and so does the reference if D4RL has datasets of that environment.
        reference: of the normalized score.
        horizon: time limit in steps; marks the truncations of a file without `timeouts`.
        observation_space, action_space: defaults are an unbounded Box and that of the known environment.
        chunk: of a chunked set, the number of the only chunk to read; by default all are read in order, and each
            begins an episode because the file does not say whether the one before it goes on.
        name: defaults to the file's stem.
        source: recorded in the provenance; defaults to "file:NAME".

    Raises:
        DatasetError: no such file, a damaged file, missing or inconsistent columns, or unknown episode ends.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        stored = restore_d4rl(file, path)
    if stored is not None:
        return restored_dataset(
            stored,
            path,
            environment=environment,
            reference=reference,
            observation_space=observation_space,
            action_space=action_space,
            name=name,
        )
    task = task_facts(
        environment,
        action_space=action_space,
        observation_space=observation_space,
        horizon=horizon,
        reference=reference,
    )
    details: dict[str, Any] = {"file": path.name, "format": "D4RL HDF5"}
    with open_hdf5(path) as file:
        groups = _chunks(file, chunk, path)
        if groups is None:
            arrays, infos, ignored = _read_columns(file, path)
        else:
            details["chunks"] = list(groups)
            arrays, infos, ignored = {}, {}, []
            parts = [_read_columns(group, path)[0] for group in groups.values()]
    if groups is not None:
        arrays = _join_chunks(parts, task.horizon, path)
    starts = arrays.pop("episode_starts", None)
    if "timeouts" not in arrays and task.horizon is None:
        raise _no_cuts(path)
    space = task.require_action_space(path.name)
    if ignored:
        details["ignored"] = ignored
    return Dataset.from_arrays(
        arrays["observations"],
        arrays["actions"],
        arrays["rewards"],
        arrays["terminals"],
        arrays.get("timeouts"),
        next_observations=arrays.get("next_observations"),
        episode_starts=starts,
        observation_space=task.observation_space,
        action_space=space,
        environment=environment,
        reference=task.reference,
        horizon=task.horizon,
        name=name or path.stem,
        infos=infos,
        provenance=Provenance(source or f"file:{path.name}", details),
        costs=arrays.get("costs"),
    )


def row_sizes(path: str | Path) -> tuple[int, int] | None:
    """Return (observation size, action size) of a D4RL-layout file without reading its rows.

    None if the rows are not flat, or if `write_d4rl` wrote the file: that tells its task itself.
    """
    with open_hdf5(Path(path)) as file:
        if find(file, GROUP) is not None:
            return None
        found = [find_column(file, key) for key in ("observations", "actions")]
        sizes = [int(column.shape[1]) for column in found if column is not None and len(column.shape) == 2]
    return (sizes[0], sizes[1]) if len(sizes) == 2 else None


def _no_cuts(path: Path) -> DatasetError:
    return DatasetError(
        f"{path.name} has no 'timeouts' column and the time limit is unknown",
        "without either, an episode cut by the time limit looks as if it went on in the next one",
        "pass horizon= (time limit in steps) or environment= of a known D4RL task",
    )


def _chunks(file: h5py.File, chunk: int | None, path: Path) -> dict[int, h5py.Group] | None:
    """Return the chunks to read by number, in order; None if the file is not chunked."""
    parent = find(file, CHUNKS)
    if not isinstance(parent, h5py.Group) or find_column(file, "observations") is not None:
        if chunk is not None:
            raise DatasetError(f"{path.name} is not a chunked set", f"there is no group {CHUNKS!r}", "leave out chunk=")
        return None
    numbers = sorted(int(key) for key in parent if key.isdecimal())
    if chunk is not None and chunk not in numbers:
        raise DatasetError(f"{path.name} has no chunk {chunk}", "", f"its chunks are {numbers}")
    chosen = numbers if chunk is None else [chunk]
    groups = {number: find(parent, str(number)) for number in chosen}
    whole = {number: group for number, group in groups.items() if isinstance(group, h5py.Group)}
    if not whole or len(whole) < len(groups):
        raise DatasetError(f"{path.name} has no readable chunks", f"{CHUNKS!r} holds {', '.join(parent) or 'nothing'}")
    return whole


def _join_chunks(parts: list[dict[str, Array]], horizon: int | None, path: Path) -> dict[str, Array]:
    """Concatenate the columns of chunks; each chunk begins an episode."""
    names = set(parts[0])
    if any(set(part) != names for part in parts):
        raise DatasetError(f"the chunks of {path.name} have different columns", "", "read them one by one with chunk=")
    starts, first = [], 0
    for part in parts:
        terminals = columns.flags("terminals", part["terminals"])
        if "timeouts" not in part:
            if horizon is None:
                raise _no_cuts(path)
            part["timeouts"] = truncated_at_horizon(terminals, horizon)
        starts.append(starts_after(terminals | columns.flags("timeouts", part["timeouts"])) + first)
        first += len(terminals)
    joined = {name: freeze(np.concatenate([part[name] for part in parts])) for name in parts[0]}
    return {**joined, "episode_starts": np.concatenate(starts)}


def _read_columns(group: h5py.Group, path: Path) -> tuple[dict[str, Array], dict[str, Array], list[str]]:
    """Return the known columns, the infos, and the names of everything that was not read."""
    found = {key: find_column(group, key) for key in (*REQUIRED, *OPTIONAL)}
    missing = [key for key in REQUIRED if found[key] is None]
    if missing:
        raise DatasetError(
            f"{path.name} lacks {', '.join(missing)}",
            f"it holds {', '.join(sorted(group)) or 'nothing'}; D4RL's layout needs {', '.join(REQUIRED)}",
            "convert the file, or build the dataset with Dataset.from_arrays",
        )
    present = {key: column for key, column in found.items() if column is not None}
    require_equal_rows({key: column.shape for key, column in present.items()}, path)
    arrays = {key: read_column(column) for key, column in present.items()}
    rows = len(arrays["rewards"])
    infos: dict[str, Array] = {}
    ignored: list[str] = []

    def visit(key: str, item: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(item, h5py.Dataset) or key in arrays:
            return
        if key.startswith("infos/") and item.shape[:1] == (rows,) and item.dtype.kind in "biuf":
            infos[key.removeprefix("infos/")] = read_column(item)
        else:
            ignored.append(key)

    _visit_all(group, visit)
    return arrays, infos, sorted(ignored)


def require_equal_rows(shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Raise DatasetError unless all columns have the same number of rows, and at least one."""
    rows = {name: shape[0] if shape else -1 for name, shape in shapes.items()}
    if len(set(rows.values())) > 1 or min(rows.values()) < 1:
        counts = ", ".join(f"{name} {'no axis' if count < 0 else f'{count:,}'}" for name, count in rows.items())
        raise DatasetError(
            f"the columns of {path.name} do not have one row per step each",
            f"rows: {counts}",
            "the file is damaged, or was written by a program that failed: download or record it again",
        )


def _visit_all(group: h5py.Group, visit: Callable[[str, Any], None]) -> None:
    # visititems follows no links, and stops at the first result that is not None; `visit` returns None always.
    group.visititems(visit)
