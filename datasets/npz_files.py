"""Reading NumPy's .npz archives that may be damaged or hostile: no pickle, sizes checked, checksums always verified."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from offbench.datasets.allocation import allocate
from offbench.datasets.columns import Array, freeze
from offbench.datasets.file_limits import require_plausible_size
from offbench.errors import DatasetError

# What zipfile, zlib and NumPy raise for damaged archives.
FAILURES = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    KeyError,
    RuntimeError,
    OverflowError,
    MemoryError,
)
MEMBER_SUFFIX = ".npy"
BLOCK = 2**24  # bytes read at once


@dataclass(frozen=True)
class Header:
    """What a member of an archive holds: shape, type, memory order, and where its values begin in the member."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """The arrays of an open .npz file by name, read one at a time when asked for."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        members = [info for info in archive.infolist() if info.filename.endswith(MEMBER_SUFFIX)]
        self._members = {info.filename.removesuffix(MEMBER_SUFFIX): info for info in members}
        if len(self._members) < len(members):
            raise DatasetError(f"{path.name} holds two arrays of the same name", "one of them would be ignored")

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def header(self, name: str) -> Header:
        """Return what the array `name` is, without reading its values."""
        info = self._members[name]
        with self._archive.open(info) as member:
            return _read_header(self.path, name, member, info)

    def read(self, name: str) -> Array:
        """Read the array `name` into private read-only memory.

        Raises:
            DatasetError: it holds Python objects, or its header and size disagree.
        """
        info = self._members[name]
        with self._archive.open(info) as member:
            header = _read_header(self.path, name, member, info)
            if header.dtype.hasobject:
                raise DatasetError(
                    f"{name!r} in {self.path.name} holds pickled Python objects",
                    "unpickling a file runs whatever code it contains, so it is never done",
                    f"store it as numbers: numpy.savez(file, {name}=numpy.stack(list_of_equal_rows))",
                )
            require_plausible_size(self.path, name, header.nbytes, info.compress_size)
            values = allocate((header.nbytes,), np.uint8)
            memory, done = values.data, 0
            while done < header.nbytes:
                block = member.read(min(BLOCK, header.nbytes - done))
                if not block:
                    raise ValueError(f"{name} ends after {done} of {header.nbytes} bytes")
                memory[done : done + len(block)] = block
                done += len(block)
            # The archive's checksum is verified only when its end is reached.
            if member.read(1):
                raise ValueError(f"{name} is longer than its header says")
        array = values.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
        return freeze(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")))


def _read_header(path: Path, name: str, member: IO[bytes], info: zipfile.ZipInfo) -> Header:
    version = npy.read_magic(member)
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = reader(member)
    if min(shape, default=0) < 0:
        raise ValueError(f"{name} has the shape {shape}")
    header = Header(shape, dtype, fortran, member.tell())
    if not dtype.hasobject and header.offset + header.nbytes != info.file_size:
        raise DatasetError(
            f"{name!r} in {path.name} takes {info.file_size - header.offset:,} bytes, but its header promises "
            f"{header.nbytes:,} for {header.shape} of {header.dtype}",
            "the file is damaged",
            "download or copy it again",
        )
    return header


@contextmanager
def open_npz(path: Path) -> Iterator[NpzFile]:
    """Open an .npz file; every failure inside the block becomes a DatasetError naming the file."""
    if not path.is_file():
        raise DatasetError(f"no dataset file at {path}", "", "check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            yield NpzFile(path, archive)
    except FAILURES as error:
        raise DatasetError(
            f"{path} is a damaged or incomplete file",
            f"reading the archive says: {type(error).__name__}: {error}",
            "delete it and download or copy it again",
        ) from error
