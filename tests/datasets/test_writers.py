"""Writers of D4RL files and Parquet tables: what other programs see, and that nothing is lost on the way back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.datasets import Dataset, Provenance, Reference, TransformRecord, read_d4rl, read_minari, write_minari
from offbench.datasets import parquet_write as parquet
from offbench.datasets.d4rl_write import write_d4rl
from offbench.datasets.formats import read_path
from offbench.datasets.parquet_write import restore_parquet, write_parquet
from offbench.errors import DatasetError, StorageError

pytestmark = pytest.mark.filterwarnings("ignore:`:UserWarning:minari", "ignore:env_spec is None:UserWarning")

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-np.inf, np.inf, (3,)),
    "bounded": spaces.Box(np.array([-1, -2], np.float32), np.array([3, 4], np.float32)),
    "double": spaces.Box(-1, 1, (2, 2), np.float64),
    "image": spaces.Box(0, 255, (12, 12, 1), np.uint8),
    "integer": spaces.Discrete(7),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-1, 1, (2,)),
    "single": spaces.Box(-2, 2, (1,)),
    "discrete": spaces.Discrete(4, start=1),
    "several": spaces.MultiDiscrete([3, 2]),
    "binary": spaces.MultiBinary(3),
}


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Datasets of every kind: spaces, open ends, last frames known, unknown or mixed, overrides, optional columns."""
    observation_space = OBSERVATIONS[draw(st.sampled_from(sorted(OBSERVATIONS)))]
    action_space = ACTIONS[draw(st.sampled_from(sorted(ACTIONS)))]
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 100)))
    rows, episodes = sum(lengths), len(lengths)
    known = np.array(draw(st.lists(st.booleans(), min_size=episodes, max_size=episodes)))
    ends = np.cumsum(lengths) - 1
    flags = np.zeros((2, rows), bool)
    flags[:, ends] = rng.random((2, episodes)) < 0.5  # both, one, or neither: a cut at an explicit start
    constant = draw(st.booleans())  # equal frames, whose next observations look like a shift of the rows

    def observed(count: int) -> np.ndarray:
        if constant:
            return np.ones((count, *(observation_space.shape or ())), observation_space.dtype)
        observation_space.seed(int(rng.integers(1000)))
        return np.stack([observation_space.sample() for _ in range(count)])

    action_space.seed(int(rng.integers(1000)))
    weights = rng.random(rows)
    optional = {
        "next_observations_override": observed(rows),
        "costs": rng.random(rows),
        "goals": rng.normal(size=(rows, 2)),
        "log_probs": -rng.random(rows),
        "sampling_weights": weights / weights.sum(),
        "environment": "Pendulum-v1",
        "reference": Reference(0.1, 10.0, "made up", "Hopper-v4", 1000, ("Hopper-v3",)),
    }
    chosen = {name: value for name, value in optional.items() if draw(st.booleans())}
    if "next_observations_override" in chosen and draw(st.booleans()):
        chosen["next_known"] = rng.random(rows) < 0.5
    return Dataset(
        observations=observed(rows + int(known.sum())),
        actions=np.stack([action_space.sample() for _ in range(rows)]),
        rewards=rng.normal(size=rows),
        terminated=flags[0],
        truncated=flags[1],
        episode_starts=ends + 1 - np.array(lengths),
        last_known=known,
        observation_space=observation_space,
        action_space=action_space,
        name="made/up",
        provenance=Provenance("made", {"list": [1, 2.5]}, (TransformRecord("t", {"rate": 0.5}, 3),)),
        infos={"x": rng.normal(size=(rows, 2)), "x_0": np.full(rows, np.nan), "deep/flag": rng.random(rows) < 0.5},
        **chosen,
    )


def round_trip(kind: str, dataset: Dataset, folder: Path) -> Dataset:
    if kind == "minari":
        return read_minari(write_minari(dataset, folder, "test/made-v0"))
    if kind == "d4rl":
        return read_d4rl(write_d4rl(dataset, folder / "x.hdf5"))
    return read_path(write_parquet(dataset, folder / "x.parquet"))


def assert_same(again: Dataset, dataset: Dataset) -> None:
    assert again.fingerprint == dataset.fingerprint
    assert (again.name, again.environment, again.reference) == (dataset.name, dataset.environment, dataset.reference)
    assert again.provenance == dataset.provenance
    np.testing.assert_array_equal(again.next_valid, dataset.next_valid)
    assert (again.observation_space, again.action_space) == (dataset.observation_space, dataset.action_space)
    assert set(again.infos) == set(dataset.infos)
    for name, column in dataset.infos.items():
        assert again.infos[name].dtype == column.dtype
        np.testing.assert_array_equal(again.infos[name], column)


@pytest.mark.parametrize("kind", ["minari", "d4rl", "parquet"])
@settings(max_examples=40, deadline=None)
@given(dataset=datasets())
def test_a_round_trip_keeps_everything(kind: str, dataset: Dataset) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_same(round_trip(kind, dataset, Path(folder)), dataset)


@settings(max_examples=25, deadline=None)
@given(dataset=datasets())
def test_minari_itself_reads_what_we_write(dataset: Dataset) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", folder)
        write_minari(dataset, Path(folder), "test/made-v0")
        loaded = minari.load_dataset("test/made-v0")
        assert loaded.total_steps == dataset.num_transitions
        assert loaded.observation_space == dataset.observation_space
        assert loaded.action_space == dataset.action_space
        for index, episode in enumerate(loaded):
            rows = dataset.episode_ids == index
            frames = np.asarray(episode.observations)
            np.testing.assert_array_equal(frames[:-1], dataset.step_observations[rows])
            if dataset.last_known[index]:
                last = dataset.frame_index[rows][-1] + 1
                np.testing.assert_array_equal(frames[-1], dataset.observations[last])
            else:
                np.testing.assert_array_equal(frames[-1], frames[-2])
            np.testing.assert_array_equal(episode.actions, dataset.actions[rows])
            np.testing.assert_array_equal(episode.rewards, dataset.rewards[rows])
            np.testing.assert_array_equal(episode.terminations, dataset.terminated[rows])
            np.testing.assert_array_equal(episode.truncations, dataset.truncated[rows])


def made(last_known: bool = True, **changes: Any) -> Dataset:
    """Seven rows: an episode of two that terminates, one of three that is cut, a running one of two."""
    rows, rng = 7, np.random.default_rng(0)
    observations = rng.normal(size=(rows, 3)).astype(np.float32)
    following = np.roll(observations, -1, axis=0)
    following[[1, 4, 6]] = [[10.0] * 3, [20.0] * 3, [30.0] * 3]
    arguments = {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": np.arange(rows),
        "terminated": np.arange(rows) == 1,
        "truncated": np.arange(rows) == 4,
        "next_observations": following if last_known else None,
        "action_space": spaces.Box(-1, 1, (2,)),
        "environment": "Hopper-v4",
        "infos": {"qpos": rng.normal(size=(rows, 2))},
    }
    return Dataset.from_arrays(**{**arguments, **changes})


def test_other_programs_see_a_d4rl_file(tmp_path: Path) -> None:
    dataset = made(costs=np.ones(7))
    with h5py.File(write_d4rl(dataset, tmp_path / "new" / "x.hdf5")) as file:
        plain = {name: file[name][()] for name in file if isinstance(file[name], h5py.Dataset)}
        assert file["infos/qpos"].shape == (7, 2)
        assert {file[name].compression for name in plain} == {"gzip"}
    assert set(plain) == {"observations", "actions", "rewards", "terminals", "timeouts", "next_observations", "costs"}
    np.testing.assert_array_equal(plain["observations"], dataset.step_observations)
    np.testing.assert_array_equal(plain["next_observations"][[1, 4, 6], 0], [10, 20, 30])
    np.testing.assert_array_equal(plain["next_observations"][[0, 2, 3, 5]], plain["observations"][[1, 3, 4, 6]])
    np.testing.assert_array_equal(plain["terminals"], dataset.terminated)
    np.testing.assert_array_equal(plain["timeouts"], dataset.truncated)
    assert plain["rewards"].dtype == np.float32
    with h5py.File(tmp_path / "new" / "x.hdf5", "a") as file:
        del file["offbench"]
    plain_again = read_d4rl(tmp_path / "new" / "x.hdf5", action_space=dataset.action_space)
    assert plain_again.fingerprint == dataset.fingerprint


def test_unknown_next_observations_are_not_made_up_in_a_d4rl_file(tmp_path: Path) -> None:
    with h5py.File(write_d4rl(made(last_known=False), tmp_path / "x.hdf5")) as file:
        assert "next_observations" not in file


def test_partly_known_next_observations_are_not_shown_to_other_programs(tmp_path: Path) -> None:
    dataset = made().replace(next_observations_override=np.ones((7, 3), np.float32), next_known=np.arange(7) != 3)
    path = write_d4rl(dataset, tmp_path / "x.hdf5")
    with h5py.File(path) as file:
        assert "next_observations" not in file
    again = read_d4rl(path)
    assert again.fingerprint == dataset.fingerprint
    assert np.flatnonzero(~again.next_valid).tolist() == [3]


def test_a_written_file_is_not_mistaken_for_another_task_or_format(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dataset = made(
        observations=rng.normal(size=(7, 11)),
        next_observations=rng.normal(size=(7, 11)),
        actions=rng.uniform(-1, 1, (7, 3)),
        action_space=spaces.Box(-1, 1, (3,)),
        environment="Hopper-v5",
        costs=np.ones(7),
    )
    again = read_path(write_d4rl(dataset, tmp_path / "hopper-medium-v2.hdf5"))
    assert_same(again, dataset)


def test_arguments_of_the_reader_come_before_what_a_file_stores(tmp_path: Path) -> None:
    path = write_d4rl(made(name="stored"), tmp_path / "x.hdf5")
    assert read_d4rl(path).name == "stored"
    again = read_d4rl(path, name="given", environment="Hopper-v3", reference=Reference(0, 1, "given"))
    assert (again.name, again.environment, again.reference) == ("given", "Hopper-v3", Reference(0, 1, "given"))


def test_pandas_reads_the_table(tmp_path: Path) -> None:
    dataset = made(sampling_weights=np.full(7, 1 / 7))
    frame = pd.read_parquet(write_parquet(dataset, tmp_path / "x.parquet"))
    assert frame["episode"].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert frame["step"].tolist() == [0, 1, 0, 1, 2, 0, 1]
    np.testing.assert_array_equal(frame[[f"observations_{i}" for i in range(3)]], dataset.step_observations)
    np.testing.assert_array_equal(frame[["actions_0", "actions_1"]], dataset.actions)
    np.testing.assert_array_equal(frame["rewards"], np.arange(7))
    np.testing.assert_array_equal(frame["terminated"], dataset.terminated)
    assert frame["last_observation"].notna().tolist() == dataset.is_last.tolist()
    assert frame["last_observation"][4].tolist() == [20, 20, 20]
    assert frame.groupby("episode")["rewards"].sum().tolist() == dataset.episode_returns.tolist()
    assert {"infos/qpos_0", "infos/qpos_1", "sampling_weights"} < set(frame.columns)


def test_images_are_one_column_of_lists(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (7, 40, 40), dtype=np.uint8)
    dataset = made(last_known=False, observations=images)
    path = write_parquet(dataset, tmp_path / "x.parquet")
    frame = pd.read_parquet(path)
    np.testing.assert_array_equal(np.stack(frame["observations"]).reshape(images.shape), images)
    assert_same(Dataset(**restore_parquet(path) or {}), dataset)


@pytest.mark.parametrize("kind", ["d4rl", "parquet"])
def test_many_blocks_equal_one(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = 2000
    observations = rng.normal(size=(rows, 5)).astype(np.float32)
    ends = rng.random(rows) < 0.02
    dataset = Dataset.from_arrays(
        observations,
        rng.integers(0, 3, rows),
        rng.normal(size=rows),
        ends,
        np.zeros(rows, bool),
        next_observations=np.where(ends[:, None], -1, np.roll(observations, -1, 0)),
        action_space=spaces.Discrete(3),
    )
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 700)
    monkeypatch.setattr("offbench.datasets.d4rl_write.CHUNK_BYTES", 700)
    monkeypatch.setattr("offbench.datasets.allocation.BLOCK_BYTES", 700)
    assert_same(round_trip(kind, dataset, tmp_path), dataset)
    if kind == "parquet":
        assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups > 50


@pytest.mark.parametrize("kind", ["d4rl", "parquet"])
def test_writing_is_atomic_and_never_replaces_unasked(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = {"d4rl": write_d4rl, "parquet": write_parquet}[kind]
    module = {"d4rl": "d4rl_write", "parquet": "parquet_write"}[kind]
    path = write(made(), tmp_path / "x.data")
    before = path.read_bytes()
    with pytest.raises(DatasetError, match="exists already"):
        write(made(), path)
    with monkeypatch.context() as patch:
        patch.setattr(f"offbench.datasets.{module}.describe", lambda _: {}["interrupted"])
        with pytest.raises(KeyError):
            write(made(last_known=False), path, overwrite=True)
    assert path.read_bytes() == before
    write(made(last_known=False), path, overwrite=True)
    assert path.read_bytes() != before
    assert [file.name for file in tmp_path.iterdir()] == ["x.data"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write(made(), tmp_path / "file" / "x.data")


def test_a_d4rl_file_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    path = write_d4rl(made(), tmp_path / "x.hdf5")
    with h5py.File(path, "r+") as file:
        for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
            shorter = file[name][:5]
            del file[name]
            file[name] = shorter
    with pytest.raises(DatasetError, match="do not fit its 5 rows"):
        read_d4rl(path)
    with h5py.File(path, "r+") as file:
        del file["offbench/episode_starts"]
    with pytest.raises(DatasetError, match="lacks offbench/episode_starts"):
        read_d4rl(path)
    with h5py.File(path, "r+") as file:
        del file["offbench/description"]
        file["offbench/description"] = np.bytes_(json.dumps({"schema": "offbench-d4rl-9"}))
    with pytest.raises(DatasetError, match="layout that this version does not know"):
        read_d4rl(path)


def test_a_table_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    path = write_parquet(made(), tmp_path / "x.parquet")
    table = pq.read_table(path)
    for changed, message in (
        (table.slice(0, 3).append_column("new", pa.array([1] * 3)), None),  # cut after the first row of an episode
        (table.take([1, 2, 3, 4, 5, 6]), "rows were removed"),
        (table.take([1, 0, 2, 3, 4, 5, 6]), "rows were removed"),
        (table.drop_columns("rewards"), "was changed after"),
        (table.replace_schema_metadata({"offbench": '{"schema": "offbench-parquet-9"}'}), "does not know"),
        (table.replace_schema_metadata({"offbench": '{"schema": "offbench-parquet-1"}'}), "was changed after"),
    ):
        pq.write_table(changed, path)
        if message is None:
            assert Dataset(**restore_parquet(path) or {}).last_known.tolist() == [True, False]
        else:
            with pytest.raises(DatasetError, match=message):
                restore_parquet(path)
    pq.write_table(table.replace_schema_metadata(None), path)
    assert restore_parquet(path) is None
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match="damaged"):
        restore_parquet(path)
