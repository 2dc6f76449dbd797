"""Crash-safe files: whole files written aside and renamed, JSON lines appended, one lock per folder."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from offbench.errors import StorageError

_RESUME = "then give the same command again: it resumes from the last checkpoint"


@contextlib.contextmanager
def storage_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError that names the file and what to do."""
    try:
        yield
    except OSError as error:
        fix = f"check the folder and its permissions, {_RESUME}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = f"free some space (or give another output folder), {_RESUME}"
        why = error.strerror or str(error)
        raise StorageError(f"cannot {action} {path}", why, fix) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file so that a crash at any moment leaves either the old content or the new one.

    Raises:
        StorageError: the disk is full or the folder is not writable; the old file is untouched.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with storage_errors("write", path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON (UTF-8, two spaces) with `write_atomic`."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; StorageError when it is missing or damaged."""
    with storage_errors("read", path):
        data = path.read_bytes()
    try:
        return json.loads(data)
    except ValueError as error:
        raise StorageError(
            f"{path} is damaged", str(error), "delete it or restore it from a copy, then run again"
        ) from error


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN or infinity: they are stored as null."""
    return float(value) if math.isfinite(value) else None


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, sync: bool = True) -> None:
    """Append one JSON line per row; with `sync`, wait until they are on the disk.

    A crash can tear the last line only; `read_rows` drops it. When the disk is full, what was written of these
    rows is taken back.

    Raises:
        StorageError: the rows could not be written.
    """
    data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    with storage_errors("append to", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise


def sync_file(path: Path) -> None:
    """Wait until what was appended to a file without `sync` is on the disk; a missing file is nothing to wait for."""
    if path.exists():
        with storage_errors("write", path), path.open("ab") as file:
            os.fsync(file.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a missing file has no rows and a torn last line is dropped.

    Raises:
        StorageError: a line other than the last is damaged.
    """
    if not path.exists():
        return []
    with storage_errors("read", path):
        lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise StorageError(
                f"{path} is damaged in line {number}", str(error), "delete the run's folder and run again"
            ) from error
        rows.append(row)
    return rows


def keep_rows(path: Path, keep: Callable[[Mapping[str, Any]], bool]) -> int:
    """Drop the rows for which `keep` is false (and a torn last line); return how many remain."""
    rows = [row for row in read_rows(path) if keep(row)]
    if path.exists():
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return len(rows)


class FolderLock:
    """One process per folder: held from `with FolderLock(folder)` to the end of the block or of the process.

    The operating system drops the lock when its process ends, also by SIGKILL, so a stale lock cannot exist.

    Raises:
        StorageError: another process holds the lock; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> FolderLock:
        with storage_errors("create", self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a+", encoding="utf-8")
        try:
            _lock(file)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise StorageError(
                f"another process is running in {self._path.parent}",
                f"its process id: {holder}",
                "wait until it ends, or use another output folder or suite name",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def is_locked(folder: Path) -> bool:
    """Whether some process is running in the folder now."""
    if not (folder / ".lock").exists():
        return False
    try:
        with FolderLock(folder):
            return False
    except StorageError:
        return True


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        # Far behind the content, because Windows denies others the reading of a locked region.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _sync_folder(folder: Path) -> None:
        """Windows cannot open a folder; its renames are journalled."""

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _sync_folder(folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
