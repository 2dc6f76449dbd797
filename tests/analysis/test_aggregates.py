"""Aggregates against scipy, brute force and published reference values; coverage of intervals by simulation."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offbench.analysis import (
    ScoreError,
    ScoreTable,
    aggregate,
    bootstrap,
    comparable_datasets,
    estimate,
    iqm,
    mean,
    median,
    optimality_gap,
    per_dataset,
    per_domain,
    trimmed_mean,
)
from offbench.analysis.aggregates import leaders
from offbench.errors import UnknownNameError

SCORES = Path(__file__).parents[2] / ".." / "shared" / "scores"
matrices = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 6)), elements=st.floats(-50, 150))


@settings(deadline=None)  # the first example pays for importing scipy
@given(matrices)
def test_point_estimates_equal_reference_formulas(x: np.ndarray) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert iqm(x) == pytest.approx(stats.trim_mean(x, 0.25, axis=None), abs=1e-9)
    assert mean(x) == pytest.approx(x.mean(axis=0).mean(), abs=1e-9)
    assert median(x) == pytest.approx(np.median(x.mean(axis=0)), abs=1e-9)
    assert optimality_gap(x) == pytest.approx(100 - np.minimum(x, 100).mean(), abs=1e-9)


def test_ragged_bootstrap_equals_a_naive_loop() -> None:
    """The vectorised replicates, recomputed one by one from the same generator with library functions."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    strata = [rng.normal(90, 20, size) for size in (3, 5, 4)]
    found = bootstrap(strata, reps=40, seed=7)
    draws = np.random.default_rng(7)
    index = [draws.integers(0, s.size, size=(40, s.size), dtype=np.uint8) for s in strata]
    for b in range(40):
        samples = [s[i[b]] for s, i in zip(strata, index, strict=True)]
        means = [sample.mean() for sample in samples]
        assert found["iqm"][b] == pytest.approx(stats.trim_mean(np.concatenate(samples), 0.25))
        assert found["mean"][b] == pytest.approx(np.mean(means))
        assert found["median"][b] == pytest.approx(np.median(means))
        gaps = [100 - np.minimum(sample, 100).mean() for sample in samples]
        assert found["optimality_gap"][b] == pytest.approx(np.mean(gaps))


def test_bootstrap_distribution_is_that_of_an_independent_one() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal([20, 50, 80], [5, 20, 10], size=(6, 3))
    found = bootstrap(x, reps=20_000, seed=0)["iqm"]
    naive = []
    for _ in range(4000):
        resampled = np.sort([rng.choice(column, column.size) for column in x.T], axis=None)
        naive.append(resampled[4:-4].mean())
    width = np.ptp(np.percentile(naive, [2.5, 97.5]))
    np.testing.assert_allclose(np.percentile(found, [2.5, 97.5]), np.percentile(naive, [2.5, 97.5]), atol=0.08 * width)


def test_rliable_stream_is_replayed_draw_by_draw() -> None:
    """rliable draws `choice(R, (R, T))` for every replicate; here with a per-replicate loop."""
    rng = np.random.default_rng(3)
    x = rng.normal(50, 20, size=(5, 4))
    stream = np.random.RandomState(11)
    expected = []
    for _ in range(300):
        index = stream.choice(5, (5, 4))
        expected.append(np.median(x[index, np.arange(4)].mean(axis=0)))
    found = estimate(x, method="percentile", reps=300, rliable_stream=np.random.RandomState(11))["median"]
    np.testing.assert_allclose([found.low, found.high], np.percentile(expected, [2.5, 97.5]), rtol=1e-12)


SETS = {
    "d3rlpy_d4rl_v0_final": ("d3rlpy_d4rl_final.csv", r"^(?!ant).*-v0$"),
    "rebrac_locomotion": ("rebrac_d4rl_final.csv", r"^(hopper|halfcheetah|walker2d).*-v2$"),
}
CASES = [
    ("d3rlpy_d4rl_v0_final", "percentile", False),
    pytest.param("d3rlpy_d4rl_v0_final", "percentile", True, marks=pytest.mark.slow),
    ("rebrac_locomotion", "percentile", False),
    ("rebrac_locomotion", "percentile", True),
    ("rebrac_locomotion", "basic", False),
    ("rebrac_locomotion", "bc", False),
    ("rebrac_locomotion", "bca", False),
]


@pytest.mark.skipif(not SCORES.exists(), reason="reference scores are not beside the repository")
@pytest.mark.parametrize(("name", "method", "task_bootstrap"), CASES)
def test_equal_to_rliable(name: str, method: str, task_bootstrap: bool) -> None:
    """Every aggregate in rliable_expected.csv: to its eight digits draw by draw, within 5 % of the width on our own."""
    expected = pd.read_csv(SCORES / "rliable_expected.csv")
    same = (expected["method"] == method) & (expected["task_bootstrap"].astype(bool) == task_bootstrap)
    expected = expected[(expected["set"] == name) & same]
    file, chosen = SETS[name]
    frame = pd.read_csv(SCORES / file)
    frame = frame[frame["dataset"].str.match(chosen)].assign(score=lambda f: f["score"] / 100)
    frame = frame.sort_values(["dataset", "seed"], kind="stable")
    algorithms = expected["algorithm"].unique()
    table = ScoreTable.from_frame(pd.concat([frame[frame["algorithm"] == a] for a in algorithms]))
    options: dict[str, Any] = {"method": method, "task_bootstrap": task_bootstrap, "reps": 50_000, "gamma": 1.0}
    same_draws = expected.merge(aggregate(table, compat="rliable", **options), on=["algorithm", "metric"])
    assert len(same_draws) == len(expected) > 0
    np.testing.assert_allclose(same_draws["point_y"], same_draws["point_x"], atol=1e-9)
    np.testing.assert_allclose(same_draws["low"], same_draws["ci_low"], atol=5.1e-9, rtol=5.1e-8)
    np.testing.assert_allclose(same_draws["high"], same_draws["ci_high"], atol=5.1e-9, rtol=5.1e-8)
    own = expected.merge(aggregate(table, **options), on=["algorithm", "metric"])
    width = own["ci_high"] - own["ci_low"]
    assert (np.abs(own["low"] - own["ci_low"]) <= 0.05 * width).all()
    assert (np.abs(own["high"] - own["ci_high"]) <= 0.05 * width).all()


def test_rliable_task_stream_is_replayed_draw_by_draw() -> None:
    """With its task bootstrap rliable draws `choice(R, (R, T))` and then `choice(T, (1, T))` for every replicate."""
    x = np.random.default_rng(3).normal(50, 20, size=(5, 4))
    stream = np.random.RandomState(11)
    expected = []
    for _ in range(300):
        runs = stream.choice(5, (5, 4))
        tasks = stream.choice(4, (1, 4))
        expected.append(np.median(x[runs, tasks].mean(axis=0)))
    replay = np.random.RandomState(11)
    found = estimate(x, method="percentile", reps=300, rliable_stream=replay, task_bootstrap=True)["median"]
    np.testing.assert_allclose([found.low, found.high], np.percentile(expected, [2.5, 97.5]), rtol=1e-12)
    assert replay.randint(1 << 30) == stream.randint(1 << 30)


@pytest.mark.parametrize("sizes", [(4, 4, 4), (2, 5, 3)])
def test_task_bootstrap_is_that_of_an_independent_one(sizes: tuple[int, ...]) -> None:
    """Datasets drawn with replacement, then runs of each drawn one, whatever their numbers."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(5)
    strata = [rng.normal(c, 10, size) for c, size in zip((20, 60, 90), sizes, strict=True)]
    metrics = ("iqm", "mean", "median", "optimality_gap", "trimmed_mean(0.1)")
    found = bootstrap(strata, reps=20_000, seed=0, metrics=metrics, tasks=True)
    naive: dict[str, list[float]] = {metric: [] for metric in metrics}
    for _ in range(4000):
        drawn = [rng.choice(strata[m], strata[m].size) for m in rng.integers(0, 3, 3)]
        naive["iqm"].append(stats.trim_mean(np.concatenate(drawn), 0.25))
        naive["trimmed_mean(0.1)"].append(stats.trim_mean(np.concatenate(drawn), 0.1))
        naive["mean"].append(np.mean([s.mean() for s in drawn]))
        naive["median"].append(np.median([s.mean() for s in drawn]))
        naive["optimality_gap"].append(np.mean([100 - np.minimum(s, 100).mean() for s in drawn]))
    for metric in metrics:
        spread = np.std(naive[metric])
        assert found[metric].mean() == pytest.approx(np.mean(naive[metric]), abs=0.08 * spread), metric
        assert found[metric].std() == pytest.approx(spread, rel=0.05), metric


def test_trimmed_means_equal_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    strata = [np.arange(7.0) ** 2, np.array([3.0, 90.0, 41.0])]
    for fraction in (0.0, 0.1, 0.25, 0.4):
        assert trimmed_mean(strata, fraction) == pytest.approx(stats.trim_mean(np.concatenate(strata), fraction))
    found = estimate(strata, metrics=["trimmed_mean(0.1)"], reps=500)["trimmed_mean(0.1)"]
    assert found.low < found.point == trimmed_mean(strata, 0.1) < found.high
    for name in ("trimmed_mean(0.5)", "trimmed_mean", "iqr"):
        with pytest.raises(UnknownNameError):
            estimate(strata, metrics=[name])


def test_memory_does_not_grow_with_the_replicates() -> None:
    scores = list(np.random.default_rng(0).normal(50, 20, (400, 5)))
    bootstrap(scores, reps=400)
    tracemalloc.start()
    try:
        bootstrap(scores, reps=400)
        few = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        bootstrap(scores, reps=6000)  # all at once it would be 96 MB
        many = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert many < few + 5e6


def test_domains() -> None:
    cells = {
        (a, d): [k + s for s in range(3)]
        for k, a in enumerate("ab")
        for d in ("hopper-medium-v2", "walker2d-expert-v2", "antmaze-umaze-v2", "mine")
    }
    table = table_of(cells)
    found = per_domain(table, reps=200)
    assert list(found["domain"].unique()) == ["locomotion", "antmaze", "mine", "overall"]
    by = found[(found["metric"] == "mean") & (found["algorithm"] == "b")].set_index("domain")
    assert by["datasets"].to_dict() == {"locomotion": 2, "antmaze": 1, "mine": 1, "overall": 4}
    named = per_domain(table, names={"mine": "antmaze"}, overall=None, reps=200, metrics=["mean"])
    assert named.groupby("domain")["datasets"].first().to_dict() == {"locomotion": 2, "antmaze": 2}
    column = replace(table, rows=table.rows.assign(domain="all"))
    assert set(per_domain(column, overall=None, reps=200)["domain"]) == {"all"}


def test_coverage_calibrated_holds_where_percentile_does_not() -> None:
    """Three seeds, four datasets: a nominal 95 % percentile interval covers about 80 %."""
    rng = np.random.default_rng(0)
    centres, spread = np.array([15.0, 40.0, 60.0, 85.0]), np.array([5.0, 8.0, 6.0, 10.0])
    truth = {name: e.point for name, e in estimate(rng.normal(centres, spread, (100_000, 4)), reps=1).items()}
    trials = 250
    hits = {(method, metric): 0 for method in ("percentile", "calibrated") for metric in ("iqm", "mean")}
    for trial in range(trials):
        x = rng.normal(centres, spread, size=(3, 4))
        for method, metric in hits:
            found = estimate(x, method=method, reps=400, seed=trial)[metric]  # type: ignore[arg-type]
            hits[method, metric] += found.low <= truth[metric] <= found.high
    for metric in ("iqm", "mean"):
        assert hits["percentile", metric] / trials < 0.89
        assert 0.90 <= hits["calibrated", metric] / trials <= 0.99


def test_single_seed_has_no_interval_but_a_reason() -> None:
    for strata in ([np.array([3.0])], [np.array([1.0, 2.0]), np.array([5.0])]):
        for found in estimate(strata, reps=10).values():
            assert math.isnan(found.low)
            assert math.isnan(found.high)
            assert "one seed" in found.reason


def test_identical_seeds_and_variation_outside_the_quartiles() -> None:
    assert estimate([np.full(3, 7.0)], reps=50)["iqm"].low == 7.0
    found = estimate([np.array([0.0, 0.0]), np.array([50.0, 50.0]), np.array([0, 100.0])], reps=200)["iqm"]
    assert found.low <= found.point <= found.high
    assert math.isfinite(found.low)


def table_of(cells: dict[tuple[str, str], list[float]]) -> ScoreTable:
    rows = [(a, d, i, s) for (a, d), scores in cells.items() for i, s in enumerate(scores)]
    return ScoreTable.from_frame(pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "score"]))


def test_aggregate_uses_common_datasets_and_ignores_row_order() -> None:
    cells = {("a", "x"): [1, 2, 3], ("a", "y"): [4, 6], ("b", "x"): [2, 2.5, 9], ("b", "y"): [5, 7], ("a", "z"): [99]}
    table = table_of(cells)
    assert comparable_datasets(table) == (["x", "y"], "")
    found = aggregate(table, reps=500)
    assert set(found["datasets"]) == {2}
    shuffled = table_of({key: cells[key][::-1] for key in reversed(cells)})
    again = aggregate(shuffled, reps=500)
    merged = found.merge(again, on=["algorithm", "metric"])
    assert merged["low_x"].tolist() == merged["low_y"].tolist()
    with pytest.raises(ScoreError, match="no runs on z"):
        aggregate(table, datasets=["z"])
    with pytest.raises(ScoreError, match="same number of seeds"):
        aggregate(table, method="percentile", compat="rliable")
    with pytest.raises(ScoreError, match="no calibrated"):
        aggregate(table, compat="rliable")


def test_raw_returns_of_several_datasets_are_not_aggregated() -> None:
    frame = table_of({("a", "x"): [1, 2], ("a", "y"): [300, 400]}).rows
    raw = ScoreTable.from_frame(frame, unit="raw return")
    assert comparable_datasets(raw)[0] == []
    assert aggregate(raw).empty
    one = ScoreTable.from_frame(frame[frame["dataset"] == "y"], unit="raw return")
    assert aggregate(one, reps=50).iloc[0]["point"] == 350


def test_per_dataset_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    x = np.array([1.0, 4.0, 2.0, 8.0])
    row = per_dataset(table_of({("a", "d"): list(x), ("b", "d"): [3.0]}))
    assert row.loc[0, ["mean", "std", "n"]].tolist() == pytest.approx([x.mean(), x.std(ddof=1), 4])
    expected = stats.t.interval(0.95, 3, x.mean(), stats.sem(x))
    assert row.loc[0, ["low", "high"]].tolist() == pytest.approx(list(expected))
    assert row.loc[1, ["std", "low", "high"]].isna().all()


def test_leaders() -> None:
    cells = {"best": [10.0, 11, 12], "near": [9.0, 11, 10.5], "far": [1.0, 2, 1.5], "single": [9.9], "none": []}
    assert leaders({name: np.array(values) for name, values in cells.items()}) == {"best", "near"}
    assert leaders({"a": np.array([5.0, 5.0]), "b": np.array([4.0, 4.0])}) == {"a"}
