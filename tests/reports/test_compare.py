"""`offbench report`, `compare` and `published` on tables: what they read, print and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from offbench.analysis import ScoreError, ScoreTable
from offbench.cli import app
from offbench.errors import SpecError, UnknownNameError
from offbench.reports.two_results import compare_two, merged
from offbench.score_source import kind_of, open_scores, write_table_report


def scores(shift: float = 0.0, algorithms: tuple[str, ...] = ("bc", "iql"), seeds: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (a, f"hopper-{d}-v2", s, 40 + 15 * i + shift + rng.normal(0, 1))
        for i, a in enumerate(algorithms)
        for d in ("medium", "expert", "medium-replay", "medium-expert")
        for s in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "score"])


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def failure(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2
    return result.output


# -- reading ---------------------------------------------------------------------------------------


def test_columns_named_by_the_user_and_severity(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    theirs = scores().rename(columns={"algorithm": "algo", "score": "final"})
    pd.concat([theirs.assign(rate=0.0), theirs.assign(rate=0.5, final=theirs["final"] / 2)]).to_csv(file, index=False)
    columns = {"algorithm": "algo", "score": "final"}
    source = open_scores(file, columns=columns, severity="rate")
    assert source.kind == "table"
    assert source.frame is not None
    assert (len(source.table.rows), len(source.frame)) == (40, 80)
    assert source.table.cell("bc", "hopper-medium-v2") == pytest.approx(scores()["score"][:5])
    with pytest.raises(ScoreError, match="no column 'method'"):
        open_scores(file, columns={"algorithm": "method"})
    with pytest.raises(SpecError, match="there is no file"):
        kind_of(tmp_path / "absent.csv")


def test_text_in_the_step_column_is_no_learning_curve(tmp_path: Path) -> None:
    file = tmp_path / "scores.parquet"
    scores().assign(step="final").to_parquet(file)
    assert open_scores(file).table.curves is None


def test_a_report_can_be_read_back(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    scores().to_csv(file, index=False)
    source = open_scores(file)
    written = write_table_report(source, reps=200, formats=("svg",))
    assert written.html == tmp_path / "scores-report" / "report.html"
    again = open_scores(tmp_path / "scores-report")
    assert again.kind == "report"
    pd.testing.assert_frame_equal(again.table.rows[list(source.table.rows)], source.table.rows, check_dtype=False)
    assert again.table.protocol == source.table.protocol


# -- comparing -------------------------------------------------------------------------------------


def test_two_algorithms_of_one_table() -> None:
    table = ScoreTable.from_frame(scores())
    result = compare_two(table, "iql", "bc", reps=500)
    assert result.sentences[0].startswith("iql is better than bc on 4 of 4 datasets")
    assert any("significantly better than bc on 4 of 4" in sentence for sentence in result.sentences)
    row = result.table.records.iloc[0]
    cells = [table.cell(name, "hopper-medium-v2") for name in ("iql", "bc")]
    assert row["difference"] == pytest.approx(cells[0].mean() - cells[1].mean())
    assert result.table.rows[0][1].bold
    with pytest.raises(UnknownNameError):
        compare_two(table, "iql", "cql")


def test_equal_results_are_not_told_apart_and_seeds_are_planned() -> None:
    table = ScoreTable.from_frame(scores(algorithms=("a", "b")))
    other = ScoreTable.from_frame(scores(0.3, algorithms=("a", "b")).iloc[::-1])
    both, pairs = merged(table, other, ("old", "new"))
    assert pairs == [("a (old)", "a (new)"), ("b (old)", "b (new)")]
    result = compare_two(both, *pairs[0], reps=500)
    assert "which includes 0" in result.sentences[0]
    assert any("seeds of each algorithm" in sentence for sentence in result.sentences)


def test_datasets_of_one_result_only_are_named() -> None:
    one = scores()
    table, pairs = merged(
        ScoreTable.from_frame(one), ScoreTable.from_frame(one[one["dataset"] != "hopper-expert-v2"]), ("x", "y")
    )
    result = compare_two(table, *pairs[0], reps=200)
    assert len(result.table.rows) == 3
    assert any("hopper-expert-v2" in notice.text for notice in result.notices if notice.code == "left-out")


def test_results_without_a_common_algorithm() -> None:
    one, other = (ScoreTable.from_frame(scores(algorithms=names)) for names in (("a", "b"), ("c", "d")))
    with pytest.raises(ScoreError, match="share no algorithm"):
        merged(one, other, ("x", "y"))
    single = ScoreTable.from_frame(scores(algorithms=("c",)))
    _, pairs = merged(ScoreTable.from_frame(scores(algorithms=("a",))), single, ("x", "y"))
    assert pairs == [("a (x)", "c (y)")]


def test_raw_returns_of_several_datasets_are_compared_by_order_only() -> None:
    table = ScoreTable.from_frame(scores(), unit="raw return")
    result = compare_two(table, "iql", "bc", reps=200)
    assert "A run of iql scores higher" in result.sentences[0]
    assert "No difference of aggregates" in result.sentences[1]


# -- commands --------------------------------------------------------------------------------------


def test_commands_on_a_table(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    scores().rename(columns={"algorithm": "algo"}).to_csv(file, index=False)
    shared = ("--algorithm-column", "algo")
    output = tmp_path / "out"
    paths = json.loads(
        call("report", file, *shared, "--output", output, "--formats", "svg", "--reps", 200, "--published", "--json")
    )
    assert str(output / "report.html") in paths["scores.csv"]
    assert (output / "tables" / "published.md").is_file()
    compared = json.loads(call("compare", "iql", "bc", "--in", file, *shared, "--json"))
    assert compared[0]["sentences"][0].startswith("iql is better than bc on 4 of 4 datasets")
    assert len(compared[0]["datasets"]) == 4
    text = call("compare", output, output, "--algorithm", "iql")
    assert "iql (first) is better than iql (second) on 0 of 4" in " ".join(text.split())


def test_wrong_options_are_refused_with_the_choices(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    scores().to_csv(file, index=False)
    assert "within-95" in failure("report", file, "--bold", "within")
    assert "'pdf'" in failure("report", file, "--formats", "pdff")
    assert "iql" in failure("compare", "iqll", "bc", "--in", file)


def test_published_prints_sources_and_their_disagreement() -> None:
    text = call("published", "hopper-medium-v2")
    assert "corl" in text
    assert "Range over first-hand sources" in " ".join(text.split())
    document = json.loads(call("published", "td3_bc", "--json"))
    assert document["algorithm"] == "TD3+BC"
    assert {row["algorithm"] for row in document["scores"]} == {"TD3+BC"}
    assert {source["key"] for source in document["sources"]} == {row["source"] for row in document["scores"]}
    assert "hopper-medium-v2" in failure("published", "hoper-medium-v2")
    assert len(json.loads(call("published", "--list", "--json"))["sources"]) == 17
