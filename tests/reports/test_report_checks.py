"""Report linting, averages, bold rules, spreads, robustness and the JSON document."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from offbench.analysis import ScoreTable
from offbench.reports import ReportFiles, dataset_table, write_report
from offbench.reports.content import comparable_part
from offbench.reports.lint import lint, mixed_versions


def frame(cells: dict[tuple[str, str], list[float]], **columns: Any) -> pd.DataFrame:
    rows = [(a, d, seed, score) for (a, d), scores in cells.items() for seed, score in enumerate(scores)]
    return pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "score"]).assign(**columns)


def codes(rows: pd.DataFrame, **options: Any) -> set[str]:
    table = ScoreTable.from_frame(rows)
    return {notice.code for notice in lint(table, pd.DataFrame(), frame=rows, **options)}


CELLS = {
    ("a", "hopper-medium-v2"): [50.0, 52.0, 57.0],
    ("b", "hopper-medium-v2"): [60.0, 61.0, 63.0],
    ("a", "walker2d-medium-v2"): [70.0, 71.0, 75.0],
    ("b", "walker2d-medium-v2"): [40.0, 49.0, 42.0],
    ("a", "antmaze-umaze-v2"): [90.0, 80.0, 85.0],
    ("b", "antmaze-umaze-v2"): [97.0, 91.0, 93.0],
}


# -- linting ---------------------------------------------------------------------------------------


def test_clean_results_raise_no_warning() -> None:
    assert codes(frame(CELLS, protocol="last", updates=1000, tuning="one setting")) == set()


def test_mixed_versions_are_named_within_a_domain_only() -> None:
    assert mixed_versions(["hopper-medium-v2", "pen-human-v1", "my data"]) == []
    (notice,) = mixed_versions(["hopper-medium-v0", "walker2d-medium-v2"])
    assert "hopper-medium-v0, walker2d-medium-v2" in notice.text
    assert [n.code for n in mixed_versions(["antmaze-umaze-v0", "antmaze-umaze-v2"])] == ["mixed-versions"]


def test_mixed_protocols_tuning_and_best_checkpoints() -> None:
    rows = frame(CELLS)
    other = rows["algorithm"] == "b"
    assert "mixed-protocols" in codes(rows.assign(updates=np.where(other, 1000, 500)))
    assert "best" in codes(rows.assign(checkpoint=np.where(other, "best", "last")))
    assert "best" not in codes(rows.assign(checkpoint="bestiary"))
    assert codes(rows.assign(tuning=np.where(other, "per dataset", "one setting"))) == {"mixed-tuning"}
    assert codes(rows, tuning={"a": "per dataset", "b": "one setting"}) == {"mixed-tuning"}
    assert codes(rows, tuning={"a": "one setting", "b": "one setting"}) == set()


def test_identical_seeds_and_intervals_without_width() -> None:
    cells = {**CELLS, ("a", "antmaze-umaze-v2"): [0.0, 0.0, 0.0]}
    assert codes(frame(cells)) == {"identical-seeds"}
    aggregates = pd.DataFrame(
        {"algorithm": ["a"], "metric": ["iqm"], "low": [3.0], "high": [3.0], "datasets": [5], "runs": [15]}
    )
    table = ScoreTable.from_frame(frame(CELLS))
    (notice,) = lint(table, aggregates)
    assert notice.code == "zero-width"
    assert "iqm of a" in notice.text
    assert [n.code for n in lint(table, aggregates.assign(high=4.0, datasets=2))] == ["few-datasets"]


# -- tables ----------------------------------------------------------------------------------------


def test_averages_by_domain_and_over_all() -> None:
    rows = dataset_table(ScoreTable.from_frame(frame(CELLS)), averages=True, bold="best")
    assert [row[0].text for row in rows.rows[3:]] == ["average, locomotion (2)", "average, all (3)"]
    assert rows.average_rows == 2
    a = [np.mean(CELLS["a", d]) for d in ("hopper-medium-v2", "walker2d-medium-v2", "antmaze-umaze-v2")]
    assert rows.rows[3][1].value == pytest.approx(np.mean(a[:2]))
    assert rows.rows[4][1].value == pytest.approx(np.mean(a))
    assert [cell.bold for cell in rows.rows[3][1:]] == [True, False]
    given = {"hopper-medium-v2": "x", "antmaze-umaze-v2": "x", "walker2d-medium-v2": "y"}
    again = dataset_table(ScoreTable.from_frame(frame(CELLS)), averages=True, domains=given)
    assert again.rows[3][0].text == "average, x (2)"


def test_no_average_over_missing_cells() -> None:
    cells = {key: scores for key, scores in CELLS.items() if key != ("b", "antmaze-umaze-v2")}
    rows = dataset_table(ScoreTable.from_frame(frame(cells)), averages=True)
    labels = {row[0].text: [cell.text for cell in row[1:]] for row in rows.rows}
    assert labels["average, all (3)"][1] == "–"
    assert labels["average, shared by all algorithms (2)"] == labels["average, locomotion (2)"]


def test_spreads_are_what_they_are_called() -> None:
    table = ScoreTable.from_frame(frame(CELLS))
    scores = np.array(CELLS["a", "hopper-medium-v2"])
    first = {kind: dataset_table(table, spread=kind).rows[0][1].text for kind in ("std", "se", "interval")}  # type: ignore[arg-type]
    low, high = stats.t.interval(0.95, 2, scores.mean(), stats.sem(scores))
    assert first["std"] == f"53.0 ± {scores.std(ddof=1):.1f}"
    assert first["se"] == f"53.0 ± {stats.sem(scores):.1f}"
    assert first["interval"] == f"53.0 [{low:.1f}, {high:.1f}]"


def test_interval_of_an_average_is_the_stratified_t() -> None:
    records = dataset_table(ScoreTable.from_frame(frame(CELLS)), averages=True, spread="interval").averages
    row = records[(records["average"] == "average, locomotion (2)") & (records["algorithm"] == "a")].iloc[0]
    one, other = (np.array(CELLS["a", d]) for d in ("hopper-medium-v2", "walker2d-medium-v2"))
    v = np.array([one.var(ddof=1), other.var(ddof=1)]) / 3
    half = stats.t.ppf(0.975, v.sum() ** 2 / (v**2 / 2).sum()) * math.sqrt(v.sum()) / 2
    assert (row["low"], row["high"]) == pytest.approx((row["mean"] - half, row["mean"] + half))


def test_within_95_percent_of_the_best() -> None:
    cells = {("a", "d"): [100.0, 100.0], ("b", "d"): [95.0, 95.0], ("c", "d"): [94.9, 94.9]}
    bold = [cell.bold for cell in dataset_table(ScoreTable.from_frame(frame(cells)), bold="within-95").rows[0][1:]]
    assert bold == [True, True, False]
    negative = {("a", "d"): [-100.0, -100.0], ("b", "d"): [-101.0, -101.0]}
    table = dataset_table(ScoreTable.from_frame(frame(negative)), bold="within-95")
    assert [cell.bold for cell in table.rows[0][1:]] == [True, False]


# -- the whole report ------------------------------------------------------------------------------


def report(rows: pd.DataFrame, folder: Path, **options: Any) -> tuple[ReportFiles, dict[str, Any]]:
    files = write_report(rows, folder, title="t", reps=200, formats=("svg",), **options)
    return files, json.loads(files.json.read_text("utf-8"))


def test_json_holds_everything_unrounded(tmp_path: Path) -> None:
    files, document = report(frame(CELLS, updates=1000), tmp_path, protocol={"nested": {"x": 1}})
    assert document["schema"] == 1
    runs = pd.DataFrame(document["runs"])
    assert sorted(runs["score"]) == sorted(score for scores in CELLS.values() for score in scores)
    assert document["protocol"]["settings"] == {"updates": 1000, "nested": {"x": 1}}
    assert document["sentences"] == list(files.sentences)
    assert {notice["code"] for notice in document["notices"]} == {notice.code for notice in files.notices}
    for name, table in document["tables"].items():
        assert all((tmp_path / file).is_file() for file in table["files"].values()), name
        assert all(len(row) == len(table["header"]) for row in table["rows"]), name
    for figure in document["figures"].values():
        assert figure["caption"]
        assert all((tmp_path / file).is_file() for file in figure["files"].values())
    means = {(r["dataset"], r["algorithm"]): r["mean"] for r in document["tables"]["scores"]["records"]}
    assert means["hopper-medium-v2", "a"] == pytest.approx(53.0)


def test_sentences_say_who_is_better(tmp_path: Path) -> None:
    cells = {
        (a, f"d{d}"): [base + s + d for s in (0.0, 1.0, 3.0)]
        for a, base in (("a", 10.0), ("b", 60.0))
        for d in range(4)
    }
    files, _ = report(frame(cells), tmp_path)
    assert files.sentences[0].startswith("b is better than a on 4 of 4 datasets")
    assert "difference in IQM is 50" in files.sentences[0]
    text = files.html.read_text("utf-8")
    assert all(name in text for name in ('id="comparison"', "figure-improvement", "seed 0"))


def test_algorithm_that_shares_no_dataset_is_left_out_by_name() -> None:
    cells = {**CELLS, ("alone", "other"): [1.0, 2.0, 3.0]}
    part, notices = comparable_part(ScoreTable.from_frame(frame(cells)))
    assert part.algorithms == ["a", "b"]
    assert "leave out alone" in notices[0].text
    whole = ScoreTable.from_frame(frame(CELLS))
    assert comparable_part(whole) == (whole, [])


def test_robustness_uses_the_lowest_severity_in_tables(tmp_path: Path) -> None:
    rows = pd.concat(
        [frame(CELLS, rate=rate).assign(score=lambda f, r=rate: f["score"] - 50 * r) for rate in (0.0, 0.4)]
    )
    files, document = report(rows, tmp_path, severity="rate")
    assert {"robustness"} <= set(files.figures)
    assert len(document["runs"]) == 18
    assert "severity" in {notice.code for notice in files.notices}
    record = document["tables"]["robustness"]["records"][0]
    assert (record["at_lowest"], record["worst"]) == (pytest.approx(53.0), pytest.approx(33.0))


def test_published_scores_stand_beside_own_ones(tmp_path: Path) -> None:
    cells = {("iql", "hopper-medium-v2"): [66.0, 67.0, 69.0], ("mine", "hopper-medium-v2"): [70.0, 71.0, 72.0]}
    files, document = report(frame(cells), tmp_path, published=True)
    records = pd.DataFrame(document["tables"]["published"]["records"])
    assert set(records["algorithm"]) == {"iql"}
    assert {"corl", "rebrac", "jax-corl"} <= set(records["source"])
    assert any("No published score is known for mine" in notice.text for notice in files.notices)
    page = files.html.read_text("utf-8")
    assert "published numbers of 1 cells can be judged" in page


@pytest.mark.parametrize(
    "cells",
    [
        {("only", "d"): [1.0]},
        {(a, "d"): [100.0 * (a == "best")] * 3 for a in ("best", "b", "c")},  # every run above every other
        {("a", "x"): [1.0, 2.0], ("b", "y"): [3.0, 4.0], ("c", "z"): [5.0]},  # nothing shared
    ],
    ids=["one run", "no spread", "nothing shared"],
)
def test_odd_tables_still_give_a_report(cells: dict[tuple[str, str], list[float]], tmp_path: Path) -> None:
    files, document = report(frame(cells), tmp_path)
    assert len(document["runs"]) == sum(len(scores) for scores in cells.values())
    assert files.notices
    assert "NaN" not in files.json.read_text("utf-8")
    assert ">nan" not in files.html.read_text("utf-8")
