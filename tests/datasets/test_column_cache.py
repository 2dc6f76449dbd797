"""The column cache: equal datasets, never stale, damaged entries dropped, limits, several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, MultiDiscrete

from offbench.datasets import Dataset, Provenance, Reference, TransformRecord, column_cache, read_d4rl
from offbench.datasets.column_cache import cache_entries, cached_read, clear_cache
from offbench.errors import SpecError

ACTIONS = Box(-1, 1, (2,))


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFBENCH_CACHE_COLUMNS", "always")
    monkeypatch.setattr(column_cache, "SETTLED_SECONDS", -1.0)


def write(path: Path, rewards: np.ndarray) -> Path:
    """A D4RL file of one running episode with the given rewards."""
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(3 * len(rewards), dtype=np.float32).reshape(-1, 3)
        file["actions"] = np.zeros((len(rewards), 2), np.float32)
        file["rewards"] = rewards
        file["terminals"] = np.zeros(len(rewards), bool)
        file["timeouts"] = np.zeros(len(rewards), bool)
        file["infos/qpos"] = np.full((len(rewards), 2), np.nan)
    return path


def counted(path: Path, **options: Any) -> tuple[Callable[[], Dataset], list[int]]:
    """A cached reader of `path` and the list of its real reads."""
    reads: list[int] = []

    def reader() -> Dataset:
        reads.append(1)
        return read_d4rl(path, action_space=ACTIONS, **options)

    return lambda: cached_read(path, reader, options={"action_space": ACTIONS, **options}, format="d4rl"), reads


def test_the_second_read_maps_equal_columns_without_parsing(tmp_path: Path) -> None:
    read, reads = counted(write(tmp_path / "x.hdf5", np.arange(5.0)), reference=Reference(0, 1, "made up", None, 7))
    direct = read_d4rl(tmp_path / "x.hdf5", action_space=ACTIONS, reference=Reference(0, 1, "made up", None, 7))
    for dataset in (read(), read()):
        assert dataset.fingerprint == direct.fingerprint == Dataset(**fields_of(dataset)).fingerprint
        assert (dataset.name, dataset.reference, dataset.provenance) == ("x", direct.reference, direct.provenance)
        assert (dataset.observation_space, dataset.action_space) == (direct.observation_space, ACTIONS)
        np.testing.assert_array_equal(dataset.infos["qpos"], direct.infos["qpos"])
        assert isinstance(memory_of(dataset.observations), np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            dataset.observations[0] = 0
    assert len(reads) == 1


def fields_of(dataset: Dataset) -> dict[str, Any]:
    names = [name for name in Dataset.__dataclass_fields__ if getattr(dataset, name) is not None]
    return {name: getattr(dataset, name) for name in names}


def memory_of(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def test_every_field_of_a_dataset_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    original = Dataset.from_arrays(
        rng.integers(0, 255, (6, 40, 40), dtype=np.uint8),
        rng.integers(0, 3, (6, 2)),
        rng.normal(size=6),
        [False, True, False, False, False, False],
        [False] * 6,
        next_observations=rng.integers(0, 255, (6, 40, 40), dtype=np.uint8),
        action_space=MultiDiscrete([3, 3]),
        environment="Made-v0",
        costs=np.ones(6),
        goals=rng.normal(size=(6, 2)),
        log_probs=-np.ones(6),
        sampling_weights=np.full(6, 1 / 6),
        infos={"empty": np.zeros((6, 0)), "deep/x": np.arange(6)},
        provenance=Provenance("made", {"list": [1, 2]}, (TransformRecord("t", {"a": 1}, 3),)),
    )
    source = tmp_path / "source"
    source.write_bytes(b"x")
    for _ in range(2):
        again = cached_read(source, lambda: original, options={}, format="made")
        for name, value in fields_of(original).items():
            stored = getattr(again, name)
            if isinstance(value, np.ndarray):
                assert stored.dtype == value.dtype
                np.testing.assert_array_equal(stored, value)
            elif name == "infos":
                assert {key: column.shape for key, column in stored.items()} == {"empty": (6, 0), "deep/x": (6,)}
            else:
                assert stored == value
        assert again.fingerprint == original.fingerprint
        # What is not a column is replaced without a look at the columns; a column is still checked.
        assert again.replace(name="other").observations is again.observations
        assert again.replace(rewards=np.zeros(6)).fingerprint != again.fingerprint


@pytest.mark.parametrize("how", ["rewritten", "in place, times restored", "replaced by another file", "truncated"])
def test_a_changed_file_is_read_again(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "x.hdf5", np.arange(5000.0))
    read, reads = counted(path)
    assert read().rewards[-1] == 4999
    before = path.stat()
    if how == "truncated":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(Exception, match="damaged or incomplete"):
            read()
        return
    if how == "replaced by another file":
        write(tmp_path / "y.hdf5", -np.arange(5000.0)).replace(path)
    elif how == "rewritten":
        write(path, -np.arange(5000.0))
    else:
        with h5py.File(path, "r+") as file:
            file["rewards"][...] = -np.arange(5000.0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert read().rewards[-1] == -4999
    assert len(reads) == 2
    assert [entry.current for entry in cache_entries()] == [True]  # the outdated entry is gone


def test_an_edit_is_noticed_by_content_where_no_time_tells(tmp_path: Path) -> None:
    path = tmp_path / "x"
    content = bytearray(np.random.default_rng(0).bytes(1_000_000))
    path.write_bytes(content)
    before = column_cache._identity(path, probed=True)
    for position in (0, 70_000 * 14 + 5, len(content) * 3 // 17 + 100):  # head, tail, a sampled block
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        assert column_cache._identity(path, probed=True)["probe"] != before["probe"]


def test_options_formats_names_and_further_files_have_entries_of_their_own(tmp_path: Path) -> None:
    path, schema = write(tmp_path / "x.hdf5", np.arange(5.0)), tmp_path / "schema.yaml"
    schema.write_text("a")
    reads: list[str] = []

    def read(label: str, **request: Any) -> None:
        def reader() -> Dataset:
            reads.append(label)
            return read_d4rl(path, action_space=ACTIONS)

        cached_read(path, reader, **{"options": {}, "format": "d4rl", **request})

    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "format": {"format": "dsrl"},
        "space": {"options": {"action_space": ACTIONS}},
        "other space": {"options": {"action_space": Box(-2, 2, (2,))}},
        "array": {"options": {"rows": np.arange(3)}},
        "other array": {"options": {"rows": np.arange(1, 4)}},
        "mapping": {"options": {"columns": {"a": [1, 2], "b": None}}},
        "schema": {"options": {"schema": schema}},
        "also": {"also": [schema]},
    }
    for _ in range(2):
        for label, request in variants.items():
            read(label, **request)
    assert reads == list(variants)
    schema.write_text("b")
    read("schema", **variants["schema"])
    read("also", **variants["also"])
    assert reads == [*variants, "schema", "also"]
    for _ in range(2):
        read("function", options={"parse": len})
    assert reads[-2:] == ["function", "function"]


def test_a_folder_is_current_while_all_its_files_are(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_text("a")
    (folder / "deep" / "b").write_text("b")
    original = read_d4rl(write(tmp_path / "x.hdf5", np.arange(5.0)), action_space=ACTIONS)
    reads: list[int] = []

    def read() -> None:
        cached_read(folder, lambda: reads.append(1) or original, options={}, format="folder")  # type: ignore[func-returns-value]

    for change in (lambda: None, lambda: (folder / "deep" / "b").write_text("c"), (folder / "new").touch):
        change()
        read()
        read()
    assert len(reads) == 3


@pytest.mark.parametrize(
    "damage", ["manifest", "manifest text", "column", "column gone", "column shape", "no manifest"]
)
def test_a_damaged_entry_is_dropped_and_read_anew(tmp_path: Path, damage: str) -> None:
    read, reads = counted(write(tmp_path / "x.hdf5", np.arange(5.0)))
    fingerprint = read().fingerprint
    folder = cache_entries()[0].folder
    manifest, column = folder / "manifest.json", folder / "000.npy"
    if damage == "manifest":
        manifest.write_bytes(manifest.read_bytes()[:-10])
    elif damage == "manifest text":
        checksum, _, text = manifest.read_text().partition("\n")
        manifest.write_text(f"{checksum}\n{json.dumps({**json.loads(text), 'fingerprint': 'another'})}")
    elif damage == "column":
        column.write_bytes(column.read_bytes()[:-4] + b"abcd")
    elif damage == "column gone":
        column.unlink()
    elif damage == "column shape":
        np.save(column, np.zeros((2, 3), np.float32))
    else:
        manifest.unlink()
    dataset = read()
    assert len(reads) == 2
    assert dataset.fingerprint == Dataset(**fields_of(dataset)).fingerprint == fingerprint
    read()
    assert len(reads) == 2


def test_small_files_are_parsed_each_time_unless_always(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reads = counted(write(tmp_path / "x.hdf5", np.arange(5.0)))
    for mode in ("auto", "never"):
        monkeypatch.setenv("OFFBENCH_CACHE_COLUMNS", mode)
        assert not isinstance(memory_of(read().rewards), np.memmap)
    assert len(reads) == 2
    assert cache_entries() == []
    monkeypatch.setenv("OFFBENCH_CACHE_COLUMNS", "auto")
    monkeypatch.setattr(column_cache, "AUTO_FILE_BYTES", 1)
    read()
    assert cache_entries() == []
    monkeypatch.setattr(column_cache, "AUTO_COLUMN_BYTES", 100)
    assert isinstance(memory_of(read().rewards), np.memmap)
    monkeypatch.setenv("OFFBENCH_CACHE_COLUMNS", "often")
    with pytest.raises(SpecError, match="auto, always or never"):
        read()


def test_a_file_that_changed_a_moment_ago_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_cache, "SETTLED_SECONDS", 2.0)
    read, reads = counted(write(tmp_path / "x.hdf5", np.arange(5.0)))
    read()
    assert cache_entries() == []
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 3)
    read()
    read()
    assert len(reads) == 2


def test_entries_are_listed_limited_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{name}.hdf5", np.arange(100_000.0)) for name in "abc"]
    sizes = []
    for age, path in enumerate(paths):
        dataset = counted(path)[0]()
        sizes.append(sum(file.stat().st_size for file in cache_entries()[0].folder.glob("*")))
        newest = next(entry for entry in cache_entries() if entry.source == str(path))
        os.utime(newest.folder / "manifest.json", (0, 1000 + age))
    assert [Path(entry.source).stem for entry in cache_entries()] == ["c", "b", "a"]
    assert cache_entries()[0].format == "d4rl"
    assert cache_entries()[0].megabytes == pytest.approx(sizes[0] / 1e6, rel=0.02)
    paths[1].unlink()
    assert [entry.current for entry in cache_entries()] == [True, False, True]
    assert clear_cache(only_outdated=True) == pytest.approx(sizes[1], abs=2000)
    assert clear_cache(keep_bytes=int(1.5 * sizes[0])) == pytest.approx(sizes[0], abs=2000)
    assert [Path(entry.source).stem for entry in cache_entries()] == ["c"]
    clear_cache()
    assert cache_entries() == []
    assert dataset.observations[-1, -1] == 299_999  # what was mapped stays readable
    monkeypatch.setenv("OFFBENCH_CACHE_COLUMNS_GB", str(1.5 * sizes[0] / 1e9))
    for path in (paths[0], paths[2]):
        counted(path)[0]()
    assert [Path(entry.source).stem for entry in cache_entries()] == ["c"]


def test_a_cache_that_cannot_be_written_warns_and_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocked").write_text("a file where the folder should be")
    monkeypatch.setenv("OFFBENCH_CACHE", str(tmp_path / "blocked"))
    read, _ = counted(write(tmp_path / "x.hdf5", np.arange(5.0)))
    with pytest.warns(UserWarning, match="OFFBENCH_CACHE_COLUMNS=never"):
        assert len(read()) == 5


def read_in_process(path: Path, cache: Path, queue: Any) -> None:
    os.environ.update(OFFBENCH_CACHE=str(cache), OFFBENCH_CACHE_COLUMNS="always")
    column_cache.SETTLED_SECONDS = -1.0

    def reader() -> Dataset:
        queue.put("read")
        time.sleep(1.0)
        return read_d4rl(path, action_space=ACTIONS)

    queue.put(cached_read(path, reader, options={}, format="d4rl").fingerprint)


def test_of_two_processes_one_parses(tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5", np.arange(5.0))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=read_in_process, args=(path, tmp_path / "c", queue)) for _ in range(2)]
    for process in processes:
        process.start()
    said = [queue.get(timeout=60) for _ in range(3)]
    for process in processes:
        process.join()
    assert said.count("read") == 1
    assert len(set(said)) == 2


def test_partly_known_next_observations_and_marks_are_cached(tmp_path: Path) -> None:
    path = write(tmp_path / "x.hdf5", np.arange(5.0))

    def reader() -> Dataset:
        dataset = read_d4rl(path, action_space=ACTIONS)
        override = np.full((5, 3), 7, np.float32)
        infos = {**dataset.infos, "missing/actions": np.arange(5) == 1}
        return dataset.replace(next_observations_override=override, next_known=np.arange(5) != 2, infos=infos)

    first, second = (cached_read(path, reader, options={}, format="d4rl") for _ in range(2))
    assert len(cache_entries()) == 1
    for dataset in (first, second):
        assert np.flatnonzero(~dataset.next_valid).tolist() == [2]
        assert np.flatnonzero(dataset.infos["missing/actions"]).tolist() == [1]
        # Made anew from its columns, so that the fingerprint is not the stored one.
        assert Dataset(**fields_of(dataset)).fingerprint == dataset.fingerprint == reader().fingerprint
