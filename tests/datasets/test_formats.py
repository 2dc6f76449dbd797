"""Which format a path holds, and the options that its reader takes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box

from offbench.datasets import Dataset, write_minari
from offbench.datasets.formats import FORMATS, detect_format, read_path
from offbench.errors import DatasetError, UnknownNameError

ROWS = np.arange(4, dtype=np.float32)
PLAIN = {"observations": ROWS[:, None], "actions": ROWS[:, None] / 4, "rewards": ROWS}
FLAGS = {"terminals": ROWS == 9, "timeouts": ROWS == 3}
CONTENTS = {
    "d4rl": PLAIN | FLAGS,
    "dsrl": PLAIN | FLAGS | {"costs": ROWS, "next_observations": ROWS[:, None] + 1},
    "npz": PLAIN | FLAGS,
    "ogbench": {"observations": ROWS[:, None], "actions": ROWS[:, None] / 4, "terminals": ROWS == 3},
    "neorl2": {
        "obs": ROWS[:, None],
        "next_obs": ROWS[:, None] + 1,
        "action": ROWS[:, None] / 4,
        "reward": ROWS,
        "done": ROWS == 9,
        "truncated": ROWS == 3,
    },
}


def write(folder: Path, kind: str) -> Path:
    if kind in ("d4rl", "dsrl"):
        path = folder / "x.hdf5"
        with h5py.File(path, "w") as file:
            for key, value in CONTENTS[kind].items():
                file[key] = value
        return path
    path = folder / "x.npz"
    np.savez(path, **CONTENTS[kind])
    return path


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_format_is_told_by_its_columns(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    assert detect_format(path) == kind
    dataset = read_path(path, action_space=Box(-1, 1, (1,)), name="mine")
    assert dataset.name == "mine"
    assert dataset.num_transitions == (3 if kind == "ogbench" else 4)
    assert dataset.fingerprint == read_path(path, format=kind, action_space=Box(-1, 1, (1,))).fingerprint


def test_minari_by_folder_and_by_file(tmp_path: Path) -> None:
    data = Dataset.from_arrays(**PLAIN, terminated=ROWS == 3, truncated=ROWS == 9, action_space=Box(-1, 1, (1,)))
    folder = write_minari(data, tmp_path, "x-v0")
    for path in (folder, folder / "data", folder / "data" / "main_data.hdf5"):
        assert detect_format(path) == "minari"
        assert read_path(path).fingerprint == data.fingerprint


def test_every_format_has_a_reader_with_the_common_options() -> None:
    assert set(FORMATS) >= {"d4rl", "minari", "dsrl", "ogbench", "neorl2", "npz"}
    for entry in FORMATS.values():
        assert entry.description
        for option in ("name", "environment", "reference"):
            with pytest.raises(UnknownNameError, match=f"did you mean '{option}'"):
                read_path("gone", format=entry.name, **{f"{option}s": None})


def test_paths_that_hold_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset at"):
        detect_format(tmp_path / "gone.npz")
    with pytest.raises(DatasetError, match="no Minari dataset"):
        detect_format(tmp_path)
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(DatasetError, match=r"format of .*x\.txt is not known[\s\S]*\.npz"):
        detect_format(tmp_path / "x.txt")
    with pytest.raises(UnknownNameError, match="did you mean 'neorl2'"):
        read_path(tmp_path / "x.txt", format="neorl")
    (tmp_path / "x.npz").write_text("hello")
    with pytest.raises(DatasetError, match="damaged or incomplete"):
        detect_format(tmp_path / "x.npz")
