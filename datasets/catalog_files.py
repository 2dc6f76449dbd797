"""Where the files of a catalogue entry are on this machine, and getting them: the caches of other packages come first.

Files in the caches of D4RL, NeoRL-2, DSRL, OGBench and Minari are read where they are and never changed; nothing is
written there. What offbench fetches goes to its own cache.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from offbench.datasets.catalog import DataFile, DatasetEntry
from offbench.datasets.download import cache_dir, download, is_offline, verify
from offbench.datasets.download_transfer import Progress
from offbench.datasets.minari_format import dataset_folder, minari_root
from offbench.errors import DatasetError, MissingExtraError, StorageError

# Collection -> (variable that moves the cache of its package, that cache's default place below the home folder)
_CACHES = {
    "d4rl": ("D4RL_DATASET_DIR", ".d4rl/datasets"),
    "dsrl": ("DSRL_DATASET_DIR", ".dsrl/datasets"),
    "neorl2": (None, ".neorl2/datasets"),
    "ogbench": (None, ".ogbench/data"),
}


def places(entry: DatasetEntry) -> tuple[Path, ...]:
    """The folders that are searched for an entry's files, in order; downloads go to the last."""
    if entry.format == "minari":
        return (minari_root(), cache_dir() / "minari")
    variable, usual = _CACHES.get(entry.collection, (None, None))
    found = []
    if variable and os.environ.get(variable):
        found.append(Path(os.environ[variable]).expanduser())
    if usual:
        found.append(Path.home() / usual)
    own = cache_dir() / entry.collection
    # Files of different entries may have the same name, and ids may have characters that folders may not.
    return (*found, own / re.sub(r"[^-\w]+", "-", entry.id) if entry.collection == "user" else own)


def find_place(entry: DatasetEntry, split: str = "train") -> Path | None:
    """The file or folder of an entry if it is on this machine."""
    if entry.place is not None:  # a path that the user gave, or that a recipe has
        return entry.place if entry.place.exists() else None
    if entry.format == "minari":
        folders = (folder / minari_id(entry) for folder in places(entry))
        return next((folder for folder in folders if dataset_folder(folder) is not None), None)
    file = entry.file(split)
    if file is None:
        return None
    names = [file.name]
    if entry.collection == "d4rl":
        names.append(f"{entry.id}.hdf5")  # copies are often named after the dataset
    candidates = (folder / name for folder in places(entry) for name in names)
    return next((path for path in candidates if path.is_file()), None)


def with_place(entry: DatasetEntry) -> DatasetEntry:
    """The entry with what is known of it on this machine: `cached`, `place` and `megabytes`."""
    place = find_place(entry)
    if place is None:
        return entry
    return replace(entry, cached=True, place=place, megabytes=round(_bytes(place) / 1e6, 3))


def fetch(entry: DatasetEntry, split: str = "train", *, force: bool = False, progress: Progress | None = None) -> Path:
    """The file or folder of an entry, downloaded first if it is not on this machine.

    Args:
        force: download again, also over what is in offbench's cache.

    Raises:
        DatasetError: it is nowhere and cannot be downloaded; in offline mode the message lists where it was sought.
        MissingExtraError: a Minari dataset, without the extra `hub`.
    """
    place = None if force else find_place(entry, split)
    if place is not None:
        return place
    if entry.place is not None:
        raise DatasetError(f"the file of {entry.id} is missing", f"there is no {entry.place}", "correct its path")
    file = entry.file(split)
    if entry.format != "minari" and (file is None or not file.urls):
        _raise_without_address(entry, split)
    if is_offline():
        raise _offline_error(entry, file)
    if entry.format == "minari" or file is None:
        return _fetch_minari(minari_id(entry))
    return download(file.urls, places(entry)[-1] / file.name, checksum=file.checksum, force=force, progress=progress)


def check(entry: DatasetEntry, split: str = "train") -> str:
    """Compare the file on this machine with its checksum or the record of its download.

    Returns:
        "published", "recorded" or "unknown", as `download.verify`.

    Raises:
        DatasetError: it is not here, or it differs.
    """
    place = find_place(entry, split)
    if place is None:
        raise DatasetError(f"{entry.id} is not on this machine", "", f"`offbench data prefetch {entry.id}`")
    file = entry.file(split)
    return verify(place, file.checksum if file else None) if place.is_file() else "unknown"


def minari_id(entry: DatasetEntry) -> str:
    """The id by which Minari knows the entry."""
    return entry.id.removeprefix("minari:")


def _raise_without_address(entry: DatasetEntry, split: str) -> None:
    if split != "train" and entry.files:
        known = ", ".join(sorted({file.split for file in entry.files}))
        raise DatasetError(f"{entry.id} has no {split!r} file", "", f"its splits: {known}")
    raise DatasetError(f"the address of {entry.id} is not known", "", "pass the path of its file instead")


def _offline_error(entry: DatasetEntry, file: DataFile | None) -> DatasetError:
    sought = ", ".join(str(folder / (file.name if file else minari_id(entry))) for folder in places(entry))
    how = f"fetch it with `offbench data prefetch {entry.id}` on a machine with a network"
    return DatasetError(
        f"{entry.id} is not on this machine and OFFBENCH_OFFLINE forbids downloads",
        f"looked for {sought}",
        f"{how} and copy it to one of these places, or unset OFFBENCH_OFFLINE",
    )


def _fetch_minari(dataset_id: str) -> Path:
    """Let Minari's client download into a folder of our own, and publish the result: Minari's root stays as it is."""
    import minari

    target = cache_dir() / "minari" / dataset_id
    staging = cache_dir() / ".downloads" / dataset_id.replace("/", "-")
    try:
        staging.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(staging.with_name(f"{staging.name}.lock")):
            if dataset_folder(target) is not None:
                return target  # another process has just finished it
            shutil.rmtree(staging, ignore_errors=True)
            # Minari reports to standard output, which belongs to our own results.
            with _minari_root(staging), contextlib.redirect_stdout(sys.stderr):
                minari.download_dataset(dataset_id)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            (staging / dataset_id).rename(target)
            shutil.rmtree(staging, ignore_errors=True)
    except ImportError as error:
        raise MissingExtraError(f"downloading Minari dataset {dataset_id!r}", "hub") from error
    except PermissionError as error:
        raise StorageError(
            f"cannot write {target}", str(error), "free disk space or set OFFBENCH_CACHE to another folder"
        ) from error
    except Exception as error:  # whatever the hub's client raises: no network, no such dataset, no access
        raise DatasetError(
            f"cannot download Minari dataset {dataset_id!r}",
            f"{type(error).__name__}: {error}",
            f"check the id and the network, or copy the dataset to {minari_root() / dataset_id}",
        ) from error
    return target


@contextlib.contextmanager
def _minari_root(folder: Path) -> Iterator[None]:
    """Point Minari's client to `folder` inside the block."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _bytes(place: Path) -> int:
    if place.is_file():
        return place.stat().st_size
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
