"""Reader of DSRL's HDF5 files: D4RL's layout with a cost for every step.

Layout (Liu et al. 2023, DSRL, https://github.com/liuzuxin/DSRL): observations, next_observations, actions, rewards,
costs, terminals, timeouts [N, ...]. Scores compare an episode's return and its sum of costs with a limit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from offbench.datasets.d4rl import read_d4rl
from offbench.datasets.dataset import Dataset
from offbench.datasets.hdf5_files import find_column, open_hdf5
from offbench.datasets.records import Reference
from offbench.errors import DatasetError

REQUIRED = ("observations", "next_observations", "actions", "rewards", "costs", "terminals", "timeouts")


def read_dsrl(
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
    """Read a DSRL file such as "SafetyCarGoal1Gymnasium-v0-250-2022.hdf5".

    The provenance tells the mean, smallest and largest sum of costs of an episode.

    Args:
        path: the file.
        environment, reference, horizon, observation_space, action_space, name, source: as for `read_d4rl`.

    Raises:
        DatasetError: a damaged file, missing or inconsistent columns, or an unknown action space.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        missing = [key for key in REQUIRED if find_column(file, key) is None]
        if missing:
            raise DatasetError(
                f"{path.name} lacks {', '.join(missing)}",
                f"it holds {', '.join(sorted(file)) or 'nothing'}; DSRL's layout needs {', '.join(REQUIRED)}",
                "read it with format='d4rl' if it has no costs",
            )
    dataset = read_d4rl(
        path,
        environment=environment,
        reference=reference,
        horizon=horizon,
        observation_space=observation_space,
        action_space=action_space,
        name=name,
        source=source,
    )
    totals = np.add.reduceat(np.asarray(dataset.costs), dataset.episode_starts, dtype=np.float64)
    summary = {"mean": float(totals.mean()), "min": float(totals.min()), "max": float(totals.max())}
    details = {**dataset.provenance.details, "format": "DSRL HDF5", "episode_cost": summary}
    return dataset.replace(provenance=replace(dataset.provenance, details=details))
