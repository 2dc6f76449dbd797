"""Parsed datasets kept on disk as memory-mapped columns, so that a file is parsed once and opened at once later.

An entry is a folder `<cache>/columns/<what is read>-<state of the files>` of one .npy file per column and a manifest.
Its name is a hash of everything that decides the result: the path, the reader and its options, offbench's own readers,
and of every file its size, times, inode and probed content. A changed file has another name, so an entry is never
stale; it appears complete or not at all. An entry whose manifest or columns were damaged is dropped and read anew.

When: OFFBENCH_CACHE_COLUMNS is "auto" (files of 1 MiB that parse to at least 32 MiB of columns: below, parsing takes
less than a tenth of a second), "always" or "never". Where: `cache_dir()`. How much: the least recently used entries go
when all of them exceed OFFBENCH_CACHE_COLUMNS_GB (default 50).

A source that would take more than half of the free memory (`streaming.estimate_memory`) is parsed straight into the
files of its entry, block by block, whatever the settings say about the cache, unless they say "never".
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import filelock
import gymnasium
import numpy as np

from offbench.datasets.allocation import on_disk
from offbench.datasets.columns import Array
from offbench.datasets.dataset import CORE_COLUMNS, Dataset
from offbench.datasets.description import describe, restore
from offbench.datasets.download import cache_dir
from offbench.datasets.spaces import space_to_json
from offbench.datasets.streaming import available_memory, estimate_memory, fits_into_memory
from offbench.errors import DatasetError, SpecError, StorageError

SCHEMA = "offbench-columns-1"
ANNOUNCED_BYTES = 1 << 30
MANIFEST = "manifest.json"
AUTO_FILE_BYTES = 1 << 20
AUTO_COLUMN_BYTES = 32 << 20
DEFAULT_LIMIT_GB = 50.0
# A file that changed so recently may change again without a new time stamp (FAT's have a resolution of 2 s).
SETTLED_SECONDS = 2.0
PROBE_BYTES = 65_536
PROBE_SAMPLES = 16
SAMPLE_BYTES = 4096
# Of a folder of very many files (one per episode) only so many are probed; the others by size and times.
PROBED_FILES = 32


@dataclass(frozen=True)
class CacheEntry:
    """One parsed dataset in the cache.

    Attributes:
        source: the file or folder that was read.
        format: the reader's name.
        megabytes: of its columns.
        last_used: seconds since the epoch.
        current: the source is still there and unchanged; False means that the entry will never be used again.
        folder: where the columns lie.
    """

    source: str
    format: str
    megabytes: float
    last_used: float
    current: bool
    folder: Path


def cached_read(
    path: str | Path,
    reader: Callable[[], Dataset],
    *,
    options: Mapping[str, Any],
    format: str = "",
    also: Iterable[str | Path] = (),
) -> Dataset:
    """Return what `reader()` returns, from memory-mapped columns if it was read before and nothing has changed.

    Args:
        path: the file or folder that `reader` reads.
        reader: called without arguments when there is no valid entry; its result must depend on nothing but the files
            and `options`.
        options: the reader's keyword arguments. Values that cannot be described (a function) switch the cache off.
            A value that is the path of an existing file counts as one of the files.
        format: the reader's name; two readers of one file have two entries.
        also: further files that decide the result.

    Returns:
        An equal dataset either way: same fingerprint, labels and infos; memory-mapped columns are read-only.

    Raises:
        SpecError: OFFBENCH_CACHE_COLUMNS has an unknown value.
        Whatever `reader` raises. A cache that cannot be written only warns.
    """
    mode = _mode()
    path = Path(path).expanduser()
    request = _request(path, format, options, also) if mode != "never" and path.exists() else None
    if request is None or (mode == "auto" and request.bytes < AUTO_FILE_BYTES):
        _announce(path, cached=False)
        return reader()
    found = _open(request.folder)
    if found is not None:
        return found
    try:
        request.folder.parent.mkdir(parents=True, exist_ok=True)
        # Of several processes that want the same file, one parses it and the others map what it stored.
        lock = filelock.FileLock(request.folder.with_name(f"{request.folder.name.partition('-')[0]}.lock"))
        lock.acquire()
    except OSError as error:
        _warn_unusable(error)
        return reader()
    try:
        found = _open(request.folder)
        if found is not None:
            return found
        if _announce(path, cached=True):
            return _parse_on_disk(reader, request)
        dataset = reader()
        size = sum(column.nbytes for column in _columns(dataset).values())
        if (mode == "auto" and size < AUTO_COLUMN_BYTES) or not request.unchanged():
            return dataset
        try:
            _store(dataset, request, size)
        except OSError as error:
            _warn_unusable(error)
            return dataset
        return _open(request.folder) or dataset
    finally:
        lock.release()


def cache_entries() -> list[CacheEntry]:
    """Return what is in the cache, the most recently used first; damaged entries are left out."""
    found = []
    for folder in _folders():
        manifest = _read_manifest(folder)
        if manifest is not None:
            found.append(
                CacheEntry(
                    source=manifest["source"],
                    format=manifest["format"],
                    megabytes=round(manifest["bytes"] / 1e6, 1),
                    last_used=(folder / MANIFEST).stat().st_mtime,
                    current=_identities(map(Path, manifest["files"])) == manifest["identities"],
                    folder=folder,
                )
            )
    return sorted(found, key=lambda entry: -entry.last_used)


def clear_cache(*, only_outdated: bool = False, keep_bytes: int = 0) -> int:
    """Delete entries and return the bytes freed. Datasets that are in use keep working.

    Args:
        only_outdated: only those whose source was changed, moved or deleted.
        keep_bytes: keep the most recently used ones up to this size in all.
    """
    freed, kept = 0, 0
    known = {entry.folder: entry for entry in cache_entries()}
    for folder in [*known, *(folder for folder in _folders() if folder not in known)]:
        entry = known.get(folder)
        size = sum(file.stat().st_size for file in folder.glob("*"))
        if entry is not None and ((only_outdated and entry.current) or kept + size <= keep_bytes):
            kept += size
        elif _remove(folder):
            freed += size
    return freed


@dataclass(frozen=True)
class _Request:
    """One thing to read: the files that it depends on, as they are now, and the entry's folder."""

    source: str
    format: str
    files: tuple[Path, ...]
    identities: list[Any]
    folder: Path

    @property
    def newest(self) -> float:
        """When one of the files was last changed, in seconds since the epoch."""
        return max(max(identity["mtime_ns"], identity["ctime_ns"]) for identity in self.identities) / 1e9

    @property
    def bytes(self) -> int:
        return sum(identity["size"] for identity in self.identities)

    def unchanged(self) -> bool:
        """Whether the files are the ones that were read, for certain: old enough that an edit would show."""
        return self.newest < time.time() - SETTLED_SECONDS and _identities(self.files) == self.identities


def _mode() -> str:
    mode = os.environ.get("OFFBENCH_CACHE_COLUMNS") or "auto"
    if mode not in ("auto", "always", "never"):
        raise SpecError(f"OFFBENCH_CACHE_COLUMNS is {mode!r}", "", "set it to auto, always or never")
    return mode


def _request(path: Path, format: str, options: Mapping[str, Any], also: Iterable[str | Path]) -> _Request | None:
    """Describe the request; None if an option cannot be described or a file cannot be read."""
    try:
        described = {name: _describe_option(value) for name, value in sorted(options.items())}
        given = [Path(value) for value in options.values() if isinstance(value, (str, Path)) and _is_file(value)]
        roots = [path.resolve(), *(Path(further).resolve() for further in (*also, *given))]
        files = tuple(file for root in roots for file in _files_of(root))
        identities = _identities(files)
    except (TypeError, OSError):
        return None
    if not identities:
        return None
    versions = [SCHEMA, _readers_version(), gymnasium.__version__]
    what = _digest([path.name, [str(root) for root in roots], format, described, versions])
    state = _digest([[str(file) for file in files], identities])
    folder = cache_dir() / "columns" / f"{what[:20]}-{state[:20]}"
    return _Request(str(roots[0]), format, files, identities, folder)


def _describe_option(value: Any) -> Any:
    """Return `value` as JSON-able data that differ where the values do; TypeError if that cannot be done."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, gymnasium.spaces.Space):
        return space_to_json(value)
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            raise TypeError("an array of objects")
        return [array.dtype.str, list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {f.name: _describe_option(getattr(value, f.name)) for f in fields(value)}]
    if isinstance(value, Mapping):
        return {str(key): _describe_option(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe_option(entry) for entry in value]
    raise TypeError(f"{type(value).__name__} has no description")


def _is_file(value: str | Path) -> bool:
    try:
        return Path(value).is_file()
    except (OSError, ValueError):  # text that cannot be a path: too long, a null character
        return False


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    else:
        yield path


def _identities(files: Iterable[Path]) -> list[Any]:
    """Return what tells each file from an edited one; an empty list if one of them cannot be read."""
    try:
        return [_identity(file, probed=index < PROBED_FILES) for index, file in enumerate(files)]
    except OSError:
        return []


def _identity(file: Path, *, probed: bool) -> dict[str, Any]:
    """Return size, times, inode and a hash of the head, the tail and blocks between.

    The change time cannot be set back by a program; where there is none (Windows), and on copies that keep every time,
    the probed content is what notices an edit.
    """
    status = file.stat()
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
        "probe": _probe(file, status.st_size) if probed else None,
    }


def _probe(file: Path, size: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        digest.update(stream.read(PROBE_BYTES))
        if size > PROBE_BYTES:
            for sample in range(1, PROBE_SAMPLES + 1):
                stream.seek(size * sample // (PROBE_SAMPLES + 1))
                digest.update(stream.read(SAMPLE_BYTES))
            stream.seek(max(0, size - PROBE_BYTES))
            digest.update(stream.read(PROBE_BYTES))
    return digest.hexdigest()


@cache
def _readers_version() -> str:
    """Return a hash of this package's code and tables: another version of a reader may read the same file otherwise."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.*")):
        if file.suffix in (".py", ".csv", ".yaml"):
            digest.update(f"|{file.name}|".encode() + file.read_bytes())
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _columns(dataset: Dataset) -> dict[str, Array]:
    named = {name: getattr(dataset, name) for name in CORE_COLUMNS if getattr(dataset, name) is not None}
    return named | {f"infos/{name}": column for name, column in dataset.infos.items()}


def _store(dataset: Dataset, request: _Request, size: int) -> None:
    """Write the entry aside and rename it, then make room; OSError if it cannot be written."""
    root = request.folder.parent
    if shutil.disk_usage(root).free < 2 * size:
        raise OSError(f"only {shutil.disk_usage(root).free / 1e9:.1f} GB are free in {root}")
    aside = root / f".{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        _write_entry(dataset, aside, request)
        _publish(aside, request.folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _parse_on_disk(reader: Callable[[], Dataset], request: _Request) -> Dataset:
    """Parse into the files of the entry, so that the columns are never in memory as a whole."""
    # A file that has only just been written is given the time after which an edit would show.
    time.sleep(max(0.0, min(SETTLED_SECONDS, request.newest + SETTLED_SECONDS - time.time())))
    aside = request.folder.parent / f".{uuid.uuid4().hex}"
    try:
        aside.mkdir()
        with on_disk(aside):
            # No column is mapped any longer when this returns: Windows does not move mapped files.
            _write_entry(reader(), aside, request)
        if not request.unchanged():
            raise DatasetError(f"{request.source} was changed while it was read", "", "read it again")
        _publish(aside, request.folder)
    except OSError as error:
        raise StorageError(
            f"{request.source} does not fit into memory, and its columns cannot be written to {aside.parent}",
            str(error),
            "free disk space, or set OFFBENCH_CACHE to another folder",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    dataset = _open(request.folder)
    if dataset is None:
        raise StorageError(f"the columns in {request.folder} were damaged or removed at once", "", "try again")
    return dataset


def _write_entry(dataset: Dataset, aside: Path, request: _Request) -> None:
    """Write columns and manifest to the folder `aside`; a column that is a file there already is left as it is."""
    stored = {}
    for index, (name, column) in enumerate(_columns(dataset).items()):
        file = _file_of(column)
        if file is None or file.parent != aside:
            file = aside / f"{index:03d}.npy"
            np.save(file, column, allow_pickle=False)
        stored[name] = {
            "file": file.name,
            "dtype": column.dtype.str,
            "shape": list(column.shape),
            **_column_identity(file),
        }
    manifest = {
        "source": request.source,
        "format": request.format,
        "files": [str(file) for file in request.files],
        "identities": request.identities,
        "bytes": sum(column.nbytes for column in _columns(dataset).values()),
        "fingerprint": dataset.fingerprint,
        "description": describe(dataset),
        "columns": stored,
    }
    text = json.dumps(manifest)
    (aside / MANIFEST).write_text(f"{_checksum(text)}\n{text}", encoding="utf-8")
    for left in {*aside.iterdir()} - {aside / MANIFEST, *(aside / column["file"] for column in stored.values())}:
        with contextlib.suppress(OSError):  # Windows: still mapped by an array that nobody will read
            left.unlink()


def _file_of(column: Array) -> Path | None:
    """Return the .npy file of which `column` is the whole; None if there is none."""
    memory: Any = column
    while isinstance(memory.base, np.ndarray):
        memory = memory.base
    whole = isinstance(memory, np.memmap) and memory.shape == column.shape and memory.dtype == column.dtype
    if not whole or memory.ctypes.data != column.ctypes.data or not column.flags.c_contiguous:
        return None
    memory.flush()
    return None if memory.filename is None else Path(memory.filename)


def _publish(aside: Path, folder: Path) -> None:
    """Let the entry appear, in place of older ones of the same request, and make room."""
    for outdated in folder.parent.glob(f"{folder.name.partition('-')[0]}-*"):
        if outdated.is_dir():
            _remove(outdated)
    aside.rename(folder)
    clear_cache(keep_bytes=int(_limit_gb() * 1e9))


def _announce(path: Path, *, cached: bool) -> bool:
    """Say on standard error what a large source takes; return whether that is more than memory has room for."""
    size = estimate_memory(path) if path.exists() else 0
    fits = fits_into_memory(size)
    if fits and size < ANNOUNCED_BYTES:
        return False
    text = f"{path.name} takes about {size / 1e9:.1f} GB once it is read"
    if not fits:
        text += f"; {(available_memory() or 0) / 1e9:.1f} GB of memory are free"
        text += f", so its columns are kept in {cache_dir() / 'columns'}" if cached else ": it may not fit"
    print(text, file=sys.stderr)
    return not fits


def _limit_gb() -> float:
    text = os.environ.get("OFFBENCH_CACHE_COLUMNS_GB") or str(DEFAULT_LIMIT_GB)
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"OFFBENCH_CACHE_COLUMNS_GB is {text!r}", "", "set it to a number of gigabytes") from None


def _column_identity(file: Path) -> dict[str, Any]:
    status = file.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "probe": _probe(file, status.st_size)}


def _checksum(text: str) -> str:
    return hashlib.sha256(f"{SCHEMA}|{text}".encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of an entry; None if there is none or it is damaged."""
    try:
        checksum, _, text = (folder / MANIFEST).read_text(encoding="utf-8").partition("\n")
        manifest: dict[str, Any] | None = json.loads(text) if checksum == _checksum(text) else None
    except (OSError, ValueError):
        return None
    return manifest


def _open(folder: Path) -> Dataset | None:
    """Map the columns of an entry; None if there is none. A damaged entry is removed."""
    if not folder.is_dir():
        return None
    manifest = _read_manifest(folder)
    try:
        if manifest is None:
            raise DatasetError(f"the manifest of {folder} is damaged")
        columns = {name: _map(folder, stored) for name, stored in manifest["columns"].items()}
        values: dict[str, Any] = {name: columns.pop(name, None) for name in CORE_COLUMNS}
        infos = MappingProxyType({name.removeprefix("infos/"): column for name, column in columns.items()})
        dataset = Dataset.from_checked(
            manifest["fingerprint"], **values, infos=infos, **restore(manifest["description"])
        )
    except (DatasetError, OSError, ValueError, KeyError, TypeError):
        _remove(folder)
        return None
    with contextlib.suppress(OSError):  # a cache that others may read but not change
        os.utime(folder / MANIFEST)  # the time of the last use
    return dataset


def _map(folder: Path, stored: Mapping[str, Any]) -> Array:
    """Map one column after a cheap check that its file is the one that was written."""
    file = folder / stored["file"]
    if any(stored[key] != value for key, value in _column_identity(file).items()):
        raise DatasetError(f"{file} was changed")
    column = np.load(file, mmap_mode="r" if np.prod(stored["shape"]) else None, allow_pickle=False)
    if column.dtype.str != stored["dtype"] or list(column.shape) != stored["shape"]:
        raise DatasetError(f"{file} holds another column")
    column.flags.writeable = False
    return np.asarray(column)  # a plain view: indexing np.memmap itself is slower


def _folders() -> list[Path]:
    root = cache_dir() / "columns"
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _remove(folder: Path) -> bool:
    """Delete a folder; False if the system refuses. It vanishes at once, so nobody opens half of it."""
    gone = folder.with_name(f".{uuid.uuid4().hex}")
    try:
        folder.rename(gone)
    except OSError:  # Windows does not move files that are mapped
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _warn_unusable(error: OSError) -> None:
    warnings.warn(
        f"the parsed columns are not kept for the next time: {error}; free disk space, set OFFBENCH_CACHE to another "
        "folder, or OFFBENCH_CACHE_COLUMNS=never",
        stacklevel=3,
    )
