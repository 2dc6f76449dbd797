"""OGBench's npz files: both views against a loop over the stored rows, single-task rewards against worked examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from offbench.datasets import Dataset
from offbench.datasets.ogbench import read_ogbench
from offbench.datasets.ogbench_tasks import OGBenchTask, named_task
from offbench.errors import DatasetError, SpecError


def write(path: Path, lengths: tuple[int, ...] = (4, 1, 3), **changes: Any) -> dict[str, np.ndarray]:
    """A file of trajectories with `lengths` transitions each; observation and action of stored row f are f."""
    rows = sum(lengths) + len(lengths)
    frame = np.arange(rows, dtype=np.float64)
    columns: dict[str, Any] = {
        "observations": np.stack([frame, -frame], axis=1),
        "actions": np.stack([frame, frame], axis=1).astype(np.float32) / 100,
        "terminals": np.isin(np.arange(rows), np.cumsum(np.asarray(lengths) + 1) - 1).astype(np.float32),
        **changes,
    }
    np.savez(path, **{key: value for key, value in columns.items() if value is not None})
    return columns


def by_loop(lengths: tuple[int, ...]) -> list[tuple[int, int, int, bool]]:
    """The regular view: (trajectory, stored row of s, stored row of s', is last) for each transition."""
    result, row = [], 0
    for trajectory, length in enumerate(lengths):
        for step in range(length):
            result.append((trajectory, row, row + 1, step == length - 1))
            row += 1
        row += 1  # the dangling row
    return result


@pytest.mark.parametrize("lengths", [(4, 1, 3), (1,), (1, 1, 1), (7,)])
def test_regular_view_equals_a_loop(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    write(tmp_path / "x.npz", lengths)
    dataset = read_ogbench(tmp_path / "x.npz")
    expected = by_loop(lengths)
    assert dataset.num_transitions == len(expected)
    assert dataset.num_frames == sum(lengths) + len(lengths)
    assert dataset.next_valid.all()
    assert not dataset.terminated.any()
    assert dataset.action_space == Box(-1, 1, (2,))
    for t, (trajectory, row, following, last) in enumerate(expected):
        assert dataset.step_observations[t].tolist() == [row, -row]
        assert dataset.next_observations[t].tolist() == [following, -following]
        assert dataset.actions[t, 0] == np.float32(row / 100)
        assert dataset.truncated[t] == last
        assert dataset.episode_ids[t] == dataset.infos["trajectory"][t] == trajectory


def test_compact_view_keeps_the_dangling_row_and_the_same_transitions(tmp_path: Path) -> None:
    write(tmp_path / "x.npz")
    regular, compact = read_ogbench(tmp_path / "x.npz"), read_ogbench(tmp_path / "x.npz", view="compact")
    assert compact.num_transitions == 11
    assert compact.episode_lengths.tolist() == [5, 2, 4]
    assert np.flatnonzero(~compact.next_valid).tolist() == [4, 6, 10]
    assert np.flatnonzero(compact.truncated).tolist() == [4, 6, 10]
    usable = compact.bootstrappable
    for column in ("step_observations", "next_observations", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(compact, column)[usable], getattr(regular, column))


def test_types_of_pixels_and_discrete_actions(tmp_path: Path) -> None:
    pixels = np.arange(11 * 12, dtype=np.uint8).reshape(11, 2, 2, 3)
    write(tmp_path / "x.npz", observations=pixels, actions=np.arange(11, dtype=np.int32))
    with pytest.raises(DatasetError, match=r"actions of type int32[\s\S]*action_space=gymnasium.spaces.Discrete"):
        read_ogbench(tmp_path / "x.npz")
    dataset = read_ogbench(tmp_path / "x.npz", action_space=Discrete(11))
    assert dataset.observations.dtype == np.uint8
    assert dataset.actions.tolist() == [0, 1, 2, 3, 5, 7, 8, 9]
    np.testing.assert_array_equal(dataset.step_observations[4], pixels[5])


def transitions(dataset: Dataset) -> list[tuple[float, float, float, bool]]:
    """(s, s', r, terminated) of every row."""
    columns = (dataset.step_observations[:, 0], dataset.next_observations[:, 0], dataset.rewards, dataset.terminated)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_reached_goal_ends_the_episode_and_the_trajectory_goes_on(tmp_path: Path) -> None:
    # Two trajectories of 4 and 2 transitions; the agent is at the goal in stored rows 1, 2 and 6.
    places = np.array([[0, 0], [3, 4.4], [3, 4], [9, 9], [9, 9], [0, 0], [3.4, 4], [0, 0]])
    write(tmp_path / "x.npz", (4, 2), qpos=np.pad(places, ((0, 0), (0, 5))))
    dataset = read_ogbench(tmp_path / "x.npz", task={"goal": (3, 4)})
    assert transitions(dataset) == [
        (0, 1, -1, False),
        (1, 2, 0, True),
        (2, 3, 0, True),
        (3, 4, -1, False),
        (5, 6, -1, False),
        (6, 7, 0, True),
    ]
    assert dataset.truncated.tolist() == [False, False, False, True, False, False]
    assert dataset.episode_lengths.tolist() == [2, 1, 1, 2]
    assert dataset.infos["trajectory"].tolist() == [0, 0, 0, 0, 1, 1]
    assert dataset.next_valid.all()
    compact = read_ogbench(tmp_path / "x.npz", task=OGBenchTask(goal=(3, 4)), view="compact")
    assert [row for row, known in zip(transitions(compact), compact.next_valid, strict=True) if known] == transitions(
        dataset
    )


def test_rewards_of_manipulation_count_the_subtasks() -> None:
    qpos = np.zeros((3, 14 + 7 + 2 + 2))  # an arm, one cube, two buttons, a drawer, a window
    qpos[:, 14:17] = [[0.4, 0.1, 0.02], [0.4, 0.139, 0.02], [0.4, 0.15, 0.02]]
    qpos[:, 23] = [-0.16, -0.13, 0.0]
    qpos[:, 24] = [0.2, 0.1, 0.2]
    states = {"qpos": qpos, "button_states": np.array([[1, 0], [1, 1], [0, 1]])}
    task = OGBenchTask(cubes=((0.4, 0.1, 0.02),), buttons=(1, 0), drawer=-0.16, window=0.2)
    rewards, terminated = task.rewards(states)
    # Rows: all five hold; cube, first button and drawer hold; only the window holds.
    assert rewards.tolist() == [0, -2, -4]
    assert terminated.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("name", "goal", "tolerance", "ball"),
    [
        ("pointmaze-medium-navigate-singletask-v0", (20, 20), 1.0, False),
        ("antmaze-large-stitch-singletask-task2-v0", (0, 24), 0.5, False),
        ("visual-antmaze-giant-navigate-singletask-task4-v0", (44, 16), 0.5, False),
        ("antsoccer-arena-navigate-singletask-v0", (0, 20), 0.5, True),
    ],
)
def test_tasks_by_name(name: str, goal: tuple[float, float], tolerance: float, ball: bool) -> None:
    """Goals in metres as the environments of ogbench 1.2.2 compute them from their maze maps."""
    assert named_task(name) == OGBenchTask(goal=goal, tolerance=tolerance, ball=ball)


def test_a_reward_rule_of_ones_own(tmp_path: Path) -> None:
    write(tmp_path / "x.npz", (2, 1))

    def rule(states: Any) -> tuple[np.ndarray, np.ndarray]:
        return states["observations"][:, 0] * 2, np.zeros(5, bool)

    dataset = read_ogbench(tmp_path / "x.npz", reward=rule)
    assert dataset.rewards.tolist() == [0, 2, 6]
    assert "rule" in dataset.provenance.details["rewards"]
    with pytest.raises(DatasetError, match="rewards of the reward rule"):
        read_ogbench(tmp_path / "x.npz", reward=lambda states: (np.zeros(2), np.zeros(5)))


def test_files_that_are_not_ogbenchs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write(path, actions=None)
    with pytest.raises(DatasetError, match=r"x\.npz lacks actions"):
        read_ogbench(path)
    write(path, terminals=np.eye(11)[3])
    with pytest.raises(DatasetError, match="ends inside a trajectory"):
        read_ogbench(path)
    write(path, terminals=np.array([0, 1, 1] + [0] * 7 + [1]))
    with pytest.raises(DatasetError, match=r"single state, in row 2"):
        read_ogbench(path)
    write(path, actions=np.zeros((9, 2)))
    with pytest.raises(DatasetError, match="rows: observations 11, actions 9, terminals 11"):
        read_ogbench(path)
    write(path)
    with pytest.raises(DatasetError, match="reward cannot be computed from observations, actions"):
        read_ogbench(path, task="antmaze-large-navigate-singletask-v0")
    with pytest.raises(SpecError, match="unknown view 'dense'"):
        read_ogbench(path, view="dense")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="goal of task 'cube-single-play-singletask-v0' is not known"):
        read_ogbench(path, task="cube-single-play-singletask-v0")
    with pytest.raises(SpecError, match="'goals'"):
        read_ogbench(path, task={"goals": (1, 2)})
