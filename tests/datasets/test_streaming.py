"""Sources larger than the memory: estimates, reading and converting in bounded memory, equal datasets and batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.algorithms.base import Requires
from offbench.algorithms.batches import LaneSampler, Preprocessing, TransitionBuffer
from offbench.datasets import (
    Dataset,
    allocation,
    column_cache,
    read_path,
    streaming,
    write_d4rl,
    write_minari,
    write_parquet,
)
from offbench.datasets.allocation import allocate, blocks, on_disk
from offbench.datasets.episodes import interleave, last_frame_index, step_frames
from offbench.datasets.streaming import available_memory, estimate_memory
from offbench.errors import DatasetError, SpecError, StorageError

ROWS, WIDTH = 70_000, 512  # 143 MB of observations, and as much of next observations


def made(rows: int = 3000, width: int = 5) -> Dataset:
    """Episodes of 40 steps; every second one terminates, and the last frame of every one is known."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(rows, width)).astype(np.float32)
    steps = np.arange(1, rows + 1)
    following = np.roll(observations, -1, 0)
    following[steps % 40 == 0] = 7.0
    following[-1] = 8.0
    return Dataset.from_arrays(
        observations,
        rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        rng.normal(size=rows).astype(np.float32),
        steps % 80 == 40,
        steps % 80 == 0,
        next_observations=following,
        action_space=Box(-1, 1, (2,)),
        infos={"qpos": rng.normal(size=(rows, 3))},
    )


@pytest.fixture
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFBENCH_MEMORY_GB", "1e-6")
    monkeypatch.setenv("OFFBENCH_CACHE_COLUMNS", "always")
    monkeypatch.setattr(column_cache, "SETTLED_SECONDS", -1.0)
    monkeypatch.setattr(allocation, "LEAST_BYTES", 64)
    monkeypatch.setattr(allocation, "BLOCK_BYTES", 1000)


WRITERS: dict[str, Any] = {
    "d4rl": lambda data, folder: write_d4rl(data, folder / "x.hdf5"),
    "minari": lambda data, folder: write_minari(data, folder, "x-v0"),
    "parquet": lambda data, folder: write_parquet(data, folder / "x.parquet"),
}


@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_read_through_files_is_the_same_and_mapped(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = made()
    path = WRITERS[kind](dataset, tmp_path)
    for _ in range(2):
        again = read_path(path)
        assert again.fingerprint == dataset.fingerprint == Dataset(**vars_of(again)).fingerprint
        np.testing.assert_array_equal(again.infos["qpos"], dataset.infos["qpos"])
        assert again.provenance == dataset.provenance
        for column in (again.observations, again.actions, again.rewards, again.infos["qpos"]):
            assert isinstance(memory_of(column), np.memmap)
    said = capsys.readouterr()
    assert said.err.count("so its columns are kept in") == 1
    assert said.out == ""
    stored = sum(file.stat().st_size for file in (tmp_path / "cache" / "columns").rglob("*.npy"))
    columns = sum(getattr(dataset, name).nbytes for name in ("observations", "actions", "rewards"))
    assert stored < 1.1 * columns + dataset.infos["qpos"].nbytes + 3 * 3000 + 10_000  # and no scratch file is left


def vars_of(dataset: Dataset) -> dict[str, Any]:
    return {name: getattr(dataset, name) for name in Dataset.__dataclass_fields__}


def memory_of(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@pytest.mark.usefixtures("_little_memory")
def test_other_programs_files_are_read_through_files_too(tmp_path: Path) -> None:
    data = made()
    columns = {
        "observations": data.step_observations.astype(np.float64),
        "next_observations": data.next_observations.astype(np.float64),
        "actions": data.actions,
        "rewards": data.rewards.astype(np.float64)[:, None],
        "terminals": data.terminated.astype(np.float32),
        "timeouts": data.truncated,
    }
    np.savez_compressed(tmp_path / "x.npz", **columns)
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column, chunks=(7, *column.shape[1:]), compression="gzip")
    for name in ("x.npz", "x.hdf5"):
        again = read_path(tmp_path / name, action_space=Box(-1, 1, (2,)))
        assert again.fingerprint == data.fingerprint
        assert isinstance(memory_of(again.observations), np.memmap)


@pytest.mark.usefixtures("_little_memory")
def test_a_source_that_changes_while_it_is_read_or_finds_no_disk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_d4rl(made(), tmp_path / "x.hdf5")

    def reader() -> Dataset:
        path.write_bytes(path.read_bytes() + b" ")
        return made()

    with pytest.raises(DatasetError, match="was changed while it was read"):
        column_cache.cached_read(path, reader, options={}, format="d4rl")
    assert list((tmp_path / "cache" / "columns").glob(".*")) == []
    monkeypatch.setattr(np.lib.format, "open_memmap", lambda *_, **__: (_ for _ in ()).throw(OSError("disk is full")))
    with pytest.raises(StorageError, match="disk is full"):
        read_path(path)


CHILD = """
    import json, sys, threading, time
    from pathlib import Path
    from offbench.datasets import load_dataset, write_d4rl, write_minari, write_parquet

    def anonymous():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024

    source, folder, steps, space = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","), sys.argv[4]
    peaks, running = [], True

    def watch():
        while running:
            peaks.append(anonymous())
            time.sleep(0.002)

    before, found = anonymous(), {}
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for step in steps:
            peaks.clear()
            if step == "load":
                data = load_dataset(source, action_space=space)
            elif step == "d4rl":
                write_d4rl(data, folder / "copy.hdf5", compression=None)
            elif step == "parquet":
                write_parquet(data, folder / "copy.parquet", compression="none")
            elif step == "minari":
                write_minari(data, folder, "copy-v0")
            elif step.startswith("again"):
                again = load_dataset(folder / step.partition(":")[2])
                assert again.fingerprint == data.fingerprint
                del again
            peaks.append(anonymous())
            found[step] = max(peaks) - before
    finally:
        running = False
        thread.join()
    print(json.dumps(found))
"""


def in_child(source: Path, folder: Path, steps: str, memory: str, space: str) -> dict[str, int]:
    """Peak growth of anonymous memory (bytes; mapped files are not counted: the system may drop them) by step."""
    environment = {
        **os.environ,
        "OFFBENCH_MEMORY_GB": memory,
        "OFFBENCH_CACHE": str(folder / f"cache-{memory}"),
        "OFFBENCH_CACHE_COLUMNS": "auto",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(source), str(folder), steps, space]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_memory_stays_bounded_while_reading_and_converting(tmp_path: Path) -> None:
    path = write_d4rl(made(ROWS, WIDTH), tmp_path / "x.hdf5", compression=None)
    with h5py.File(path, "a") as file:
        size = sum(file[name].size * file[name].dtype.itemsize for name in ("observations", "next_observations"))
        del file["offbench"]  # as another program's file: episodes are found and next observations compared
        file["next_observations"][0] += 1  # ... and kept, as they are no shift
    space = json.dumps({"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -1], "high": [1, 1]})
    steps = "load,d4rl,again:copy.hdf5,parquet,again:copy.parquet,minari,again:copy-v0"
    bounded = in_child(path, tmp_path, steps, "0.01", space)
    usual = in_child(path, tmp_path, "load", "100", space)
    assert usual["load"] > 0.9 * size  # the measure sees what a usual load takes
    for step, growth in bounded.items():
        assert growth < 0.5 * size, f"{step}: {bounded} of {size}"


def test_estimates_come_close_to_what_is_loaded(tmp_path: Path) -> None:
    data = made(20_000, 30)
    held = sum(getattr(data, name).nbytes for name in ("observations", "actions", "rewards", "terminated", "truncated"))
    held += data.infos["qpos"].nbytes
    for kind, write in WRITERS.items():
        estimate = estimate_memory(write(data, tmp_path))
        assert 0.7 * held < estimate < 3.5 * held, kind
    np.savez_compressed(tmp_path / "x.npz", observations=np.zeros((1000, 500)), rewards=np.zeros(1000, np.float32))
    assert estimate_memory(tmp_path / "x.npz") == 2 * 4_000_000 + 4000
    (tmp_path / "x.hdf5").write_bytes(b"no HDF5 at all")
    assert estimate_memory(tmp_path / "x.hdf5") == 14
    (tmp_path / "x.csv").write_text("a,b\n" * 100)
    assert estimate_memory(tmp_path / "x.csv") == 400


def test_available_memory_is_what_the_system_or_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = available_memory()
    assert machine is None or machine > 1 << 20
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("800\n")
    (tmp_path / "memory.stat").write_text("anon 500\nfile 300\n")
    assert streaming._free_of_group(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert streaming._free_of_group(tmp_path) is None
    monkeypatch.setenv("OFFBENCH_MEMORY_GB", "1.5")
    assert available_memory() == 1_500_000_000
    monkeypatch.setenv("OFFBENCH_MEMORY_GB", "much")
    with pytest.raises(SpecError, match="number of gigabytes"):
        available_memory()


@pytest.mark.usefixtures("_little_memory")
def test_batches_of_both_kinds_are_identical(tmp_path: Path) -> None:
    dataset = made()
    dataset = dataset.replace(sampling_weights=np.arange(3000) / np.arange(3000).sum())
    mapped = read_path(write_d4rl(dataset, tmp_path / "x.hdf5"))
    assert isinstance(memory_of(mapped.observations), np.memmap)
    drawn = []
    for data in (dataset, mapped):
        buffer = TransitionBuffer(data, Requires(), Preprocessing(rewards="return_range"))
        sampler = LaneSampler(buffer, [0, 7], 32)
        drawn.append([sampler.draw(step)[0] for step in (1, 2, 129)])
    for first, second in zip(*drawn, strict=True):
        assert set(first) == set(second)
        for name, values in first.items():
            assert torch.equal(values, second[name])  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12), st.integers(1, 60))
def test_frames_are_woven_block_by_block_as_at_once(episodes: list[tuple[int, bool]], size: int) -> None:
    lengths = np.array([length for length, _ in episodes])
    known = np.array([flag for _, flag in episodes])
    rows = int(lengths.sum())
    starts = np.cumsum(lengths) - lengths
    observations = np.arange(rows, dtype=np.float32)[:, None]
    last = -1 - np.arange(known.sum(), dtype=np.float32)[:, None]
    expected, row, extra = [], 0, 0
    for length, flag in episodes:
        expected += list(range(row, row + length)) + ([-1 - extra] if flag else [])
        row, extra = row + length, extra + flag
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "BLOCK_BYTES", size)
        frames = interleave(observations, last, starts, known)
    assert frames[:, 0].tolist() == expected
    for begin in range(0, rows, 7):
        part = slice(begin, min(begin + 7, rows))
        np.testing.assert_array_equal(frames[step_frames(starts, known, part), 0], observations[part, 0])
    np.testing.assert_array_equal(frames[last_frame_index(starts, known, rows)], last)


def test_blocks_cover_all_rows_once_in_multiples() -> None:
    array = np.zeros((103, 10))
    found = list(blocks(array, multiple=4, size=1000))
    assert np.concatenate([np.arange(103)[block] for block in found]).tolist() == list(range(103))
    assert {block.stop - block.start for block in found[:-1]} == {12}
    assert list(blocks(np.zeros((0, 3)))) == []


def test_arrays_are_files_only_where_they_are_wanted_and_large(tmp_path: Path) -> None:
    with on_disk(tmp_path):
        large, small = allocate((1000, 300), np.float32), allocate((3,), np.float32)
        large[:] = 1
    assert isinstance(large, np.memmap)
    assert not isinstance(small, np.memmap)
    assert not isinstance(allocate((1000, 300), np.float32), np.memmap)
    assert np.load(next(tmp_path.iterdir())).sum() == 300_000
