"""What is known about D4RL's datasets without a file: reference scores, environments, sizes and addresses.

The table `d4rl_references.csv` holds one row per dataset id: the reference scores of `d4rl/infos.py` and of the
environments' registrations, the time limit, the sizes of observation and action, the address, the Gymnasium
environments for which the reference is accepted (first one: where it applies) and the one to evaluate in. Gymnasium's
v2, v3 and v4 MuJoCo tasks share dynamics and rewards; v5 changed them and is therefore never listed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from gymnasium import spaces

from offbench.datasets.records import Reference

TABLE = Path(__file__).with_name("d4rl_references.csv")
SOURCE = "D4RL (Fu et al. 2020)"


@dataclass(frozen=True)
class D4RLEntry:
    """What the table says about one dataset, or about a family of datasets where all of them agree."""

    id: str
    family: str
    environment: str | None
    reference: Reference | None
    horizon: int | None
    observation_size: int | None
    action_size: int | None
    url: str | None

    @property
    def action_space(self) -> spaces.Box | None:
        """Box(-1, 1) of the action's size: every D4RL task with a known size acts in it."""
        if self.action_size is None:
            return None
        return spaces.Box(-1.0, 1.0, (self.action_size,), np.float32)

    @property
    def environments(self) -> tuple[str, ...]:
        """Environment ids for which the reference is accepted."""
        if self.reference is None or self.reference.environment is None:
            return ()
        return (self.reference.environment, *self.reference.compatible)


@cache
def d4rl_entries() -> dict[str, D4RLEntry]:
    """Return the table's rows by dataset id."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["dataset_id"]: _parse(row) for row in csv.DictReader(file)}


def _parse(row: dict[str, str]) -> D4RLEntry:
    def integer(key: str) -> int | None:
        return int(row[key]) if row[key] else None

    reference = None
    if row["minimum"]:
        # Without a Gymnasium port the reference belongs to D4RL's own environment, which carries the dataset's id.
        environment, *compatible = row["environments"].split(";") if row["environments"] else [row["dataset_id"]]
        reference = Reference(
            float(row["minimum"]), float(row["maximum"]), SOURCE, environment, integer("horizon"), tuple(compatible)
        )
    return D4RLEntry(
        id=row["dataset_id"],
        family=row["family"],
        environment=row["evaluate"] or None,
        reference=reference,
        horizon=integer("horizon"),
        observation_size=integer("observation_size"),
        action_size=integer("action_size"),
        url=row["url"] or None,
    )


def entry_for_environment(environment: str) -> D4RLEntry | None:
    """Return what D4RL's datasets of a Gymnasium environment such as "Hopper-v4" have in common, if there are any."""
    return _common([entry for entry in d4rl_entries().values() if environment in entry.environments])


def entry_for_file_name(stem: str) -> D4RLEntry | None:
    """Return what a file name such as "hopper_medium-v2" or "hopper-mine" suggests, if it is unambiguous.

    A D4RL dataset id is recognized in both spellings; else the part before the first "-" or "_" must be a family
    whose datasets share one reference. A stem that names a v5 environment suggests nothing.
    """
    name = stem.lower().replace("_", "-")
    if name in d4rl_entries():
        return d4rl_entries()[name]
    if "v5" in name.split("-") or "-" not in name:
        return None
    return _common([entry for entry in d4rl_entries().values() if entry.family == name.split("-")[0]])


def _common(entries: Iterable[D4RLEntry]) -> D4RLEntry | None:
    """Merge entries that share their scores; fields in which they differ become None."""
    entries = [entry for entry in entries if entry.reference is not None]
    if len({(e.reference.minimum, e.reference.maximum) for e in entries if e.reference}) != 1:
        return None
    first = entries[0]

    def shared(name: str) -> bool:
        return len({getattr(entry, name) for entry in entries}) == 1

    return D4RLEntry(
        id=first.family,
        family=first.family,
        environment=first.environment if shared("environment") else None,
        reference=first.reference if shared("reference") else None,
        horizon=first.horizon if shared("horizon") else None,
        observation_size=first.observation_size if shared("observation_size") else None,
        action_size=first.action_size if shared("action_size") else None,
        url=None,
    )
