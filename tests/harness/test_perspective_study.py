"""The dataset-perspective study: its suites have the paper's numbers, and a small one runs to its report."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from offbench.api import load_suite
from offbench.cli import app
from offbench.errors import SpecError, UnknownNameError
from offbench.execution import run_suite
from offbench.perspective import ALGORITHMS, NAMES, PRESETS, perspective_study


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_packaged_suites_are_the_presets(preset: str) -> None:
    assert load_suite(NAMES[preset]) == perspective_study(preset).suite


def test_the_paper_s_preset_has_the_paper_s_numbers() -> None:
    study = perspective_study("paper")
    suite = study.suite
    assert len(suite.datasets) == 4 * 5 * 5  # environments, schemes, dataset-creation runs
    assert {reference.options["run"] for reference in suite.datasets} == {42, 142, 242, 342, 442}
    assert {reference.options["steps"] for reference in suite.datasets} == {100_000}
    assert [reference.name for reference in suite.algorithms] == list(ALGORITHMS)
    assert len(ALGORITHMS) == 9
    assert suite.seeds == [0, 1, 2, 3, 4]
    protocol = suite.protocol
    assert (protocol.updates, protocol.batch_size, protocol.evaluate_every) == (500_000, 128, 1_000)
    assert protocol.evaluation_episodes == 10
    for reference in suite.algorithms:
        assert reference.config["hidden"] == [256, 256, 256]
        assert reference.config["learning_rate"] == 1e-4
    games = perspective_study("paper-minatar").suite
    assert len(games.datasets) == 2 * 5 * 5
    assert games.protocol.updates == 10_000_000
    assert games.datasets[0].options["steps"] == 2_000_000


def test_wrong_settings_are_explained() -> None:
    with pytest.raises(UnknownNameError, match="cartpole"):
        perspective_study(environments=("cartpol",))
    with pytest.raises(UnknownNameError, match="updates"):
        perspective_study(update=3)
    with pytest.raises(UnknownNameError, match="reduced"):
        perspective_study("reducd")
    with pytest.raises(SpecError, match="runs"):
        perspective_study(runs=(42, 42))


@pytest.mark.slow
def test_a_small_study_runs_to_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFBENCH_CACHE", str(tmp_path / "cache"))
    study = perspective_study(
        environments=("cartpole",),
        runs=(42,),
        steps=400,
        seeds=1,
        updates=20,
        evaluations=2,
        evaluation_episodes=1,
        final_episodes=2,
        hidden=(8,),
    )
    summary = run_suite(study.suite, tmp_path / "runs", workers=0)
    assert len(summary.finished) == 5 * 9
    files, tables = study.report(tmp_path / "runs", summary)

    points = study.quality().set_index("scheme")
    assert points.loc["random", "tq"] == 0
    assert points.loc["replay", "saco"] == 1
    table = pd.read_csv(files.html.parent / "performance.csv")
    assert len(table) == 5 * 9
    row = table[(table["algorithm"] == "dqn") & (table["scheme"] == "expert")].iloc[0]
    raw = pd.concat(
        pd.read_json(file, lines=True)
        for file in (tmp_path / "runs" / "dataset_perspective" / "dqn").glob("cartpole_expert*/*/evaluations.jsonl")
    )
    final = raw[raw["step"] == 20]["return"].mean()
    best = raw.groupby("step")["return"].mean().max()
    span = row["maximum"] - row["minimum"]
    assert row["last"] == pytest.approx(100 * (final - row["minimum"]) / span, rel=1e-4)
    assert row["paper"] == pytest.approx(100 * (best - row["minimum"]) / span, rel=1e-4)
    assert [len(cells) for cells in tables["perspective"].rows] == [3 + 9] * 5
    assert len(tables["correlations"].rows) == 9
    page = files.html.read_text(encoding="utf-8")
    assert "Performance against TQ and SACo" in page
    for figure in ("tq_saco", "performance_planes", "correlations"):
        assert files.figures[figure]["png"].stat().st_size > 5_000

    # The command finds the same runs, and trains nothing again.
    command = ["perspective", "--environments", "cartpole", "--runs", "42", "--steps", "400", "--data-only", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    shown = {entry["scheme"]: entry for entry in json.loads(result.stdout)}
    assert shown["expert"]["tq"] == pytest.approx(points.loc["expert", "tq"])


def test_the_command_prints_the_suite() -> None:
    result = CliRunner().invoke(app, ["perspective", "--runs", "42,142", "--updates", "7", "--seeds", "0,3", "--yaml"])
    assert result.exit_code == 0, result.output
    assert "updates: 7" in result.stdout
    assert result.stdout.count("id: cartpole/replay") == 2
