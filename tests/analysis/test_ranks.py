"""Ranks over datasets: published expected values, scipy as oracle, cliques, what cannot be told apart."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offbench.analysis import ScoreError, ScoreTable, friedman, wilcoxon_over_datasets
from offbench.analysis.ranks import (
    chi_squared_tail,
    cliques,
    studentized_range_cdf,
    studentized_range_quantile,
)
from tests.analysis.real_scores import SCORES, needs_scores, real_table


@needs_scores
def test_expected_values() -> None:
    reference = json.loads((SCORES / "ranks_expected.json").read_text())["rebrac_locomotion"]
    table = real_table("rebrac_locomotion")
    found = friedman(table, cliques_by="nemenyi")
    assert found.ranks == pytest.approx(reference["average_rank"])
    assert list(found.ranks) == ["SAC-RND", "ReBRAC", "IQL", "TD3+BC"]
    assert found.chi2 == pytest.approx(reference["friedman_chi2"])
    assert found.p == pytest.approx(reference["friedman_p"])
    assert found.q == pytest.approx(reference["nemenyi_q_alpha_0_05"], rel=1e-9)
    assert found.critical_difference == pytest.approx(reference["critical_difference_0_05"], rel=1e-9)
    assert len(found.pairs) == 6
    for row in found.pairs.itertuples():
        key = f"{row.first}|{row.second}"
        key = key if key in reference["nemenyi_p"] else f"{row.second}|{row.first}"
        assert row.nemenyi_p == pytest.approx(reference["nemenyi_p"][key], rel=1e-8)
        assert row.wilcoxon_p == pytest.approx(reference["wilcoxon_exact_p"][key], rel=1e-12)
        assert row.wilcoxon_p_corrected == pytest.approx(reference["wilcoxon_p_holm"][key], rel=1e-12)
    assert found.cliques == (("SAC-RND", "ReBRAC"), ("IQL", "TD3+BC"))
    assert "Not told apart by Nemenyi's test: SAC-RND, ReBRAC; IQL, TD3+BC." in found.sentence
    winners = wilcoxon_over_datasets(table).frame.set_index(["first", "second"])["winner"]
    assert winners["ReBRAC", "IQL"] == "ReBRAC"
    assert winners["ReBRAC", "SAC-RND"] == ""


@given(arrays(np.float64, st.tuples(st.integers(2, 9), st.integers(3, 6)), elements=st.integers(0, 5).map(float)))
@settings(max_examples=50, deadline=None)
def test_friedman_equals_scipy_with_ties(means: np.ndarray) -> None:
    stats = pytest.importorskip("scipy.stats")
    scores = {f"a{j}": means[None, :, j] for j in range(means.shape[1])}
    found = friedman(scores, cliques_by="nemenyi")
    if (np.ptp(means, axis=1) > 0).any():
        reference = stats.friedmanchisquare(*means.T)
        assert found.chi2 == pytest.approx(reference.statistic, abs=1e-9)
        assert found.p == pytest.approx(reference.pvalue, abs=1e-12)
    else:
        assert found.p == 1.0
    assert sum(found.ranks.values()) == pytest.approx(means.shape[1] * (means.shape[1] + 1) / 2)


@pytest.mark.parametrize("groups", [2, 3, 5, 11, 40])
def test_studentized_range_equals_scipy(groups: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for value in (0.3, 1.7, 3.6, 5.2, 8.0):
        assert studentized_range_cdf(value, groups) == pytest.approx(
            stats.studentized_range.cdf(value, groups, np.inf), abs=1e-9
        )
    for p in (0.5, 0.9, 0.95, 0.99):
        assert studentized_range_cdf(studentized_range_quantile(p, groups), groups) == pytest.approx(p, abs=1e-9)
    with pytest.raises(ValueError):
        studentized_range_quantile(1.0, groups)


def test_tabulated_critical_values() -> None:
    """Demsar 2006, table 5a: q at 0.05 for 2 to 10 classifiers, two-tailed Nemenyi."""
    table = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for k, q in enumerate(table, start=2):
        assert studentized_range_quantile(0.95, k) / np.sqrt(2) == pytest.approx(q, abs=1.2e-3)


@pytest.mark.parametrize("df", [1, 2, 3, 6, 11, 40])
def test_chi_squared_tail_equals_scipy(df: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for value in (0.0, 0.1, 2.0, 15.5, 90.0):
        assert chi_squared_tail(value, df) == pytest.approx(stats.chi2.sf(value, df), rel=1e-10)


def test_cliques_are_maximal_runs_of_neighbours() -> None:
    def different(*pairs: str) -> set[frozenset[str]]:
        return {frozenset(pair) for pair in pairs}

    assert cliques("abcd", different("ac", "ad", "bd")) == (("a", "b"), ("b", "c"), ("c", "d"))
    assert cliques("abcd", different("ad")) == (("a", "b", "c"), ("b", "c", "d"))
    assert cliques("abc", set()) == (("a", "b", "c"),)
    assert cliques("ab", different("ab")) == ()


def test_few_datasets_are_said_and_zeros_dropped() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(50, 1, (3, 4))
    found = friedman({"a": x + 50, "b": x})
    assert "cannot tell any pair apart with 4 datasets" in found.sentence
    assert found.cliques == (("a", "b"),)
    equal = wilcoxon_over_datasets({"a": x, "b": np.where(np.arange(4) < 2, x, x - 1)})
    assert equal.frame.loc[0, "zeros"] == 2
    assert equal.frame.loc[0, "p"] == pytest.approx(0.5)
    with pytest.raises(ScoreError, match="two algorithms and two"):
        friedman({"a": x[:, :1], "b": x[:, :1]})


def test_raw_returns_have_ranks_but_no_signed_ranks() -> None:
    frame = pd.DataFrame(
        [(a, d, i, s * v + i) for a, v in [("a", 1), ("b", 2)] for d, s in [("x", 1), ("y", 1000)] for i in range(3)]
    )
    frame.columns = pd.Index(["algorithm", "dataset", "seed", "score"])
    table = ScoreTable.from_frame(frame, unit="raw return")
    found = friedman(table, cliques_by="nemenyi")
    assert found.ranks == {"b": 1.0, "a": 2.0}
    assert found.pairs["wilcoxon_p"].isna().all()
    with pytest.raises(ScoreError, match="raw returns"):
        friedman(table)
    with pytest.raises(ScoreError, match="common scale"):
        wilcoxon_over_datasets(table)
