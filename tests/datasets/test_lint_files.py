"""The lint of files that cannot be loaded: raw columns show the defects with their rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offbench.datasets import write_minari
from offbench.datasets.lint import LintReport, lint_dataset, lint_path, lint_raw
from offbench.datasets.raw_columns import normalized, read_raw
from offbench.errors import DatasetError, UnknownNameError
from tests.datasets.lint_data import BOX, Columns, checks, clean_columns, dataset, found

D4RL_NAMES = {"terminated": "terminals", "truncated": "timeouts"}


@pytest.fixture
def columns() -> Columns:
    return clean_columns()


def write_hdf5(path: Path, columns: Columns) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[D4RL_NAMES.get(name, name)] = values
    return path


def lint_hdf5(folder: Path, columns: Columns) -> LintReport:
    return lint_path(write_hdf5(folder / "logs.hdf5", columns), action_space=BOX)


def test_a_clean_file(tmp_path: Path, columns: Columns) -> None:
    report = lint_hdf5(tmp_path, columns)
    assert report.findings == ()
    assert report.fingerprint == dataset(columns).fingerprint


def test_non_finite_values(tmp_path: Path, columns: Columns) -> None:
    columns["observations"][[7, 1203], 1] = np.nan, np.inf
    columns["rewards"][3000] = -np.inf
    report = lint_hdf5(tmp_path, columns)
    assert not report.ok
    assert report.fingerprint is None
    rows = {finding.message.split("'")[1]: finding.rows for finding in report.findings if finding.check == "non-finite"}
    assert rows == {"observations": (7, 1203), "rewards": (3000,)}
    assert "NaN or infinite" in found(report, "cannot-load").message


def test_mismatched_lengths(tmp_path: Path, columns: Columns) -> None:
    columns["actions"] = columns["actions"][:-40]
    finding = found(lint_hdf5(tmp_path, columns), "mismatched-lengths")
    assert (finding.rows, finding.count) == ((3960,), 40)
    assert "actions has 3,960 rows, the other columns 4,000" in finding.message


def test_wrong_types(tmp_path: Path, columns: Columns) -> None:
    rewards = columns["rewards"].astype(object)
    rewards = np.array([f"{value:.3f}" for value in rewards], dtype="S10")
    rewards[[12, 13]] = b"n/a"
    columns["rewards"] = rewards
    finding = found(lint_hdf5(tmp_path, columns), "wrong-dtype")
    assert finding.rows == (12, 13)
    assert "column 'rewards' has type" in finding.message


def test_flags_that_are_no_flags(tmp_path: Path, columns: Columns) -> None:
    flags = columns["truncated"].astype(np.float32)
    flags[[5, 6]] = 0.99, np.nan
    columns["truncated"] = flags
    finding = found(lint_hdf5(tmp_path, columns), "flag-values")
    assert (finding.rows, finding.count) == ((5, 6), 2)
    assert "timeouts is 0.99 in row 5" in finding.message


def test_both_flags_beside_another_defect(tmp_path: Path, columns: Columns) -> None:
    columns["rewards"][0] = np.nan
    columns["terminated"][[99, 299]] = True
    assert found(lint_hdf5(tmp_path, columns), "both-flags").rows == (99, 299)


def test_missing_columns(tmp_path: Path, columns: Columns) -> None:
    columns["obs"] = columns.pop("observations")
    del columns["rewards"]
    finding = found(lint_hdf5(tmp_path, columns), "missing-columns")
    assert finding.message.startswith("no column for rewards; the file holds actions, next_observations, obs")


def test_truncated_file(tmp_path: Path, columns: Columns) -> None:
    path = write_hdf5(tmp_path / "logs.hdf5", columns)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    report = lint_path(path, action_space=BOX)
    assert {"cannot-load", "unreadable-column"} <= checks(report)


def test_a_file_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "logs.hdf5"
    path.write_bytes(b"not HDF5 at all")
    assert "unreadable-column" in checks(lint_path(path))


def test_what_is_not_there_is_an_error_and_no_finding(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset at"):
        lint_path(tmp_path / "missing.hdf5")
    with pytest.raises(UnknownNameError):
        lint_path("no-such-dataset-v9")


# --- Minari ---


def write_minari_file(tmp_path: Path, columns: Columns, damage: Callable[[h5py.File], None]) -> LintReport:
    folder = write_minari(dataset(columns), tmp_path, "tests/points-v0")
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        damage(file)
    return lint_path(folder)


def test_minari_episode_without_its_last_observation(tmp_path: Path, columns: Columns) -> None:
    def damage(file: h5py.File) -> None:
        for index in (3, 5):
            observations = file[f"episode_{index}/observations"][:-1]
            del file[f"episode_{index}/observations"]
            file[f"episode_{index}/observations"] = observations

    finding = found(write_minari_file(tmp_path, columns, damage), "mismatched-lengths")
    assert (finding.episodes, finding.count) == ((3, 5), 2)
    assert "episode 3 has 100 observations for 100 rewards" in finding.message


def test_minari_values_that_are_not_finite(tmp_path: Path, columns: Columns) -> None:
    def damage(file: h5py.File) -> None:
        file["episode_2/rewards"][7] = np.nan
        del file["episode_39/actions"]

    report = write_minari_file(tmp_path, columns, damage)
    assert found(report, "mismatched-lengths").episodes == (39,)
    assert found(report, "non-finite").rows == (207,)


def test_minari_rows_name_their_episode(tmp_path: Path, columns: Columns) -> None:
    def damage(file: h5py.File) -> None:
        file["episode_2/rewards"][7] = np.nan

    finding = found(write_minari_file(tmp_path, columns, damage), "non-finite")
    assert (finding.rows, finding.episodes) == ((207,), (2,))


# --- tables and archives, column by column ---


def raw_findings(path: Path) -> dict[str, tuple[int, ...]]:
    return {finding.check: finding.rows for finding in lint_raw(read_raw(path)).findings}


def test_unsorted_table(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    lines = ["Episode ID,step,obs_x,reward", "a,0,1.0,0", "a,2,1.1,0", "a,1,1.2,0", "b,0,3.0,0", "a,3,1.3,0"]
    path.write_text("\n".join(lines))
    assert [(f.check, f.rows) for f in lint_raw(read_raw(path)).findings] == [
        ("unsorted-rows", (4,)),
        ("unsorted-rows", (2,)),
    ]


def test_table_with_words_among_numbers(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    path.write_text("episode,step,obs_x,reward\n0,0,1.5,1\n0,1,off,1\n0,2,2.5,\n")
    findings = raw_findings(path)
    assert findings["wrong-dtype"] == (1,)
    assert findings["non-finite"] == (2,)


def test_archive_with_pickled_objects(tmp_path: Path) -> None:
    path = tmp_path / "logs.npz"
    np.savez(path, observations=np.zeros((3, 2)), rewards=np.array([1, None, 2], dtype=object))
    assert "rewards" in raw_message(path, "unreadable-column")
    assert "no column for actions, rewards, terminated" in raw_message(path, "missing-columns")


def raw_message(path: Path, check: str) -> str:
    return found(lint_raw(read_raw(path)), check).message


@pytest.mark.parametrize(("name", "word"), [("Episode ID", "episode_id"), ("obs[0]", "obs_0"), (" T ", "t")])
def test_names_are_compared_in_one_form(name: str, word: str) -> None:
    assert normalized(name) == word


# --- the report ---


def test_the_report_as_json(columns: Columns) -> None:
    columns["actions"][3] = 2.0
    report = lint_dataset(dataset(columns))
    value = report.to_json()
    assert value["ok"] is False
    assert value["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert value["findings"][0]["rows"] == [3]
    assert value["findings"][0]["check"] == "actions-outside-space"


def test_errors_come_first(columns: Columns) -> None:
    columns["rewards"][:] = 1.0
    columns["actions"][:, 0] = 0.5
    columns["actions"][9, 1] = 7.0
    severities = [finding.severity for finding in lint_dataset(dataset(columns)).findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert set(severities) == {"error", "warning", "note"}


def test_the_horizon_of_the_registry_is_used(columns: Columns) -> None:
    class Entry:
        horizon = 60

    data: Any = dataset(columns, reference=None)
    assert "longer-than-limit" not in checks(lint_dataset(data))
    assert "the catalogue" in found(lint_dataset(data, entry=Entry()), "longer-than-limit").message


SCHEMA = """
observations: [x, y]
actions: {columns: [push], type: discrete, labels: [left, right]}
reward: r
terminated: end
episode: run
timestep: k
"""


def test_a_table_is_checked_by_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    path.write_text(
        "run,k,x,y,push,r,end,comment\n"
        "a,0,1.0,2.0,left,0,no,first\n"
        "a,1,,2.0,right,0,no,\n"
        "a,2,1.0,broken,left,1,yes,\n"
        "b,0,1.0,2.0,left,0,no,\n"
        "b,0,1.0,2.0,right,0,no,again\n"
    )
    report = lint_path(path, schema=SCHEMA)
    rows = {(finding.check, finding.rows) for finding in report.findings if finding.check != "cannot-load"}
    assert rows == {("non-finite", (1,)), ("wrong-dtype", (2,)), ("unsorted-rows", (4,))}


def test_a_table_without_a_schema_says_how_to_get_one(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    path.write_text("x,reward\n1,2\n")
    assert "offbench data schema logs.csv" in found(lint_path(path), "cannot-load").fix
