"""One HTTP request that fetches a file or the rest of it into a partial file, checked against the server's answer."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, IncompleteRead
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
PERMANENT = frozenset({400, 401, 403, 404, 405, 406, 410, 451})  # asking again gives the same answer

Progress = Callable[[int, "int | None"], None]


class TransferError(Exception):
    """A request did not bring the whole file.

    Attributes:
        permanent: asking the same address again is pointless.
        changed: what has arrived belongs to another version of the file.
        wait: seconds that the server asks to wait.
    """

    def __init__(
        self, what: str, why: str, *, permanent: bool = False, changed: bool = False, wait: float = 0.0
    ) -> None:
        super().__init__(what, why)
        self.what, self.why, self.permanent, self.changed, self.wait = what, why, permanent, changed, wait


@dataclass(frozen=True)
class PartState:
    """What is known about a partial file: where it comes from and which version of the remote file it is.

    `validator` is a strong ETag or a Last-Modified date, for If-Range (RFC 9110, section 13.1.5). Without one, a
    changed file could not be told from the same one, so such a download starts again.
    """

    url: str
    validator: str | None = None
    total: int | None = None


def fetch_into(part: Path, url: str, timeout: float, progress: Progress | None = None) -> PartState:
    """Bring `part` to the full length of what `url` serves, resuming it if it is the same version of the same file.

    Args:
        part: partial file; what is known of it is kept in `<part>.json`.
        timeout: seconds without any data after which the server counts as stalled.
        progress: called with (bytes so far, bytes in all or None).

    Raises:
        TransferError: the server refused, could not be reached, stalled, or closed the connection early. What has
            arrived is kept.
        OSError: `part` cannot be written.
    """
    state = _read_state(part, url)
    have = part.stat().st_size if state.validator and part.exists() else 0
    if state.total is not None and have == state.total > 0:
        return state
    headers = {"User-Agent": "offbench", "Accept-Encoding": "identity"}
    if have and state.validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": state.validator}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            state, start = _begin(response, url, have, state)
            _write_state(part, state)
            with part.open("r+b" if start else "wb") as stream:
                stream.seek(start)
                _copy(response, stream, start, state, progress)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # the part is longer than the file: not what it was
                discard(part)
            raise _refusal(url, error) from error
    except TransferError as error:
        if error.changed:
            discard(part)
        raise
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        stalled = isinstance(reason, TimeoutError)
        why = f"no data for {timeout:g} s" if stalled else f"{type(reason).__name__}: {reason}"
        raise TransferError(f"cannot download {url}", why) from error
    size = part.stat().st_size
    if state.total is not None and size != state.total:
        raise TransferError(
            f"the download of {url} is incomplete",
            f"{size} of {state.total} bytes arrived before the connection closed",
        )
    return state


def discard(part: Path) -> None:
    """Remove a partial file and what is known of it."""
    part.unlink(missing_ok=True)
    _state_file(part).unlink(missing_ok=True)


def _begin(response: Any, url: str, have: int, known: PartState) -> tuple[PartState, int]:
    """Return the state of the file that is being sent, and the offset at which the body starts."""
    headers: HTTPMessage = response.headers
    # A login page, a portal or an error page with status 200 would otherwise end in the cache as a dataset.
    if headers.get_content_type() == "text/html" and not url.endswith((".html", ".htm")):
        raise TransferError(f"{url} sent a web page", "a login, a portal, or the file was moved", permanent=True)
    validator = _validator(headers)
    if response.status == 206:
        matched = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if matched is None or int(matched[1]) != have or have == 0:
            raise TransferError(f"{url} sent another part than was asked for", str(headers.get("Content-Range")))
        if validator is not None and validator != known.validator:  # a server that ignores If-Range
            raise TransferError(f"{url} has changed since the download began", "", changed=True)
        total = known.total if matched[2] == "*" else int(matched[2])
        return PartState(url, known.validator, total), have
    length = headers.get("Content-Length")
    return PartState(url, validator, None if length is None else int(length)), 0


def _copy(response: Any, stream: Any, start: int, state: PartState, progress: Progress | None) -> None:
    done = start
    # Some Python versions raise for a short answer and some do not; the caller compares the sizes.
    with contextlib.suppress(IncompleteRead):
        while chunk := response.read1(CHUNK):
            stream.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, state.total)
        return
    if state.total is None:  # a chunked answer that broke off: there is no size to compare
        raise TransferError(f"the download of {state.url} is incomplete", f"the connection closed after {done} bytes")


def _refusal(url: str, error: urllib.error.HTTPError) -> TransferError:
    why = {
        401: "the server wants a login",
        403: "the server blocks or limits downloads",
        404: "the file was moved or removed",
        410: "the file was removed",
        416: "the file has changed since the download began",
        429: "the server limits how often it may be asked",
    }.get(error.code, "the server failed" if error.code >= 500 else "the server does not give it out")
    return TransferError(
        f"the server refused {url} (HTTP {error.code} {error.reason})",
        why,
        permanent=error.code in PERMANENT,
        wait=_retry_after(error.headers.get("Retry-After")),
    )


def _retry_after(value: str | None) -> float:
    """Seconds that the server asks to wait; dates are left to our own pauses."""
    return float(value) if value and value.isdigit() else 0.0


def _validator(headers: HTTPMessage) -> str | None:
    """A validator that If-Range accepts: a strong ETag, else a Last-Modified date that is not its own Date."""
    etag = headers.get("ETag")
    if etag:
        return None if etag.startswith("W/") else etag
    modified, sent = headers.get("Last-Modified"), headers.get("Date")
    if not modified:
        return None
    try:
        # A date is weak if the file may have been written again within the second of the answer (section 8.8.2.2).
        age = parsedate_to_datetime(sent) - parsedate_to_datetime(modified) if sent else None
    except (TypeError, ValueError):
        return None
    return modified if age is None or age.total_seconds() >= 1 else None


def _state_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path, url: str) -> PartState:
    """The state of `part` if it belongs to `url`, else that of an empty one."""
    try:
        state = PartState(**json.loads(_state_file(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return PartState(url)
    return state if state.url == url else PartState(url)


def _write_state(part: Path, state: PartState) -> None:
    # The old part goes first: its bytes must never stand beside the validator of another version.
    if _read_state(part, state.url).validator != state.validator:
        part.unlink(missing_ok=True)
    _state_file(part).write_text(json.dumps(asdict(state)), encoding="utf-8")
