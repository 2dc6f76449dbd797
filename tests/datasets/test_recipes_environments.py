"""The environments behind the built-in datasets: wrapped observations, seeds, the maze controller, missing extras."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np
import pytest

from offbench.datasets import environments
from offbench.datasets.environments import make_environment
from offbench.datasets.rollout import roll_out
from offbench.datasets.waypoints import WaypointController
from offbench.errors import MissingExtraError


@pytest.mark.parametrize("identity", sorted(environments.MINIGRID))
def test_minigrid_observations_are_two_channels_by_ten(identity: str) -> None:
    pytest.importorskip("minigrid")
    base, limit = environments.MINIGRID[identity]
    ours, theirs = make_environment(identity), gymnasium.make(base)
    assert ours.action_space.n == 3
    assert theirs.unwrapped.max_steps == limit
    vector, image = ours.reset(seed=3)[0], theirs.reset(seed=3)[0]["image"]
    generator = np.random.default_rng(0)
    for _ in range(60):
        assert vector.shape == (98,)
        assert vector.dtype == np.float32
        assert ours.observation_space.contains(vector)
        # Cell (x, y) has its type at 2 (7 x + y) and its colour behind it.
        x, y = generator.integers(7, size=2)
        np.testing.assert_allclose(vector[14 * x + 2 * y : 14 * x + 2 * y + 2], image[x, y, :2] / 10, rtol=1e-6)
        action = int(generator.integers(3))  # left, right, forward in both
        vector, reward, terminated, truncated, _ = ours.step(action)
        frame, their_reward, their_end, _, _ = theirs.step(action)
        image = frame["image"]
        assert (reward, terminated) == (their_reward, their_end)
        if terminated or truncated:
            vector, image = ours.reset(seed=5)[0], theirs.reset(seed=5)[0]["image"]


@pytest.mark.parametrize("identity", sorted(environments.MINATAR))
def test_minatar_observations_are_the_top_channel(identity: str) -> None:
    pytest.importorskip("minatar")
    env = make_environment(identity)
    observation, _ = env.reset(seed=1)
    generator = np.random.default_rng(0)
    for _ in range(40):
        state = env.unwrapped.game.state()  # bool [10, 10, C]
        row, column = generator.integers(10, size=2)
        present = np.flatnonzero(state[row, column])
        top = present.max() + 1 if len(present) else 0
        assert observation[10 * row + column] == pytest.approx(top / state.shape[2] - 0.5, abs=1e-6)
        assert env.observation_space.contains(observation)
        observation, _, terminated, _, _ = env.step(int(generator.integers(env.action_space.n)))
        if terminated:
            observation, _ = env.reset()


@pytest.mark.parametrize("identity", [*sorted(environments.MINIGRID), *sorted(environments.MINATAR)])
def test_an_episode_is_a_function_of_its_seed_and_actions(identity: str) -> None:
    """Also in an environment that played other episodes before, which sticky actions could remember."""
    pytest.importorskip("minigrid" if "MiniGrid" in identity else "minatar")
    env = make_environment(identity)

    def episode(seed: int) -> list[bytes]:
        frames = [env.reset(seed=seed)[0].tobytes()]
        generator = np.random.default_rng(seed)
        for _ in range(60):
            frame, reward, terminated, truncated, _ = env.step(int(generator.integers(env.action_space.n)))
            frames.append(frame.tobytes() + np.float64(reward).tobytes())
            if terminated or truncated:
                break
        return frames

    first = episode(7)
    assert episode(8) != first
    assert episode(7) == first


def test_ids_of_ours_have_time_limits() -> None:
    limits = {identity: environments.horizon(identity) for identity in (*environments.MINIGRID, *environments.MINATAR)}
    assert set(limits.values()) == {196, 256, 5000}
    assert environments.horizon("CartPole-v1") == 500
    assert environments.horizon("Nonsense-v0") is None


@pytest.mark.parametrize(
    ("identity", "package", "extra"),
    [
        ("offbench/MiniGrid-LavaGapS7-v0", "minigrid", "minigrid"),
        ("offbench/MinAtar-Breakout-v0", "minatar", "minatar"),
        ("PointMaze_UMaze-v3", "gymnasium_robotics", "robotics"),
    ],
)
def test_missing_packages_name_their_extra(
    identity: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)  # what an import of it then raises is as if absent
    with pytest.raises(MissingExtraError, match=rf"offbench\[{extra}\]"):
        make_environment(identity)


# --- the controller ---

WALLS = """
#######
#..#..#
#.#...#
#.#.#.#
#...#.#
#######
"""


def controller() -> WaypointController:
    walls = np.asarray([[character == "#" for character in line] for line in WALLS.split()])
    rows, columns = np.indices(walls.shape)
    return WaypointController(walls, np.stack([columns, -rows], axis=-1).astype(float), 1.0)


def test_controller_walks_a_shortest_path() -> None:
    walker = controller()
    here, goal = (1, 1), (4, 5)
    path = [here]
    while path[-1] != goal:
        row, column = path[-1]
        x, y = walker.waypoint(np.asarray([column, -row]), np.asarray([goal[1], -goal[0]]))
        path.append((int(-y), int(x)))
        assert not walker.walls[path[-1]]
        assert abs(path[-1][0] - row) + abs(path[-1][1] - column) == 1
        assert len(path) < 20
    # Down the left side, along the bottom, up to row 2, right, and down again: counted on the map above.
    assert len(path) - 1 == 3 + 2 + 2 + 2 + 2


def test_controller_brakes_at_the_goal() -> None:
    walker = controller()
    at_goal = np.asarray([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 0.5, -0.2]])
    np.testing.assert_allclose(walker.act(at_goal, np.random.default_rng(0)), [[-0.5, 0.2]], atol=1e-6)


def test_controller_reaches_every_goal_and_stays() -> None:
    pytest.importorskip("gymnasium_robotics")
    policy = WaypointController.of("PointMaze_Medium-v3")
    for episode in itertools.islice(roll_out("PointMaze_Medium-v3", policy, [0], lanes=4), 8):
        reached = int(np.argmax(episode.rewards > 0))
        assert episode.rewards[reached] == 1
        assert (episode.rewards[reached:] == 1).all()
