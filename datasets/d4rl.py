"""Reader of HDF5 files in D4RL's flat layout: one row per step, episodes one after another.

Layout (Fu et al. 2020, https://github.com/Farama-Foundation/D4RL): observations, actions, rewards, terminals, and
optionally timeouts, next_observations, costs, infos/*, metadata/*. Row t holds s_t, a_t, r_t and whether the
environment ended (terminals) or the episode was cut (timeouts) at that step. Unlike `d4rl.qlearning_dataset` no step
is dropped, and the next observation is never taken from the following episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array, freeze
from offbench.datasets.dataset import Dataset
from offbench.datasets.records import Provenance, Reference
from offbench.datasets.references import entry_for_environment
from offbench.datasets.spaces import environment_facts
from offbench.errors import DatasetError

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations", "costs")


def read_d4rl(
    path: str | Path,
    *,
    environment: str | None = None,
    reference: Reference | None = None,
    horizon: int | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
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
        name: defaults to the file's stem.
        source: recorded in the provenance; defaults to "file:NAME".

    Raises:
        DatasetError: no such file, a damaged file, missing or inconsistent columns, or unknown episode ends.
    """
    path = Path(path)
    known = entry_for_environment(environment) if environment else None
    if known is not None:
        reference = reference or known.reference
        horizon = horizon or known.horizon
        action_space = action_space or known.action_space
    elif environment is not None and (action_space is None or horizon is None):
        facts = environment_facts(environment)
        action_space = action_space or facts.action_space
        observation_space = observation_space or facts.observation_space
        horizon = horizon or facts.horizon
    with open_hdf5(path) as file:
        arrays, infos, ignored = _read_columns(file, path)
    if "timeouts" not in arrays and horizon is None:
        raise DatasetError(
            f"{path.name} has no 'timeouts' column and the time limit is unknown",
            "without either, an episode cut by the time limit looks as if it went on in the next one",
            "pass horizon= (time limit in steps) or environment= of a known D4RL task",
        )
    if action_space is None:
        raise DatasetError(
            f"the action space of {path.name} is not known",
            "the file does not store it and it is never guessed from the values",
            "pass environment='Hopper-v4' (or another known task) or action_space=gymnasium.spaces.Box(...)",
        )
    details: dict[str, Any] = {"file": path.name, "format": "D4RL HDF5"}
    if ignored:
        details["ignored"] = ignored
    return Dataset.from_arrays(
        arrays["observations"],
        arrays["actions"],
        arrays["rewards"],
        arrays["terminals"],
        arrays.get("timeouts"),
        next_observations=arrays.get("next_observations"),
        observation_space=observation_space,
        action_space=action_space,
        environment=environment,
        reference=reference,
        horizon=horizon,
        name=name or path.stem,
        infos=infos,
        provenance=Provenance(source or f"file:{path.name}", details),
        costs=arrays.get("costs"),
    )


def row_sizes(path: str | Path) -> tuple[int, int] | None:
    """Return (observation size, action size) of a D4RL-layout file without reading its rows; None if not flat."""
    with open_hdf5(Path(path)) as file:
        columns = [file.get(key) for key in ("observations", "actions")]
        sizes = [int(c.shape[1]) for c in columns if isinstance(c, h5py.Dataset) and len(c.shape) == 2]
    return (sizes[0], sizes[1]) if len(sizes) == 2 else None


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; every failure of h5py inside the block becomes a DatasetError naming the file."""
    if not path.is_file():
        raise DatasetError(f"no dataset file at {path}", "", "check the path")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise DatasetError(
            f"{path} is a damaged or incomplete file",
            f"HDF5 says: {error}",
            "delete it and download or copy it again",
        ) from error


def _read_columns(file: h5py.File, path: Path) -> tuple[dict[str, Array], dict[str, Array], list[str]]:
    """Return the known columns, the infos, and the names of everything that was not read."""
    missing = [key for key in REQUIRED if not isinstance(file.get(key), h5py.Dataset)]
    if missing:
        raise DatasetError(
            f"{path.name} lacks {', '.join(missing)}",
            f"it holds {', '.join(sorted(file)) or 'nothing'}; D4RL's layout needs {', '.join(REQUIRED)}",
            "convert the file, or build the dataset with Dataset.from_arrays",
        )
    arrays = {key: _read(file[key]) for key in (*REQUIRED, *OPTIONAL) if key in file}
    rows = len(arrays["rewards"])
    infos: dict[str, Array] = {}
    ignored: list[str] = []

    def visit(key: str, item: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(item, h5py.Dataset) or key in arrays:
            return
        if key.startswith("infos/") and item.shape[:1] == (rows,) and item.dtype.kind in "biuf":
            infos[key.removeprefix("infos/")] = _read(item)
        else:
            ignored.append(key)

    _visit_all(file, visit)
    return arrays, infos, sorted(ignored)


def _visit_all(file: h5py.File, visit: Callable[[str, Any], None]) -> None:
    # visititems stops at the first result that is not None; `visit` returns None for every item.
    file.visititems(visit)


def _read(column: h5py.Dataset) -> Array:
    """Read a whole column at once into a private read-only array; (N, 1) rewards and flags are squeezed later."""
    return freeze(np.asarray(column[()]))
