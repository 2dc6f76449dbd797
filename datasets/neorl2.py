"""Reader of the .npz files of NeoRL and NeoRL-2: one row per step with the next observation.

Layout (Gao et al. 2025, NeoRL-2, https://github.com/polixir/NeoRL2): obs, next_obs, action, reward, done and either
`truncated` [N] or `index` [K], the first row of each trajectory. `done` is the task's own end, `truncated` the time
limit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gymnasium import spaces

from offbench.datasets.d4rl import require_equal_rows
from offbench.datasets.dataset import Dataset
from offbench.datasets.npz_files import open_npz
from offbench.datasets.records import Provenance, Reference
from offbench.datasets.task_facts import task_facts
from offbench.errors import DatasetError

REQUIRED = ("obs", "next_obs", "action", "reward", "done")


def read_neorl2(
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
    """Read a file of NeoRL-2 (`<task>-train.npz`, `<task>-val.npz`) or of NeoRL.

    Args:
        path: the file.
        environment: Gymnasium id; its action space and time limit are used if it is registered and they are not given.
        reference: of the normalized score.
        horizon: time limit in steps; used only if the file has neither `truncated` nor `index`.
        observation_space, action_space: defaults are an unbounded Box and that of the environment.
        name: defaults to the file's stem.
        source: recorded in the provenance; defaults to "file:NAME".

    Raises:
        DatasetError: a damaged file, missing or inconsistent columns, unknown action space or episode ends.
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
        missing = [key for key in REQUIRED if key not in file]
        if missing:
            raise DatasetError(
                f"{path.name} lacks {', '.join(missing)}",
                f"it holds {', '.join(file) or 'nothing'}; NeoRL's layout needs {', '.join(REQUIRED)}",
                "read it with format='npz' if it is one of your own",
            )
        columns = [key for key in (*REQUIRED, "truncated") if key in file]
        require_equal_rows({key: file.header(key).shape for key in columns}, path)
        # With flags for both kinds of ends the first rows follow; `index` is then redundant.
        names = columns if "truncated" in columns or "index" not in file else [*columns, "index"]
        arrays = {key: file.read(key) for key in names}
        ignored = sorted(set(file) - set(names))
    details: dict[str, Any] = {"file": path.name, "format": "NeoRL npz"}
    if ignored:
        details["ignored"] = ignored
    return Dataset.from_arrays(
        arrays["obs"],
        arrays["action"],
        arrays["reward"],
        arrays["done"],
        arrays.get("truncated"),
        next_observations=arrays["next_obs"],
        episode_starts=arrays.get("index"),
        observation_space=task.observation_space,
        action_space=task.require_action_space(path.name),
        environment=environment,
        reference=task.reference,
        horizon=task.horizon,
        name=name or path.stem,
        provenance=Provenance(source or f"file:{path.name}", details),
    )
