"""Loading and sampling speed of datasets beside h5py, a D4RL-style loop, Minari and d3rlpy: one run, ratios.

    python benchmarks/datasets.py                      # prints the table
    python benchmarks/datasets.py --write docs/results/datasets_speed.md
    python benchmarks/datasets.py --only sampling      # one part; with d3rlpy installed it is timed too

The files are made first: random numbers in the shapes of Hopper and HalfCheetah, compressed with gzip as D4RL's are.
Contestants take turns, and of each the fastest round counts: other programs on the machine can only make a round
slower. "Ready to train" means a checked `Dataset`, with episodes found and no next observation of another episode.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.spaces import Box

from offbench.datasets import Dataset, clear_cache, read_d4rl, read_minari, read_path

SHAPES = {"Hopper": (11, 3), "HalfCheetah": (17, 6)}
ENVIRONMENTS = {"Hopper": "Hopper-v4", "HalfCheetah": "HalfCheetah-v4"}
BATCH = 256
SETTLE = 2.5  # seconds; the column cache does not keep a file that has only just been written


@dataclass(frozen=True)
class Row:
    """One line of the table: what, who, seconds of the fastest round, and the ratio that is aimed at."""

    part: str
    contestant: str
    seconds: float
    ratio: str = ""
    aim: str = ""


def fastest(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each contestant's fastest round; they take turns."""
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            result = run()
            best[name] = min(best[name], time.perf_counter() - start)
            del result
    return best


def made(task: str, steps: int) -> dict[str, np.ndarray]:
    """Columns of D4RL's names: Hopper falls every few hundred steps, HalfCheetah never; both are cut at 1000."""
    rng = np.random.default_rng(0)
    observation, action = SHAPES[task]
    terminals = rng.random(steps) < (0.003 if task == "Hopper" else 0.0)
    timeouts, length = np.zeros(steps, bool), 0
    for row, fallen in enumerate(terminals.tolist()):
        length += 1
        timeouts[row] = length == 1000 and not fallen
        if fallen or timeouts[row]:
            length = 0
    return {
        "observations": rng.standard_normal((steps, observation), np.float32),
        "actions": rng.uniform(-1, 1, (steps, action)).astype(np.float32),
        "rewards": rng.standard_normal(steps, np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def write_file(path: Path, columns: dict[str, np.ndarray]) -> None:
    """An HDF5 file as D4RL's generation scripts write it: gzip, chunks of h5py's choice."""
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column, compression="gzip")


def bare_read(path: Path) -> dict[str, np.ndarray]:
    """The same arrays and nothing else."""
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


def row_loop(path: Path) -> dict[str, np.ndarray]:
    """Transitions by a Python loop over rows, the procedure of `d4rl.qlearning_dataset`: s' is the next row, steps at
    time limits are left out."""
    data = bare_read(path)
    kept: dict[str, list[Any]] = {name: [] for name in ("s", "a", "r", "following", "done")}
    for row in range(len(data["rewards"]) - 1):
        if data["timeouts"][row]:
            continue
        kept["s"].append(data["observations"][row].astype(np.float32))
        kept["a"].append(data["actions"][row].astype(np.float32))
        kept["r"].append(data["rewards"][row].astype(np.float32))
        kept["following"].append(data["observations"][row + 1].astype(np.float32))
        kept["done"].append(bool(data["terminals"][row]))
    return {name: np.array(values) for name, values in kept.items()}


def times(value: float) -> str:
    """A ratio for people."""
    return f"{value:.0f}x" if value >= 20 else f"{value:.2f}x" if value < 2 else f"{value:.1f}x"


def loading(folder: Path, steps: int, rounds: int) -> list[Row]:
    """A D4RL file against h5py and the loop, and its second load from the column cache."""
    rows = []
    for task, (observation, action) in SHAPES.items():
        path = folder / f"{task.lower()}-speed.hdf5"
        write_file(path, made(task, steps))
        time.sleep(SETTLE)
        part = f"{task} {observation}+{action}, {steps:,} steps"

        def ours(path: Path = path, task: str = task) -> Dataset:
            return read_d4rl(path, environment=ENVIRONMENTS[task])

        def bare(path: Path = path) -> object:
            return bare_read(path)

        def loop(path: Path = path) -> object:
            return row_loop(path)

        best = fastest({"bare": bare, "ours": ours}, rounds)
        best |= fastest({"loop": loop}, max(1, rounds // 3))
        rows += [
            Row(part, "h5py, bare read of the same arrays", best["bare"]),
            Row(part, "loop over rows, as d4rl's", best["loop"]),
            Row(
                part,
                "offbench, ready to train",
                best["ours"],
                times(best["ours"] / best["bare"]) + " h5py's time",
                "1.5x",
            ),
            Row(part, "", best["ours"], times(best["loop"] / best["ours"]) + " faster than the loop", "10x"),
        ]

        def first(path: Path = path, task: str = task) -> Dataset:
            clear_cache()
            return read_path(path, environment=ENVIRONMENTS[task])

        def second(path: Path = path, task: str = task) -> Dataset:
            return read_path(path, environment=ENVIRONMENTS[task])

        cached = fastest({"first": first, "second": second}, rounds)
        rows += [
            Row(part, "offbench, first load and storing it", cached["first"]),
            Row(
                part,
                "offbench, second load (memory-mapped)",
                cached["second"],
                times(cached["first"] / cached["second"]) + " faster than the first",
                "50x",
            ),
        ]
        path.unlink()
    return rows


def minari_loading(folder: Path, steps: int, rounds: int) -> list[Row]:
    """A dataset of Minari's own writer: `iterate_episodes` against `read_minari` and against bare reads of h5py."""
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    data = made("Hopper", steps)
    ends = np.flatnonzero(data["terminals"] | data["timeouts"]).tolist()
    episodes = []
    for index, (begin, end) in enumerate(zip([-1, *ends[:-1]], ends, strict=True)):
        rows = slice(begin + 1, end + 1)
        frames = data["observations"][rows].astype(np.float64)  # Gymnasium's MuJoCo observations are doubles
        episodes.append(
            EpisodeBuffer(
                id=index,
                observations=np.concatenate([frames, frames[-1:]]),
                actions=data["actions"][rows],
                rewards=data["rewards"][rows].tolist(),
                terminations=data["terminals"][rows].tolist(),
                truncations=data["timeouts"][rows].tolist(),
                infos={},
            )
        )
    minari.create_dataset_from_buffers(
        "speed-v0", episodes, observation_space=Box(-np.inf, np.inf, (11,), np.float64), action_space=Box(-1, 1, (3,))
    )
    file_path = folder / "speed-v0" / "data" / "main_data.hdf5"
    count = len(episodes)

    def floor() -> list[np.ndarray]:
        arrays = []
        with h5py.File(file_path) as file:
            for index in range(count):
                group = h5py.h5g.open(file.id, f"episode_{index}".encode())
                for name in (b"observations", b"actions", b"rewards", b"terminations", b"truncations"):
                    column = h5py.h5d.open(group, name)
                    array = np.empty(column.shape, column.dtype)
                    column.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
                    arrays.append(array)
        return arrays

    contestants: dict[str, Callable[[], object]] = {
        "minari": lambda: list(minari.load_dataset("speed-v0").iterate_episodes()),
        "floor": floor,
        "ours": lambda: read_minari(folder / "speed-v0"),
    }
    best = fastest(contestants, rounds)
    part = f"Minari HDF5, {count:,} episodes, {ends[-1] + 1:,} steps"
    return [
        Row(part, "minari, list(iterate_episodes())", best["minari"]),
        Row(
            part, "h5py's low level, the same arrays", best["floor"], times(best["minari"] / best["floor"]) + " faster"
        ),
        Row(part, "offbench, ready to train", best["ours"], times(best["minari"] / best["ours"]) + " faster", "2x"),
    ]


def sampling(steps: int, rounds: int, draws: int) -> list[Row]:
    """Batches of 256 transitions: ours, as training draws them, and d3rlpy's replay buffer where it is installed."""
    import torch

    from offbench.algorithms.base import Requires
    from offbench.algorithms.batches import LaneSampler, Preprocessing, TransitionBuffer

    torch.set_num_threads(1)
    data = made("Hopper", steps)
    dataset = Dataset.from_arrays(
        data["observations"],
        data["actions"],
        data["rewards"],
        data["terminals"],
        data["timeouts"],
        action_space=Box(-1, 1, (3,)),
    )
    sampler = LaneSampler(TransitionBuffer(dataset, Requires(), Preprocessing(observations="none")), [0], BATCH)
    step = 0

    def ours() -> None:
        nonlocal step
        for _ in range(draws):
            step += 1
            sampler.draw(step)

    contestants: dict[str, Callable[[], object]] = {"ours": ours}
    few = max(1, draws // 100)
    try:
        import d3rlpy
    except ImportError:
        d3rlpy = None
    else:
        peer = d3rlpy.dataset.MDPDataset(
            observations=data["observations"],
            actions=data["actions"],
            rewards=data["rewards"],
            terminals=data["terminals"],
            timeouts=data["timeouts"],
        )
        contestants["d3rlpy"] = lambda: [peer.sample_transition_batch(BATCH) for _ in range(few)]
    best = fastest(contestants, rounds)
    part = f"batches of {BATCH} from {steps:,} transitions"
    own = best["ours"] / draws
    if d3rlpy is None:
        return [Row(part, "offbench", own), Row(part, "d3rlpy", float("nan"), "not measured: not installed", "50x")]
    other = best["d3rlpy"] / few
    return [
        Row(part, f"d3rlpy {d3rlpy.__version__}", other),
        Row(part, "offbench", own, times(other / own) + " faster", "50x"),
    ]


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | who | time | ratio | aim |", "|---|---|---|---|---|"]
    for row in rows:
        seconds = "-" if np.isnan(row.seconds) else spelled(row.seconds)
        lines.append(
            f"| {row.part} | {row.contestant} | {seconds if row.contestant else ''} | {row.ratio} | {row.aim} |"
        )
    return "\n".join(lines)


def spelled(seconds: float) -> str:
    """A duration for people."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise ValueError(seconds)


def main() -> None:
    """Make the files, time everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--draws", type=int, default=2000, help="batches per round")
    parser.add_argument("--only", choices=("loading", "minari", "sampling"))
    parser.add_argument("--folder", type=Path, help="where the files are made (default: a temporary folder)")
    parser.add_argument("--write", type=Path, help="write the table as a page here")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    os.environ["OFFBENCH_CACHE"] = str(folder / "cache")
    os.environ["OFFBENCH_CACHE_COLUMNS"] = "auto"
    rows: list[Row] = []
    try:
        if arguments.only in (None, "loading"):
            rows += loading(folder, arguments.steps, arguments.rounds)
        if arguments.only in (None, "minari"):
            rows += minari_loading(folder / "minari", arguments.steps, arguments.rounds)
        if arguments.only in (None, "sampling"):
            rows += sampling(arguments.steps, arguments.rounds, arguments.draws)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(rows))
    if arguments.write:
        arguments.write.write_text(page(rows), encoding="utf-8")


def page(rows: list[Row]) -> str:
    """The table as a page of the documentation."""
    machine = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}, h5py {h5py.__version__}"
    )
    return f"""# How fast datasets load

Made by `python benchmarks/datasets.py --write docs/results/datasets_speed.md` in one run ({machine}).
Files are made of random numbers, the worst case for compression, and gzip as D4RL's; the contestants take turns, and
of each the fastest round counts. "Ready to train" is a checked `Dataset`: types, finite values, episodes found. The
second load maps the columns that the first one stored, after checking that the file is still the same.

{table(rows)}
"""


if __name__ == "__main__":
    main()
