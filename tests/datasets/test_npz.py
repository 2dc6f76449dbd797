"""Plain npz files: names, layouts with and without each episode's last observation, archives that are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from offbench.datasets import Dataset
from offbench.datasets.npz import read_npz
from offbench.datasets.npz_files import open_npz
from offbench.errors import DatasetError

SPACE = Box(-1, 1, (2,))


def columns(**changes: Any) -> dict[str, Any]:
    """Six rows: an episode of 4 that is terminated and one of 2 that is truncated."""
    rows = np.arange(6)
    given = {
        "observations": rows[:, None].astype(np.float32),
        "actions": np.zeros((6, 2), np.float32),
        "rewards": rows.astype(np.float64),
        "terminated": rows == 3,
        "truncated": rows == 5,
        **changes,
    }
    return {key: value for key, value in given.items() if value is not None}


def load(path: Path, **changes: Any) -> Dataset:
    np.savez(path, **columns(**changes))
    return read_npz(path, action_space=SPACE)


def test_our_names_and_d4rls_give_the_same_dataset(tmp_path: Path) -> None:
    ours = load(tmp_path / "x.npz")
    theirs = load(
        tmp_path / "y.npz",
        terminated=None,
        terminals=np.arange(6) == 3,
        truncated=None,
        timeouts=(np.arange(6) == 5)[:, None].astype(np.float32),
    )
    direct = Dataset.from_arrays(**columns(), action_space=SPACE)
    assert ours.fingerprint == theirs.fingerprint == direct.fingerprint
    assert ours.episode_lengths.tolist() == [4, 2]


def test_other_columns(tmp_path: Path) -> None:
    dataset = load(
        tmp_path / "x.npz",
        costs=np.ones(6),
        speed=np.arange(6),
        note=np.array("made by hand"),
        **{"infos/qpos": np.zeros((6, 3))},
    )
    assert dataset.costs is not None
    assert {key: column.shape for key, column in dataset.infos.items()} == {"speed": (6,), "qpos": (6, 3)}
    assert dataset.provenance.details["ignored"] == ["note"]


@pytest.mark.parametrize("episodes", [{"episode_starts": np.array([0, 4])}, {"lengths": np.array([4, 2])}, {}])
def test_observations_may_include_each_episodes_last(tmp_path: Path, episodes: dict[str, Any]) -> None:
    frames = np.array([0, 1, 2, 3, 50, 4, 5, 60], np.float32)[:, None]
    dataset = load(tmp_path / "x.npz", observations=frames, **episodes)
    assert dataset.step_observations[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.next_observations[:, 0].tolist() == [1, 2, 3, 50, 5, 60]
    following = np.array([1, 2, 3, 50, 5, 60], np.float32)[:, None]
    assert dataset.fingerprint == load(tmp_path / "y.npz", next_observations=following).fingerprint


def test_episodes_without_flags(tmp_path: Path) -> None:
    dataset = load(tmp_path / "x.npz", truncated=None, lengths=np.array([2, 2, 2]))
    assert np.flatnonzero(dataset.truncated).tolist() == [1]
    assert np.flatnonzero(dataset.terminated).tolist() == [3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminated": None, "dones": np.zeros(6)}, r"lacks terminated[\s\S]*'dones' may mean ends of the task"),
        ({"terminals": np.zeros(6)}, "both terminated and terminals"),
        ({"rewards": np.zeros(5)}, "rewards 5"),
        (
            {"observations": np.zeros((7, 1))},
            r"7 observations for 6 rewards and 2 episodes[\s\S]*6, one per step, or 8",
        ),
        ({"observations": np.zeros(())}, "no rows"),
        ({"lengths": np.array([4, 3])}, "do not sum to the 6 rewards"),
        ({"lengths": np.array([2**63, 2**63 + 6], np.uint64)}, "do not sum"),
        ({"lengths": np.array([8, -2])}, "not positive whole numbers"),
        ({"lengths": np.array([4, 2]), "episode_starts": np.array([0, 4])}, "both episode_starts and lengths"),
        ({"episode_starts": np.array([0, 3])}, "inside an episode in row 3"),
        ({"observations": np.zeros((8, 1)), "next_observations": np.zeros((6, 1))}, "beside observations"),
        ({"truncated": None}, "ends of the episodes are not known"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load(tmp_path / "x.npz", **changes)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    with pytest.raises(DatasetError, match=r"'rewards' in x\.npz holds pickled Python objects"):
        load(tmp_path / "x.npz", rewards=np.array([Hostile()] * 6, dtype=object))
    assert not marker.exists()


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offbench.datasets.file_limits.SMALL", 2**20)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **columns(observations=np.zeros((6, 2**18))))
    assert path.stat().st_size < 2**14
    with pytest.raises(DatasetError, match=r"stores [\d,]+ bytes for 'observations', which would need 12,582,912"):
        read_npz(path, action_space=SPACE)


def test_headers_that_lie_and_checksums_that_fail(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **columns())
    content = bytearray((tmp_path / "x.npz").read_bytes())
    place = content.index(columns()["observations"].tobytes())
    with zipfile.ZipFile(tmp_path / "x.npz") as good, zipfile.ZipFile(tmp_path / "shape.npz", "w") as archive:
        for name in good.namelist():
            archive.writestr(name, good.read(name).replace(b"(6, 1)", b"(9, 1)"))
    with pytest.raises(DatasetError, match=r"'observations' in shape\.npz takes 24 bytes, but its header promises 36"):
        read_npz(tmp_path / "shape.npz", action_space=SPACE)
    flipped = content.copy()
    flipped[place + 5] ^= 1
    (tmp_path / "bit.npz").write_bytes(flipped)
    with pytest.raises(DatasetError, match=r"damaged or incomplete[\s\S]*Bad CRC-32"):
        read_npz(tmp_path / "bit.npz", action_space=SPACE)
    (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match="damaged or incomplete"):
        read_npz(tmp_path / "half.npz", action_space=SPACE)
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        archive.writestr("rewards.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("rewards.npy", b"")
    with pytest.raises(DatasetError, match="two arrays of the same name"):
        read_npz(tmp_path / "twice.npz", action_space=SPACE)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f8", "<f4", "?", "u1", "<i8"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_equal_those_of_numpy(tmp_path: Path, order: str, dtype: str, save: Any) -> None:
    values = np.asarray(np.random.default_rng(0).integers(0, 2, (5, 3, 2)).astype(dtype), order=order)
    save(tmp_path / "x.npz", a=values, empty=np.zeros((0, 3), dtype), scalar=np.array(3, dtype))
    with open_npz(tmp_path / "x.npz") as file, np.load(tmp_path / "x.npz") as expected:
        for name in ("a", "empty", "scalar"):
            read = file.read(name)
            np.testing.assert_array_equal(read, expected[name])
            assert read.dtype == expected[name].dtype.newbyteorder("=")
            assert not read.flags.writeable


def test_discrete_actions(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **columns(actions=np.array([0, 1, 2, 0, 1, 2])))
    assert read_npz(tmp_path / "x.npz", action_space=Discrete(3)).discrete
    with pytest.raises(DatasetError, match="actions lie outside"):
        read_npz(tmp_path / "x.npz", action_space=Discrete(2))
