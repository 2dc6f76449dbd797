"""The commands `offbench data lint`, `card`, `convert` and `schema`: output, exit status and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import pytest
from typer.testing import CliRunner

from offbench.cli import app
from offbench.datasets import load_dataset, write_minari
from tests.datasets.lint_data import Columns, clean_columns, dataset

D4RL_NAMES = {"terminated": "terminals", "truncated": "timeouts"}


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def save(folder: Path, columns: Columns, name: str) -> Path:
    """A Minari dataset, which stores its spaces, so that the commands need no options."""
    return write_minari(dataset(columns), folder, f"{name}-v0")


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return save(tmp_path, clean_columns(), "clean")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    columns = clean_columns()
    columns["actions"][[8, 2222], 1] = 1.5
    return save(tmp_path, columns, "broken")


@pytest.fixture
def doubtful(tmp_path: Path) -> Path:
    columns = clean_columns()
    columns["actions"][:, 1] = 0.25
    return save(tmp_path, columns, "doubtful")


def test_lint_names_rows_and_the_fix(clean: Path, broken: Path) -> None:
    result = call("data", "lint", broken, clean)
    assert result.exit_code == 1
    text = " ".join(result.stdout.split())
    assert "actions-outside-space" in text
    assert "rows 8, 2222; episodes 0, 22" in text
    assert "fix: pass the action_space" in text
    assert "1 error" in text
    assert "nothing found" in text
    assert "clean-v0" in text or "arrays 4,000 transitions, 40 episodes" in text


def test_lint_exit_status(clean: Path, broken: Path, doubtful: Path) -> None:
    assert call("data", "lint", clean, "--strict").exit_code == 0
    assert call("data", "lint", doubtful).exit_code == 0
    assert call("data", "lint", doubtful, "--strict").exit_code == 1
    assert call("data", "lint", clean, broken).exit_code == 1


def test_lint_json(broken: Path, clean: Path) -> None:
    result = call("data", "lint", broken, clean, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert [entry["ok"] for entry in report["datasets"]] == [False, True]
    (finding,) = report["datasets"][0]["findings"]
    assert (finding["check"], finding["rows"], finding["count"]) == ("actions-outside-space", [8, 2222], 2)


def test_lint_of_a_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    columns = clean_columns()
    columns["rewards"][7] = float("nan")
    path = tmp_path / "logs.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[D4RL_NAMES.get(name, name)] = values
    result = call("data", "lint", path)
    assert result.exit_code == 1
    assert "could not be loaded" in result.stdout
    assert "row 7" in result.stdout


def test_lint_of_nothing_is_an_error(tmp_path: Path) -> None:
    assert call("data", "lint", tmp_path / "missing.hdf5").exit_code == 1
    assert call("data", "lint", "pendulum/expret").exit_code == 2


def test_card(clean: Path, tmp_path: Path) -> None:
    result = call("data", "card", clean, "-o", tmp_path / "card")
    assert result.exit_code == 0, result.output
    assert [Path(line).name for line in result.stdout.split()] == ["card.html", "card.md"]
    assert load_dataset(clean).fingerprint in (tmp_path / "card" / "card.md").read_text(encoding="utf-8")
    values = json.loads(call("data", "card", clean, "-o", tmp_path / "card", "--json").stdout)
    assert Path(values["html"]).is_file()


def test_the_cards_folder_is_named_after_the_dataset(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("data", "card", clean).exit_code == 0
    assert (tmp_path / "card-arrays" / "card.html").is_file()


@pytest.mark.parametrize("target", ["out.hdf5", "out.parquet", "more/out-v3"])
def test_convert_keeps_the_fingerprint(clean: Path, tmp_path: Path, target: str) -> None:
    result = call("data", "convert", clean, tmp_path / target, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["fingerprint"] == load_dataset(clean).fingerprint == load_dataset(tmp_path / target).fingerprint
    again = call("data", "convert", clean, tmp_path / target)
    assert again.exit_code == 1
    assert call("data", "convert", clean, tmp_path / target, "--overwrite").exit_code == 0


def test_convert_below_minaris_root_keeps_the_namespace(clean: Path, tmp_path: Path) -> None:
    result = call("data", "convert", clean, tmp_path / "minari" / "team" / "points-v1")
    assert result.exit_code == 0, result.output
    assert load_dataset("minari:team/points-v1").fingerprint == load_dataset(clean).fingerprint


def test_convert_to_something_unknown(clean: Path, tmp_path: Path) -> None:
    assert call("data", "convert", clean, tmp_path / "out.xyz").exit_code == 2
    assert call("data", "convert", clean, tmp_path / "out.hdf5", "--to", "rlds").exit_code == 2


def test_schema_can_be_used_as_it_is(tmp_path: Path) -> None:
    rows = ["episode,t,obs_0,obs_1,action_0,reward,terminated"]
    rows += [
        f"{episode},{step},{0.1 * step},{episode + 0.5},{(-1) ** step * 0.5},1.0,{int(step == 9)}"
        for episode in range(3)
        for step in range(10)
    ]
    table, schema = tmp_path / "logs.csv", tmp_path / "schema.yaml"
    table.write_text("\n".join(rows), encoding="utf-8")
    result = call("data", "schema", table)
    assert result.exit_code == 0, result.output
    schema.write_text(result.stdout, encoding="utf-8")
    data = load_dataset(table, schema=schema)
    assert (data.num_transitions, data.num_episodes) == (30, 3)
    assert call("data", "lint", table, "--schema", schema).exit_code == 0
