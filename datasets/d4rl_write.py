"""Writer of datasets in D4RL's HDF5 layout, and the restoring of what it wrote.

Other readers see D4RL's columns: observations, actions, rewards, terminals, timeouts, costs, infos/* and, where every
next observation is known, next_observations. What the layout has no place for lies in the group "offbench": a JSON
description (spaces, environment, reference, provenance), the first row of each episode, which last frames are known,
these frames, next observations of which some are unknown, goals, log_probs and sampling_weights. `read_d4rl` restores
all of it, so a written dataset keeps its fingerprint. Rows are copied in blocks, so a memory-mapped dataset needs no
memory of its size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offbench.datasets.allocation import blocks
from offbench.datasets.columns import Array
from offbench.datasets.dataset import Dataset
from offbench.datasets.description import describe, restore
from offbench.datasets.episodes import interleave, last_frame_index, step_frames
from offbench.datasets.hdf5_files import find, find_column, read_column
from offbench.datasets.write_aside import write_aside
from offbench.errors import DatasetError

GROUP = "offbench"
DESCRIPTION = f"{GROUP}/description"
SCHEMA = "offbench-d4rl-1"
EXTRA_COLUMNS = ("next_known", "goals", "log_probs", "sampling_weights")
PARTLY_KNOWN = f"{GROUP}/next_observations"
CHUNK_BYTES = 1 << 18


def write_d4rl(
    dataset: Dataset, path: str | Path, *, compression: str | None = "gzip", overwrite: bool = False
) -> Path:
    """Write `dataset` to an HDF5 file in D4RL's layout and return its path.

    The file appears complete or not at all. Where some next observation is unknown there is no column
    next_observations, as a made-up row in it would be believed.

    Args:
        path: the file, e.g. "hopper-medium.hdf5".
        compression: "gzip" as D4RL does, "lzf" (faster, larger), or None.
        overwrite: replace a file.

    Raises:
        DatasetError: the file exists, or the dataset holds an info that D4RL's layout has another meaning for.
        StorageError: writing failed.
    """
    return write_aside(path, lambda aside: _write(dataset, aside, compression), overwrite=overwrite)


def _write(dataset: Dataset, path: Path, compression: str | None) -> None:
    with h5py.File(path, "w") as file:

        def put(name: str, like: Array, read: Callable[[slice], Array]) -> None:
            """Store a column shaped like `like` for each transition; `read` gives a block of its rows."""
            row = int(np.prod(like.shape[1:])) * like.dtype.itemsize
            rows = min(dataset.num_transitions, max(1, CHUNK_BYTES // max(1, row)))
            shape = (dataset.num_transitions, *like.shape[1:])
            chunks = (rows, *like.shape[1:]) if row else None  # HDF5 has no chunks of nothing
            column = file.create_dataset(
                name, shape, like.dtype, chunks=chunks, compression=compression if row else None
            )
            for block in blocks(column, multiple=rows):
                column[block] = read(block)

        def put_column(name: str, column: Array) -> None:
            put(name, column, column.__getitem__)

        def frames(rows: slice) -> Array:
            return step_frames(dataset.episode_starts, dataset.last_known, rows)

        put("observations", dataset.observations, lambda rows: dataset.observations[frames(rows)])
        for name, column in (("actions", dataset.actions), ("rewards", dataset.rewards)):
            put_column(name, column)
        put_column("terminals", dataset.terminated)
        put_column("timeouts", dataset.truncated)
        override = dataset.next_observations_override
        if override is not None:
            # Other programs believe every row of next_observations, so placeholders are put where we alone look.
            put_column("next_observations" if dataset.next_known is None else PARTLY_KNOWN, override)
        elif dataset.last_known.all():
            put("next_observations", dataset.observations, lambda rows: dataset.observations[frames(rows) + 1])
        if dataset.costs is not None:
            put_column("costs", dataset.costs)
        for name, column in dataset.infos.items():
            put_column(f"infos/{name}", column)
        for name in EXTRA_COLUMNS:
            if getattr(dataset, name) is not None:
                put_column(f"{GROUP}/{name}", getattr(dataset, name))
        group = file.require_group(GROUP)
        group["episode_starts"] = dataset.episode_starts
        group["last_known"] = dataset.last_known
        last = last_frame_index(dataset.episode_starts, dataset.last_known, dataset.num_transitions)
        if len(last):
            group["last_frames"] = dataset.observations[last]
        description = {
            "schema": SCHEMA,
            "fingerprint": dataset.fingerprint,
            "next_observations_override": override is not None,
            **describe(dataset),
        }
        # A column, not an attribute: attributes end at 64 KB, which the bounds of an image may exceed.
        # Of fixed length: HDF5 itself may loop for ever over damaged text of variable length.
        file[DESCRIPTION] = np.bytes_(json.dumps(description))


def restore_d4rl(file: h5py.File, path: Path) -> dict[str, Any] | None:
    """Return the fields of the `Dataset` that `write_d4rl` wrote to an open file; None if it was written by others.

    Raises:
        DatasetError: a part is missing or does not fit.
    """
    stored = find_column(file, DESCRIPTION)
    if stored is None:
        return None
    try:
        description = json.loads(stored[()]) if stored.dtype.kind == "S" else None
    except ValueError as error:
        raise DatasetError(f"the group {GROUP!r} of {path.name} is damaged", str(error), "copy it again") from error
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        raise DatasetError(
            f"{path.name} was written in a layout that this version does not know",
            f"it has the group {GROUP!r}, but not of {SCHEMA}",
            "read it with the version of offbench that wrote it",
        )

    def column(name: str) -> Array:
        found = find_column(file, name)
        if found is None:
            raise DatasetError(f"{path.name} lacks {name}", "offbench wrote it with the others", "copy it again")
        return read_column(found)

    def optional(name: str) -> Array | None:
        return column(name) if find_column(file, name) is not None else None

    observations, rewards = column("observations"), column("rewards")
    starts, known = column(f"{GROUP}/episode_starts"), column(f"{GROUP}/last_known")
    last_frames = column(f"{GROUP}/last_frames") if known.any() else observations[:0]
    infos: dict[str, Array] = {}
    parts = find(file, "infos")
    if isinstance(parts, h5py.Group):
        parts.visititems(lambda name, item: _collect(infos, name, item))
    return {
        **restore(description),
        "observations": restored_frames(observations, last_frames, starts, known, len(rewards), path),
        "actions": column("actions"),
        "rewards": rewards,
        "terminated": column("terminals"),
        "truncated": column("timeouts"),
        "episode_starts": starts,
        "last_known": known,
        "next_observations_override": (
            column(PARTLY_KNOWN if find_column(file, PARTLY_KNOWN) is not None else "next_observations")
            if description.get("next_observations_override")
            else None
        ),
        "costs": optional("costs"),
        "infos": infos,
        **{name: optional(f"{GROUP}/{name}") for name in EXTRA_COLUMNS},
    }


def _collect(infos: dict[str, Array], name: str, item: h5py.Dataset | h5py.Group) -> None:
    if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf":
        infos[name] = read_column(item)


def restored_frames(
    observations: Array, last_frames: Array, starts: Array, known: Array, rows: int, path: Path
) -> Array:
    """Return the frames of stored observations [N, ...] and last frames, or raise DatasetError if they do not fit."""
    fits = (
        len(observations) == rows
        and last_frames.shape == (int(np.count_nonzero(known)), *observations.shape[1:])
        and last_frames.dtype == observations.dtype
        and known.shape == starts.shape
        and starts.dtype.kind in "iu"
        and len(starts) > 0
        and starts[0] == 0
        and bool((np.diff(starts) > 0).all())
        and starts[-1] < rows
    )
    if not fits:
        raise DatasetError(
            f"the episodes and the last frames that {path.name} stores do not fit its {rows} rows",
            "the file was changed after offbench wrote it",
            f"write it again, or remove what is stored under {GROUP!r} to have it read as another program's file",
        )
    return interleave(observations, last_frames, starts.astype(np.int64), known.astype(np.bool_))
