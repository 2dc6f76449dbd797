"""A first guess at the schema of a table, for people to check: roles by names, action types by values.

Names, in any case and with "_", "-", "." or a space between words: reward, rewards, r; terminated, terminal(s);
truncated, timeout(s); episode, episode_id, trajectory, traj; timestep, step, t, time; obs..., observation..., state...;
next_obs..., next_...; action..., act..., a<number>; cost(s); log_prob(s); goal...; info(s).... Whatever is uncertain is
said in the notes, which the YAML shows as comments.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from offbench.datasets.table_files import column_names, read_table_file, table_of_frame
from offbench.datasets.table_schema import TableSchema
from offbench.errors import DatasetError

SAMPLE = 200_000  # rows of a file that are looked at
MAXIMUM_CHOICES = 1000
SINGLE = {
    "reward": r"r|rew|rewards?",
    "terminated": r"terminated|terminals?|terminations?",
    "truncated": r"truncated|truncations?|timeouts?",
    "episode": r"(episode|trajectory|traj|ep)(_?(id|index|number))?",
    "timestep": r"(time_?step|step|t|time|timestamp)(_?(id|index|number))?",
    "cost": r"costs?",
    "log_prob": r"(action_?)?log_?probs?|logp",
}
LISTS = {
    "next_observations": r"(next_(obs|observations?|states?|s)|obs_next|s_next)(\b|_|\d).*|next_.+",
    "observations": r"(obs|observations?|states?|s|o)((_|\d).*)?",
    "actions": r"(actions?|act|a|u)((_|\d).*)?",
    "goals": r"(goals?|desired_goal|g)((_|\d).*)?",
    "infos": r"infos?(_|\d).*",
}


def infer_schema(source: Any) -> TableSchema:
    """Return a schema for a CSV or Parquet file, a pandas DataFrame or a pyarrow Table. Check it before using it.

    Numeric columns whose name says nothing become observations if no other column does, else they get no role.

    Raises:
        DatasetError: no column looks like the reward or the action.
    """
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        table = read_table_file(path, column_names(path), {}, SAMPLE)
    else:
        table = table_of_frame(source, None)
    notes: list[str] = []
    roles, rest = _roles(table.column_names, notes)
    numeric = [name for name in rest if _is_numeric(table.column(name).type)]
    if not roles["observations"] and numeric:
        notes.append("guess: observations are the numeric columns that have no other name")
        roles["observations"] = numeric
        rest = [name for name in rest if name not in numeric]
    if rest:
        notes.append(f"not used: {', '.join(rest)}")
    for key in ("observations", "actions", "reward"):
        if not roles[key]:
            raise DatasetError(
                f"no column looks like {key}",
                f"the columns are {', '.join(table.column_names) or 'none'}",
                "write the schema by hand, or rename the columns (obs_0, action, reward, terminated, episode, t)",
            )
    if roles["terminated"] is None:
        notes.append("guess: nothing says where the task ended; terminated: null means that it never does")
    following = tuple(roles["next_observations"] or ())
    if following and len(following) != len(roles["observations"]):
        notes.append(f"not used: {', '.join(following)}, whose number differs from the observations'")
        following = ()
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in roles.items()}
    values |= {"next_observations": following, **_action(table, roles["actions"], notes)}
    if _whole(table, roles["observations"]):
        notes.append("observations are whole numbers, read as numbers; for choices or pixels set observation_type")
    return TableSchema(**values, notes=tuple(notes))


def _roles(names: list[str], notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the columns of each role, and the columns without one."""
    roles: dict[str, Any] = {key: None for key in SINGLE} | {key: [] for key in LISTS}
    rest = []
    for name in names:
        plain = re.sub(r"[\s.\-\[\]/:]+", "_", name.strip().lower()).strip("_")
        single = next((key for key, pattern in SINGLE.items() if re.fullmatch(pattern, plain)), None)
        several = next((key for key, pattern in LISTS.items() if re.fullmatch(pattern, plain)), None)
        if single is not None and roles[single] is None:
            roles[single] = name
        elif several is not None and single is None:
            roles[several].append(name)
        elif plain in ("done", "dones") and roles["terminated"] is None:
            roles["terminated"] = name
            notes.append(f"guess: {name!r} is terminated; if it also marks time limits, correct it before training")
        else:
            rest.append(name)
    if roles["terminated"] in rest:
        rest.remove(roles["terminated"])
    for key in LISTS:
        roles[key] = sorted(roles[key], key=_natural)
    return roles, rest


def _natural(name: str) -> list[Any]:
    """Sort obs_2 before obs_10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _is_numeric(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _whole(table: pa.Table, names: list[str]) -> bool:
    return all(pa.types.is_integer(table.column(name).type) for name in names)


def _action(table: pa.Table, names: list[str], notes: list[str]) -> dict[str, Any]:
    """Return the fields of the schema that describe the action, with a note on what was guessed."""
    kinds = [table.column(name).type for name in names]
    if len(names) == 1 and not _is_numeric(kinds[0]):
        labels = sorted(str(value) for value in pc.unique(table.column(names[0])).to_pylist() if value is not None)
        notes.append("guess: the choices are the values that occur, in alphabetical order; add those that do not")
        return {"action_type": "discrete", "labels": tuple(labels[:MAXIMUM_CHOICES])}
    if len(names) == 1 and pa.types.is_boolean(kinds[0]):
        return {"action_type": "discrete", "labels": (False, True)}
    if len(names) == 1 and pa.types.is_integer(kinds[0]):
        values = table.column(names[0]).drop_null().cast(pa.int64(), safe=False).to_numpy()
        if len(values) and values.min() >= 0 and values.max() < MAXIMUM_CHOICES:
            notes.append("guess: whole-numbered actions are choices 0 to n - 1; use type: box if they are amounts")
            return {"action_type": "discrete", "choices": max(1, int(values.max()) + 1)}
    low, high = [], []
    for name in names:
        column = table.column(name)
        if not _is_numeric(column.type):
            raise DatasetError(f"action column {name!r} holds {column.type}", "", "write the schema by hand")
        arrays = [chunk.flatten() if pa.types.is_nested(chunk.type) else chunk for chunk in column.chunks]
        parts = [np.asarray(part.drop_null().to_numpy(zero_copy_only=False)) for part in arrays]
        values = np.concatenate(parts) if parts else np.empty(0)
        finite = values[np.isfinite(values)] if len(values) else values
        low.append(float(finite.min()) if len(finite) else -1.0)
        high.append(float(finite.max()) if len(finite) else 1.0)
    notes.append("guess: low and high are the smallest and largest values that occur; give the real limits")
    if len(names) == 1 and pa.types.is_nested(kinds[0]):
        sizes = pc.list_value_length(table.column(names[0])).drop_null()
        count = int(sizes[0].as_py()) if len(sizes) else 1
        low, high = low * count, high * count
    return {"action_type": "box", "low": tuple(low), "high": tuple(high)}
