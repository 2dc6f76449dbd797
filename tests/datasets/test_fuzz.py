"""Mutated files of every format: each is loaded (and linted) or refused with a clear error; none crashes or hangs."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium.spaces import Box

from offbench.datasets import Dataset, space_to_json, write_minari
from offbench.datasets.d4rl_write import write_d4rl
from offbench.datasets.parquet_write import write_parquet
from offbench.datasets.table_schema import TableSchema

WORKERS = 2
SECONDS = 20.0  # for one file; a clean one takes milliseconds
BYTE_CASES, STRUCTURE_CASES = 60, 60  # per kind of file
SPACE = Box(-1, 1, (2,))
OPTIONS: dict[str, Any] = {"action_space": space_to_json(SPACE)}
SCHEMA = TableSchema(
    observations=("x", "y"),
    actions=("a", "b"),
    action_type="box",
    low=-1.0,
    high=1.0,
    reward="r",
    terminated="end",
    truncated="cut",
    episode="episode",
    timestep="t",
).to_yaml()


@dataclass(frozen=True)
class Case:
    """One mutated file: where it lies, how to read it, and what must not happen."""

    path: Path
    kind: str
    format: str
    options: dict[str, Any]
    mutation: str
    must_fail: bool = False
    must_equal: str | None = None  # if it loads, its fingerprint


def columns() -> dict[str, np.ndarray]:
    """Thirty rows, three episodes of ten: the first two terminated and cut, the last one running on."""
    rng = np.random.default_rng(0)
    rows = np.arange(30)
    return {
        "observations": rng.normal(size=(30, 2)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (30, 2)).astype(np.float32),
        "rewards": rng.normal(size=30).astype(np.float32),
        "terminals": rows == 9,
        "timeouts": rows == 19,
    }


def dataset() -> Dataset:
    named = {"terminals": "terminated", "timeouts": "truncated"}
    after = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32)
    after[:-1] = columns()["observations"][1:]
    after[[9, 19]] += 5
    values = {named.get(key, key): value for key, value in columns().items()}
    return Dataset.from_arrays(
        **values, next_observations=after, action_space=SPACE, costs=np.ones(30), infos={"speed": np.arange(30)}
    )


def write_hdf5(path: Path, content: dict[str, np.ndarray], *, gzip: bool = True) -> None:
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            options = {"compression": "gzip", "chunks": True} if gzip and value.ndim and value.size else {}
            file.create_dataset(key, data=value, **options)


def frame() -> dict[str, np.ndarray]:
    content = columns()
    rows = np.arange(30)
    return {
        "episode": rows // 10,
        "t": rows % 10,
        "x": content["observations"][:, 0],
        "y": content["observations"][:, 1],
        "a": content["actions"][:, 0],
        "b": content["actions"][:, 1],
        "r": content["rewards"],
        "end": content["terminals"],
        "cut": content["timeouts"],
    }


def write_csv(path: Path, content: dict[str, np.ndarray]) -> None:
    rows = max(len(np.atleast_1d(value)) for value in content.values())
    cells = [[str(v) for v in np.atleast_1d(value)] + [""] * rows for value in content.values()]
    lines = [",".join(content), *(",".join(column[row] for column in cells) for row in range(rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_table(path: Path, content: dict[str, np.ndarray]) -> None:
    rows = max(len(value) for value in content.values())
    lists = {key: [*value.tolist(), *[None] * (rows - len(value))] for key, value in content.items()}
    pq.write_table(pa.table({key: pa.array(value) for key, value in lists.items()}), path)


def dsrl() -> dict[str, np.ndarray]:
    content = columns()
    return {**content, "costs": np.ones(30, np.float32), "next_observations": content["observations"] + 1}


def neorl2() -> dict[str, np.ndarray]:
    content = columns()
    names = {
        "observations": "obs",
        "actions": "action",
        "rewards": "reward",
        "terminals": "done",
        "timeouts": "truncated",
    }
    return {**{names[key]: value for key, value in content.items()}, "next_obs": content["observations"] + 1}


def ogbench() -> dict[str, np.ndarray]:
    content = columns()
    ends = np.arange(30) % 10 == 9
    return {"observations": content["observations"], "actions": content["actions"], "terminals": ends}


Writer = Callable[[Path, dict[str, np.ndarray]], None]


def save(path: Path, content: dict[str, np.ndarray]) -> None:
    np.savez(path, **content)


def save_compressed(path: Path, content: dict[str, np.ndarray]) -> None:
    np.savez_compressed(path, **content)


def write_plain_hdf5(path: Path, content: dict[str, np.ndarray]) -> None:
    write_hdf5(path, content, gzip=False)


# kind -> (format, file name, columns, writer, options)
TABULAR: dict[str, tuple[str, str, Callable[[], dict[str, np.ndarray]], Writer, dict[str, Any]]] = {
    "d4rl": ("d4rl", "x.hdf5", columns, write_hdf5, OPTIONS),
    "d4rl uncompressed": ("d4rl", "x.hdf5", columns, write_plain_hdf5, OPTIONS),
    "dsrl": ("dsrl", "x.hdf5", dsrl, write_hdf5, OPTIONS),
    "npz": ("npz", "x.npz", columns, save, OPTIONS),
    "npz compressed": ("npz", "x.npz", columns, save_compressed, OPTIONS),
    "ogbench": ("ogbench", "x.npz", ogbench, save, {}),
    "neorl2": ("neorl2", "x.npz", neorl2, save_compressed, OPTIONS),
    "csv": ("csv", "x.csv", frame, write_csv, {"schema": SCHEMA}),
    "parquet": ("parquet", "x.parquet", frame, write_table, {"schema": SCHEMA}),
}


def damaged(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Return `content` with damage to its bytes, and its name."""
    kind = rng.choice(["truncate", "flip", "flip", "flip", "zero", "repeat", "noise", "early flip"])
    data = bytearray(content)
    size = len(data)
    if kind == "truncate":
        return bytes(data[: int(rng.integers(0, size))]), f"truncated of {size}"
    if kind in ("flip", "early flip"):
        # Headers lie at the beginning: there a bit decides more than in the values.
        places = rng.integers(0, min(size, 512) if kind == "early flip" else size, int(rng.integers(1, 9)))
        for place in places:
            data[place] ^= 1 << int(rng.integers(8))
        return bytes(data), f"{kind} at {places.tolist()}"
    start = int(rng.integers(0, size))
    stop = min(size, start + int(rng.integers(1, 200)))
    if kind == "zero":
        data[start:stop] = bytes(stop - start)
    elif kind == "noise":
        data[start:stop] = rng.bytes(stop - start)
    else:
        data[start:start] = data[start:stop]
    return bytes(data), f"{kind} {start} to {stop}"


HOSTILE = [np.nan, np.inf, -np.inf, 1e308, -1, 2**31, 2**62, 0.5]


def restructured(
    content: dict[str, np.ndarray], rng: np.random.Generator, kind: str
) -> tuple[dict[str, np.ndarray], str, bool]:
    """Return columns that are not what they should be, the mutation's name, and whether it must be refused."""
    key = str(rng.choice(list(content)))
    value = content[key]
    change = str(rng.choice(["remove", "shorter", "longer", "axis", "empty", "scalar", "type", "hostile", "hostile"]))
    result = dict(content)
    name, must_fail = f"{change} {key}", True
    flat = kind in ("csv", "parquet")
    if change == "remove":
        del result[key]
    elif change == "shorter":
        result[key] = value[:-1]
    elif change == "longer":
        result[key] = np.concatenate([value, value[-1:]])
    elif change == "axis":
        result[key] = value if flat else value[:, None]
        must_fail = False  # (N, 1) is accepted for columns of numbers
    elif change == "empty":
        result[key] = value[:0]
    elif change == "scalar":
        result[key] = value[:1] if flat else value.reshape(-1)[0].reshape(())
    elif change == "type":
        types = ["U8", "i8", "u1", "f8", "f2", "i1"] + ([] if flat else ["c8", "M8[s]"])
        dtype = str(rng.choice(types))
        if kind.startswith(("d4rl", "dsrl")) and dtype in ("U8", "M8[s]"):
            dtype = "c8"
        with np.errstate(all="ignore"):
            result[key] = (
                value.astype(np.float64).astype("i8").astype(dtype) if dtype[0] == "M" else value.astype(dtype)
            )
        name, must_fail = f"{dtype} {key}", dtype in ("c8", "M8[s]") or (dtype == "U8" and not flat)
    else:
        number = HOSTILE[int(rng.integers(len(HOSTILE)))]
        wide = value.astype(np.float64)
        wide[int(rng.integers(len(wide)))] = number
        result[key] = wide
        name = f"{number} in {key}"
        identity = key in ("episode", "t")
        must_fail = (not np.isfinite(number) and not identity) or (value.dtype == bool and number not in (0, 1))
    return result, name, must_fail


def tabular_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    for kind, (form, file, make, write, options) in TABULAR.items():
        place = folder / kind.replace(" ", "_")
        place.mkdir()
        clean = place / file
        write(clean, make())
        yield Case(clean, kind.split()[0], form, options, f"{kind}: clean")
        for index in range(BYTE_CASES):
            path = place / f"{index}_bytes_{file}"
            data, mutation = damaged(clean.read_bytes(), rng)
            path.write_bytes(data)
            equal = clean.as_posix() if path.suffix == ".npz" else None
            yield Case(path, kind.split()[0], form, options, f"{kind}: {mutation}", must_equal=equal)
        for index in range(STRUCTURE_CASES):
            path = place / f"{index}_columns_{file}"
            content, mutation, must_fail = restructured(make(), rng, kind.split()[0])
            write(path, content)
            yield Case(path, kind.split()[0], form, options, f"{kind}: {mutation}", must_fail)


def folder_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """Minari datasets in its three formats, and what offbench's own writers make, with damaged bytes."""
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    os.environ["MINARI_DATASETS_PATH"] = str(folder / "root")
    given = columns()
    episodes = [
        EpisodeBuffer(
            id=index,
            observations=given["observations"][9 * index : 9 * index + 6],
            actions=given["actions"][9 * index : 9 * index + 5],
            rewards=given["rewards"][9 * index : 9 * index + 5].tolist(),
            terminations=[False] * 4 + [index == 0],
            truncations=[False] * 4 + [index == 1],
            infos={"speed": given["rewards"][9 * index : 9 * index + 6]},
        )
        for index in range(3)
    ]
    sources = {"minari ours": write_minari(dataset(), folder / "root", "ours-v0")}
    for form in ("hdf5", "arrow", "parquet"):
        made = minari.create_dataset_from_buffers(
            f"{form}-v0", episodes, observation_space=Box(-9, 9, (2,)), action_space=SPACE, data_format=form
        )
        sources[f"minari {form}"] = Path(made.spec.data_path).parent
    for kind, source in sources.items():
        yield Case(source, "minari", "minari", {}, f"{kind}: clean")
        for index in range(BYTE_CASES):
            copy = folder / f"{kind.replace(' ', '_')}_{index}"
            shutil.copytree(source, copy)
            files = sorted(path for path in copy.rglob("*") if path.is_file())
            target = files[int(rng.integers(len(files)))]
            data, mutation = damaged(target.read_bytes(), rng)
            target.write_bytes(data)
            yield Case(copy, "minari", "minari", {}, f"{kind}: {target.name} {mutation}")
    written = {
        "d4rl ours": ("d4rl", write_d4rl(dataset(), folder / "ours.hdf5")),
        "parquet ours": ("parquet", write_parquet(dataset(), folder / "ours.parquet")),
    }
    for kind, (form, source) in written.items():
        yield Case(source, "ours", form, {}, f"{kind}: clean")
        for index in range(BYTE_CASES):
            path = folder / f"{index}_{source.name}"
            data, mutation = damaged(source.read_bytes(), rng)
            path.write_bytes(data)
            yield Case(path, "ours", form, {}, f"{kind}: {mutation}")


def schema_cases(folder: Path, rng: np.random.Generator) -> Iterator[Case]:
    """A good table with a damaged schema."""
    path = folder / "good.csv"
    write_csv(path, frame())
    for index in range(BYTE_CASES):
        data, mutation = damaged(SCHEMA.encode(), rng)
        schema = folder / f"{index}.yaml"
        schema.write_bytes(data)
        yield Case(path, "csv", "csv", {"schema": str(schema)}, f"schema: {mutation}")


class Worker:
    """A process that reads files, started anew when one of them ends it."""

    def __init__(self, folder: Path) -> None:
        self._environment = {
            **os.environ,
            "OFFBENCH_CACHE_COLUMNS": "never",
            "OFFBENCH_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
        }
        self._start()

    def _start(self) -> None:
        script = Path(__file__).with_name("fuzz_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )

    def read(self, case: Case) -> dict[str, Any]:
        """Return the worker's answer; outcome "death" or "hang" if there is none."""
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        if stdin is None or stdout is None or stderr is None:
            raise RuntimeError("the worker has no pipes")
        request = {"path": str(case.path), "kind": case.kind, "format": case.format, "options": case.options}
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        hung = threading.Event()

        def stop() -> None:
            hung.set()
            self._process.kill()

        timer = threading.Timer(SECONDS, stop)
        timer.start()
        line = stdout.readline()
        timer.cancel()
        if line:
            return json.loads(line)
        text = stderr.read()[-2000:]
        self.close()
        self._start()
        return {"outcome": "hang" if hung.is_set() else "death", "text": text, "seconds": SECONDS}

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def run(cases: list[Case], folder: Path) -> list[dict[str, Any]]:
    """Return the answer to each case."""
    answers: list[dict[str, Any]] = [{}] * len(cases)
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(cases)):
        todo.put(index)

    def work() -> None:
        worker = Worker(folder)
        try:
            while True:
                index = todo.get_nowait()
                answers[index] = worker.read(cases[index])
        except queue.Empty:
            worker.close()

    threads = [threading.Thread(target=work) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mutated_files_are_loaded_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(20240517)
    cases = []
    for name, make in (("tabular", tabular_cases), ("folders", folder_cases), ("schemas", schema_cases)):
        (tmp_path / name).mkdir()
        cases += list(make(tmp_path / name, rng))
    assert len(cases) >= 1000
    answers = run(cases, tmp_path)
    clean = {
        case.path.as_posix(): answer["text"]
        for case, answer in zip(cases, answers, strict=True)
        if case.mutation.endswith(": clean")
    }
    problems = []
    for case, answer in zip(cases, answers, strict=True):
        outcome, text = answer["outcome"], answer["text"]
        if outcome not in ("loaded", "refused"):
            problems.append(f"{case.mutation}: {outcome}: {text}")
        elif case.mutation.endswith(": clean") and outcome != "loaded":
            problems.append(f"{case.mutation}: {text}")
        elif case.must_fail and outcome == "loaded":
            problems.append(f"{case.mutation}: loaded, but it must be refused")
        # The checksums of an archive leave no damage of its values unnoticed.
        elif case.must_equal and outcome == "loaded" and text != clean[case.must_equal]:
            problems.append(f"{case.mutation}: loaded with other values")
    outcomes = Counter((case.mutation.partition(":")[0], a["outcome"]) for case, a in zip(cases, answers, strict=True))
    assert not problems, f"{len(problems)} of {len(cases)}:\n" + "\n".join(problems[:40]) + f"\n{outcomes}"
    # The mutations are not all of one effect: of each kind some are refused.
    for kind in {case.mutation.partition(":")[0] for case in cases}:
        assert outcomes[kind, "refused"] >= 5, outcomes
