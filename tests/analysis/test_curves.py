"""Learning curves: whole runs are resampled, common steps, area, steps to a threshold with censoring; real curves."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from offbench.analysis import (
    ScoreError,
    ScoreTable,
    aggregate,
    area_under_curve,
    iqm,
    learning_curve,
    mean,
    steps_to_threshold,
)
from offbench.analysis.curves import mean_height, run_curves
from tests.analysis.real_scores import SCORES, needs_scores


def table_of(curves: dict[tuple[str, str], list[list[float]]], steps: list[float]) -> ScoreTable:
    rows = [
        (a, d, seed, step, score)
        for (a, d), runs in curves.items()
        for seed, run in enumerate(runs)
        for step, score in zip(steps, run, strict=False)
    ]
    columns = ["algorithm", "dataset", "seed", "step", "score"]
    return ScoreTable.from_frame(pd.DataFrame(rows, columns=columns), step="step")


def random_table(seed: int = 0, more: int = 0) -> ScoreTable:
    rng = np.random.default_rng(seed)
    sizes = (("x", 3 + more), ("y", 5 + more))
    cells = {(a, d): rng.normal(50, 10, (n, 4)).cumsum(axis=1).tolist() for a in "ab" for d, n in sizes}
    return table_of(cells, [10.0, 20.0, 30.0, 40.0])


@needs_scores
def test_real_curves() -> None:
    frame = pd.read_csv(SCORES / "d3rlpy_d4rl_curves.csv")
    frame = frame[frame["dataset"].str.match(r"^(?!ant).*-v0$") & frame["algorithm"].isin(["IQL", "TD3+BC"])]
    table = ScoreTable.from_frame(frame, step="step")
    found = learning_curve(table, reps=300)
    assert len(found.datasets) == 12
    last = found.frame[found.frame["step"] == 500_000].set_index("algorithm")
    finals = pd.read_csv(SCORES / "d3rlpy_d4rl_final.csv")
    for algorithm in ("IQL", "TD3+BC"):
        final = finals[(finals["algorithm"] == algorithm) & finals["dataset"].isin(table.datasets)]
        strata = [part["score"].to_numpy() for _, part in final.groupby("dataset")]
        assert last.loc[algorithm, "point"] == pytest.approx(iqm(strata))
        assert last.loc[algorithm, "low"] < last.loc[algorithm, "point"] < last.loc[algorithm, "high"]
    assert "TD3+BC 49.7" in found.sentence
    assert "Smoothing: none." in found.sentence


def test_points_are_the_aggregates_at_each_step() -> None:
    table = random_table()
    found = learning_curve(table, "mean", reps=50)
    assert table.curves is not None
    for row in found.frame.itertuples():
        at = table.curves[(table.curves["algorithm"] == row.algorithm) & (table.curves["step"] == row.step)]
        assert row.point == pytest.approx(mean([part["score"].to_numpy() for _, part in at.groupby("dataset")]))
        assert row.runs == 8
    each = learning_curve(table, "mean", by_dataset=True, reps=50)
    assert len(each.frame) == 2 * 2 * 4


def test_band_resamples_whole_runs() -> None:
    """Two steps whose runs mirror each other: their sum never varies unless steps are resampled by themselves."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 10, (6, 1))
    paired = np.hstack([x, -x])
    smoothed = learning_curve({"a": [paired]}, "mean", steps=[1, 2], smoothing=2, method="percentile", reps=500)
    second = smoothed.frame.iloc[1]
    assert (second["low"], second["high"]) == pytest.approx((0, 0), abs=1e-12)
    plain = learning_curve({"a": [paired]}, "mean", steps=[1, 2], method="percentile", reps=500).frame
    # the same draws at every step: the bounds of a mirrored step are mirrored
    assert plain["low"][0] == pytest.approx(-plain["high"][1])


def test_band_equals_that_of_the_final_scores() -> None:
    table = random_table(3, more=12)
    band = learning_curve(table, "iqm", method="percentile", reps=20_000).frame
    final = aggregate(table, method="percentile", reps=20_000)
    for algorithm in "ab":
        row = band[(band["algorithm"] == algorithm) & (band["step"] == 40)].iloc[0]
        expected = final[(final["algorithm"] == algorithm) & (final["metric"] == "iqm")].iloc[0]
        width = expected["high"] - expected["low"]
        assert (row["low"], row["high"]) == pytest.approx((expected["low"], expected["high"]), abs=0.05 * width)


def test_smoothing_is_a_mean_of_the_past_and_stated() -> None:
    runs = run_curves({"a": [np.array([[1.0, 2.0, 6.0, 10.0]])]}, steps=[1, 2, 3, 4], smoothing=3)
    assert runs.values["a"]["dataset 1"].tolist() == [[1.0, 1.5, 3.0, 6.0]]
    assert runs.smoothing == "mean of the last 3 evaluations of each run"


def test_runs_evaluated_at_different_steps() -> None:
    one = table_of({("a", "x"): [[0, 10, 20], [0, 10]]}, [0, 10, 20])
    found = run_curves(one)
    assert found.steps.tolist() == [0, 10]
    assert "2 steps at which every run" in found.notes[0]
    coarse = table_of({("a", "x"): [[0, 20]]}, [0, 20]).curves
    fine = table_of({("b", "x"): [[5, 10, 30]]}, [5, 10, 30]).curves
    assert coarse is not None
    assert fine is not None
    both = ScoreTable.from_frame(pd.concat([coarse, fine]), step="step")
    with pytest.raises(ScoreError, match="share no step"):
        run_curves(both)
    joined = run_curves(both, interpolate=True)
    assert joined.steps.tolist() == [5, 10, 20]
    assert joined.values["a"]["x"].tolist() == [[5, 10, 20]]
    assert joined.values["b"]["x"].tolist() == [[5, 10, 20]]
    assert "straight lines" in joined.notes[0]
    with pytest.raises(ScoreError, match="not every run was evaluated at step"):
        run_curves(both, steps=[40], interpolate=True)


def test_order_of_rows_does_not_matter_and_tables_without_curves_are_refused() -> None:
    table = random_table()
    assert table.curves is not None
    shuffled = ScoreTable.from_frame(table.curves.sample(frac=1, random_state=0), step="step")
    one, other = learning_curve(table, reps=100).frame, learning_curve(shuffled, reps=100).frame
    merged = one.merge(other, on=["algorithm", "step"])
    np.testing.assert_allclose(merged["low_x"], merged["low_y"])
    with pytest.raises(ScoreError, match="no learning curves"):
        learning_curve(ScoreTable.from_frame(table.rows))


def test_single_runs_have_no_band() -> None:
    found = learning_curve({"a": [np.ones((1, 2))]}, "mean", steps=[1, 2])
    assert found.frame["low"].isna().all()
    assert "single seed" in found.sentence


# -- area ------------------------------------------------------------------------------------------


def test_area_is_the_mean_height() -> None:
    assert mean_height(np.array([0.0, 10, 30]), np.array([0.0, 10, 10]), 0, 30) == pytest.approx((50 + 200) / 30)
    assert mean_height(np.array([0.0, 10]), np.array([0.0, 10]), 2, 4) == pytest.approx(3)
    table = table_of({("a", "x"): [[0, 10, 10], [4, 4, 4]], ("b", "x"): [[1, 1, 1]]}, [0, 10, 30])
    area = area_under_curve(table)
    assert area.cell("a", "x").tolist() == pytest.approx([250 / 30, 4])
    assert area.cell("b", "x").tolist() == [1]
    assert "area" in area.protocol
    shorter = table_of({("a", "x"): [[0, 10, 20], [0, 10]]}, [0, 10, 20])
    assert area_under_curve(shorter).cell("a", "x").tolist() == [5, 5]
    with pytest.raises(ScoreError, match="not all evaluated"):
        area_under_curve(shorter, last_step=20)


# -- steps to a threshold --------------------------------------------------------------------------


def test_censored_runs_are_counted_and_enter_as_censored() -> None:
    runs = [[0, 5, 9, 9], [0, 9, 0, 9], [0, 0, 0, 9], [0, 0, 0, 0], [0, 0, 0, 0]]
    table = table_of({("a", "x"): runs}, [1, 2, 3, 4])
    found = steps_to_threshold(table, 8)
    assert found.runs["steps"].tolist() == [3, 2, 4, 4, 4]
    assert found.runs["reached"].tolist() == [True, True, True, False, False]
    row = found.summary.iloc[0]
    assert (row["reached"], row["runs"], row["median"]) == (3, 5, 4)
    # steps below the threshold, censored at 4
    assert row["mean"] == pytest.approx((3 + 2 + 4 + 4 + 4) / 5)
    assert math.isinf(row["high"])
    assert "a reaches 8 on x in 3 of 5 runs, half of them by step 4" in found.sentence
    held = steps_to_threshold(table, 8, hold=2)
    assert held.runs["reached"].tolist() == [True, False, False, False, False]
    assert math.isinf(held.summary.loc[0, "median"])
    assert "fewer than half reach it" in held.sentence


def test_runs_censored_early_follow_kaplan_meier() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    steps = list(range(1, 31))
    runs = []
    for _ in range(12):
        length, reach = int(rng.integers(8, 31)), int(rng.integers(3, 26))
        runs.append([10.0 if s >= reach else 0.0 for s in steps][:length])
    found = steps_to_threshold(table_of({("a", "x"): runs}, steps), 5.0)
    events = found.runs.loc[found.runs["reached"], "steps"]
    censored = found.runs.loc[~found.runs["reached"], "steps"]
    assert len(events) > 6
    assert len(censored) > 1
    data = stats.CensoredData(uncensored=events.to_numpy(), right=censored.to_numpy())
    survival = stats.ecdf(data).sf
    expected = survival.quantiles[survival.probabilities <= 0.5]
    assert found.summary.loc[0, "median"] == expected[0]


def test_thresholds_by_dataset() -> None:
    table = table_of({("a", "x"): [[0, 5]], ("a", "y"): [[0, 50]]}, [1, 2])
    found = steps_to_threshold(table, {"x": 4.0, "y": 60.0})
    assert found.summary["reached"].tolist() == [1, 0]
    with pytest.raises(ScoreError, match="no threshold for y"):
        steps_to_threshold(table, {"x": 4.0})
