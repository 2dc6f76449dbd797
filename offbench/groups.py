"""Groups: which runs train together, decided once and recorded, so that a resumed group is the same group."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from offbench.checkpoint import has_checkpoint
from offbench.errors import StorageError
from offbench.runs import RunSpec, RunStore, content_hash
from offbench.storage import read_json, write_json

# On a GPU more lanes cost little until the device is full; this bounds memory.
MAX_LANES_GPU = 32


@dataclass(frozen=True)
class Group:
    """Runs that train as the lanes of one algorithm object.

    Batched kernels differ in the last bits with the number of lanes, so a group's members, their order, the
    matmul setting and the threads are recorded when it starts and never change until it is finished.

    Attributes:
        runs: equal in dataset, algorithm, preprocessing, protocol and all configuration fields that lanes of one
            algorithm object must share.
        checkpoint_every: updates between checkpoints.
        matmul: "default" or "onednn", see `offbench.algorithms.networks.select_matmul`.
        threads: torch threads.
    """

    runs: tuple[RunSpec, ...]
    checkpoint_every: int
    matmul: str = "default"
    threads: int = 1

    @cached_property
    def hash(self) -> str:
        """Hash of the members' hashes, in order."""
        return content_hash([run.hash for run in self.runs])

    @property
    def title(self) -> str:
        """The group's name for people: the labels and the dataset."""
        labels = dict.fromkeys(run.label for run in self.runs)
        return f"{', '.join(labels)} on {self.runs[0].dataset.name}"

    @property
    def updates(self) -> int:
        """Updates of each member."""
        return int(self.runs[0].protocol["updates"])

    def folder(self, store: RunStore) -> Path:
        """Where the group keeps its record and checkpoint until it is finished."""
        return store.groups(self.runs[0].study) / self.hash[:16]

    def record(self, store: RunStore) -> None:
        """Write group.json, from which `recorded_groups` re-forms the group."""
        write_json(
            self.folder(store) / "group.json",
            {
                "runs": [run.to_json() for run in self.runs],
                "checkpoint_every": self.checkpoint_every,
                "matmul": self.matmul,
                "threads": self.threads,
            },
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Group:
        """Rebuild a group; StorageError if the record is damaged."""
        try:
            runs = tuple(RunSpec.from_json(run) for run in value["runs"])
            return cls(runs, int(value["checkpoint_every"]), str(value["matmul"]), int(value["threads"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError("a group's record is damaged", repr(error)) from error


def recorded_groups(store: RunStore, study: str) -> tuple[list[Group], list[str]]:
    """The unfinished groups of a study, and warnings about records that cannot be read.

    Folders of finished groups, left by a crash during the clean-up, of groups that did not reach a checkpoint and
    unreadable ones are removed: their unfinished runs start anew and may be grouped differently.
    """
    groups, warnings = [], []
    folders = sorted(store.groups(study).iterdir()) if store.groups(study).is_dir() else []
    for folder in folders:
        if not folder.is_dir():
            continue
        try:
            group = Group.from_json(read_json(folder / "group.json"))
        except StorageError as error:
            if (folder / "group.json").exists():
                warnings.append(f"{folder / 'group.json'} cannot be used, its runs start anew: {error.what}")
            shutil.rmtree(folder, ignore_errors=True)
            continue
        done = [store.state(run) == "done" for run in group.runs]
        if all(done) or not (any(done) or has_checkpoint(folder / "checkpoint")):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            groups.append(group)
    return groups, warnings


def form_groups(
    store: RunStore,
    runs: Sequence[RunSpec],
    *,
    shareable: Mapping[str, frozenset[str]],
    workers: int,
    gpu: bool = False,
    max_lanes: int | None = None,
    checkpoint_every: int,
    matmul: str = "default",
    threads: int = 1,
) -> tuple[list[Group], list[str]]:
    """Groups for the runs that are not done: recorded ones as they were, new ones for the rest.

    Args:
        runs: all runs of a suite, in order; equal studies.
        shareable: per algorithm the configuration fields in which lanes may differ.
        workers: how many groups can train at the same time.
        max_lanes: most runs per new group. By default runs that fit together do train together, split only as
            far as it takes to give every worker something to do.

    Returns:
        The groups, those with the most work first, and warnings.
    """
    unfinished = {run.hash: run for run in runs if store.state(run) != "done"}
    if not runs or not unfinished:
        return [], []
    groups, warnings = recorded_groups(store, runs[0].study)
    groups = [group for group in groups if any(run.hash in unfinished for run in group.runs)]
    taken = {run.hash for group in groups for run in group.runs}
    cells: dict[str, list[RunSpec]] = {}
    for run in unfinished.values():
        if run.hash not in taken:
            cells.setdefault(_sharing_key(run, shareable[run.algorithm]), []).append(run)
    limit = max_lanes or (MAX_LANES_GPU if gpu else max(map(len, cells.values()), default=1))
    parts = {key: -(-len(members) // limit) for key, members in cells.items()}
    while max_lanes is None and not gpu and sum(parts.values()) + len(groups) < workers:
        key = max(cells, key=lambda k: len(cells[k]) / parts[k], default=None)
        if key is None or len(cells[key]) <= parts[key]:
            break
        parts[key] += 1
    for key, members in cells.items():
        for lanes in _split(members, parts[key]):
            groups.append(Group(tuple(lanes), checkpoint_every, matmul, threads))
    groups.sort(key=lambda group: -group.updates * len(group.runs))
    return groups, warnings


def _sharing_key(run: RunSpec, shareable: frozenset[str]) -> str:
    config = {name: value for name, value in run.config.items() if name not in shareable}
    return content_hash({**run.cell, "config": config})


def _split(runs: list[RunSpec], parts: int) -> list[list[RunSpec]]:
    """Cut into `parts` pieces whose lengths differ by one at most."""
    bounds = [round(index * len(runs) / parts) for index in range(parts + 1)]
    return [runs[start:stop] for start, stop in pairwise(bounds)]
