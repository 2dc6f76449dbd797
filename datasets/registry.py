"""Datasets by name: the catalogue of recipes, shipped tables, Minari folders and user entries, and loading from it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import spaces

from offbench.datasets.catalog import DatasetEntry, caveats_for, collection
from offbench.datasets.catalog_files import fetch, find_place, with_place
from offbench.datasets.catalog_tables import MINARI_PREFIX, shipped_entries, shipped_entry
from offbench.datasets.catalog_user import user_entries
from offbench.datasets.dataset import Dataset
from offbench.datasets.download import cache_dir
from offbench.datasets.formats import FORMATS, check_options, looks_like_path, read_path
from offbench.datasets.minari_format import dataset_folder, minari_root
from offbench.datasets.records import Reference
from offbench.datasets.references_measured import measured_reference
from offbench.datasets.spaces import space_from_json
from offbench.errors import DatasetError, SpecError, UnknownNameError

__all__ = ["DatasetEntry", "cache_dir", "find_entry", "list_datasets", "load_dataset"]

_MINARI_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")


def load_dataset(id_or_path: str | Path, **options: Any) -> Dataset:
    """Load a dataset by id or path.

    Args:
        id_or_path: one of
            - a built-in recipe, e.g. "pendulum/medium-replay" (generated on first use);
            - an id of the catalogue: D4RL's "hopper-medium-v2", or with the prefix of its collection
              "neorl2:Pipeline", "dsrl:OfflineCarCircle-v0", "ogbench:cube-single-play-v0" or
              "ogbench:cube-single-play-singletask-task2-v0" (searched in the caches of those packages and in our
              own, then downloaded);
            - a Minari id, "minari:mujoco/hopper/expert-v0" or without the prefix if it has a namespace or is
              there locally (searched in $MINARI_DATASETS_PATH or ~/.minari/datasets and in our own cache, then
              downloaded with Minari's client);
            - an entry of the user's `datasets.yaml` or of an installed package;
            - a file or folder in one of `formats.FORMATS`: HDF5 in D4RL's layout, a Minari folder, ...
        options: for paths `format` and those of the format's reader; for ids those of its reader (environment,
            reference, horizon, action_space, observation_space, name, ...) and `split` ("train" or "validation")
            where the collection has both; for recipes force and progress. A reference may be a mapping of its fields
            and a space its JSON description, as written in a suite file. `transforms` are applied in order to what
            was read, see `offbench.datasets.transforms.apply_transforms`.

    A Minari dataset whose environment was made with arguments (a maze, subtasks) has no environment to evaluate in,
    since the plain id gives another task; the arguments are in its provenance. `environment=` overrides this.

    A dataset without a reference that holds in its environment gets the one that the user has measured there
    (`offbench data reference`), if there is one.

    Raises:
        UnknownNameError: no dataset of that id; the message names near ones.
        SpecError: an option that this kind of dataset does not take.
        DatasetError: the data are missing, cannot be downloaded, or are damaged, or a transform does not apply.
    """
    from offbench.datasets.transforms import apply_transforms, parse_transform

    # Read before the data, which may take long to load.
    transforms = [parse_transform(entry) for entry in options.pop("transforms", None) or ()]
    options = {name: _plain_option(name, value) for name, value in options.items() if value is not None}
    dataset = _load(id_or_path, dict(options))
    if "environment" not in options:
        dataset = _without_another_task(dataset)
    if "reference" not in options:
        dataset = _with_usable_reference(dataset)
    return apply_transforms(dataset, transforms)


def find_entry(id_or_path: str | Path) -> DatasetEntry | None:
    """What the catalogue knows about an id, also without its collection's prefix; None for paths and unknown names."""
    name = str(id_or_path)
    for entry in _recipe_entries(name):
        return entry
    found = user_entries().get(name) or shipped_entry(name) or _local_minari(name)
    return None if found is None else _complete(found)


def list_datasets() -> list[DatasetEntry]:
    """What can be loaded by name: recipes, the user's datasets, the shipped tables, and Minari datasets found here."""
    known = {entry.id: entry for entry in (*user_entries().values(), *shipped_entries().values())}
    for root in (minari_root(), cache_dir() / "minari"):
        for metadata in sorted(root.glob("**/data/metadata.json")) if root.is_dir() else []:
            dataset_id = metadata.parent.parent.relative_to(root).as_posix()
            entry = _local_minari(dataset_id)
            if entry is not None:
                known.setdefault(entry.id, shipped_entry(entry.id) or entry)
    return [*_recipe_entries(), *map(_complete, known.values())]


def locate(dataset: str, options: Mapping[str, Any] | None = None) -> Path | None:
    """Where a dataset is on this machine; None if `load_dataset` would have to build or download it.

    Args:
        options: those for `load_dataset`; size, seed, run, steps and split decide which data are meant.
    """
    from offbench.datasets import recipes

    options = options or {}
    if recipes.is_built_in(dataset):
        recipe = recipes.get_recipe(dataset, **_recipe_options(options))
        if recipe.run is None and dataset in recipes.UNTRAINED:
            return None
        folder = recipes.dataset_path(recipe)
        return folder if dataset_folder(folder) is not None else None
    entry = user_entries().get(dataset) or shipped_entry(dataset) or _local_minari(dataset)
    if entry is not None:
        return find_place(entry, options.get("split", "train"))
    path = Path(dataset).expanduser()
    return path if path.exists() else None


def prefetch(
    dataset: str, options: Mapping[str, Any] | None = None, *, force: bool = False, progress: Any = None
) -> Path:
    """Bring a dataset to this machine, or build it, without reading it; return its file or folder.

    Args:
        options: those for `load_dataset`, see `locate`.
        force: download or build again what is there.
        progress: called with (bytes or transitions so far, in all or None).

    Raises:
        UnknownNameError, DatasetError: see `load_dataset`.
    """
    from offbench.datasets import recipes

    options = options or {}
    if recipes.is_built_in(dataset):
        return recipes.build(dataset, **_recipe_options(options), force=force, progress=progress)
    place = locate(dataset, options)
    if place is not None and not force:
        return place
    return fetch(_require(dataset), options.get("split", "train"), force=force, progress=progress)


def _load(id_or_path: str | Path, options: dict[str, Any]) -> Dataset:
    if isinstance(id_or_path, Path):
        return read_path(id_or_path, **options)
    from offbench.datasets import recipes

    if recipes.is_built_in(id_or_path):
        check_options(id_or_path, options, recipes.load)
        return recipes.load(id_or_path, **options)
    if id_or_path not in user_entries() and shipped_entry(id_or_path) is None and looks_like_path(id_or_path):
        return read_path(id_or_path, **options)
    entry = _require(id_or_path)
    split = options.pop("split", "train")
    known = _reader_options(entry)
    if entry.format is not None:
        check_options(id_or_path, options, FORMATS[entry.format].read)
    return read_path(fetch(entry, split), format=entry.format, **{**known, **options})


def _require(name: str) -> DatasetEntry:
    """The entry of an id; also of a Minari id that no table has."""
    entry = user_entries().get(name) or shipped_entry(name) or _local_minari(name)
    if entry is not None:
        return entry
    if name.startswith(MINARI_PREFIX) or ("/" in name and _MINARI_ID.fullmatch(name)):
        return _minari_entry(name)
    from offbench.datasets import recipes

    shipped = [dataset_id for dataset_id, entry in shipped_entries().items() if "*" not in dataset_id]
    raise UnknownNameError(
        "dataset",
        name,
        [*recipes.RECIPES, *recipes.UNTRAINED, *user_entries(), *shipped],
        fix="`offbench data list` shows the known ids; a path ends in .hdf5, .npz, ... or is a Minari folder, "
        "a Minari id is written minari:NAMESPACE/NAME-v0",
    )


def _reader_options(entry: DatasetEntry) -> dict[str, Any]:
    """What the catalogue tells the reader, as far as it takes it."""
    told = {name: _plain_option(name, value) for name, value in entry.options.items()}
    # A Minari folder names its own environment and time limit; its source is "minari:ID" already.
    if entry.format != "minari":
        told |= {"name": entry.id, "environment": entry.environment, "horizon": entry.horizon}
        prefix = "" if ":" in entry.id else f"{entry.collection}:"
        told["source"] = f"{prefix}{entry.id}"
    told["reference"] = entry.reference
    if entry.format is None:
        return {name: value for name, value in told.items() if value is not None and name != "horizon"}
    taken = inspect.signature(FORMATS[entry.format].read).parameters
    # No environment is a statement too: it keeps the D4RL reader from looking for one by the file's name.
    return {
        name: value for name, value in told.items() if name in taken and (value is not None or name == "environment")
    }


def _without_another_task(dataset: Dataset) -> Dataset:
    """Take the environment's id away where the data come from it with other arguments than it is registered with."""
    arguments = dataset.provenance.details.get("environment_options")
    if not arguments or dataset.environment is None:
        return dataset
    from offbench.datasets.environments import horizon

    horizon(dataset.environment)  # registers the ids of Gymnasium-Robotics
    try:
        registered = gymnasium.spec(dataset.environment).kwargs
    except gymnasium.error.Error:
        return dataset  # it cannot be made here, so nothing can be evaluated in the wrong task
    if all(registered.get(name) == value for name, value in arguments.items() if name != "render_mode"):
        return dataset
    why = f"none: the data are from {dataset.environment} with arguments that its plain id does not have"
    details = {**dataset.provenance.details, "evaluation": why}
    return dataset.replace(environment=None, provenance=replace(dataset.provenance, details=details))


def _with_usable_reference(dataset: Dataset) -> Dataset:
    """Give the reference that was measured in the dataset's environment where its own does not hold there."""
    measured = _measured_instead(dataset.reference, dataset.environment)
    return dataset if measured is None else dataset.replace(reference=measured)


def _complete(entry: DatasetEntry) -> DatasetEntry:
    """The entry with its place on this machine and, where none is published that holds, the measured reference."""
    measured = _measured_instead(entry.reference, entry.environment)
    return with_place(entry if measured is None else replace(entry, reference=measured))


def _measured_instead(reference: Reference | None, environment: str | None) -> Reference | None:
    """The measured reference of an environment for which `reference` does not hold, e.g. D4RL's door in Adroit's."""
    if environment is None or (reference is not None and reference.holds_in(environment)):
        return None
    return measured_reference(environment)


def _recipe_entries(only: str | None = None) -> Iterator[DatasetEntry]:
    from offbench.datasets import recipes

    made_by = collection("built-in")
    for recipe in recipes.RECIPES.values():
        if only is None or recipe.id == only:
            folder = recipes.dataset_path(recipe)
            reference = recipe.reference
            entry = DatasetEntry(
                id=recipe.id,
                family=recipe.id.partition("/")[0],
                environment=recipe.environment,
                cached=False,
                description=f"built in: {recipe.description}",
                collection="built-in",
                reference=reference,
                horizon=None if reference is None else reference.horizon,
                licence=made_by.licence,
                citation=made_by.citation,
                format="minari",
                place=folder,
            )
            yield with_place(entry) if dataset_folder(folder) is not None else entry
    for recipe in recipes.UNTRAINED.values():
        if only is None or recipe.id == only:
            yield DatasetEntry(
                id=recipe.id,
                family=recipe.id.partition("/")[0],
                environment=recipe.environment,
                cached=False,
                description=f"built in, its first use trains: {recipe.description}",
                collection="built-in",
                licence=made_by.licence,
                citation=made_by.citation,
                format="minari",
            )


def _recipe_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that decide which data a built-in id means."""
    return {name: options[name] for name in ("size", "seed", "run", "steps") if name in options}


def _local_minari(name: str) -> DatasetEntry | None:
    """The entry of a Minari dataset that is on this machine."""
    dataset_id = name.removeprefix(MINARI_PREFIX)
    if not _MINARI_ID.fullmatch(dataset_id):
        return None
    roots = (minari_root(), cache_dir() / "minari")
    found = any(dataset_folder(root / dataset_id) is not None for root in roots)
    return _minari_entry(name) if found else None


def _minari_entry(name: str) -> DatasetEntry:
    """An entry for a Minari id that no table has: all that is known is in its metadata."""
    dataset_id = name.removeprefix(MINARI_PREFIX)
    if not _MINARI_ID.fullmatch(dataset_id):
        raise DatasetError(
            f"{dataset_id!r} is not a Minari dataset id", "", "write it as NAMESPACE/NAME-v0, with the version"
        )
    return DatasetEntry(
        id=f"{MINARI_PREFIX}{dataset_id}",
        family=dataset_id.rpartition("/")[0] or dataset_id,
        environment=None,
        cached=False,
        description="Minari",
        collection="minari",
        caveats=caveats_for(f"{MINARI_PREFIX}{dataset_id}"),
        format="minari",
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
