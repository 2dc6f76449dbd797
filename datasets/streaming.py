"""How much memory a source of data needs once it is read, how much there is, and whether it must go through files.

What does not fit is read into files instead (`allocation.on_disk`), block by block, and stays memory-mapped, so that a
file larger than the memory can be loaded, measured, converted and written in another format.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offbench.datasets.hdf5_files import FAILURES as HDF5_FAILURES
from offbench.datasets.npz_files import open_npz
from offbench.datasets.spaces import flat_space, space_from_json
from offbench.errors import DatasetError, SpecError

# A dataset may take this part of the free memory: training, evaluation and the system need the rest.
USABLE_SHARE = 0.5
COMPRESSED_TEXT = 5  # how much CSV shrinks, about
HDF5_SUFFIXES = (".hdf5", ".h5")
DECIMAL_GB = 1e9


def estimate_memory(path: str | Path) -> int:
    """Return about how many bytes reading `path` takes at its peak, from headers alone.

    HDF5, npz, Parquet files and Minari folders are asked for the shapes they hold; text is taken at its size. A file
    that cannot be opened counts with its size: reading it says what is wrong.

    Args:
        path: a file or the folder of a dataset.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            return _of_folder(path)
        name = path.name.lower()
        if name.endswith(HDF5_SUFFIXES):
            return _of_hdf5(path)
        if name.endswith(".npz"):
            with open_npz(path) as file:
                sizes = {key: file.header(key).nbytes for key in file}
            return sum(sizes.values()) + sizes.get("observations", sizes.get("obs", 0))
        if name.endswith((".parquet", ".pq")):
            return _of_parquet(path)
        return path.stat().st_size * (COMPRESSED_TEXT if name.endswith((".gz", ".zst", ".bz2")) else 1)
    except (DatasetError, pa.ArrowException, ValueError, KeyError, TypeError, *HDF5_FAILURES):
        return path.stat().st_size if path.is_file() else 0


def _of_hdf5(path: Path) -> int:
    sizes: dict[str, int] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf":
            sizes[name] = item.size * item.dtype.itemsize

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    # Observations are copied once more when the last frames of episodes are put between them.
    return sum(sizes.values()) + sizes.get("observations", 0)


def _of_parquet(path: Path) -> int:
    file = pq.read_metadata(path)
    schema = file.schema.to_arrow_schema()
    total = sum(file.row_group(group).total_byte_size for group in range(file.num_row_groups))
    return max(total, file.num_rows * sum(_width(field.type) for field in schema))


def _width(kind: pa.DataType) -> int:
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size * _width(kind.value_type)
    if pa.types.is_struct(kind):
        return sum(_width(kind.field(i).type) for i in range(kind.num_fields))
    return max(1, kind.bit_width // 8) if pa.types.is_primitive(kind) else 0


def _of_folder(path: Path) -> int:
    files = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    metadata = next((path / name for name in ("data/metadata.json", "metadata.json") if (path / name).is_file()), None)
    if metadata is None:
        return files
    stored = json.loads(metadata.read_text(encoding="utf-8"))
    row = 0
    for key in ("observation_space", "action_space"):
        if key in stored:
            space = flat_space(space_from_json(stored[key]))
            row += math.prod(space.shape or ()) * np.dtype(space.dtype or np.float32).itemsize
    # Images are stored as JPEG, infos without compression: the larger of both counts.
    return max(files, row * int(stored["total_steps"]))


def available_memory() -> int | None:
    """Return the bytes that this process may still take: OFFBENCH_MEMORY_GB, or what the system says; None if unknown.

    A limit of the control group (a container, a cluster's job) counts where it is tighter than the machine.
    """
    configured = os.environ.get("OFFBENCH_MEMORY_GB")
    if configured:
        try:
            return int(float(configured) * DECIMAL_GB)
        except ValueError:
            raise SpecError(f"OFFBENCH_MEMORY_GB is {configured!r}", "", "set it to a number of gigabytes") from None
    known = [size for size in (_free_of_machine(), _free_of_group(Path("/sys/fs/cgroup"))) if size is not None]
    return min(known) if known else None


def _free_of_machine() -> int | None:
    if sys.platform == "win32":
        return _free_of_windows()
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return None
    except OSError:  # no Linux: all memory is the best that is known
        if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
            return None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_of_windows() -> int | None:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((f"size_{i}", ctypes.c_ulonglong) for i in range(7)),
        )

    status = Status(length=ctypes.sizeof(Status))
    succeeded = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return int(status.size_1) if succeeded else None


def _free_of_group(folder: Path) -> int | None:
    """Return the limit of the control group minus its use without file pages, which are given back on demand."""
    try:
        limit = int((folder / "memory.max").read_text(encoding="utf-8"))
        used = int((folder / "memory.current").read_text(encoding="utf-8"))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        return max(0, limit - used + int(statistics.get("file", 0)))
    except (OSError, ValueError):  # "max", or another system
        return None


def fits_into_memory(size: int) -> bool:
    """Whether `size` bytes are at most the share of the available memory that a dataset may take."""
    available = available_memory()
    return available is None or size <= USABLE_SHARE * available
