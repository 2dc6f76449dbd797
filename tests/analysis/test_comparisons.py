"""Probability of improvement and differences: rliable's numbers, naive loops, symmetry, coverage, missing cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offbench.analysis import (
    ScoreError,
    ScoreTable,
    compare,
    difference,
    differences,
    improvement_matrix,
    probability_of_improvement,
)
from offbench.errors import UnknownNameError
from tests.analysis.real_scores import expected, needs_scores, real_table

cells = arrays(np.float64, st.integers(2, 6), elements=st.integers(0, 4).map(float))


def normal(seed: int, runs: int = 5, tasks: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(60, 10, (runs, tasks)), "b": rng.normal(50, 10, (runs, tasks))}


@needs_scores
@pytest.mark.parametrize("row", range(6))
def test_equal_to_rliable_and_close_with_our_generator(row: int) -> None:
    reference = expected("rliable_expected_poi.csv").iloc[row]
    table = real_table(reference["set"])
    replayed = probability_of_improvement(
        table, reference["x"], reference["y"], method="percentile", compat="rliable", reps=2000
    )
    assert replayed.point == pytest.approx(reference["poi"], abs=1e-9)
    # printed with six digits
    assert (replayed.low, replayed.high) == pytest.approx((reference["ci_low"], reference["ci_high"]), abs=6e-7)
    ours = probability_of_improvement(table, reference["x"], reference["y"], method="percentile", reps=20_000)
    width = reference["ci_high"] - reference["ci_low"]
    assert (ours.low, ours.high) == pytest.approx((reference["ci_low"], reference["ci_high"]), abs=0.05 * width)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_point_is_the_mean_of_mann_whitney_u_with_ties_and_unequal_seeds(pairs: list[tuple]) -> None:
    stats = pytest.importorskip("scipy.stats")
    scores = {"a": [x for x, _ in pairs], "b": [y for _, y in pairs]}
    found = probability_of_improvement(scores, "a", "b", reps=50)
    u = [stats.mannwhitneyu(x, y).statistic / (x.size * y.size) for x, y in pairs]
    assert found.point == pytest.approx(np.mean(u))
    mirrored = probability_of_improvement(scores, "b", "a", reps=50)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))
    assert 0 <= found.low <= found.high <= 1


def test_bootstrap_of_improvement_equals_a_naive_one() -> None:
    rng = np.random.default_rng(0)
    sides = [[rng.normal(0.5 * s, 1, n) for n in sizes] for s, sizes in enumerate([(3, 6), (5, 4)])]
    found = probability_of_improvement({"a": sides[0], "b": sides[1]}, "a", "b", method="percentile", reps=20_000)
    naive = []
    for _ in range(4000):
        drawn = [[rng.choice(cell, cell.size) for cell in side] for side in sides]
        naive.append(
            np.mean([(x[:, None] > y).mean() + 0.5 * (x[:, None] == y).mean() for x, y in zip(*drawn, strict=True)])
        )
    low, high = np.percentile(naive, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.04)


def test_difference_equals_a_naive_bootstrap_and_mirrors() -> None:
    scores = normal(1)
    found = difference(scores, "a", "b", method="percentile", reps=20_000)
    rng = np.random.default_rng(2)
    naive = []
    for _ in range(4000):
        means = []
        for x in scores.values():
            pooled = np.sort([rng.choice(column, column.size) for column in x.T], axis=None)
            means.append(pooled[5:-5].mean())
        naive.append(means[0] - means[1])
    low, high = np.percentile(naive, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))
    mirrored = difference(scores, "b", "a", method="percentile", reps=20_000)
    assert (mirrored.point, mirrored.low, mirrored.high) == pytest.approx((-found.point, -found.high, -found.low))


def test_calibrated_intervals_cover_with_three_seeds_where_percentiles_do_not() -> None:
    rng = np.random.default_rng(0)
    centres, spread = np.array([15.0, 40.0, 60.0, 85.0]), np.array([5.0, 8.0, 6.0, 10.0])

    def draw(runs: int, shift: float) -> np.ndarray:
        return rng.normal(centres + shift, spread, (runs, 4))

    big = {"a": draw(4000, 4), "b": draw(4000, 0)}
    true_gap = difference(big, "a", "b", "mean", reps=1).point
    normal_cdf = pytest.importorskip("scipy.stats").norm.cdf
    true_chance = float(np.mean(normal_cdf(4 / (np.sqrt(2) * spread))))
    hits = {"percentile": np.zeros(2), "calibrated": np.zeros(2)}
    for trial in range(250):
        scores = {"a": draw(3, 4), "b": draw(3, 0)}
        for method, hit in hits.items():
            options = {"method": method, "reps": 300, "seed": trial}
            gap = difference(scores, "a", "b", "mean", **options)  # type: ignore[arg-type]
            chance = probability_of_improvement(scores, "a", "b", **options)  # type: ignore[arg-type]
            hit += [gap.low <= true_gap <= gap.high, chance.low <= true_chance <= chance.high]
    assert (hits["percentile"] / 250 < 0.9).all()
    assert (hits["calibrated"] / 250 > 0.91).all()


def test_sentence_counts_wins_and_says_what_was_left_out() -> None:
    frame = pd.DataFrame(
        [
            (a, d, i, base + i)
            for a, d, base in [
                ("a", "x", 10),
                ("a", "y", 5),
                ("a", "z", 1),
                ("b", "x", 2),
                ("b", "y", 5),
                ("c", "x", 0),
            ]
            for i in range(4)
        ],
        columns=["algorithm", "dataset", "seed", "score"],
    )
    table = ScoreTable.from_frame(frame)
    found = compare(table, "a", "b")
    assert (found.wins, found.ties, found.losses) == (1, 1, 0)
    assert found.difference.datasets == ("x", "y")
    assert found.difference.left_out == ("z",)
    assert "a is better than b on 1 of 2 datasets (tied on 1)" in found.sentence
    assert "Left out for lack of runs (of b): z." in found.sentence
    assert compare(table, "a", "c").difference.datasets == ("x",)
    assert set(improvement_matrix(table, reps=50)["datasets"]) == {1}
    assert len(differences(table, reps=50)) == 3


def test_order_of_rows_does_not_matter() -> None:
    frame = pd.DataFrame(
        [(a, d, i, s) for a, x in normal(3).items() for (i, d), s in np.ndenumerate(x)],
        columns=["algorithm", "dataset", "seed", "score"],
    ).astype({"dataset": str})
    one = compare(ScoreTable.from_frame(frame), "a", "b", reps=500)
    other = compare(ScoreTable.from_frame(frame.sample(frac=1, random_state=1)), "a", "b", reps=500)
    assert (one.difference.low, one.probability.high) == pytest.approx((other.difference.low, other.probability.high))


def test_single_seeds_and_identical_runs_are_said() -> None:
    single = probability_of_improvement({"a": [np.array([1.0])], "b": [np.array([0.0, 2.0])]}, "a", "b")
    assert np.isnan(single.low)
    assert "a single seed of a" in single.sentence
    apart = probability_of_improvement({"a": np.full((3, 2), 9.0), "b": np.zeros((3, 2))}, "a", "b", reps=50)
    assert (apart.low, apart.high) == (1.0, 1.0)
    assert "no width" in apart.sentence


def test_bad_input_is_refused() -> None:
    scores = normal(0)
    with pytest.raises(UnknownNameError, match="algorithm 'c'"):
        difference(scores, "a", "c")
    with pytest.raises(UnknownNameError, match="metric"):
        difference(scores, "a", "b", "iqr")
    with pytest.raises(ScoreError, match="with itself"):
        difference(scores, "a", "a")
    with pytest.raises(ScoreError, match="no finite score"):
        difference({"a": np.array([[1.0, np.nan]]), "b": np.ones((1, 2))}, "a", "b")
    with pytest.raises(ScoreError, match="no calibrated"):
        probability_of_improvement(scores, "a", "b", compat="rliable")
    with pytest.raises(ScoreError, match="no dataset has runs"):
        difference({"a": [np.ones(2), np.empty(0)], "b": [np.empty(0), np.ones(2)]}, "a", "b")
    raw = pd.DataFrame([(a, d, i, 1.0 * i) for a in "ab" for d in "xy" for i in range(3)])
    raw.columns = pd.Index(["algorithm", "dataset", "seed", "score"])
    table = ScoreTable.from_frame(raw, unit="raw return")
    with pytest.raises(ScoreError, match="no common scale"):
        difference(table, "a", "b")
    assert difference(table, "a", "b", datasets=["x"], reps=50).datasets == ("x",)
    assert probability_of_improvement(table, "a", "b", reps=50).point == 0.5
