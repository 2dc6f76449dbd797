"""Replay buffers of the real Stable-Baselines3: streams, wraparound, time limits, the memory-saving variant."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from offbench.datasets import Dataset
from offbench.datasets.replay_buffer import from_replay_buffer
from offbench.errors import DatasetError, SpecError

buffers = pytest.importorskip("stable_baselines3.common.buffers")

ACTIONS = spaces.Box(-1, 1, (2,))


def fill(
    buffer: Any, steps: int, ends: dict[tuple[int, int], bool], make: Any = None
) -> list[tuple[int, int, float, float, bool, bool]]:
    """Add `steps` rows for each environment; `ends` maps (step, environment) to whether it is a time limit.

    Observation 1000 e + 10 t is that of environment e at time t; after an end the next observation is that + 5, and
    the following episode begins at 10 (t + 1). Returns (environment, t, s, s', terminated, truncated) of each row.
    """
    make = make or (lambda value: np.array([value], np.float32))
    rows = []
    for t in range(steps):
        now, after, dones, infos = [], [], [], []
        for environment in range(buffer.n_envs):
            end = ends.get((t, environment))
            here = 1000 * environment + 10 * t
            following = here + (10 if end is None else 5)
            rows.append((environment, t, here, following, end is False, end is True))
            now.append(make(here))
            after.append(make(following))
            dones.append(end is not None)
            infos.append({"TimeLimit.truncated": bool(end)})
        if isinstance(now[0], dict):
            now, after = ({key: np.stack([o[key] for o in batch]) for key in batch[0]} for batch in (now, after))
        else:
            now, after = np.stack(now), np.stack(after)
        action = np.full((buffer.n_envs, *ACTIONS.shape), t / 100, np.float32)
        buffer.add(now, after, action, np.full(buffer.n_envs, float(t)), np.array(dones), infos)
    return rows


def found(dataset: Dataset) -> list[tuple[float, float | None, bool, bool]]:
    """(s, s' or None, terminated, truncated) of each row."""
    s, after = dataset.step_observations.reshape(len(dataset), -1), dataset.next_observations.reshape(len(dataset), -1)
    return [
        (s[t, 0], after[t, 0] if dataset.next_valid[t] else None, dataset.terminated[t], dataset.truncated[t])
        for t in range(len(dataset))
    ]


ENDS = {(2, 0): False, (4, 0): True, (3, 1): True, (6, 1): False, (9, 1): True, (10, 0): False}


@pytest.mark.parametrize("environments", [1, 2])
@pytest.mark.parametrize("steps", [1, 5, 8, 9, 12, 16, 21])
def test_rows_come_out_in_time_order(environments: int, steps: int) -> None:
    space = spaces.Box(-np.inf, np.inf, (1,))
    buffer = buffers.ReplayBuffer(8 * environments, space, ACTIONS, "cpu", n_envs=environments)
    rows = fill(buffer, steps, ENDS)
    dataset = from_replay_buffer(buffer, environment="Made-v0", name="mine")
    kept = sorted(row for row in rows if row[1] >= steps - 8)
    assert found(dataset) == [row[2:] for row in kept]
    assert dataset.rewards.tolist() == [row[1] for row in kept]
    assert dataset.next_observations_override is None
    starts = [i for i, row in enumerate(kept) if i == 0 or kept[i - 1][0] != row[0] or any(kept[i - 1][4:])]
    assert dataset.episode_starts.tolist() == starts
    assert (dataset.environment, dataset.name) == ("Made-v0", "mine")


@pytest.mark.parametrize("environments", [1, 2])
@pytest.mark.parametrize("steps", [1, 5, 8, 9, 12, 21])
def test_memory_saving_variant(environments: int, steps: int) -> None:
    buffer = buffers.ReplayBuffer(
        8 * environments,
        spaces.Box(-np.inf, np.inf, (1,)),
        ACTIONS,
        "cpu",
        n_envs=environments,
        optimize_memory_usage=True,
        handle_timeout_termination=False,
    )
    rows = fill(buffer, steps, ENDS)
    oldest = 0 if steps < 8 else steps - 7
    dataset = from_replay_buffer(buffer, dones_are_terminations=True)
    expected = [
        # After an end, the place of s' was overwritten by the next episode's first observation.
        (s, after if not (terminated or truncated) or t == steps - 1 else None, terminated or truncated, False)
        for environment, t, s, after, terminated, truncated in sorted(rows)
        if t >= oldest
    ]
    assert found(dataset) == expected


def test_buffers_that_do_not_tell_time_limits() -> None:
    space = spaces.Box(-np.inf, np.inf, (1,))
    ends = {(2, 0): True, (4, 0): False, (7, 0): True}  # episodes of 3, 2 and 3 steps: a limit of 3
    buffer = buffers.ReplayBuffer(10, space, ACTIONS, "cpu", handle_timeout_termination=False)
    rows = fill(buffer, 9, ends)
    with pytest.raises(SpecError, match="does not tell time limits from terminations"):
        from_replay_buffer(buffer)
    assert found(from_replay_buffer(buffer, horizon=3)) == [row[2:] for row in rows]
    small = buffers.ReplayBuffer(8, space, ACTIONS, "cpu", handle_timeout_termination=False)
    fill(small, 9, ends)
    dataset = from_replay_buffer(small, horizon=3)
    assert found(dataset) == [row[2:] for row in rows[3:]]
    assert dataset.provenance.details["left_out"] == "2 rows of episodes without their beginning"
    tiny = buffers.ReplayBuffer(2, space, ACTIONS, "cpu", handle_timeout_termination=False)
    fill(tiny, 4, {})
    with pytest.raises(DatasetError, match="has its beginning"):
        from_replay_buffer(tiny, horizon=3)


def test_dict_observations_are_flattened() -> None:
    space = spaces.Dict({"goal": spaces.Box(-np.inf, np.inf, (1,)), "mode": spaces.Discrete(3)})
    buffer = buffers.DictReplayBuffer(8, space, ACTIONS, "cpu")
    rows = fill(buffer, 6, ENDS, lambda value: {"goal": np.array([value], np.float32), "mode": np.array(1)})
    dataset = from_replay_buffer(buffer)
    assert found(dataset) == [row[2:] for row in rows]
    assert dataset.observation_space == spaces.Box(
        np.array([-np.inf, 0, 0, 0], np.float32), np.array([np.inf, 1, 1, 1], np.float32)
    )
    assert dataset.observations[0, 1:].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("space", "action_space"),
    [
        (spaces.Discrete(5), spaces.Discrete(3)),
        (spaces.Box(0, 255, (2, 4, 4), np.uint8), spaces.MultiDiscrete([2, 3])),
        (spaces.MultiDiscrete([3, 4]), spaces.Box(-1, 1, (2, 2))),
    ],
)
def test_kinds_of_spaces(space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    buffer = buffers.ReplayBuffer(8, space, action_space, "cpu")
    space.seed(0)
    action_space.seed(0)
    observations = [space.sample() for _ in range(5)]
    actions = [action_space.sample() for _ in range(4)]
    for t, action in enumerate(actions):
        buffer.add(np.array([observations[t]]), np.array([observations[t + 1]]), np.array([action]), 0.0, t == 3, [{}])
    dataset = from_replay_buffer(buffer)
    np.testing.assert_array_equal(dataset.observations, np.stack(observations))
    np.testing.assert_array_equal(dataset.actions, np.stack(actions))
    assert dataset.observation_space == space
    assert dataset.action_space == action_space


def test_actions_that_training_scaled() -> None:
    """SAC on Pendulum, whose torques go from -2 to 2: replaying the unscaled actions gives the logged rewards."""
    from stable_baselines3 import SAC

    model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=300, seed=0, buffer_size=1000, device="cpu")
    model.learn(250)
    with pytest.raises(SpecError, match="pass scaled_actions=True"):
        from_replay_buffer(model.replay_buffer)
    dataset = from_replay_buffer(model.replay_buffer, scaled_actions=True, environment="Pendulum-v1")
    assert dataset.episode_lengths.tolist() == [200, 50]
    assert np.flatnonzero(dataset.truncated).tolist() == [199]
    assert not dataset.terminated.any()
    assert dataset.next_valid.all()
    cosine, sine, speed = dataset.step_observations.T.astype(np.float64)
    angle, torque = np.arctan2(sine, cosine), dataset.actions[:, 0].astype(np.float64)
    rewards = -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2)
    np.testing.assert_allclose(dataset.rewards, rewards, atol=1e-4)
    raw = from_replay_buffer(model.replay_buffer, scaled_actions=False)
    np.testing.assert_allclose(dataset.actions, 2 * raw.actions, rtol=1e-6)
    assert gymnasium.spec("Pendulum-v1").max_episode_steps == 200


def test_what_is_no_buffer() -> None:
    with pytest.raises(SpecError, match=r"a list is not a replay buffer[\s\S]*model\.replay_buffer"):
        from_replay_buffer([])
    empty = buffers.ReplayBuffer(8, spaces.Box(-1, 1, (1,)), ACTIONS, "cpu")
    with pytest.raises(DatasetError, match="empty"):
        from_replay_buffer(empty)
