"""Reader of plain .npz files: columns by name, one row per step, or trajectories with their last observation.

Names are those of `Dataset` or of D4RL: observations, actions, rewards, terminated (or terminals), truncated (or
timeouts), next_observations, costs, goals, log_probs, sampling_weights. A further array with one row per step becomes
an info. `episode_starts` [K] (first row of each episode) or `lengths` [K] (steps of each episode) say where episodes
begin; with one of them `observations` may have N + K rows, each episode being followed by its last observation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from offbench.datasets import columns
from offbench.datasets.columns import Array
from offbench.datasets.d4rl import require_equal_rows
from offbench.datasets.dataset import Dataset
from offbench.datasets.episodes import boundaries
from offbench.datasets.npz_files import NpzFile, open_npz
from offbench.datasets.records import Provenance, Reference
from offbench.datasets.spaces import unbounded_space
from offbench.datasets.task_facts import task_facts
from offbench.errors import DatasetError

ALIASES = {"terminated": "terminals", "truncated": "timeouts", "lengths": "episode_lengths"}
REQUIRED = ("observations", "actions", "rewards", "terminated")
OPTIONAL = ("truncated", "next_observations", "costs", "goals", "log_probs", "sampling_weights")
EPISODES = ("episode_starts", "lengths")
AMBIGUOUS = ("done", "dones")


def read_npz(
    path: str | Path,
    *,
    environment: str | None = None,
    reference: Reference | None = None,
    horizon: int | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Space[Any] | None = None,
    name: str | None = None,
    source: str | None = None,
) -> Dataset:
    """Read a plain .npz file; see the module for the names it may hold.

    Args:
        path: the file.
        environment: Gymnasium id; the action space and time limit follow from it unless they are given.
        reference: of the normalized score.
        horizon: time limit in steps; used only if the file has no truncated, episode_starts or lengths.
        observation_space, action_space: defaults are an unbounded Box and that of the environment.
        name: defaults to the file's stem.
        source: recorded in the provenance; defaults to "file:NAME".

    Raises:
        DatasetError: a damaged file, missing, ambiguous or inconsistent columns, an unknown action space, or
            unknown episode ends.
    """
    path = Path(path)
    task = task_facts(
        environment,
        action_space=action_space,
        observation_space=observation_space,
        horizon=horizon,
        reference=reference,
    )
    with open_npz(path) as file:
        arrays, infos, ignored = _read_columns(file, path)
    rows = len(arrays["rewards"])
    starts = _starts(arrays.pop("episode_starts", None), arrays.pop("lengths", None), rows, path)
    details: dict[str, Any] = {"file": path.name, "format": "npz"}
    if ignored:
        details["ignored"] = ignored
    properties: dict[str, Any] = {
        "action_space": task.require_action_space(path.name),
        "environment": environment,
        "reference": task.reference,
        "name": name or path.stem,
        "infos": infos,
        **{key: arrays[key] for key in ("costs", "goals", "log_probs", "sampling_weights") if key in arrays},
    }
    frames = len(arrays["observations"])
    if frames == rows:
        return Dataset.from_arrays(
            arrays["observations"],
            arrays["actions"],
            arrays["rewards"],
            arrays["terminated"],
            arrays.get("truncated"),
            next_observations=arrays.get("next_observations"),
            episode_starts=starts,
            observation_space=task.observation_space,
            horizon=task.horizon,
            provenance=Provenance(source or f"file:{path.name}", details),
            **properties,
        )
    terminated = columns.flags("terminated", arrays["terminated"])
    cuts, starts, details["boundaries"] = boundaries(terminated, arrays.get("truncated"), starts, task.horizon)
    if frames != rows + len(starts):
        raise DatasetError(
            f"{path.name} has {frames} observations for {rows} rewards and {len(starts)} episodes",
            f"expected {rows}, one per step, or {rows + len(starts)}, with the last observation of each episode",
            "give episode_starts or lengths if the episodes are others",
        )
    if "next_observations" in arrays:
        raise DatasetError(
            f"{path.name} has next_observations beside observations that hold each episode's last one",
            "two columns would tell the next observations",
            "leave one of them out",
        )
    observations = columns.observations("observations", arrays["observations"])
    return Dataset(
        observations=observations,
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminated=terminated,
        truncated=cuts,
        episode_starts=starts,
        last_known=np.ones(len(starts), np.bool_),
        observation_space=task.observation_space or unbounded_space(observations),
        provenance=Provenance(source or f"file:{path.name}", details),
        **properties,
    )


def _read_columns(file: NpzFile, path: Path) -> tuple[dict[str, Array], dict[str, Array], list[str]]:
    """Return the known columns by our names, the infos, and the names of everything that was not read."""
    stored: dict[str, str] = {}
    for key in (*REQUIRED, *OPTIONAL, *EPISODES):
        names = [name for name in (key, ALIASES.get(key)) if name is not None and name in file]
        if len(names) > 1:
            raise DatasetError(f"{path.name} holds both {' and '.join(names)}", "they mean the same", "remove one")
        if names:
            stored[key] = names[0]
    missing = [key for key in REQUIRED if key not in stored]
    if missing:
        ambiguous = [name for name in AMBIGUOUS if name in file]
        raise DatasetError(
            f"{path.name} lacks {', '.join(missing)}",
            f"{ambiguous[0]!r} may mean ends of the task or time limits"
            if ambiguous
            else f"it holds {', '.join(file) or 'nothing'}",
            f"save {', '.join(REQUIRED)} [N, ...], and truncated [N] or episode_starts [K]",
        )
    rowwise = [key for key in stored if key not in (*EPISODES, "observations")]
    require_equal_rows({key: file.header(stored[key]).shape for key in rowwise}, path)
    arrays = {key: file.read(name) for key, name in stored.items()}
    infos, ignored = {}, []
    for name in file:
        if name in stored.values():
            continue
        header = file.header(name)
        if header.shape[:1] == (len(arrays["rewards"]),) and header.dtype.kind in "biuf":
            infos[name.removeprefix("infos/")] = file.read(name)
        else:
            ignored.append(name)
    if arrays["observations"].ndim == 0:
        raise DatasetError(f"observations of {path.name} have no rows")
    return arrays, infos, sorted(ignored)


def _starts(starts: Array | None, lengths: Array | None, rows: int, path: Path) -> Array | None:
    """Return the first row of each episode, from either description; checked against the rows."""
    if starts is not None and lengths is not None:
        raise DatasetError(f"{path.name} holds both episode_starts and lengths", "they mean the same", "remove one")
    if lengths is None:
        return starts
    if lengths.dtype.kind not in "iu" or lengths.ndim != 1 or not len(lengths) or (lengths < 1).any():
        raise DatasetError(f"lengths of {path.name} are not positive whole numbers, one per episode")
    # Compared before they are added: sums of hostile numbers wrap around.
    if (lengths > rows).any() or lengths.sum(dtype=np.int64) != rows:
        raise DatasetError(
            f"the lengths of the episodes of {path.name} do not sum to the {rows} rewards",
            "",
            "lengths count steps (rewards), not observations",
        )
    return np.cumsum(lengths, dtype=np.int64) - lengths.astype(np.int64)
