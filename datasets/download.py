"""The cache folder and downloads into it: complete and checked, or not there at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import urllib.error
import urllib.request
from http.client import HTTPException, IncompleteRead
from pathlib import Path

from offbench.errors import DatasetError, StorageError

TIMEOUT = 30.0  # seconds without any data


def cache_dir() -> Path:
    """Return the folder for downloaded and generated datasets: $OFFBENCH_CACHE, or the platform's cache folder.

    It is not created here.
    """
    configured = os.environ.get("OFFBENCH_CACHE")
    if configured:
        return Path(configured).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "offbench"


def download(url: str, target: Path, *, timeout: float = TIMEOUT) -> Path:
    """Download `url` to `target` and return it; an existing `target` is replaced.

    The data go to `<name>.<process>.part` beside it, whose size is compared with the announced one before it is
    renamed, so an interrupted download never looks like a dataset and two processes may download at once.

    Raises:
        DatasetError: the server refuses, lacks the file, cannot be reached, or closed the connection early.
        StorageError: the file cannot be written.
    """
    by_hand = f"download it by hand from {url} (or a mirror) and put it at {target}"
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot create {target.parent}", str(error), "set OFFBENCH_CACHE to a writable folder"
        ) from error
    try:
        announced = _fetch(url, part, timeout)
        size = part.stat().st_size
        if announced is not None and size != announced:
            raise DatasetError(
                f"the download of {url} is incomplete",
                f"{size} of {announced} bytes arrived before the connection closed",
                f"try again, or {by_hand}",
            )
        part.replace(target)
    except urllib.error.HTTPError as error:
        raise DatasetError(
            f"the server refused {url} (HTTP {error.code} {error.reason})",
            "the file was moved, or the server blocks or limits downloads",
            f"try again later, or {by_hand}",
        ) from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise DatasetError(
            f"cannot download {url}", f"{type(error).__name__}: {reason}", f"check the network, or {by_hand}"
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot write {part}", str(error), "free disk space or set OFFBENCH_CACHE to another folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return target


def _fetch(url: str, part: Path, timeout: float) -> int | None:
    """Write what `url` sends to `part` and return the size that the server announced, if it did."""
    request = urllib.request.Request(url, headers={"User-Agent": "offbench"})
    with urllib.request.urlopen(request, timeout=timeout) as response, part.open("wb") as stream:
        # Some Python versions raise for a short answer and some do not; the caller compares the sizes.
        with contextlib.suppress(IncompleteRead):
            shutil.copyfileobj(response, stream, length=1 << 20)
        announced = response.headers.get("Content-Length")
    return None if announced is None else int(announced)
