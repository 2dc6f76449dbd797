"""The shipped tables as catalogue entries: D4RL, Minari, NeoRL-2, DSRL and OGBench."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from offbench.datasets.catalog import CostReference, DataFile, DatasetEntry, caveats_for, collection
from offbench.datasets.records import Reference
from offbench.datasets.references import d4rl_entries

MINARI_PREFIX = "minari:"
OGBENCH_HOST = "https://rail.eecs.berkeley.edu/datasets/ogbench"
NEORL2_HOST = "http://datasets.polixir.site/neorl2"
_MINARI_ID = re.compile(r"minari:[-\w/]+-v\d+")
_SINGLE_TASK = re.compile(r"(?P<dataset>.+)-singletask(?:-task(?P<task>[1-5]))?-v0")


@cache
def shipped_entries() -> dict[str, DatasetEntry]:
    """All entries of the tables by id, in the order d4rl, minari, neorl2, dsrl, ogbench; none is looked for here."""
    found = (*_d4rl(), *_minari(), *_neorl2(), *_dsrl(), *_ogbench())
    return {entry.id: entry for entry in found}


def shipped_entry(dataset_id: str) -> DatasetEntry | None:
    """The entry of an id, with or without the prefix of its collection.

    Ids that a rule describes are made up here: OGBench's `-singletask` variants, and the Minari families whose
    members the table does not list.
    """
    entries = shipped_entries()
    for candidate in (dataset_id, *(f"{prefix}:{dataset_id}" for prefix in ("minari", "neorl2", "dsrl", "ogbench"))):
        if candidate in entries and "*" not in candidate:
            return entries[candidate]
    single = _ogbench_single_task(dataset_id.removeprefix("ogbench:"))
    if single is not None:
        return single
    name = f"{MINARI_PREFIX}{dataset_id.removeprefix(MINARI_PREFIX)}"
    for pattern, entry in entries.items():
        if "*" in pattern and _MINARI_ID.fullmatch(name) and fnmatchcase(name, pattern):
            return replace(entry, id=name)
    return None


def _rows(name: str) -> Iterator[dict[str, str]]:
    with Path(__file__).with_name(name).open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _entry(dataset_id: str, of: str, **fields: Any) -> DatasetEntry:
    made_by = collection(of)
    common = {"cached": False, "licence": made_by.licence, "citation": made_by.citation, "collection": of}
    return DatasetEntry(id=dataset_id, **{**common, "caveats": caveats_for(dataset_id), **fields})


def _whole(text: str) -> int | None:
    return int(text) if text else None


def _unit_box(size: str) -> Mapping[str, Any]:
    """Reader options for tasks whose actions are `size` numbers between -1 and 1."""
    return {"action_space": spaces.Box(-1.0, 1.0, (int(size),), np.float32)}


def _d4rl() -> Iterator[DatasetEntry]:
    for known in d4rl_entries().values():
        options = {} if known.action_space is None else {"action_space": known.action_space}
        yield _entry(
            known.id,
            "d4rl",
            family=known.family,
            environment=known.environment,
            description="D4RL" if known.url else "D4RL, address unknown",
            reference=known.reference,
            horizon=known.horizon,
            format="d4rl",
            files=(DataFile(known.url.rpartition("/")[2], (known.url,)),) if known.url else (),
            options=options,
        )


def _minari() -> Iterator[DatasetEntry]:
    for row in _rows("minari_datasets.csv"):
        # D4RL's scores belong to D4RL's environments: they are kept, and refused in AdroitHand*-v1.
        original = d4rl_entries().get(row["d4rl_reference"])
        yield _entry(
            f"{MINARI_PREFIX}{row['dataset_id']}",
            "minari",
            family=row["family"],
            environment=row["environment"] or None,
            description="Minari",
            reference=original.reference if original else None,
            horizon=_whole(row["horizon"]),
            format="minari",
        )


def _neorl2() -> Iterator[DatasetEntry]:
    for row in _rows("neorl2_datasets.csv"):
        task, horizon = row["task"], _whole(row["horizon"])
        files = tuple(
            DataFile(f"{task}-{part}.npz", (f"{NEORL2_HOST}/{task}/{task}-{part}.npz",), f"md5:{row[key]}", split)
            for part, key, split in (("train", "train_md5", "train"), ("val", "validation_md5", "validation"))
        )
        low, high = float(row["minimum"]), float(row["maximum"])
        yield _entry(
            f"neorl2:{task}",
            "neorl2",
            family=task.lower(),
            environment=task,
            description="NeoRL-2",
            reference=Reference(low, high, "NeoRL-2 (Gao et al. 2025)", task, horizon),
            horizon=horizon,
            format="neorl2",
            files=files,
            options=_unit_box(row["action_size"]),
        )


def _dsrl() -> Iterator[DatasetEntry]:
    for row in _rows("dsrl_datasets.csv"):
        url, environment, horizon = row["url"], row["environment"], _whole(row["horizon"])
        low, high = float(row["reward_minimum"]), float(row["reward_maximum"])
        limits = tuple(float(limit) for limit in row["cost_thresholds"].split(";"))
        source = "DSRL (Liu et al. 2024): extremes of the data"
        yield _entry(
            f"dsrl:{row['dataset_id']}",
            "dsrl",
            family=row["family"],
            environment=environment,
            description="DSRL, with costs",
            reference=Reference(low, high, source, environment, horizon),
            horizon=horizon,
            costs=CostReference(float(row["cost_minimum"]), float(row["cost_maximum"]), limits, source),
            format="dsrl",
            files=(DataFile(url.rpartition("/")[2], (url,)),),
            options=_unit_box(row["action_size"]),
        )


def _ogbench() -> Iterator[DatasetEntry]:
    for row in _rows("ogbench_datasets.csv"):
        for kind in row["kinds"].split(";"):
            # powderworld acts by one of 8 numbers (the larger of the grid's and the elements' count).
            options = {"action_space": spaces.Discrete(8)} if row["environment"].startswith("powderworld") else {}
            yield _ogbench_entry(row, kind, f"{row['environment']}-{kind}-v0", f"{row['environment']}-v0", **options)


def _ogbench_entry(row: Mapping[str, str], kind: str, name: str, environment: str, **options: Any) -> DatasetEntry:
    """An entry of the file of (environment, kind), under the name of the dataset or of a single task on it."""
    stored = f"{row['environment']}-{kind}-v0"
    files = tuple(
        DataFile(f"{stored}{suffix}.npz", (f"{OGBENCH_HOST}/{stored}{suffix}.npz",), None, split)
        for suffix, split in (("", "train"), ("-val", "validation"))
    )
    return _entry(
        f"ogbench:{name}",
        "ogbench",
        family=row["environment"],
        environment=environment,
        description="OGBench, one task" if "task" in options else "OGBench, without rewards",
        horizon=_whole(row["horizon"]),
        metric="success rate",
        format="ogbench",
        files=files,
        options=options,
    )


def _ogbench_single_task(name: str) -> DatasetEntry | None:
    """The entry of "<environment>-<kind>-singletask(-task<n>)-v0": without a number it is the environment's default."""
    matched = _SINGLE_TASK.fullmatch(name)
    if matched is None:
        return None
    environment, _, kind = matched["dataset"].rpartition("-")
    for row in _rows("ogbench_datasets.csv"):
        if row["environment"] == environment and kind in row["kinds"].split(";") and row["default_task"]:
            number = f"-task{matched['task']}" if matched["task"] else ""
            evaluated = f"{environment}-singletask{number}-v0"
            explicit = f"{matched['dataset']}-singletask-task{matched['task'] or row['default_task']}-v0"
            return _ogbench_entry(row, kind, name, evaluated, task=explicit)
    return None
