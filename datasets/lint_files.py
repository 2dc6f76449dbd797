"""Checks of a file's raw columns, for files that cannot be loaded: lengths, types, missing and impossible values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from offbench.datasets.columns import Array
from offbench.datasets.lint_checks import Hit, check, counted
from offbench.datasets.raw_columns import ROLES, RawColumns

REQUIRED = ("observations", "actions", "rewards", "terminated")


@check(
    "cannot-load",
    "error",
    finds="the dataset cannot be loaded; what its columns show is reported below it",
    why="nothing can be computed from it",
    fix="repair what is named, or build the dataset with Dataset.from_arrays",
    file_only=True,
)
def cannot_load(raw: RawColumns) -> Iterator[Hit]:
    if raw.error:
        yield Hit(raw.error, fix=raw.fix)


@check(
    "unreadable-column",
    "error",
    finds="a stored column, or the whole file, cannot be read",
    why="the file is damaged, incomplete, or holds pickled objects, which are never loaded",
    fix="download or copy the file again; store plain arrays of numbers",
    known="D4RL #8, #42, #226 (interrupted downloads); Minari #220",
    file_only=True,
)
def unreadable_column(raw: RawColumns) -> Iterator[Hit]:
    for name, reason in raw.unreadable.items():
        yield Hit(f"{f'column {name!r}' if name else 'the file'} cannot be read: {reason}")


@check(
    "missing-columns",
    "error",
    finds="observations, actions, rewards or terminals are not there under any usual name",
    why="a dataset needs all of them",
    fix="add or rename the column; a table needs a schema (`offbench data schema FILE`)",
    known="tianshou #766",
    file_only=True,
)
def missing_columns(raw: RawColumns) -> Iterator[Hit]:
    if raw.layout not in ("HDF5", "NumPy archive") or not raw.columns:
        return
    missing = [role for role in REQUIRED if raw.stored_name(role) is None]
    if missing:
        yield Hit(f"no column for {', '.join(missing)}; the file holds {', '.join(sorted(raw.columns))}")


@check(
    "mismatched-lengths",
    "error",
    finds="columns, or the columns of an episode, have different numbers of rows",
    why="rows no longer belong together, and it is unknown which of them are missing",
    fix="write the file again; cutting all columns to the shortest is right only if rows are missing at the end",
    known="D4RL #64, #65; Minari #199 (T instead of T + 1 observations)",
    file_only=True,
)
def mismatched_lengths(raw: RawColumns) -> Iterator[Hit]:
    if raw.episode_problems:
        episodes = [episode for episode, _ in raw.episode_problems]
        text = f"episode {episodes[0]} {raw.episode_problems[0][1]}"
        yield Hit(text if len(episodes) == 1 else f"{len(episodes):,} episodes; {text}", episodes=episodes)
        return
    lengths = {name: len(values) for name, values in raw.columns.items() if _belongs(raw, name)}
    if len(set(lengths.values())) > 1:
        common = Counter(lengths.values()).most_common(1)[0][0]
        others = [f"{name} has {counted(length, 'row')}" for name, length in lengths.items() if length != common]
        first = min(lengths.values())
        text = f"{', '.join(others)}, the other columns {common:,}; rows from {first} on are incomplete"
        yield Hit(text, [first], count=max(lengths.values()) - first)


@check(
    "wrong-dtype",
    "error",
    finds="a column that must be numbers holds text, objects or complex numbers",
    why="it cannot be computed with; often a few rows of text turned a column of numbers into text",
    fix="store numbers; encode categories as integers; leave missing values out",
    known="d3rlpy #386, #399 (tables of logs)",
    file_only=True,
)
def wrong_dtype(raw: RawColumns) -> Iterator[Hit]:
    for name, values in raw.columns.items():
        if not _belongs(raw, name) or name in raw.excused or values.dtype.kind in "biuf":
            continue
        rows = np.flatnonzero(_not_numbers(values))
        if raw.layout == "table" and len(rows) == len(values):
            continue  # a column of text, which a schema may leave out
        text = f"column {name!r} has type {values.dtype}"
        if len(rows) < len(values):
            shown = values[rows[0]] if len(rows) else ""
            text += f"; no number in {counted(len(rows), 'row')}, such as {shown!r:.40}"
        yield Hit(text, rows, raw.episodes_of(rows))


@check(
    "non-finite",
    "error",
    finds="observations, actions, rewards or costs hold NaN or infinity",
    why="one such value turns all weights of a network into NaN",
    fix="repair or remove these rows before the dataset is made; after a removed row a new episode starts",
    known="d3rlpy #160, #255, #372",
    file_only=True,
)
def non_finite(raw: RawColumns) -> Iterator[Hit]:
    left_out = {raw.stored_name("terminated"), raw.stored_name("truncated"), *raw.excused}
    for name, values in raw.columns.items():
        if values.dtype.kind != "f" or not _belongs(raw, name) or name in left_out or name.startswith("infos/"):
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            bad = ~np.isfinite(values.astype(np.float32).reshape(len(values), -1))
        rows = np.flatnonzero(bad.any(axis=1))
        if len(rows):
            text = f"column {name!r} is not finite in {counted(len(rows), 'row')}"
            yield Hit(text, rows, raw.episodes_of(rows))


@check(
    "flag-values",
    "error",
    finds="an end-of-episode flag is neither 0 nor 1",
    why="it may be a discount, a count or a missing value; guessing would move episode ends",
    fix="store flags as booleans",
    file_only=True,
)
def flag_values(raw: RawColumns) -> Iterator[Hit]:
    for role in ("terminated", "truncated"):
        values = raw.role(role)
        if values is None or values.dtype.kind not in "biuf":
            continue
        flat = values.reshape(len(values), -1)
        rows = np.flatnonzero(((flat != 0) & (flat != 1)).any(axis=1))
        if len(rows):
            text = f"{raw.stored_name(role)} is {flat[rows[0], 0]:g} in row {rows[0]}; {len(rows):,} in all"
            yield Hit(text, rows, raw.episodes_of(rows))


def _belongs(raw: RawColumns, name: str) -> bool:
    """The column has one row per step: it plays a role, is an info, or the file is a table or a Minari dataset."""
    if raw.layout in ("table", "Minari"):
        return True
    return name.startswith("infos/") or name in {raw.stored_name(role) for role in ROLES}


def _not_numbers(values: Array) -> NDArray[np.bool_]:
    """[N] the entry of a column of text or objects is no number."""

    def wrong(value: object) -> bool:
        try:
            float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return True
        return False

    return np.array([wrong(value) for value in values.reshape(len(values), -1)[:, 0].tolist()], dtype=np.bool_)
