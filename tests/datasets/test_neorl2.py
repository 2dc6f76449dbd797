"""NeoRL's npz files: flags or first rows, stored next observations, columns of shape (N, 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from offbench.datasets.neorl2 import read_neorl2
from offbench.errors import DatasetError

SPACE = Box(-1, 1, (2,))


def write(path: Path, **changes: Any) -> None:
    """Seven rows: an episode of 3 that is done, one of 2 that is cut, one of 2 that runs on."""
    rows = np.arange(7, dtype=np.float32)
    following = rows + 1
    following[[2, 4, 6]] = [100, 101, 102]
    columns = {
        "obs": np.stack([rows, rows], axis=1),
        "next_obs": np.stack([following, following], axis=1),
        "action": np.zeros((7, 2), np.float32),
        "reward": rows[:, None],
        "done": (rows == 2)[:, None],
        "truncated": (rows == 4)[:, None].astype(np.float32),
        **changes,
    }
    np.savez_compressed(path, **{key: value for key, value in columns.items() if value is not None})


def test_flags_and_next_observations(tmp_path: Path) -> None:
    write(tmp_path / "Pipeline-train.npz")
    dataset = read_neorl2(tmp_path / "Pipeline-train.npz", action_space=SPACE, environment="Pipeline")
    assert dataset.episode_lengths.tolist() == [3, 2, 2]
    assert np.flatnonzero(dataset.terminated).tolist() == [2]
    assert np.flatnonzero(dataset.truncated).tolist() == [4]
    assert dataset.next_observations[:, 0].tolist() == [1, 2, 100, 4, 101, 6, 102]
    assert dataset.rewards.tolist() == list(range(7))
    assert dataset.next_observations_override is None
    assert (dataset.environment, dataset.name) == ("Pipeline", "Pipeline-train")


def test_first_rows_take_the_place_of_truncated(tmp_path: Path) -> None:
    write(tmp_path / "a.npz", truncated=None, index=np.array([0, 3, 5]))
    dataset = read_neorl2(tmp_path / "a.npz", action_space=SPACE)
    assert dataset.episode_starts.tolist() == [0, 3, 5]
    assert np.flatnonzero(dataset.truncated).tolist() == [4]
    write(tmp_path / "b.npz", truncated=None)
    with pytest.raises(DatasetError, match="ends of the episodes are not known"):
        read_neorl2(tmp_path / "b.npz", action_space=SPACE)
    assert read_neorl2(tmp_path / "b.npz", action_space=SPACE, horizon=3).episode_lengths.tolist() == [3, 3, 1]


def test_errors(tmp_path: Path) -> None:
    write(tmp_path / "x.npz", next_obs=None)
    with pytest.raises(DatasetError, match=r"x\.npz lacks next_obs"):
        read_neorl2(tmp_path / "x.npz", action_space=SPACE)
    write(tmp_path / "x.npz", reward=np.zeros(6))
    with pytest.raises(DatasetError, match="reward 6"):
        read_neorl2(tmp_path / "x.npz", action_space=SPACE)
    write(tmp_path / "x.npz")
    with pytest.raises(DatasetError, match=r"action space of x\.npz is not known"):
        read_neorl2(tmp_path / "x.npz")
