"""What a file from elsewhere may not do: unpack to far more than its size."""

from __future__ import annotations

from pathlib import Path

from offbench.errors import DatasetError

# Real columns shrink 2 to 30 times; deflate can reach 1032 times, with nothing but one repeated value.
MAXIMUM_RATIO = 200
SMALL = 256 * 2**20  # bytes that may be unpacked whatever they came from: constant columns shrink a lot


def require_plausible_size(path: Path, column: str, unpacked: int, stored: int) -> None:
    """Raise DatasetError if `column` takes `unpacked` bytes in memory but only `stored` bytes in the file at `path`.

    A damaged header, or a file made to exhaust memory, promises terabytes in a few kilobytes.
    """
    if unpacked > SMALL and unpacked > MAXIMUM_RATIO * stored:
        raise DatasetError(
            f"{path.name} stores {stored:,} bytes for {column!r}, which would need {unpacked:,} bytes of memory",
            f"no real column shrinks more than {MAXIMUM_RATIO} times: the file is damaged or made to exhaust memory",
            "download it again; if you trust it and the column is really that uniform, write it without compression",
        )
