"""Writer of datasets in Minari's HDF5 format, so that every tool of that ecosystem can open them.

What Minari has no place for goes where its reader ignores it: the columns of `EXTRA_COLUMNS` under the info
"offbench/...", and which last frames are unknown, the reference and the provenance under the metadata key "offbench".
`read_minari` restores all of it, so a written dataset keeps its fingerprint.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np

from offbench.datasets.columns import Array
from offbench.datasets.dataset import Dataset
from offbench.datasets.spaces import space_to_json
from offbench.errors import DatasetError, StorageError

DATA_FILE = "main_data.hdf5"
METADATA_KEY = "offbench"
# The version whose layout is written; Minari refuses to open any version that it does not list.
MINARI_VERSION = "0.5.3"
EXTRA_COLUMNS = ("next_observations_override", "next_known", "costs", "goals", "log_probs", "sampling_weights")
ID_PATTERN = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")


def write_minari(
    dataset: Dataset,
    directory: str | Path,
    dataset_id: str,
    *,
    algorithm_name: str = "",
    author: str = "",
    description: str = "",
    overwrite: bool = False,
) -> Path:
    """Write `dataset` below a root of Minari datasets and return its folder, `directory / dataset_id`.

    The folder appears complete or not at all: it is written aside and renamed. With MINARI_DATASETS_PATH set to
    `directory`, `minari.load_dataset(dataset_id)` opens it. Observations are stored losslessly (no JPEG).

    Args:
        directory: the root, e.g. ~/.minari/datasets.
        dataset_id: "(namespace/)name-v<number>".
        algorithm_name, author, description: stored as Minari's metadata.
        overwrite: replace a dataset of that id.

    Raises:
        DatasetError: a malformed id, or the folder exists.
        StorageError: writing failed.
    """
    if not ID_PATTERN.fullmatch(dataset_id):
        raise DatasetError(
            f"{dataset_id!r} is not a Minari dataset id",
            "Minari needs (namespace/)name-v<number>, of letters, digits, '-' and '_'",
            "for example 'myteam/hopper-logs-v0'",
        )
    target = Path(directory) / dataset_id
    if target.exists() and not overwrite:
        raise DatasetError(f"{target} exists already", "", "choose another id or version, or pass overwrite=True")
    # Next to the target, so that renaming stays on one file system; Minari skips names with a leading dot.
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        data = aside / "new" / "data"
        data.mkdir(parents=True)
        _write_episodes(dataset, data / DATA_FILE)
        size = round((data / DATA_FILE).stat().st_size / 1e6, 1)
        metadata = _metadata(dataset, dataset_id, size)
        metadata |= {
            "algorithm_name": algorithm_name,
            "author": [author] if author else [],
            "description": description,
        }
        (data / "metadata.json").write_text(json.dumps(metadata, default=_plain), encoding="utf-8")
        if target.exists():
            target.rename(aside / "old")
        (aside / "new").rename(target)
    except OSError as error:
        raise StorageError(
            f"cannot write the dataset to {target}", str(error), "free disk space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _write_episodes(dataset: Dataset, path: Path) -> None:
    frame_starts = dataset.frame_index[dataset.episode_starts].tolist()
    starts = [*dataset.episode_starts.tolist(), dataset.num_transitions]
    columns = {
        "actions": dataset.actions,
        "rewards": dataset.rewards,
        "terminations": dataset.terminated,
        "truncations": dataset.truncated,
        **{f"infos/{name}": column for name, column in dataset.infos.items()},
    }
    for name in EXTRA_COLUMNS:
        if getattr(dataset, name) is not None:
            columns[f"infos/{METADATA_KEY}/{name}"] = getattr(dataset, name)
    # libver="latest" makes groups compact; a dataset has thousands of them.
    with h5py.File(path, "w", libver="latest") as file:
        for index in range(dataset.num_episodes):
            begin, end = starts[index], starts[index + 1]
            group = file.create_group(f"episode_{index}")
            group.attrs["id"] = index
            group.attrs["total_steps"] = end - begin
            frame = frame_starts[index]
            frames = dataset.observations[frame : frame + end - begin + 1]
            if not dataset.last_known[index]:
                # Minari's layout has no way to say "unknown": repeat the last frame, and say so in the metadata.
                frames = frames[: end - begin]
                frames = np.concatenate([frames, frames[-1:]])
            _put(group, "observations", frames)
            for name, column in columns.items():
                _put(group, name, column[begin:end])


def _put(group: h5py.Group, name: str, values: Array) -> None:
    """Store a column through h5py's low level, which takes half the time of `group[name] = values`."""
    if "/" in name:
        group.require_group(name.rpartition("/")[0])
    space = h5py.h5s.create_simple(values.shape)
    kind = h5py.h5t.py_create(values.dtype, logical=True)
    column = h5py.h5d.create(group.id, name.encode(), kind, space)
    column.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values))


def _metadata(dataset: Dataset, dataset_id: str, megabytes: float) -> dict[str, Any]:
    reference = dataset.reference
    metadata: dict[str, Any] = {
        "total_episodes": dataset.num_episodes,
        "total_steps": dataset.num_transitions,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": space_to_json(dataset.observation_space),
        "action_space": space_to_json(dataset.action_space),
        "dataset_id": dataset_id,
        "minari_version": MINARI_VERSION,
        "dataset_size": megabytes,
        "author_email": [],
        "code_permalink": "",
        "requirements": [],
        "combined_datasets": [],
        "ref_min_score": None if reference is None else reference.minimum,
        "ref_max_score": None if reference is None else reference.maximum,
        METADATA_KEY: {
            "name": dataset.name,
            "environment": dataset.environment,
            "fingerprint": dataset.fingerprint,
            "reference": None if reference is None else asdict(reference),
            "provenance": {
                "source": dataset.provenance.source,
                "details": dict(dataset.provenance.details),
                "transforms": [
                    {"name": record.name, "parameters": dict(record.parameters), "seed": record.seed}
                    for record in dataset.provenance.transforms
                ],
            },
            "unknown_last": np.flatnonzero(~dataset.last_known).tolist(),
        },
    }
    specification = _environment_spec(dataset.environment)
    if specification is not None:
        metadata["env_spec"] = specification
    return metadata


def _environment_spec(environment: str | None) -> str | None:
    """Return the registered spec as JSON, or None; without it Minari opens the data but cannot make the environment."""
    if environment is None:
        return None
    try:
        return str(gymnasium.spec(environment).to_json())
    except (gymnasium.error.Error, ImportError, TypeError):
        return None


def _plain(value: Any) -> Any:
    """Make provenance details JSON-able: arrays and NumPy numbers become lists and numbers, the rest text."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
