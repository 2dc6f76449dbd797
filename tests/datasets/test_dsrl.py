"""DSRL's HDF5 files: costs per step and their sums per episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box

from offbench.datasets.dsrl import read_dsrl
from offbench.errors import DatasetError

SPACE = Box(-1, 1, (2,))


def write(path: Path, **changes: Any) -> Path:
    rows = np.arange(6, dtype=np.float32)
    columns = {
        "observations": rows[:, None],
        "next_observations": rows[:, None] + 1,
        "actions": np.zeros((6, 2)),
        "rewards": rows,
        "costs": np.array([1, 0, 1, 0, 0, 1.0]),
        "terminals": np.zeros(6),
        "timeouts": rows % 3 == 2,
        **changes,
    }
    with h5py.File(path, "w") as file:
        for key, value in columns.items():
            if value is not None:
                file[key] = value
    return path


def test_costs_by_step_and_by_episode(tmp_path: Path) -> None:
    next_observations = np.array([[1], [2], [50], [4], [5], [60]], np.float32)
    path = write(tmp_path / "x.hdf5", next_observations=next_observations)
    dataset = read_dsrl(path, action_space=SPACE, environment="OfflineCarGoal1Gymnasium-v0")
    assert dataset.costs is not None
    assert dataset.costs.tolist() == [1, 0, 1, 0, 0, 1]
    assert dataset.provenance.details["episode_cost"] == {"mean": 1.5, "min": 1.0, "max": 2.0}
    assert dataset.summary()["details"]["episode_cost"]["max"] == 2.0
    np.testing.assert_array_equal(dataset.next_observations, next_observations)
    assert dataset.episode_lengths.tolist() == [3, 3]


def test_a_file_without_costs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"x\.hdf5 lacks costs[\s\S]*format='d4rl'"):
        read_dsrl(write(tmp_path / "x.hdf5", costs=None), action_space=SPACE)
