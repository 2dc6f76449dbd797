"""Reading D4RL's HDF5 layout: equality with a plain loop over rows, optional columns, horizons, damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

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


def qlearning_by_loop(raw: dict[str, np.ndarray], horizon: int | None, terminate_on_end: bool) -> list[tuple[Any, ...]]:
    """What `d4rl.qlearning_dataset` is documented to return, row after row: (s, a, s', r, done).

    The next observation is always the next row's; the last row is lost; the last row of an episode that was cut is
    left out unless `terminate_on_end`; without `timeouts` a cut is where the time limit is reached.
    """
    result = []
    step = 0
    for i in range(len(raw["rewards"]) - 1):
        done = bool(raw["terminals"][i])
        cut = bool(raw["timeouts"][i]) if "timeouts" in raw else step == horizon - 1  # type: ignore[operator]
        if cut and not terminate_on_end:
            step = 0
            continue
        result.append((raw["observations"][i], raw["actions"][i], raw["observations"][i + 1], raw["rewards"][i], done))
        step = 0 if done or cut else step + 1
    return result


def family(kind: str, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Columns as the files of a D4RL family have them, and the options that its table entry gives."""
    rows = 400
    ends = np.zeros(rows, bool)
    columns = {
        "observations": rng.normal(size=(rows, 4)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": ends.copy(),
        "timeouts": ends.copy(),
    }
    options: dict[str, Any] = {"action_space": ACTIONS}
    if kind == "mujoco v2":  # exclusive flags, float terminals in relabelled files
        columns["terminals"][rng.choice(390, 12, replace=False)] = True
        columns["timeouts"] = ~columns["terminals"] & (rng.random(rows) < 0.02)
        columns["terminals"] = columns["terminals"].astype(np.float32)
    elif kind == "mujoco v0":  # no timeouts column
        columns["terminals"][[30, 31, 180]] = True
        del columns["timeouts"]
        options["horizon"] = 100
    elif kind == "maze2d":  # terminals all 0, rewards as a column
        columns["timeouts"][[99, 250]] = True
        columns["rewards"] = (rng.random((rows, 1)) < 0.3).astype(np.float32)
        columns["infos/goal"] = rng.normal(size=(rows, 2)).astype(np.float32)
    elif kind == "antmaze":  # clusters of terminals, reward 1 there, cuts in the middle of a cluster
        columns["terminals"][50:60] = columns["terminals"][200:203] = True
        columns["rewards"] = columns["terminals"].astype(np.float32)
        columns["timeouts"][[55, 99, 199, 299, 399]] = True
        columns["infos/goal"] = rng.normal(size=(rows, 2)).astype(np.float32)
    elif kind == "adroit":  # two lengths of episodes, a metadata group, double precision
        columns["timeouts"][[99, 299]] = True
        columns = {
            key: value.astype(np.float64) if value.dtype == np.float32 else value for key, value in columns.items()
        }
        columns["infos/qpos"] = rng.normal(size=(rows, 30))
        columns["metadata/policy/fc0/weight"] = rng.normal(size=(8, 4))
    elif kind == "kitchen":  # completed subtasks as reward, no timeouts
        columns["rewards"] = rng.integers(0, 5, rows).astype(np.float32)
        columns["terminals"][[149, 399]] = True
        del columns["timeouts"]
        options["horizon"] = 280
    elif kind == "minigrid":  # images as floats, choices as floats
        columns["observations"] = rng.integers(0, 11, (rows, 7, 7, 3)).astype(np.float32)
        columns["actions"] = rng.integers(0, 7, rows).astype(np.float32)
        columns["timeouts"][[79, 300]] = True
        columns["infos/pos"] = rng.integers(0, 9, (rows, 2))
        options["action_space"] = Discrete(7)
    return columns, options


FAMILIES = ["mujoco v2", "mujoco v0", "maze2d", "antmaze", "adroit", "kitchen", "minigrid"]


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in columns.items():
            file.create_dataset(key, data=value, compression="gzip")
    return path


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("terminate_on_end", [False, True])
def test_families_equal_qlearning_dataset(tmp_path: Path, kind: str, terminate_on_end: bool) -> None:
    columns, options = family(kind, np.random.default_rng(FAMILIES.index(kind)))
    dataset = read_d4rl(write_columns(tmp_path / "x.hdf5", columns), **options)
    expected = qlearning_by_loop(columns, options.get("horizon"), terminate_on_end)
    # Ours keeps all rows. Theirs: without the last one, and without cuts unless terminate_on_end.
    # A row that is terminal at the time limit they take for a cut, which only files without timeouts have.
    steps = dataset.timesteps + 1
    cut = columns["timeouts"] if "timeouts" in columns else steps == options["horizon"]
    theirs = np.ones(len(dataset), bool) if terminate_on_end else ~np.asarray(cut, bool)
    theirs[-1] = False
    rows = np.flatnonzero(theirs)
    assert len(rows) == len(expected)
    s, a, after, reward, done = (np.stack([np.asarray(row[i]) for row in expected]) for i in range(5))
    np.testing.assert_array_equal(dataset.step_observations[rows], s.astype(np.float32))
    np.testing.assert_array_equal(dataset.actions[rows], a.astype(dataset.actions.dtype))
    np.testing.assert_array_equal(dataset.rewards[rows], reward.astype(np.float32).reshape(-1))
    np.testing.assert_array_equal(dataset.terminated[rows], done)
    # The next observations agree wherever theirs does not run into the next episode.
    inside = dataset.next_valid[rows]
    np.testing.assert_array_equal(dataset.next_observations[rows][inside], after[inside].astype(np.float32))
    assert not inside[dataset.is_last[rows]].any()
    assert inside[~dataset.is_last[rows]].all()


@pytest.mark.parametrize(
    ("kind", "lengths"),
    [
        ("mujoco v0", [31, 1, 100, 49, 100, 100, 19]),
        ("maze2d", [100, 151, 149]),
        ("kitchen", [150, 250]),
        ("adroit", [100, 200, 100]),
    ],
)
def test_families_have_their_episodes(tmp_path: Path, kind: str, lengths: list[int]) -> None:
    columns, options = family(kind, np.random.default_rng(0))
    dataset = read_d4rl(write_columns(tmp_path / "x.hdf5", columns), **options)
    assert dataset.episode_lengths.tolist() == lengths
    assert set(dataset.infos) == {key.removeprefix("infos/") for key in columns if key.startswith("infos/")}


def write_chunks(path: Path, numbers: list[int], timeouts: bool = True) -> Path:
    """Chunks of 5 rows; the observation counts the rows of the file."""
    with h5py.File(path, "w") as file:
        for place, number in enumerate(numbers):
            rows = np.arange(5 * place, 5 * place + 5, dtype=np.float32)
            group = file.create_group(f"virtual/{number}")
            group["observations"] = np.stack([rows, rows], axis=1)
            group["actions"] = np.zeros((5, 2), np.float32)
            group["rewards"] = rows
            group["terminals"] = rows % 5 == 2
            if timeouts:
                group["timeouts"] = rows == 4
    return path


def test_chunked_sets(tmp_path: Path) -> None:
    path = write_chunks(tmp_path / "x.hdf5", [2, 0, 10])
    dataset = read_d4rl(path, action_space=ACTIONS)
    assert dataset.rewards.tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert dataset.episode_lengths.tolist() == [3, 2, 3, 2, 3, 2]
    assert not dataset.next_valid[[4, 9, 14]].any()
    assert dataset.provenance.details["chunks"] == [0, 2, 10]
    one = read_d4rl(path, action_space=ACTIONS, chunk=2)
    assert one.rewards.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DatasetError, match=r"no chunk 1[\s\S]*its chunks are \[0, 2, 10\]"):
        read_d4rl(path, action_space=ACTIONS, chunk=1)
    bare = write_chunks(tmp_path / "y.hdf5", [0, 1], timeouts=False)
    with pytest.raises(DatasetError, match="no 'timeouts' column"):
        read_d4rl(bare, action_space=ACTIONS)
    assert read_d4rl(bare, action_space=ACTIONS, horizon=2).episode_lengths.tolist() == [2, 1, 2, 2, 1, 2]
    plain = write_file(tmp_path / "z.hdf5", np.zeros(5, bool), np.zeros(5, bool))
    with pytest.raises(DatasetError, match="is not a chunked set"):
        read_d4rl(plain, action_space=ACTIONS, chunk=0)


def test_columns_of_unequal_length_are_named(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.hdf5", np.zeros(6, bool), np.zeros(5, bool))
    with pytest.raises(DatasetError, match=r"one row per step each[\s\S]*terminals 6, timeouts 5"):
        read_d4rl(path, action_space=ACTIONS)
    empty = write_file(tmp_path / "y.hdf5", np.zeros(0, bool), np.zeros(0, bool))
    with pytest.raises(DatasetError, match="rewards 0"):
        read_d4rl(empty, action_space=ACTIONS)


def test_rows_that_were_never_written_are_not_zeros(tmp_path: Path) -> None:
    flags = np.zeros(100, bool)
    path = write_file(tmp_path / "x.hdf5", flags, flags)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        column = file.create_dataset("rewards", (100,), np.float32, chunks=(10,))
        column[:30] = 1
    with pytest.raises(DatasetError, match=r"/rewards of x\.hdf5 was never written in 70% of its rows"):
        read_d4rl(path, action_space=ACTIONS)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file.create_dataset("rewards", (100,), np.float32)
    with pytest.raises(DatasetError, match=r"never written in 100%"):
        read_d4rl(path, action_space=ACTIONS)


def test_files_that_reach_outside_are_refused(tmp_path: Path) -> None:
    flags = np.zeros(10, bool)
    secret = write_file(tmp_path / "secret.hdf5", flags, flags)
    (tmp_path / "raw.bin").write_bytes(np.arange(10, dtype=np.float32).tobytes())
    layout = h5py.VirtualLayout((10,), np.float32)
    layout[:] = h5py.VirtualSource(str(secret), "rewards", (10,))

    def variant(name: str, put: Any) -> Path:
        path = write_file(tmp_path / f"{name}.hdf5", flags, flags)
        with h5py.File(path, "a") as file:
            del file["rewards"]
            put(file)
        return path

    def through_a_soft_link(file: h5py.File) -> None:
        file["door"] = h5py.ExternalLink(str(secret), "/")
        file["rewards"] = h5py.SoftLink("/door/rewards")

    hostile = {
        "external": lambda file: file.__setitem__("rewards", h5py.ExternalLink(str(secret), "/rewards")),
        "soft": through_a_soft_link,
        "storage": lambda file: file.create_dataset(
            "rewards", (10,), np.float32, external=[(str(tmp_path / "raw.bin"), 0, 40)]
        ),
        "virtual": lambda file: file.create_virtual_dataset("rewards", layout),
    }
    for name, put in hostile.items():
        with pytest.raises(DatasetError, match=r"rewards' in .* is a link to another file"):
            read_d4rl(variant(name, put), action_space=ACTIONS)

    def circle(file: h5py.File) -> None:
        file["rewards"] = h5py.SoftLink("/back")
        file["back"] = h5py.SoftLink("/rewards")

    with pytest.raises(DatasetError, match="lead in a circle"):
        read_d4rl(variant("circle", circle), action_space=ACTIONS)

    def inside(file: h5py.File) -> None:
        file["group/real"] = np.arange(10, dtype=np.float32)
        file["group/alias"] = h5py.SoftLink("real")
        file["rewards"] = h5py.SoftLink("/group/alias")

    assert read_d4rl(variant("inside", inside), action_space=ACTIONS).rewards.tolist() == list(range(10))


def test_a_column_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.hdf5", np.zeros(10, bool), np.zeros(10, bool))
    with h5py.File(path, "a") as file:
        for key in list(file):
            shape = (2**31, *file[key].shape[1:])
            del file[key]
            column = file.create_dataset(key, shape, np.float32, chunks=(2**20, *shape[1:]), compression="gzip")
            column[:10] = 0
    assert path.stat().st_size < 2**20
    with pytest.raises(DatasetError, match="would need 17,179,869,184 bytes of memory"):
        read_d4rl(path, action_space=ACTIONS)
