"""Reading D4RL's HDF5 layout: equality with a plain loop over rows, optional columns, horizons, damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box

from offbench.datasets import read_d4rl
from offbench.datasets.references import d4rl_entries, entry_for_environment, entry_for_file_name
from offbench.errors import DatasetError

ACTIONS = Box(-1, 1, (2,))


def write_file(path: Path, terminals: np.ndarray, timeouts: np.ndarray | None, **extra: Any) -> Path:
    """A file in D4RL's layout whose observation at row t is (t, t) and whose reward is t."""
    rows = np.arange(len(terminals), dtype=np.float32)
    with h5py.File(path, "w") as file:
        file["observations"] = np.stack([rows, rows], axis=1)
        file["actions"] = np.zeros((len(rows), 2), np.float32)
        file["rewards"] = rows
        file["terminals"] = terminals
        if timeouts is not None:
            file["timeouts"] = timeouts
        for key, value in extra.items():
            file[key.replace("__", "/")] = value
    return path


def by_loop(
    terminals: list[bool], timeouts: list[bool] | None, horizon: int | None
) -> list[tuple[int, int, int | None, bool, bool]]:
    """The rules, one row at a time: (episode, step, row of s' or None, terminated, truncated) for each row."""
    result = []
    episode = step = 0
    for row, terminal in enumerate(terminals):
        if timeouts is not None:
            cut = timeouts[row]
        else:
            cut = step + 1 == horizon and not terminal
        end = terminal or cut
        following = None if end or row + 1 == len(terminals) else row + 1
        result.append((episode, step, following, terminal, cut))
        episode, step = (episode + 1, 0) if end else (episode, step + 1)
    return result


FLAG_RATES = {
    "hopper-like": (0.1, 0.02),
    "halfcheetah-like: only timeouts": (0.0, 0.1),
    "maze2d-like: no flags": (0.0, 0.0),
    "antmaze-like: runs of terminals": (0.6, 0.05),
    "both flags": (0.5, 0.5),
    "every row ends": (1.0, 1.0),
}


@pytest.mark.parametrize("kind", FLAG_RATES)
@pytest.mark.parametrize("with_timeouts", [True, False])
@pytest.mark.parametrize("last_row_ends", [True, False])
def test_equals_a_loop_over_rows(tmp_path: Path, kind: str, with_timeouts: bool, last_row_ends: bool) -> None:
    rng = np.random.default_rng(len(kind))
    terminal_rate, timeout_rate = FLAG_RATES[kind]
    for trial in range(5):
        rows = int(rng.integers(1, 80))
        terminals = rng.random(rows) < terminal_rate
        timeouts = rng.random(rows) < timeout_rate if with_timeouts else None
        terminals[-1] = last_row_ends
        horizon = None if with_timeouts else int(rng.integers(1, 10))
        path = write_file(tmp_path / f"{trial}.hdf5", terminals, timeouts)
        dataset = read_d4rl(path, action_space=ACTIONS, horizon=horizon)
        expected = by_loop(terminals.tolist(), None if timeouts is None else timeouts.tolist(), horizon)
        assert dataset.num_transitions == rows
        for row, (episode, step, following, terminated, truncated) in enumerate(expected):
            assert dataset.episode_ids[row] == episode
            assert dataset.timesteps[row] == step
            assert dataset.terminated[row] == terminated
            assert dataset.truncated[row] == truncated
            assert dataset.next_valid[row] == (following is not None)
            assert dataset.next_observations[row, 0] == (row if following is None else following)
            assert dataset.rewards[row] == row


def test_column_shapes_and_types_of_relabelled_files(tmp_path: Path) -> None:
    rows = 6
    ends = np.zeros((rows, 1), np.float32)
    ends[3] = 1
    path = write_file(
        tmp_path / "x.hdf5",
        ends,
        np.zeros((rows, 1), np.float64),
        infos__qpos=np.ones((rows, 3)),
        infos__short=np.ones(2),
        metadata__algorithm="SAC",
        costs=np.ones((rows, 1)),
    )
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file["rewards"] = np.arange(rows, dtype=np.float64)[:, None]
    dataset = read_d4rl(path, action_space=ACTIONS)
    assert dataset.rewards.shape == dataset.terminated.shape == dataset.costs.shape == (rows,)
    assert dataset.terminated.dtype == bool
    assert dataset.episode_lengths.tolist() == [4, 2]
    assert set(dataset.infos) == {"qpos"}
    assert dataset.provenance.details["ignored"] == ["infos/short", "metadata/algorithm"]
    assert dataset.name == "x"
    assert dataset.provenance.source == "file:x.hdf5"


def test_stored_next_observations_give_each_episode_its_last_frame(tmp_path: Path) -> None:
    terminals = np.array([False, True, False, False])
    following = np.array([[1, 1], [9, 9], [3, 3], [8, 8]], np.float32)
    path = write_file(tmp_path / "x.hdf5", terminals, np.zeros(4, bool), next_observations=following)
    dataset = read_d4rl(path, action_space=ACTIONS)
    assert dataset.next_observations_override is None
    assert dataset.num_frames == 6
    assert dataset.next_valid.all()
    np.testing.assert_array_equal(dataset.next_observations, following)


def test_next_observations_that_are_no_shift_are_kept(tmp_path: Path) -> None:
    following = np.array([[1, 1], [9, 9], [5, 5], [8, 8]], np.float32)
    path = write_file(tmp_path / "x.hdf5", np.zeros(4, bool), np.zeros(4, bool), next_observations=following)
    dataset = read_d4rl(path, action_space=ACTIONS)
    np.testing.assert_array_equal(dataset.next_observations, following)
    assert dataset.provenance.details["next_observations"] == "kept: 2 rows differ from the next row"


def test_environment_brings_action_space_reference_and_horizon(tmp_path: Path) -> None:
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((2500, 11), np.float32)
        file["actions"] = np.zeros((2500, 3), np.float32)
        file["rewards"] = np.zeros(2500, np.float32)
        file["terminals"] = np.zeros(2500, bool)
    dataset = read_d4rl(path, environment="Hopper-v4")
    assert dataset.action_space == Box(-1, 1, (3,))
    assert dataset.reference is not None
    assert dataset.reference.maximum == 3234.3
    assert dataset.episode_lengths.tolist() == [1000, 1000, 500]
    with pytest.raises(DatasetError, match=r"actions have shape \(3,\) per row, but the action space has \(6,\)"):
        read_d4rl(path, environment="HalfCheetah-v4")
    other = read_d4rl(
        path, environment="Pendulum-v1", action_space=Box(-1, 1, (3,)), observation_space=Box(-1, 1, (11,))
    )
    assert other.reference is None
    assert other.episode_lengths[0] == 200


def test_errors_say_what_is_wrong_and_how_to_fix_it(tmp_path: Path) -> None:
    flags = np.zeros(5, bool)
    with pytest.raises(DatasetError, match=r"no dataset file at .*gone\.hdf5"):
        read_d4rl(tmp_path / "gone.hdf5", action_space=ACTIONS)
    path = write_file(tmp_path / "no-timeouts.hdf5", flags, None)
    with pytest.raises(DatasetError, match=r"no 'timeouts' column[\s\S]*pass horizon="):
        read_d4rl(path, action_space=ACTIONS)
    with pytest.raises(DatasetError, match=r"action space of no-timeouts.hdf5[\s\S]*environment='Hopper-v4'"):
        read_d4rl(path, horizon=5)
    with pytest.raises(DatasetError, match=r"'Nowhere-v0' are not known"):
        read_d4rl(path, environment="Nowhere-v0")
    with h5py.File(path, "a") as file:
        del file["rewards"], file["terminals"]
    with pytest.raises(DatasetError, match=r"lacks rewards, terminals[\s\S]*it holds actions, observations"):
        read_d4rl(path, action_space=ACTIONS, horizon=5)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_reported_as_damaged(tmp_path: Path, kept: float) -> None:
    path = write_file(tmp_path / "x.hdf5", np.zeros(5000, bool), np.zeros(5000, bool))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DatasetError, match=r"x\.hdf5 is a damaged or incomplete file[\s\S]*download or copy it again"):
        read_d4rl(path, action_space=ACTIONS)


def test_real_files_equal_their_raw_columns(real_file: Path) -> None:
    environment = "Hopper-v4" if "hopper" in real_file.name else "HalfCheetah-v4"
    dataset = read_d4rl(real_file, environment=environment)
    with h5py.File(real_file) as file:
        raw = {key: file[key][()] for key in ("observations", "next_observations", "rewards", "terminals", "timeouts")}
    assert dataset.num_transitions == len(raw["rewards"]) == 100_000
    assert dataset.num_episodes == (raw["terminals"] | raw["timeouts"]).sum()
    assert dataset.num_frames == dataset.num_transitions + dataset.num_episodes
    assert dataset.next_valid.all()
    np.testing.assert_array_equal(dataset.step_observations, raw["observations"])
    np.testing.assert_array_equal(dataset.next_observations, raw["next_observations"])
    np.testing.assert_array_equal(dataset.terminated, raw["terminals"])
    starts = np.flatnonzero(np.append(True, (raw["terminals"] | raw["timeouts"])[:-1]))
    expected = [part.astype(np.float64).sum() for part in np.split(raw["rewards"], starts[1:])]
    np.testing.assert_allclose(dataset.episode_returns, expected, rtol=1e-12)
    assert dataset.reference is not None
    assert dataset.reference.environment == environment
    assert set(dataset.infos) == {"qpos", "qvel"}


def test_reference_table() -> None:
    entries = d4rl_entries()
    assert len(entries) == 174
    hopper = entries["hopper-medium-v2"]
    assert hopper.reference is not None
    assert (hopper.reference.minimum, hopper.reference.maximum) == (-20.272305, 3234.3)
    assert hopper.reference.compatible == ("Hopper-v2", "Hopper-v3")
    assert hopper.url == "http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2/hopper_medium-v2.hdf5"
    antmaze = entries["antmaze-umaze-v2"]
    assert (antmaze.horizon, antmaze.environment) == (700, None)
    assert entry_for_environment("Hopper-v5") is None
    walker = entry_for_environment("Walker2d-v3")
    assert walker is not None
    assert walker.action_size == 6


@pytest.mark.parametrize(
    ("stem", "environment"),
    [
        ("hopper-medium", "Hopper-v4"),
        ("hopper_medium-v2", "Hopper-v4"),
        ("halfcheetah-my-own-logs", "HalfCheetah-v4"),
        ("hopper", None),
        ("hopper-v5-logs", None),
        ("mydata-hopper", None),
    ],
)
def test_what_file_names_suggest(stem: str, environment: str | None) -> None:
    entry = entry_for_file_name(stem)
    assert (entry.environment if entry else None) == environment
