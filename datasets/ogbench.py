"""Reader of OGBench's .npz files: trajectories of L steps stored as L + 1 rows, the last one without a next state.

Layout (Park et al. 2025, https://github.com/seohongpark/ogbench): observations, actions and terminals [F], and for
single tasks also qpos, qvel, button_states. `terminals` is 1 on the last row of each trajectory; it says that the
recording was cut there, never that the task ended, so it becomes `truncated`. There are no rewards in the files: the
datasets are for reaching goals. `task=` adds those of a `-singletask` variant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from offbench.datasets import columns
from offbench.datasets.columns import Array, freeze
from offbench.datasets.d4rl import require_equal_rows
from offbench.datasets.dataset import Dataset
from offbench.datasets.npz_files import open_npz
from offbench.datasets.ogbench_tasks import OGBenchTask, named_task
from offbench.datasets.records import Provenance, Reference
from offbench.datasets.spaces import unbounded_space
from offbench.errors import DatasetError, SpecError

REQUIRED = ("observations", "actions", "terminals")
STATES = ("qpos", "qvel", "button_states")

RewardRule = Callable[[Mapping[str, Array]], tuple[Array, Array]]


def read_ogbench(
    path: str | Path,
    *,
    view: Literal["regular", "compact"] = "regular",
    task: str | OGBenchTask | Mapping[str, Any] | None = None,
    reward: RewardRule | None = None,
    environment: str | None = None,
    reference: Reference | None = None,
    action_space: spaces.Space[Any] | None = None,
    name: str | None = None,
    source: str | None = None,
) -> Dataset:
    """Read an OGBench file.

    A trajectory of L + 1 rows is one episode of L transitions whose last next state is known. The rewards are 0,
    unless `task` or `reward` gives them. A row that reaches the goal of the task is terminated, and because a
    trajectory goes on after it, the next row begins a new episode; `infos["trajectory"]` tells which belong together.

    Args:
        path: the file, e.g. "antmaze-large-navigate-v0.npz".
        view: "regular" leaves out each trajectory's last row, whose action leads nowhere; "compact" keeps it as a
            row whose next observation is unknown, so that samplers skip it. Their other transitions are the same.
        task: goal of the single task: a dataset name such as "antmaze-large-navigate-singletask-task1-v0", an
            `OGBenchTask`, or a mapping of its fields.
        reward: a function of the stored columns by name, [F, ...] each, to (rewards [F], terminated [F]); instead of
            `task`, for rewards of one's own.
        environment: Gymnasium id for evaluation, e.g. "antmaze-large-v0". It is recorded only.
        reference: of the normalized score. OGBench reports success rates and has none.
        action_space: Box(-1, 1) of the actions' size for floats, which is that of every OGBench environment with
            continuous actions; for integer actions (powderworld) it must be given, e.g. Discrete(n).
        name: defaults to the file's stem.
        source: recorded in the provenance; defaults to "file:NAME".

    Raises:
        DatasetError: a damaged file, missing columns, trajectories of a single row, or unknown integer actions.
        SpecError: an unknown view or task.
    """
    path = Path(path)
    if view not in ("regular", "compact"):
        raise SpecError(f"unknown view {view!r}", "", "use 'regular' or 'compact'")
    if task is not None and reward is not None:
        raise SpecError("task and reward are both given", "each of them sets the rewards", "pass one of them")
    rule = reward if task is None else _task(task).rewards
    with open_npz(path) as file:
        missing = [key for key in REQUIRED if key not in file]
        if missing:
            raise DatasetError(
                f"{path.name} lacks {', '.join(missing)}",
                f"it holds {', '.join(file) or 'nothing'}; OGBench's layout needs {', '.join(REQUIRED)}",
                "read it with format='npz' if it is one of your own",
            )
        present = [key for key in (*REQUIRED, *STATES) if key in file]
        require_equal_rows({key: file.header(key).shape for key in present}, path)
        arrays = {key: file.read(key) for key in present}
    ends = columns.flags("terminals", arrays.pop("terminals"))
    _check_trajectories(ends, path)
    goals_reached = np.zeros(len(ends), np.bool_)
    rewards = np.zeros(len(ends), np.float32)
    if rule is not None:
        rewards, goals_reached = (np.asarray(column) for column in rule(arrays))
        goals_reached = columns.flags("terminated of the reward rule", goals_reached)
        columns.require_length("rewards of the reward rule", rewards, len(ends), "row")
        columns.require_length("terminated of the reward rule", goals_reached, len(ends), "row")
    details = {"file": path.name, "format": "OGBench npz", "view": view, "rewards": _describe(task, reward)}
    return _assemble(
        arrays,
        rewards,
        goals_reached,
        ends,
        compact=view == "compact",
        environment=environment,
        reference=reference,
        action_space=action_space or _action_space(arrays["actions"], path),
        name=name or path.stem,
        provenance=Provenance(source or f"file:{path.name}", details),
    )


def _task(task: str | OGBenchTask | Mapping[str, Any]) -> OGBenchTask:
    if isinstance(task, OGBenchTask):
        return task
    if isinstance(task, str):
        return named_task(task)
    try:
        return OGBenchTask(**task)
    except TypeError as error:
        raise SpecError(f"the task {dict(task)} is not usable", str(error), "give the fields of OGBenchTask") from error


def _describe(task: str | OGBenchTask | Mapping[str, Any] | None, reward: RewardRule | None) -> str:
    if reward is not None:
        return f"given by {getattr(reward, '__qualname__', type(reward).__name__)}"
    return "none: the file has none" if task is None else f"single task: {task}"


def _check_trajectories(ends: Array, path: Path) -> None:
    single = ends & np.append(True, ends[:-1])
    if single.any():
        raise DatasetError(
            f"{path.name} has trajectories of a single state, in {columns.first_rows(single)}",
            "a trajectory of L steps is stored as L + 1 rows, of which only the last has terminals = 1",
            "if the file is not OGBench's, read it with format='npz'",
        )
    if not ends[-1]:
        raise DatasetError(
            f"{path.name} ends inside a trajectory",
            "the last row has terminals = 0, so the file was cut",
            "download or record it again",
        )


def _action_space(actions: Array, path: Path) -> spaces.Box:
    if actions.dtype.kind != "f" or actions.ndim != 2:
        raise DatasetError(
            f"{path.name} has actions of type {actions.dtype} and shape {actions.shape[1:]} per row",
            "the number of choices is not stored and never guessed from the values",
            "pass action_space=gymnasium.spaces.Discrete(n)",
        )
    return spaces.Box(-1.0, 1.0, actions.shape[1:], np.float32)


def _assemble(
    arrays: dict[str, Array], rewards: Array, goals_reached: Array, ends: Array, *, compact: bool, **properties: Any
) -> Dataset:
    """Turn rows [F] into transitions; an episode ends with its trajectory, or earlier where the goal is reached."""
    frames = columns.observations("observations", arrays["observations"])
    keep = np.ones(len(ends), np.bool_) if compact else ~ends
    kept = np.flatnonzero(keep)
    # A kept row ends its trajectory where the next stored state is the last one (regular) or where there is none.
    cut = ends[kept] if compact else ends[kept + 1]
    terminated = goals_reached[kept]
    closes = cut | terminated
    starts = np.flatnonzero(np.append(True, closes[:-1]))
    last = np.flatnonzero(closes)
    # The state after an episode's last row is the next stored one, except after a trajectory's last stored row.
    known = ~ends[kept[last]]
    positions = np.insert(kept, last[known] + 1, kept[last[known]] + 1)
    identity = np.array_equal(positions, np.arange(len(frames)))
    return Dataset(
        observations=frames if identity else freeze(frames[positions]),
        actions=arrays["actions"][kept],
        rewards=rewards[kept],
        terminated=terminated,
        truncated=cut & ~terminated,
        episode_starts=starts,
        last_known=known,
        observation_space=unbounded_space(frames),
        infos={
            "trajectory": (np.cumsum(ends) - ends)[kept],
            **{key: arrays[key][kept] for key in STATES if key in arrays},
        },
        **properties,
    )
