"""Datasets by name: built-in recipes, D4RL ids, Minari ids and local files, found locally or downloaded."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium import spaces

from offbench.datasets.d4rl import read_d4rl
from offbench.datasets.dataset import Dataset
from offbench.datasets.download import cache_dir, download
from offbench.datasets.formats import check_options, looks_like_path, read_path, task_options
from offbench.datasets.minari_format import dataset_folder, minari_root, read_minari
from offbench.datasets.records import Reference
from offbench.datasets.references import D4RLEntry, d4rl_entries
from offbench.datasets.spaces import space_from_json
from offbench.errors import DatasetError, MissingExtraError, SpecError, UnknownNameError

__all__ = ["DatasetEntry", "cache_dir", "list_datasets", "load_dataset"]

MINARI_PREFIX = "minari:"
_MINARI_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset that `load_dataset` knows by name.

    Attributes:
        id: what to pass to `load_dataset`.
        family: "pendulum", "hopper", "antmaze", ...
        environment: Gymnasium id in which policies are evaluated; None if there is no faithful one.
        cached: it is on this machine, so that loading needs neither network nor simulation.
        description: one line.
    """

    id: str
    family: str
    environment: str | None
    cached: bool
    description: str


def load_dataset(id_or_path: str | Path, **options: Any) -> Dataset:
    """Load a dataset by id or path.

    Args:
        id_or_path: one of
            - a built-in recipe, e.g. "pendulum/medium-replay" (generated on first use);
            - a D4RL id, e.g. "hopper-medium-v2" (searched in $D4RL_DATASET_DIR, ~/.d4rl/datasets and the cache,
              then downloaded);
            - a Minari id, "minari:mujoco/hopper/expert-v0" or without the prefix if it has a namespace or is
              there locally (searched in $MINARI_DATASETS_PATH or ~/.minari/datasets, then downloaded);
            - a file or folder in one of `formats.FORMATS`: HDF5 in D4RL's layout, a Minari folder, ...
        options: for paths `format` and those of the format's reader; for D4RL ids those of `read_d4rl` (environment,
            reference, horizon, action_space, observation_space, name); for Minari those of `read_minari`; for
            recipes force and progress. A reference may be a mapping of its fields and a space its JSON description,
            as written in a suite file.

    Raises:
        UnknownNameError: no dataset of that id; the message names near ones.
        SpecError: an option that this kind of dataset does not take.
        DatasetError: the data are missing, cannot be downloaded, or are damaged.
    """
    options = {name: _plain_option(name, value) for name, value in options.items() if value is not None}
    if isinstance(id_or_path, Path):
        return read_path(id_or_path, **options)
    from offbench.datasets import recipes

    name = id_or_path
    if name in recipes.RECIPES:
        check_options(name, options, recipes.load)
        return recipes.load(name, **options)
    if name in d4rl_entries():
        return _load_d4rl(d4rl_entries()[name], options)
    if name.startswith(MINARI_PREFIX):
        return _load_minari(name.removeprefix(MINARI_PREFIX), options)
    if looks_like_path(name):
        return read_path(name, **options)
    if _MINARI_ID.fullmatch(name) and ("/" in name or dataset_folder(minari_root() / name) is not None):
        return _load_minari(name, options)
    raise _unknown(name)


def list_datasets() -> list[DatasetEntry]:
    """Return what can be loaded by name: built-in recipes, D4RL's datasets, and Minari datasets on this machine."""
    from offbench.datasets import recipes

    entries = [
        DatasetEntry(
            id=recipe.id,
            family=recipe.id.partition("/")[0],
            environment=recipe.environment,
            cached=dataset_folder(recipes.dataset_path(recipe)) is not None,
            description=f"built in: {recipe.description}",
        )
        for recipe in recipes.RECIPES.values()
    ]
    entries += [
        DatasetEntry(entry.id, entry.family, entry.environment, _local_d4rl(entry) is not None, "D4RL, downloaded")
        for entry in d4rl_entries().values()
        if entry.url
    ]
    root = minari_root()
    for metadata in sorted(root.glob("**/data/metadata.json")) if root.is_dir() else []:
        dataset_id = metadata.parent.parent.relative_to(root).as_posix()
        family = dataset_id.rpartition("/")[0] or dataset_id
        entries.append(DatasetEntry(f"{MINARI_PREFIX}{dataset_id}", family, None, True, "Minari, on this machine"))
    return entries


def _unknown(name: str) -> UnknownNameError:
    from offbench.datasets import recipes

    known = [*recipes.RECIPES, *(entry.id for entry in d4rl_entries().values() if entry.url)]
    return UnknownNameError(
        "dataset",
        name,
        known,
        fix="`offbench data list` shows the known ids; a path ends in .hdf5 or is a Minari folder, "
        "a Minari id is written minari:NAMESPACE/NAME-v0",
    )


def _plain_option(name: str, value: Any) -> Any:
    """Turn what a suite file can express (mappings) into the objects that readers take."""
    if name == "reference" and isinstance(value, Mapping):
        try:
            fields = {"source": "given by the user", **value}
            return Reference(**{**fields, "compatible": tuple(fields.get("compatible", ()))})
        except TypeError as error:
            raise SpecError(
                f"the reference {dict(value)} is not usable", str(error), "give minimum and maximum"
            ) from error
    if name in ("action_space", "observation_space") and not isinstance(value, spaces.Space):
        return space_from_json(value)
    return value


def _load_d4rl(entry: D4RLEntry, options: dict[str, Any]) -> Dataset:
    check_options(entry.id, options, read_d4rl)
    path = _local_d4rl(entry)
    if path is None:
        if entry.url is None:
            raise DatasetError(f"the address of {entry.id} is not known", "", "pass the path of its file instead")
        path = download(entry.url, cache_dir() / "d4rl" / _file_name(entry))
    return read_d4rl(path, **{"name": entry.id, "source": f"d4rl:{entry.id}", **task_options(entry), **options})


def _file_name(entry: D4RLEntry) -> str:
    return (entry.url or entry.id).rpartition("/")[2]


def _local_d4rl(entry: D4RLEntry) -> Path | None:
    """Return the entry's file if it is on this machine, under D4RL's file name or its id."""
    folders = [Path.home() / ".d4rl" / "datasets", cache_dir() / "d4rl"]
    if os.environ.get("D4RL_DATASET_DIR"):
        folders.insert(0, Path(os.environ["D4RL_DATASET_DIR"]))
    names = {_file_name(entry), f"{entry.id}.hdf5"}
    candidates = (folder / name for folder in folders for name in sorted(names))
    return next((path for path in candidates if path.is_file()), None)


def _load_minari(dataset_id: str, options: dict[str, Any]) -> Dataset:
    check_options(dataset_id, options, read_minari)
    if not _MINARI_ID.fullmatch(dataset_id):
        raise DatasetError(
            f"{dataset_id!r} is not a Minari dataset id", "", "write it as NAMESPACE/NAME-v0, with the version"
        )
    folder = minari_root() / dataset_id
    if dataset_folder(folder) is None:
        _download_minari(dataset_id)
    return read_minari(folder, **options)


def _download_minari(dataset_id: str) -> None:
    import minari

    try:
        # Minari reports to standard output, which belongs to our own results.
        with contextlib.redirect_stdout(sys.stderr):
            minari.download_dataset(dataset_id)
    except ImportError as error:
        raise MissingExtraError(f"downloading Minari dataset {dataset_id!r}", "hub") from error
    except Exception as error:  # whatever the hub's client raises: no network, no such dataset, no access
        raise DatasetError(
            f"cannot download Minari dataset {dataset_id!r}",
            f"{type(error).__name__}: {error}",
            f"check the id and the network, or copy the dataset to {minari_root() / dataset_id}",
        ) from error
