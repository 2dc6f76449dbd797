"""Writing a file so that it appears complete or not at all, and never replaces another one unasked."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from pathlib import Path

from offbench.errors import DatasetError, StorageError


def write_aside(path: str | Path, write: Callable[[Path], None], *, overwrite: bool) -> Path:
    """Let `write` make a file beside `path`, rename it to `path`, and return that.

    Raises:
        DatasetError: `path` exists and `overwrite` is false.
        StorageError: writing failed.
    """
    path = Path(path).expanduser()
    if path.exists() and not overwrite:
        raise DatasetError(f"{path} exists already", "", "choose another name, or pass overwrite=True")
    aside = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        aside.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}", str(error), "free disk space or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return path
