"""The cache folder and downloads into it: complete and checked, or not there at all.

A download goes to a hidden folder beside its target, is resumed after an interruption, checked, and renamed. The
SHA-256 of what arrived is recorded there, so that later changes of the file, or of what the server sends, are noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from offbench.datasets.download_transfer import PartState, Progress, TransferError, discard, fetch_into
from offbench.errors import DatasetError, StorageError

TIMEOUT = 30.0  # seconds without any data
ATTEMPTS = 4  # per address, for failures that may pass
PAUSE = 1.0  # seconds before the second attempt; doubled for each further one
LONGEST_PAUSE = 60.0
LOCK_TIMEOUT = 24 * 3600.0  # another process may be downloading the same large file
SIDE_FOLDER = ".downloads"  # beside the target: partial files, locks and records


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


def is_offline() -> bool:
    """Whether downloads are forbidden: $OFFBENCH_OFFLINE is set to something but 0, false, no or off."""
    return os.environ.get("OFFBENCH_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class Record:
    """What a download brought: the answer to "is this still the file that I got?".

    Attributes:
        url: where it came from.
        sha256: hex digest of the content.
        size: bytes.
        validator: the server's ETag or Last-Modified date.
        downloaded: date and time, UTC, ISO 8601.
        published: the content was compared with a checksum that its publisher gives.
    """

    url: str
    sha256: str
    size: int
    validator: str | None
    downloaded: str
    published: bool


def download(
    urls: str | Sequence[str],
    target: Path,
    *,
    checksum: str | None = None,
    force: bool = False,
    timeout: float = TIMEOUT,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
    progress: Progress | None = None,
) -> Path:
    """Download a file to `target`, from the first address that gives it, and return `target`.

    An existing `target` is kept unless `force` is set, and replaced only by a complete, checked file. Interrupted
    downloads are resumed where the server can say that the file is still the same. Processes that want the same file
    wait for each other.

    Args:
        urls: the address, or several in order of preference (mirrors).
        checksum: "sha256:HEX" or "md5:HEX" if the publisher gives one. Without one the file must equal what was
            recorded when it was first downloaded to this target, if it was.
        timeout: seconds without any data after which a server counts as stalled.
        attempts: per address, for failures that may pass (server errors, broken connections, stalls).
        pause: seconds before the second attempt, doubled for each further one.
        progress: called with (bytes so far, bytes in all or None).

    Raises:
        DatasetError: offline mode, or no address gives the file; the message has the reason for each.
        StorageError: the file cannot be written.
    """
    addresses = [urls] if isinstance(urls, str) else list(urls)
    if target.exists() and not force:
        return target
    if is_offline():
        raise DatasetError(
            f"{target.name} is not on this machine and OFFBENCH_OFFLINE forbids downloads",
            f"looked for {target}",
            f"fetch it on a machine with a network ({addresses[0]}) and put it there, or unset OFFBENCH_OFFLINE",
        )
    part = _side_file(target, "part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_side_file(target, "lock"), timeout=LOCK_TIMEOUT):
            if target.exists() and not force:
                return target  # another process has just finished it
            _from_any(addresses, target, part, checksum, force, timeout, max(1, attempts), pause, progress)
    except Timeout as error:
        raise StorageError(
            f"another process has been downloading {target.name} for a day", f"it holds {error.lock_file}"
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot write {target}", str(error), "free disk space or set OFFBENCH_CACHE to another folder"
        ) from error
    return target


def read_record(target: Path) -> Record | None:
    """Return what was recorded when `target` was downloaded; None if it was not, or not by offbench."""
    try:
        return Record(**json.loads(_side_file(target, "json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def verify(path: Path, checksum: str | None = None) -> str:
    """Compare a file with the publisher's checksum, or else with the record of its download.

    Returns:
        "published" (equals the publisher's checksum), "recorded" (equals what was downloaded) or "unknown" (there is
        nothing to compare with).

    Raises:
        DatasetError: the file is missing or differs.
    """
    if not path.is_file():
        raise DatasetError(f"there is no file {path}", "", "fetch it with `offbench data prefetch`")
    record = read_record(path)
    expected = checksum or (f"sha256:{record.sha256}" if record else None)
    if expected is None:
        return "unknown"
    found = digest(path, expected.partition(":")[0])
    if found != expected:
        raise DatasetError(
            f"{path} is not the file that it should be",
            f"{'published' if checksum else 'recorded at the download'}: {expected}; found: {found}",
            "it was damaged or changed: delete it and fetch it again",
        )
    return "published" if checksum else "recorded"


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return "ALGORITHM:HEX" of a file's content; the algorithm is sha256 or md5."""
    if algorithm not in ("sha256", "md5"):
        raise DatasetError(f"the checksum algorithm {algorithm!r} is not known", "", "use sha256 or md5")
    state = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            state.update(chunk)
    return f"{algorithm}:{state.hexdigest()}"


def _from_any(
    addresses: Sequence[str],
    target: Path,
    part: Path,
    checksum: str | None,
    force: bool,
    timeout: float,
    attempts: int,
    pause: float,
    progress: Progress | None,
) -> None:
    """Fetch, check and publish the file from the first address that works."""
    failures = []
    for url in addresses:
        for attempt in range(attempts):
            resumed = part.exists()
            try:
                state = fetch_into(part, url, timeout, progress)
                _publish(part, target, state, checksum, force, resumed)
                return
            except TransferError as error:
                failure = error
                if error.permanent or attempt + 1 == attempts:
                    break
                time.sleep(min(max(pause * 2**attempt, error.wait), LONGEST_PAUSE))
        failures.append(failure)
    by_hand = f"download it by hand from {addresses[0]} (or a mirror) and put it at {target}"
    if len(failures) == 1:
        raise DatasetError(failures[0].what, failures[0].why, f"check the network, or try again later, or {by_hand}")
    raise DatasetError(
        f"none of {len(failures)} addresses gives {target.name}",
        "; ".join(f"{failure.what}: {failure.why}" for failure in failures),
        f"check the network, or try again later, or {by_hand}",
    )


def _publish(part: Path, target: Path, state: PartState, checksum: str | None, force: bool, resumed: bool) -> None:
    """Check what has arrived, record it and give it its name. Only a file made of pieces is worth a second try."""
    sha256 = digest(part)
    found = sha256 if checksum is None or checksum.startswith("sha256:") else digest(part, "md5")
    earlier = None if force else read_record(target)
    if checksum is not None and found != checksum.lower():
        discard(part)
        raise TransferError(
            f"{state.url} sent a damaged or another file",
            f"its checksum is {found}, published is {checksum}",
            permanent=not resumed,
        )
    if checksum is None and earlier is not None and sha256 != f"sha256:{earlier.sha256}":
        discard(part)
        raise TransferError(
            f"{state.url} sends another file than at the first download",
            f"sha256:{earlier.sha256} of {earlier.downloaded} is now {sha256}; "
            f"if that is expected, delete {_side_file(target, 'json')}",
            permanent=not resumed,
        )
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = Record(
        state.url, sha256.partition(":")[2], part.stat().st_size, state.validator, now, checksum is not None
    )
    # The record first: a file without one could not be checked, a record without a file does no harm.
    aside = _side_file(target, "new")
    aside.write_text(json.dumps(asdict(record), indent=2), encoding="utf-8")
    aside.replace(_side_file(target, "json"))
    part.replace(target)
    discard(part)


def _side_file(target: Path, suffix: str) -> Path:
    return target.parent / SIDE_FOLDER / f"{target.name}.{suffix}"
