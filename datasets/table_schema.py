"""What the columns of a table of logs mean: a schema that can be inferred, printed, edited and applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from gymnasium import spaces

from offbench.errors import SpecError, UnknownNameError

if TYPE_CHECKING:
    from offbench.datasets.dataset import Dataset

ACTION_TYPES = ("box", "discrete", "multi-discrete")
OBSERVATION_TYPES = {"number": np.float32, "integer": np.int64, "byte": np.uint8}
GAPS = ("error", "split", "allow")
_LISTS = ("observations", "next_observations", "goals", "infos")
_COLUMNS = ("reward", "terminated", "truncated", "episode", "timestep", "cost", "log_prob")

HEADER = """\
# What the columns of a table of logs mean, one row per step. Check every line, then apply it:
#   offbench.load_dataset("logs.csv", schema="logs.schema.yaml")
"""
MEANINGS = {
    "observations": "columns of s_t, in this order",
    "actions": "type: box (numbers), discrete (one choice) or multi-discrete",
    "reward": "of this step",
    "terminated": "the task ended here, by itself: no value after it; null: it never does",
    "truncated": "the recording was cut here, e.g. by a time limit",
    "episode": "rows with the same value belong to one episode",
    "timestep": "orders the rows of an episode",
    "next_observations": "columns of s_t+1, in the order of observations; empty cells: unknown",
    "infos": "further numbers to keep",
    "sort": "true: sort by episode and timestep; false: unsorted rows are an error",
    "gaps": "missing steps (2, 3, 5): error, split (a new episode) or allow (timestep is a time, not a count)",
    "horizon": "time limit in steps, needed only if neither truncated nor episode nor timestep is given",
    "environment": "Gymnasium id in which policies are evaluated",
}


@dataclass(frozen=True)
class TableSchema:
    """The role of each column of a table with one row per step. Columns without a role are not read.

    Attributes:
        observations: columns of s_t in order; one column may hold lists of equal length.
        actions: columns of a_t in order.
        action_type: "box" (numbers), "discrete" (one column) or "multi-discrete".
        low, high: bounds of a box, one number or one for each entry of the action.
        choices: number of choices of a discrete action, or of each action column; values are 0 to choices - 1.
        labels: instead of `choices`, the value of the column for choice 0, 1, ...
        reward: column of the reward.
        terminated: column that is true where the task ended by itself; None if it never does.
        truncated: column that is true where the recording was cut.
        episode: column that is constant within an episode and differs between them.
        timestep: column that rises within an episode. Without `episode`, an episode begins where it does not rise.
        next_observations, goals, infos: further columns, in order.
        cost, log_prob: further columns.
        observation_type: "number" (float32), "integer" (int64) or "byte" (uint8).
        observation_shape: shape of one observation if it is not a vector, e.g. (84, 84, 3).
        sort: sort the rows by episode (in the order of their first rows) and timestep; else unsorted rows are an error.
        gaps: what steps missing from a whole-numbered timestep mean: "error", "split" or "allow".
        horizon: time limit in steps.
        environment: Gymnasium id.
        notes: what inference guessed, for people; written as comments and not compared.

    Raises:
        SpecError: a role is missing, given twice, or has an unknown value.
    """

    observations: tuple[str, ...]
    actions: tuple[str, ...]
    action_type: str
    reward: str
    terminated: str | None = None
    truncated: str | None = None
    episode: str | None = None
    timestep: str | None = None
    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None
    choices: int | tuple[int, ...] | None = None
    labels: tuple[Any, ...] | None = None
    next_observations: tuple[str, ...] = ()
    goals: tuple[str, ...] = ()
    infos: tuple[str, ...] = ()
    cost: str | None = None
    log_prob: str | None = None
    observation_type: str = "number"
    observation_shape: tuple[int, ...] | None = None
    sort: bool = False
    gaps: str = "error"
    horizon: int | None = None
    environment: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in ("observations", "actions", "reward"):
            if not getattr(self, name):
                raise SpecError(f"the table schema names no column for {name}", "", f"add {name}:")
        for name, known in (("observation_type", OBSERVATION_TYPES), ("gaps", GAPS), ("action_type", ACTION_TYPES)):
            if getattr(self, name) not in known:
                raise UnknownNameError(name.replace("_", " "), str(getattr(self, name)), known)
        if self.next_observations and len(self.next_observations) != len(self.observations):
            raise SpecError(
                f"the table schema has {len(self.observations)} observation columns and "
                f"{len(self.next_observations)} of the next observation",
                "",
                "give both in the same order",
            )
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            raise SpecError(f"the table schema gives two roles to {', '.join(twice)}", "", "remove one of them")
        if self.sort and self.episode is None:
            raise SpecError("the table schema sorts rows without an episode column", "", "name the episode column")
        self.action_space()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that have a role."""
        single = [getattr(self, name) for name in _COLUMNS]
        lists = [*self.observations, *self.next_observations, *self.goals, *self.infos]
        return (*lists, *self.actions, *(name for name in single if name is not None))

    def action_space(self) -> spaces.Box | spaces.Discrete | spaces.MultiDiscrete:
        """Return the Gymnasium space that the schema describes; SpecError if it does not describe one."""
        count = len(self.actions)
        try:
            if self.action_type == "box":
                low, high = (
                    np.broadcast_to(np.asarray(bound, np.float32), (count,)) for bound in (self.low, self.high)
                )
                if np.isnan(low).any() or np.isnan(high).any() or (low > high).any():
                    raise ValueError(f"low is {self.low} and high is {self.high}")
                return spaces.Box(low, high, dtype=np.float32)
            if self.action_type == "discrete":
                if len(self.actions) != 1:
                    raise ValueError(f"{count} action columns; a discrete action is one column")
                size = self.choices if self.labels is None else len(self.labels)
                return spaces.Discrete(int(size))  # type: ignore[arg-type]
            return spaces.MultiDiscrete(np.broadcast_to(np.asarray(self.choices, np.int64), (count,)).copy())
        except (TypeError, ValueError, AssertionError) as error:
            raise SpecError(
                f"the {self.action_type} action of the table schema is not described",
                str(error),
                "give low: and high: for box, n: or labels: for discrete, n: for multi-discrete",
            ) from error

    @classmethod
    def from_yaml(cls, source: str | Path | Mapping[str, Any]) -> TableSchema:
        """Return the schema in a YAML file, in YAML text (with a line break), or in a mapping parsed from it.

        Raises:
            SpecError: the file cannot be read, is no YAML, or a key is unknown or missing.
        """
        content: Any = source
        if not isinstance(source, Mapping):
            try:
                text = source if isinstance(source, str) and "\n" in source else Path(source).read_text("utf-8")
                content = yaml.safe_load(text)
            except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
                raise SpecError("cannot read the table schema", str(error), "check the path and the YAML") from error
        if not isinstance(content, Mapping):
            raise SpecError("the table schema is not a mapping of roles to columns", "", "see `offbench data schema`")
        return cls(**_parse(content))

    def to_yaml(self) -> str:
        """Return YAML text with a comment on each role; `from_yaml` reads it back."""
        lines = [HEADER.rstrip(), *(f"# {note}" for note in self.notes)]
        for key, value in self._content().items():
            if key in MEANINGS:
                lines.append(f"# {MEANINGS[key]}")
            if isinstance(value, dict):
                lines += [f"{key}:", *(f"  {inner}: {_flow(entry)}" for inner, entry in value.items())]
            else:
                lines.append(f"{key}: {_flow(value)}")
        return "\n".join(lines) + "\n"

    def _content(self) -> dict[str, Any]:
        """Return the schema as plain values in the order of the file; what is not set is left out, but `terminated`."""
        plain = {entry.name: _plain(getattr(self, entry.name)) for entry in fields(self)}
        action = {"columns": plain["actions"], "type": self.action_type}
        action |= {key: plain[key] for key in ("low", "high", "labels") if plain[key] is not None}
        if self.choices is not None:
            action["n"] = plain["choices"]
        content: dict[str, Any] = {"observations": plain["observations"]}
        if self.observation_type != "number":
            content["observation_type"] = self.observation_type
        if self.observation_shape is not None:
            content["observation_shape"] = plain["observation_shape"]
        content |= {"actions": action, "reward": self.reward, "terminated": self.terminated}
        rest = ("truncated", "episode", "timestep", "next_observations", "goals", "cost", "log_prob", "infos")
        content |= {key: plain[key] for key in rest if plain[key]}
        if self.episode is not None:
            content["sort"] = self.sort
        if self.timestep is not None:
            content["gaps"] = self.gaps
        content |= {key: plain[key] for key in ("horizon", "environment") if plain[key] is not None}
        return content

    def apply(self, frame: Any, **options: Any) -> Dataset:
        """Return the dataset in a pandas DataFrame or a pyarrow Table; options as for `tables.from_frame`."""
        from offbench.datasets.tables import from_frame

        return from_frame(frame, self, **options)


def _plain(value: Any) -> Any:
    """Turn tuples into lists and NumPy numbers into Python's, as YAML needs."""
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def _flow(value: Any) -> str:
    """Return YAML of one value on one line."""
    text: str = yaml.safe_dump([value], default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.strip()[1:-1]


def _parse(content: Mapping[str, Any]) -> dict[str, Any]:
    known = [entry.name for entry in fields(TableSchema) if entry.name != "notes"]
    inside = ("action_type", "low", "high", "choices", "labels")
    for key in content:
        if key not in known or key in inside:
            raise UnknownNameError("key of the table schema", str(key), sorted(set(known) - set(inside)))
    values = dict(content)
    action = values.pop("actions", None)
    if not isinstance(action, Mapping):
        raise SpecError("the table schema does not describe the actions", "", "actions: {columns: [a], type: box, ...}")
    for key in action:
        if key not in ("columns", "type", "low", "high", "n", "labels"):
            raise UnknownNameError("key of actions", str(key), ("columns", "type", "low", "high", "n", "labels"))
    values |= {"actions": action.get("columns"), "action_type": action.get("type"), "choices": action.get("n")}
    values |= {key: action.get(key) for key in ("low", "high", "labels")}
    for key in (*_LISTS, "actions", "low", "high", "choices", "labels", "observation_shape"):
        value = values.get(key)
        if isinstance(value, Sequence) and not isinstance(value, str):
            values[key] = tuple(value)
        elif key in (*_LISTS, "actions"):
            values[key] = () if value is None else (value,)
    for key in (*_LISTS, "actions", *_COLUMNS):
        names = values.get(key)
        for name in names if isinstance(names, tuple) else (names,):
            if name is not None and not isinstance(name, str):
                raise SpecError(
                    f"the table schema names a column {name!r} for {key}", "", f"write it in quotes: '{name}'"
                )
    shape = values.get("observation_shape")
    if shape is not None and not (isinstance(shape, tuple) and all(type(n) is int and n > 0 for n in shape)):
        raise SpecError(f"observation_shape is {shape!r}", "", "give positive whole numbers, e.g. [84, 84, 3]")
    horizon = values.get("horizon")
    if horizon is not None and (type(horizon) is not int or horizon < 1):
        raise SpecError(f"horizon is {horizon!r}", "", "give the time limit in steps")
    missing = [key for key in ("reward",) if key not in values]
    if missing:
        raise SpecError("the table schema names no column for reward", "", "add reward:")
    return values
