"""Process that reads mutated files for test_fuzz.py: one JSON request a line in, one JSON answer a line out.

A process of its own, because a damaged HDF5 file could take the interpreter with it.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offbench.datasets import Dataset, lint_dataset
from offbench.datasets.formats import read_path
from offbench.datasets.spaces import space_from_json
from offbench.errors import OffbenchError

MEMORY = 6 * 2**30  # bytes of address space, so that a file that asks for more fails here and not on the machine


def check(dataset: Dataset, path: Path, kind: str) -> str:
    """Return what is wrong with a dataset that was loaded; empty if nothing is."""
    rows = len(dataset.rewards)
    for name in ("step_observations", "next_observations", "actions", "rewards", "terminated", "truncated"):
        column = getattr(dataset, name)
        if len(column) != rows or (column.dtype.kind == "f" and not np.isfinite(column).all()):
            return f"{name} is unusable"
    ends = dataset.terminated | dataset.truncated
    if not dataset.is_last[ends].all():
        return "a flag inside an episode"
    if kind in ("d4rl", "dsrl"):
        # Another reader of the same file sees the same numbers.
        with h5py.File(path) as file:
            raw = {key: np.asarray(file[key]) for key in ("observations", "rewards", "terminals")}
        same = (
            np.array_equal(raw["rewards"].astype(np.float32).reshape(-1), dataset.rewards)
            and np.array_equal(raw["terminals"].reshape(-1) != 0, dataset.terminated)
            and np.array_equal(raw["observations"].astype(dataset.observations.dtype), dataset.step_observations)
        )
        if not same:
            return "not what the file holds"
    return ""


def read(request: dict[str, Any]) -> dict[str, Any]:
    options = dict(request["options"])
    if "action_space" in options:
        options["action_space"] = space_from_json(options["action_space"])
    path = Path(request["path"])
    try:
        dataset = read_path(path, format=request["format"], **options)
    except OffbenchError as error:
        text = str(error)
        return {"outcome": "refused", "text": text} if len(error.what) > 10 else {"outcome": "unclear", "text": text}
    wrong = check(dataset, path, request["kind"])
    if wrong:
        return {"outcome": "wrong", "text": wrong}
    lint_dataset(dataset)
    return {"outcome": "loaded", "text": dataset.fingerprint}


def main() -> None:
    warnings.simplefilter("ignore")
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        try:
            answer = read(request)
        except Exception as error:
            import traceback

            place = traceback.extract_tb(error.__traceback__)
            answer = {"outcome": "crash", "text": f"{type(error).__name__}: {error} at {place[-1]} from {place[1:4]}"}
        print(json.dumps({**answer, "seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
