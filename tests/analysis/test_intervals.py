"""Intervals against scipy, closed forms and degenerate samples; coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.analysis import METRICS, ScoreError, bootstrap, estimate, iqm, mean, median, optimality_gap
from offbench.analysis.intervals import METHODS, bootstrap_bounds, contributions, run_acceleration, satterthwaite
from offbench.analysis.metrics import jackknife, point
from offbench.errors import UnknownNameError

stats = pytest.importorskip("scipy.stats")
whole = st.integers(-50, 150).map(float)  # ties stay ties under a change of unit
ragged = st.lists(st.lists(whole, min_size=2, max_size=6), min_size=1, max_size=5)


def test_t_of_one_dataset_equals_scipy() -> None:
    x = np.random.default_rng(4).normal(50, 10, 10)
    low, high = stats.t.interval(0.9, 9, x.mean(), stats.sem(x))
    for method in ("t", "calibrated"):
        found = estimate([x], method=method, level=0.9)["mean"]  # type: ignore[arg-type]
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


def test_stratified_t_equals_welch_for_two_datasets() -> None:
    """The mean of two datasets' means is half the difference of x and -y: Welch's interval, halved."""
    x, y = np.array([3.0, 9.0, 4.0, 7.0]), np.array([50.0, 58.0, 51.0])
    welch = stats.ttest_ind(x, -y, equal_var=False).confidence_interval(0.95)
    found = estimate([x, y], method="t")["mean"]
    assert (2 * found.low, 2 * found.high) == pytest.approx((welch.low, welch.high), rel=1e-6)


def test_trimmed_t_of_one_dataset_is_tukey_and_mclaughlin() -> None:
    x = np.array([1.0, 2.0, 4.0, 7.0, 11.0, 16.0, 22.0, 80.0])
    winsorised = stats.mstats.winsorize(x, (0.25, 0.25))
    error = np.std(np.asarray(winsorised), ddof=1) / (0.5 * math.sqrt(8))
    half = stats.t.ppf(0.975, 8 - 2 * 2 - 1) * error
    found = estimate([x], method="t")["iqm"]
    assert (found.low, found.high) == pytest.approx((iqm([x]) - half, iqm([x]) + half), rel=1e-9)


def test_satterthwaite() -> None:
    assert satterthwaite(np.array([1.0, 1.0]), np.array([4.0, 4.0])) == pytest.approx(8)
    assert satterthwaite(np.array([1e-200, 0.0]), np.array([4.0, 2.0])) == pytest.approx(4)
    assert satterthwaite(np.zeros(2), np.array([4.0, 2.0])) == 2
    variances, freedom = contributions("iqm", [np.arange(4.0), np.arange(100.0, 104)], 100)
    assert variances.shape == freedom.shape == (2,)


def test_bca_of_one_sample_equals_scipy() -> None:
    """One dataset, mean: scipy's BCa from its own replicates; bounds differ by Monte-Carlo noise only."""
    x = np.random.default_rng(2).lognormal(3, 1, 12)
    expected = stats.bootstrap((x,), np.mean, n_resamples=60_000, method="BCa", rng=np.random.default_rng(1))
    found = estimate([x], method="bca", reps=60_000)["mean"]
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.03 * width)


def test_acceleration_is_of_each_statistic_alone() -> None:
    """A sixth of the skewness of the empirical influence, Efron 1987: for a mean that of the sample over root N."""
    x = np.random.default_rng(3).lognormal(0, 1, 15)
    assert run_acceleration("mean", [x], 100) == pytest.approx(stats.skew(x) / (6 * math.sqrt(15)))
    assert run_acceleration("mean", [x, x], 100) == pytest.approx(stats.skew(x) / (6 * math.sqrt(30)))
    assert run_acceleration("mean", [np.full(3, 2.0)], 100) == 0
    alone = estimate([x], method="bca", metrics=["mean"], reps=300)["mean"]
    assert estimate([x], method="bca", reps=300)["mean"] == alone


def test_basic_is_the_reflected_percentile() -> None:
    x = [np.random.default_rng(5).lognormal(0, 1, 8)]
    straight, reflected = (estimate(x, method=m, reps=400)["mean"] for m in ("percentile", "basic"))  # type: ignore[arg-type]
    assert reflected.low == pytest.approx(2 * straight.point - straight.high)
    assert reflected.high == pytest.approx(2 * straight.point - straight.low)


def test_bias_correction_where_all_replicates_lie_on_one_side() -> None:
    replicates = np.linspace(1, 2, 100)
    for value in (0.0, 3.0):
        low, high = bootstrap_bounds(replicates, value, "bca", 0.95, 0.1)
        assert 1 <= low <= high <= 2
    assert bootstrap_bounds(np.full(9, 4.0), 4.0, "bc", 0.95) == (4, 4)


@settings(deadline=None)
@given(ragged, st.sampled_from([*METRICS, "trimmed_mean(0.1)"]))
def test_jackknife_equals_recomputation(scores: list[list[float]], metric: str) -> None:
    strata = [np.array(s) for s in scores]
    for m, values in enumerate(jackknife(metric, strata, 80.0)):
        for i, value in enumerate(values):
            shorter = [*strata[:m], np.delete(strata[m], i), *strata[m + 1 :]]
            assert value == pytest.approx(point(metric, shorter, 80.0), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(ragged, st.sampled_from(METHODS), st.floats(-1000, 1000), st.floats(0.01, 100))
def test_intervals_move_and_stretch_with_the_scores(
    scores: list[list[float]], method: str, shift: float, factor: float
) -> None:
    """Bounds are finite, ordered, and follow any change of unit, with the gap's gamma changing alike."""
    strata = [np.array(s) for s in scores]
    moved = [factor * s + shift for s in strata]
    before = estimate(strata, method=method, reps=200, gamma=100.0)  # type: ignore[arg-type]
    after = estimate(moved, method=method, reps=200, gamma=factor * 100 + shift)  # type: ignore[arg-type]
    size = 1e-6 * (1 + abs(shift) + 200 * factor)
    for metric in METRICS:
        a, b = before[metric], after[metric]
        offset = 0.0 if metric == "optimality_gap" else shift
        if a.reason:
            assert (method, metric) == ("t", "median")
            continue
        assert a.low <= a.high
        assert (b.point, b.low, b.high) == pytest.approx(
            [factor * v + offset for v in (a.point, a.low, a.high)], abs=size
        )


def test_nothing_varies() -> None:
    still = [np.full(3, 7.0), np.full(2, 9.0)]
    for method in METHODS:
        for metric, found in estimate(still, method=method, reps=50).items():  # type: ignore[arg-type]
            if not found.reason:
                assert found.low == pytest.approx(found.point), (method, metric)
                assert found.high == pytest.approx(found.point), (method, metric)


def test_median_between_two_datasets_takes_their_errors() -> None:
    """Two noisy datasets in the middle, quiet ones far away: the median is their average, so is its interval."""
    rng = np.random.default_rng(8)
    low, a, b, high = (rng.normal(c, s, 4) for c, s in ((0, 0.1), (49, 2), (51, 2), (100, 0.1)))
    alone, among = estimate([a, b])["mean"], estimate([low, a, b, high])["median"]
    assert among.point == pytest.approx(alone.point)
    assert (among.high - among.low) == pytest.approx(alone.high - alone.low, rel=0.25)


def test_task_bootstrap_speaks_of_datasets() -> None:
    strata = [np.array([c, c + 1.0]) for c in (10.0, 40.0, 50.0, 90.0)]
    runs = estimate(strata, reps=2000)["mean"]
    tasks = estimate(strata, reps=2000, task_bootstrap=True)["mean"]
    means = [s.mean() for s in strata]
    low, high = stats.t.interval(0.95, 3, np.mean(means), stats.sem(means))
    assert runs.high - runs.low < 5
    assert (tasks.low, tasks.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    assert math.isnan(estimate(strata[:1], task_bootstrap=True, reps=50)["mean"].low)


def test_wrong_options() -> None:
    x = [np.array([1.0, 2.0])]
    with pytest.raises(UnknownNameError, match="percentil"):
        estimate(x, method="percentil")  # type: ignore[arg-type]
    with pytest.raises(ScoreError, match="between 0 and 1"):
        estimate(x, level=95)
    with pytest.raises(ScoreError, match="at least one replicate"):
        estimate(x, reps=0)


@pytest.mark.parametrize(("runs", "tasks"), [(2, 12), (3, 5), (5, 12)])
def test_calibrated_covers_where_percentile_does_not(runs: int, tasks: int) -> None:
    """Nominal 95 %; the median, whose stretched percentile interval used to cover 75 to 85 %, included."""
    rng = np.random.default_rng(0)
    centres, spread = np.linspace(10, 90, tasks), np.linspace(4, 12, tasks)
    population = list((centres + spread * rng.standard_normal((100_000, tasks))).T)
    truth = {"iqm": iqm(population), "mean": mean(population), "median": median(population)}
    truth["optimality_gap"] = optimality_gap(population)
    trials = 250
    hits = {(method, metric): 0 for method in ("percentile", "calibrated") for metric in METRICS}
    for trial in range(trials):
        x = rng.normal(centres, spread, size=(runs, tasks))
        for method in ("percentile", "calibrated"):
            for metric, found in estimate(x, method=method, reps=300, seed=trial).items():  # type: ignore[arg-type]
                hits[method, metric] += found.low <= truth[metric] <= found.high
    for metric in METRICS:
        assert hits["percentile", metric] / trials < 0.925, metric
        assert 0.915 <= hits["calibrated", metric] / trials <= 1.0, metric


def test_replicates_do_not_depend_on_the_metrics_asked_for() -> None:
    x = np.random.default_rng(1).normal(50, 20, (4, 6))
    all_of_them, one = bootstrap(x, reps=300), bootstrap(x, reps=300, metrics=["median"])
    np.testing.assert_array_equal(all_of_them["median"], one["median"])
