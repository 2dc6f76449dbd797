"""Policy selection: scipy and enumeration as oracles, definitions by hand, ties, NaN."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.analysis import ScoreError, pick_then_evaluate, selection_report
from offbench.analysis.selection import (
    REGRETS,
    best_at_k,
    kendall,
    mean_at_k,
    regret_at_k,
    sharpe_ratio_at_k,
    spearman,
    std_at_k,
    worst_at_k,
)
from offbench.errors import UnknownNameError

policies = st.lists(st.tuples(st.integers(0, 4), st.integers(-5, 5)), min_size=2, max_size=9)

ESTIMATES = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
VALUES = np.array([10.0, 30.0, 20.0, 50.0, 40.0])


@given(policies)
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_correlations_equal_scipy_with_ties(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = np.array(pairs, dtype=float).T
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9, nan_ok=True)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-9, nan_ok=True)


@given(policies, st.data())
@settings(max_examples=80, deadline=None)
def test_ties_are_broken_in_all_ways(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    """Averages over all orders of the policies, each sorted stably."""
    x, y = np.array(pairs[:6], dtype=float).T
    k = data.draw(st.integers(1, x.size))
    tops = [
        y[np.array(order)[np.argsort(-x[list(order)], kind="stable")][:k]]
        for order in itertools.permutations(range(x.size))
    ]
    assert best_at_k(x, y, k) == pytest.approx(np.mean([top.max() for top in tops]))
    assert worst_at_k(x, y, k) == pytest.approx(np.mean([top.min() for top in tops]))
    assert mean_at_k(x, y, k) == pytest.approx(np.mean([top.mean() for top in tops]))
    assert regret_at_k(x, y, k) == pytest.approx(np.mean([y.max() - top.max() for top in tops]))
    if k > 1:
        assert std_at_k(x, y, k) == pytest.approx(np.mean([top.std(ddof=1) for top in tops]))
    assert pick_then_evaluate(x, y)["picked"][k - 1] == pytest.approx(best_at_k(x, y, k))


def test_definitions_by_hand() -> None:
    assert regret_at_k(ESTIMATES, VALUES, 2, "dope") == 20  # 50 - 30
    assert regret_at_k(ESTIMATES, VALUES, 2, "dope-normalized") == pytest.approx(0.4)  # 20 / 50
    assert regret_at_k(ESTIMATES, VALUES, 2, "range") == pytest.approx(0.5)  # 20 / (50 - 10)
    assert regret_at_k(ESTIMATES, VALUES, 2, "scope") == 50  # 50 + 40 - 10 - 30
    assert best_at_k(ESTIMATES, VALUES, 3) == 30
    assert worst_at_k(ESTIMATES, VALUES, 3) == 10
    assert mean_at_k(ESTIMATES, VALUES, 3) == 20
    assert std_at_k(ESTIMATES, VALUES, 3) == 10
    assert sharpe_ratio_at_k(ESTIMATES, VALUES, 3, behaviour=15.0) == pytest.approx(1.5)
    assert sharpe_ratio_at_k(ESTIMATES, VALUES, 3, behaviour=35.0) == 0
    for definition in REGRETS:
        assert regret_at_k(VALUES, VALUES, 1, definition) == 0


def test_edges_of_the_sharpe_ratio() -> None:
    same = np.full(3, 0.1)
    assert math.isnan(sharpe_ratio_at_k(ESTIMATES, VALUES, 1, 0.0))
    assert math.isnan(std_at_k(ESTIMATES, VALUES, 1))
    assert math.isinf(sharpe_ratio_at_k([3, 2, 1], same, 3, 0.0))
    assert sharpe_ratio_at_k([3, 2, 1], same, 3, 0.0, clip=100) == 100
    assert sharpe_ratio_at_k([3, 2, 1], same, 3, 0.1) == 0


def test_negative_values_refuse_normalization_by_the_best() -> None:
    with pytest.raises(ScoreError, match="range"):
        regret_at_k(ESTIMATES, -VALUES, 1, "dope-normalized")
    assert regret_at_k(ESTIMATES, -VALUES, 1, "range") == 0
    assert regret_at_k([1, 2], [3, 3], 1, "range") == 0


def test_nan_and_shapes_are_errors() -> None:
    bad = ESTIMATES.copy()
    bad[3] = np.nan
    for function in (spearman, kendall):
        with pytest.raises(ScoreError, match=r"estimates of 1 of 5 policies.*\n.*policies 3"):
            function(bad, VALUES)
    with pytest.raises(ScoreError, match="true values"):
        regret_at_k(VALUES, bad, 1)
    with pytest.raises(ScoreError, match="same policies"):
        spearman(ESTIMATES[:3], VALUES)
    with pytest.raises(ScoreError, match="from 1 to 5"):
        best_at_k(ESTIMATES, VALUES, 6)
    with pytest.raises(UnknownNameError, match="regret"):
        regret_at_k(ESTIMATES, VALUES, 1, "neorl")  # type: ignore[arg-type]


def test_pick_then_evaluate_lies_between_chance_and_oracle() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 40)
    good = pick_then_evaluate(values + rng.normal(0, 0.3, 40), values)
    assert (good["picked"] >= good["random"] - 1e-12).all()
    assert good["picked"].is_monotonic_increasing
    assert good["picked"].iloc[-1] == good["oracle"].iloc[-1] == values.max()
    # a constant estimate is a random choice
    constant = pick_then_evaluate(np.zeros(40), values)
    np.testing.assert_allclose(constant["picked"], constant["random"])
    naive = [values[rng.permutation(40)[:5]].max() for _ in range(4000)]
    assert constant["random"][4] == pytest.approx(np.mean(naive), abs=0.05)


def test_many_ties_are_sampled() -> None:
    values = np.arange(40.0)
    found = best_at_k(np.zeros(40), values, 5)  # C(40, 5) ways
    assert found == pytest.approx(pick_then_evaluate(np.zeros(40), values)["random"][4], abs=0.5)


def test_report_names_estimator_metric_and_definition() -> None:
    frame = selection_report({"good": VALUES, "bad": -VALUES}, VALUES, ks=(1, 2, 9), behaviour=5.0, reps=200)
    cell = frame.set_index(["estimator", "metric", "definition"])
    assert cell.loc[("good", "spearman", "midranks"), "value"] == 1
    assert cell.loc[("bad", "kendall", "tau-b"), "value"] == pytest.approx(-1)
    assert cell.loc[("bad", "regret@1", "range"), "value"] == 1
    assert cell.loc[("good", "SharpeRatio@2", "SCOPE-RL"), "value"] == pytest.approx(45 / np.std([50, 40], ddof=1))
    assert "regret@9" not in set(frame["metric"])
    assert cell.loc[("bad", "spearman", "midranks"), "high"] <= 0
    assert "Choosing 1 by bad has regret@1 40 (dope)." in set(frame["sentence"])
