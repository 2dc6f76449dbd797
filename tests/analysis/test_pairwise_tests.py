"""Tests between two algorithms: published expected values, scipy and full enumeration as oracles, Holm, what cannot
reject."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offbench.analysis import pairwise_tests, win_tie_loss
from offbench.analysis.exact_tests import (
    holm,
    mann_whitney_test,
    midranks,
    permutation_test,
    seeds_to_reject,
    signed_rank_test,
    smallest_p,
)
from offbench.analysis.pairwise_tests import welch
from offbench.errors import UnknownNameError
from tests.analysis.real_scores import expected, needs_scores, real_table

few = arrays(np.float64, st.integers(1, 6), elements=st.integers(-3, 3).map(float))
spread = arrays(np.float64, st.integers(2, 6), elements=st.floats(-50, 150).map(lambda x: round(x, 3)))


@needs_scores
@pytest.mark.parametrize(
    ("test", "p", "corrected"),
    [
        ("welch", "welch_p", "welch_p_holm"),
        ("permutation", "perm_exact_p", "perm_p_holm"),
        ("mann-whitney", "mannwhitney_exact_p", "mannwhitney_p_holm"),
    ],
)
def test_expected_values(test: str, p: str, corrected: str) -> None:
    reference = expected("tests_expected.csv")
    pairs = list(dict.fromkeys(zip(reference["x"], reference["y"], strict=True)))
    found = pairwise_tests(real_table("rebrac_locomotion"), test, pairs=pairs).frame  # type: ignore[arg-type]
    both = reference.merge(found, left_on=["x", "y", "dataset"], right_on=["first", "second", "dataset"])
    assert len(both) == len(reference) == 54
    np.testing.assert_allclose(both["p"], both[p], rtol=1e-9)
    np.testing.assert_allclose(both["p_corrected"], both[corrected], rtol=1e-9)
    np.testing.assert_allclose(both["difference"], both["mean_diff"], rtol=1e-9)
    if test == "welch":
        np.testing.assert_allclose(both["statistic"], both["welch_t"], rtol=1e-8)
        np.testing.assert_allclose(both["df"], both["welch_df"], rtol=1e-8)


def enumerated(statistics: np.ndarray, observed: float) -> float:
    slack = 1e-9 * max(1.0, abs(observed))
    tail = min(np.mean(statistics <= observed + slack), np.mean(statistics >= observed - slack))
    return min(1.0, 2 * float(tail))


@given(few, few)
@settings(max_examples=80, deadline=None)
def test_exact_tests_equal_full_enumeration_with_ties(x: np.ndarray, y: np.ndarray) -> None:
    pooled = np.concatenate([x, y])
    splits = np.array(list(itertools.combinations(range(pooled.size), x.size)))
    assert permutation_test(x, y).p == pytest.approx(enumerated(pooled[splits].sum(axis=1), x.sum()))
    ranks = midranks(pooled)
    assert mann_whitney_test(x, y).p == pytest.approx(enumerated(ranks[splits].sum(axis=1), ranks[: x.size].sum()))
    kept = x[x != 0]
    if kept.size:
        signs = np.array(list(itertools.product([0, 1], repeat=kept.size)))
        rank = midranks(np.abs(kept))
        assert signed_rank_test(x).p == pytest.approx(enumerated(signs @ rank, rank[kept > 0].sum()))


@given(spread, spread)
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:Precision loss")
def test_tests_equal_scipy(x: np.ndarray, y: np.ndarray) -> None:
    stats = pytest.importorskip("scipy.stats")
    pooled = np.concatenate([x, y])
    if np.ptp(pooled) > 0 and max(x.std(), y.std()) > 1e-6:
        reference = stats.ttest_ind(x, y, equal_var=False)
        found = welch(x, y)
        assert found.p == pytest.approx(reference.pvalue, rel=1e-7, abs=1e-12)
        assert found.t == pytest.approx(reference.statistic, rel=1e-9, abs=1e-12)
    # Eighths add up without rounding: scipy tells mirrored splits apart by their last bits otherwise.
    x8, y8 = np.round(8 * x) / 8, np.round(8 * y) / 8
    oracle = stats.permutation_test(
        (x8, y8),
        lambda a, b, axis: a.sum(axis=axis) * y8.size - b.sum(axis=axis) * x8.size,
        vectorized=True,
        n_resamples=np.inf,
    )
    assert permutation_test(x8, y8).p == pytest.approx(oracle.pvalue)
    if len(set(pooled)) == pooled.size:
        exact = stats.mannwhitneyu(x, y, method="exact")
        found_u = mann_whitney_test(x, y)
        assert (found_u.statistic, found_u.p) == pytest.approx((exact.statistic, exact.pvalue))
    magnitudes = np.abs(x)
    if len(set(magnitudes)) == x.size and magnitudes.min() > 0:
        assert signed_rank_test(x).p == pytest.approx(stats.wilcoxon(x, method="exact").pvalue)


def test_large_samples() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.4, 1, 20), rng.normal(0, 1, 20)
    exact = permutation_test(x, y)  # 1.4e11 splits
    sampled = stats.permutation_test((x, y), lambda a, b: a.mean() - b.mean(), n_resamples=20_000, random_state=0)
    assert exact.exact
    assert exact.p == pytest.approx(sampled.pvalue, abs=0.02)
    longer = permutation_test(np.append(x, 0.1), y, draws=20_000)
    assert not longer.exact
    assert longer.error == pytest.approx(2 * math.sqrt(longer.p / 2 * (1 - longer.p / 2) / 20_000), rel=0.01)
    assert longer.p == pytest.approx(exact.p, abs=0.1)
    big, other = rng.integers(0, 9, 100).astype(float), rng.integers(1, 10, 100).astype(float)
    reference = stats.mannwhitneyu(big, other, method="asymptotic")
    assert mann_whitney_test(big, other).p == pytest.approx(reference.pvalue)
    many = rng.normal(0.1, 1, 300)
    assert signed_rank_test(many).p == pytest.approx(stats.wilcoxon(many, method="asymptotic").pvalue, rel=0.02)


def test_degenerate_groups() -> None:
    same, other = np.full(3, 2.0), np.full(3, 5.0)
    assert permutation_test(same, same).p == mann_whitney_test(same, same).p == welch(same, same).p == 1.0
    assert welch(same, other).p == 0.0
    assert permutation_test(same, other).p == pytest.approx(0.1)
    assert math.isnan(welch(same, np.array([1.0])).p)
    assert signed_rank_test(np.zeros(4)).p == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_follows_its_definition(p: list[float]) -> None:
    adjusted = holm(np.array([*p, math.nan]))
    assert math.isnan(adjusted[-1])
    order = sorted(range(len(p)), key=lambda i: p[i])
    running = 0.0
    for step, i in enumerate(order):
        running = max(running, min(1.0, (len(p) - step) * p[i]))
        assert adjusted[i] == pytest.approx(running)


def test_smallest_p_and_seeds_to_reject() -> None:
    assert [round(smallest_p(n, n), 4) for n in (3, 4, 5, 6)] == [0.1, 0.0286, 0.0079, 0.0022]
    for n in (2, 3, 5):
        apart = permutation_test(np.arange(n) + 100.0, np.arange(float(n)))
        assert apart.p == pytest.approx(smallest_p(n, n))
    # with 5 seeds and Holm nothing is ever significant over 7 or more datasets
    assert seeds_to_reject(6) == 5
    assert seeds_to_reject(7) == 6


def far_apart(seeds: int, tasks: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (seeds, tasks))
    return {"a": x + 100, "b": x}


def test_a_test_that_cannot_reject_says_so() -> None:
    hopeless = pairwise_tests(far_apart(5, 7), "permutation")
    assert (hopeless.frame["winner"] == "").all()
    assert "cannot reject on any dataset" in hopeless.sentence
    assert "at least 6 seeds" in hopeless.sentence
    able = pairwise_tests(far_apart(5, 6), "permutation")
    assert (able.frame["winner"] == "a").all()
    assert "cannot reject" not in able.sentence
    assert "better than b on 7 of 7" in pairwise_tests(far_apart(5, 7), "welch").sentence
    family = pairwise_tests({**far_apart(5, 3), "c": np.zeros((5, 3))}, "permutation", family="all")
    assert "cannot reject" in family.sentences[0]


def test_missing_cells_and_single_seeds() -> None:
    scores = {
        "a": [np.arange(3.0), np.array([4.0]), np.empty(0)],
        "b": [np.arange(3.0) + 9, np.arange(2.0), np.ones(2)],
    }
    found = pairwise_tests(scores)
    assert found.frame["dataset"].tolist() == ["dataset 1", "dataset 2"]
    assert found.frame["p"].isna().tolist() == [False, True]
    assert "worse on 1" in found.sentence
    assert "cannot be tested" in found.sentence
    assert "dataset 3" in found.sentence
    # the test that could not be made does not count in the correction
    assert found.frame["p_corrected"][0] == found.frame["p"][0]
    with pytest.raises(UnknownNameError, match="test"):
        pairwise_tests(scores, "t")  # type: ignore[arg-type]


def test_win_tie_loss_by_both_rules() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(50, 1, (6, 3))
    scores = {"a": base + np.array([20.0, 0.4, -20.0]), "b": rng.normal(50, 1, (6, 3))}
    by_mean = win_tie_loss(scores).frame.iloc[0]
    gaps = scores["a"].mean(axis=0) - scores["b"].mean(axis=0)
    assert (by_mean["wins"], by_mean["losses"]) == ((gaps > 0).sum(), (gaps < 0).sum())
    wide = win_tie_loss(scores, margin=5.0)
    assert wide.frame.loc[0, ["wins", "ties", "losses"]].tolist() == [1, 1, 1]
    tested = win_tie_loss(scores, rule="test")
    assert tested.frame.loc[0, ["wins", "ties", "losses"]].tolist() == [1, 1, 1]
    assert "Welch" in tested.sentence
    assert "a against b: 1 win, 1 tie, 1 loss." in tested.sentence
