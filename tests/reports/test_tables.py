"""Tables: golden Markdown, bold rule, units, missing cells, CSV."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from offbench.analysis import ScoreTable
from offbench.reports import aggregate_table, dataset_table, to_csv, to_markdown


def table_of(cells: dict[tuple[str, str], list[float]], **options: str) -> ScoreTable:
    rows = [(a, d, i, s) for (a, d), scores in cells.items() for i, s in enumerate(scores)]
    frame = pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "score"])
    return ScoreTable.from_frame(frame, **options)  # type: ignore[arg-type]


CELLS: dict[tuple[str, str], list[float]] = {
    ("bc", "hopper/medium"): [50.0, 52.0, 54.0],
    ("TD3+BC", "hopper/medium"): [60.0, 62.0, 61.0],
    ("iql|0.9", "hopper/medium"): [59.0, 63.0],
    ("bc", "maze"): [-0.01, 0.0, 0.0],
    ("TD3+BC", "maze"): [100.0, 90.0, 80.0],
}


def test_golden_markdown() -> None:
    facts = {"hopper/medium": {"behaviour_score": 44.4, "behaviour_return": 1000.0}}
    text = to_markdown(dataset_table(table_of(CELLS), datasets=facts))
    grid, caption = text.split("\n\n")
    assert grid.splitlines() == [
        "| dataset       | data |             bc |              TD3+BC |           iql\\|0.9 |",
        "|---------------|-----:|---------------:|--------------------:|-------------------:|",
        "| hopper/medium | 44.4 | 52.0 ± 2.0 (3) |  **61.0 ± 1.0 (3)** | **61.0 ± 2.8 (2)** |",
        "| maze          |    – |  0.0 ± 0.0 (3) | **90.0 ± 10.0 (3)** |                  – |",
    ]
    assert caption == (
        "Normalized scores (0–100), mean ± standard deviation (ddof=1) over seeds; 2 to 3 seeds, n in brackets. "
        "Protocol: scores as given, one per run. Bold: the highest mean of a row, and every mean not shown to "
        "be below it (Welch's t-test, p ≥ 0.05, not corrected for multiple comparisons). –: no run. data: mean of "
        "the policy that collected the dataset.\n"
    )


def test_bold_rules() -> None:
    table = table_of({("a", "d"): [1.0, 2.0], ("b", "d"): [1.1, 2.1]})
    bold = {rule: [c.bold for c in dataset_table(table, bold=rule).rows[0][1:]] for rule in ("best", "none")}  # type: ignore[arg-type]
    assert bold == {"best": [False, True], "none": [False, False]}
    assert [c.bold for c in dataset_table(table).rows[0][1:]] == [True, True]
    alone = dataset_table(table_of({("a", "d"): [1.0, 2.0]}))
    assert not any(cell.bold for cell in alone.rows[0])
    assert "Bold" not in alone.caption


def test_many_algorithms_become_rows() -> None:
    table = table_of({(f"algorithm {i}", "d"): [float(i), i + 1.0] for i in range(8)})
    rows = dataset_table(table)
    assert rows.header == ["algorithm", "d"]
    assert len(rows.rows) == 8


def test_single_seed_shows_no_spread_and_no_interval() -> None:
    table = table_of({("a", "d"): [12.34], ("b", "d"): [1.0]})
    assert dataset_table(table).rows[0][1].text == "12.3"
    aggregates = aggregate_table(table, reps=10)
    assert aggregates.rows[0][1].text == "12.3"
    assert "No interval where there is one seed" in aggregates.caption


def test_aggregate_table_sorts_by_iqm_and_states_its_method() -> None:
    cells = {(a, d): [s, s + 1, s + 2] for a, s in (("low", 10.0), ("high", 40.0)) for d in "xy"}
    rows = aggregate_table(table_of(cells), reps=200)
    assert [row[0].text for row in rows.rows] == ["high", "low"]
    assert rows.header == ["algorithm", "IQM", "mean", "median", "optimality gap", "runs"]
    assert rows.rows[0][1].text.startswith("41.0 [")
    for words in ("95 % calibrated interval", "200 replicates", "all 2 datasets", "lower is better"):
        assert words in rows.caption
    assert "too narrow" in aggregate_table(table_of(cells), method="percentile", reps=200).caption


def test_raw_returns_are_labelled_and_not_pooled() -> None:
    cells = {("a", "x"): [-1200.0, -1100.0], ("a", "y"): [3.0, 4.0]}
    table = table_of(cells, unit="raw return")
    rows = dataset_table(table)
    assert "Raw returns (not normalized)" in rows.caption
    assert [row[1].text for row in rows.rows] == ["-1150 ± 71", "3.50 ± 0.71"]
    aggregates = aggregate_table(table)
    assert aggregates.rows == []
    assert "no common scale" in to_markdown(aggregates)


def test_csv_keeps_unrounded_numbers() -> None:
    frame = pd.read_csv(io.StringIO(to_csv(dataset_table(table_of({("a", "d"): [1 / 3, 2.0]})))))
    assert frame["mean"].iloc[0] == pytest.approx((1 / 3 + 2) / 2, abs=1e-15)
    assert frame["seeds"].iloc[0] == 2
