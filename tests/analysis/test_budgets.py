"""Budgets: the reference's expected values, brute force, bands that cover, the bandit against known optima."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from offbench.analysis import (
    ScoreError,
    ScoreTable,
    budget_table,
    checkpoint_protocols,
    expected_online_performance,
    ucb_budget,
)
from offbench.analysis.budgets import BEST, best_of_weights
from tests.analysis.real_scores import SCORES, needs_scores


@needs_scores
@pytest.mark.parametrize("name", ["rebrac_eop_domains_configs", "rebrac_eop_all_configs"])
def test_expected_values(name: str) -> None:
    reference = pd.read_csv(SCORES / "rebrac_eop_expected.csv")
    reference = reference[reference["file"] == name]
    found = budget_table(pd.read_csv(SCORES / f"{name}.csv"))
    both = reference.merge(found, on=["algorithm", "dataset", "budget"])
    assert len(both) == len(reference) == len(found)
    np.testing.assert_allclose(both["mean"], both["eop_mean"], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(both["std"], both["eop_std"], rtol=1e-7, atol=1e-7)


def test_weights_equal_full_enumeration() -> None:
    values = np.array([3.0, 1.0, 7.0, 7.0, 2.0])
    for n in (1, 2, 4, 5):
        drawn = [max(choice) for choice in itertools.combinations(values, n)]
        again = [max(choice) for choice in itertools.product(values, repeat=n)]
        without = expected_online_performance(values, budgets=[n], replacement=False).frame.iloc[0]
        replaced = expected_online_performance(values, budgets=[n]).frame.iloc[0]
        assert (without["mean"], without["std"]) == pytest.approx((np.mean(drawn), np.std(drawn)))
        assert (replaced["mean"], replaced["std"]) == pytest.approx((np.mean(again), np.std(again)))
    for replacement in (True, False):
        weights = best_of_weights(400, [1, 30, 400], replacement)
        np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_band_over_seeds_holds_and_covers() -> None:
    rng = np.random.default_rng(0)
    true = np.array([20.0, 35.0, 50.0, 52.0, 70.0])
    expected = expected_online_performance(true).frame["mean"].to_numpy()
    hits = np.zeros(5)
    for trial in range(200):
        frame = expected_online_performance(rng.normal(true[:, None], 10, (5, 10)), reps=200, seed=trial).frame
        hits += (frame["low"] <= expected) & (expected <= frame["high"])
        assert (frame["low"] < frame["mean"]).all()
        assert (frame["mean"] < frame["high"]).all()
    assert (hits / 200 > 0.88).all()
    # the excess of a maximum of noisy means is seen
    equal = expected_online_performance(rng.normal(0, 10, (20, 5)), reps=500).frame
    assert equal["bias"].iloc[-1] > 1
    assert abs(equal["bias"].iloc[0]) < 0.5


def test_tables_of_settings() -> None:
    rng = np.random.default_rng(0)
    rows = [("a", "x", c, s, rng.normal(c, 1)) for c in range(3) for s in range(4)]
    frame = pd.DataFrame(rows, columns=["algorithm", "dataset", "config", "seed", "score"])
    found = budget_table(frame, seed="seed", reps=50)
    means = frame.groupby("config")["score"].mean().to_numpy()
    assert found["mean"].iloc[0] == pytest.approx(means.mean())
    assert found["low"].notna().all()
    with pytest.raises(ScoreError, match="repeat the same"):
        budget_table(frame)
    assert "no band" in expected_online_performance(means).sentence
    for bad in (np.array([1.0, np.nan]), np.zeros((0, 2)), [np.ones(2), np.empty(0)]):
        with pytest.raises(ScoreError, match="finite scores"):
            expected_online_performance(bad)
    with pytest.raises(ScoreError, match="from 1 to 3"):
        expected_online_performance(means, budgets=[4])


# -- checkpoints -----------------------------------------------------------------------------------


def test_last_last_k_and_best_of_the_same_records() -> None:
    rows = [("a", "x", 0, s, v) for s, v in enumerate([1.0, 9.0, 3.0, 5.0])]
    rows += [("b", "x", 0, s, v) for s, v in enumerate([6.0, 6.0, 6.0, 6.0])]
    frame = pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "step", "score"])
    found = checkpoint_protocols(ScoreTable.from_frame(frame.sample(frac=1, random_state=0), step="step"), last_k=2)
    wide = found.averages()
    assert wide.loc["a"].tolist() == [5.0, 4.0, 9.0]
    assert found.protocols[2] == BEST == "best (chosen with the simulator)"
    assert "changes who is first: b by last" in found.sentence
    assert "a by best (chosen with the simulator)" in found.sentence


@needs_scores
def test_choice_of_protocol_on_published_curves() -> None:
    frame = pd.read_csv(SCORES / "d3rlpy_d4rl_curves.csv")
    frame = frame[frame["dataset"].str.match(r"^(?!ant).*-v0$")]
    found = checkpoint_protocols(ScoreTable.from_frame(frame, step="step"))
    wide = found.averages()
    published = pd.read_csv(SCORES / "d3rlpy_d4rl_published.csv")
    published = published[published["dataset"].isin(frame["dataset"].unique())]
    finals = published.groupby("algorithm")["final_mean"].mean()
    for algorithm in ("IQL", "TD3+BC", "CQL"):
        assert wide.loc[algorithm, "last"] == pytest.approx(finals[algorithm], abs=0.05)
    assert wide["last"].idxmax() == "TD3+BC"
    assert wide[BEST].idxmax() == "PLAS+P"


# -- the bandit ------------------------------------------------------------------------------------


def pool(seed: int, centres: np.ndarray, seeds: int = 4, episodes: int = 300) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [[rng.normal(c + rng.normal(0, 3), 15, episodes) for _ in range(seeds)] for c in centres]


def test_first_pull_is_random_and_many_pulls_find_the_best_arm() -> None:
    policies = pool(0, np.linspace(0, 60, 12))
    found = ucb_budget(policies, arms=8, episodes=200, resamples=60, trials=50)
    means = np.array([[p.mean() for p in setting] for setting in policies])
    assert found.frame["mean"].iloc[0] == pytest.approx(means.mean(), abs=1.5)
    # the best of eight of twelve settings, each with one random seed
    rng = np.random.default_rng(1)
    best = [means[rng.permutation(12)[:8], rng.integers(0, 4, 8)].max() for _ in range(4000)]
    assert np.mean(best) - 3 < found.frame["mean"].iloc[-1] < np.mean(best) + 0.5
    assert found.frame["mean"].is_monotonic_increasing or found.frame["mean"].diff().min() > -1
    assert found.scale == pytest.approx(np.concatenate([p for s in policies for p in s]).std(), rel=1e-6)


def test_band_holds_settings_and_seeds_and_does_not_shrink_with_trials() -> None:
    policies = pool(1, np.linspace(0, 60, 10))
    widths = []
    for trials in (20, 200):
        frame = ucb_budget(policies, arms=4, episodes=40, resamples=100, trials=trials).frame
        widths.append(float((frame["high"] - frame["low"]).iloc[-1]))
    assert widths[0] > 5
    assert widths[1] == pytest.approx(widths[0], rel=0.35)
    same = ucb_budget(pool(2, np.full(10, 30.0)), arms=4, episodes=40, resamples=100, trials=50).frame
    assert float((same["high"] - same["low"]).iloc[-1]) < widths[1] / 3


def test_scaled_bonus_explores_where_the_original_is_greedy() -> None:
    """Two arms with noise far above their gap: one unlucky first episode must not decide."""
    rng = np.random.default_rng(0)
    policies = [[rng.normal(50, 30, 2000)], [rng.normal(60, 30, 2000)]]
    scaled = ucb_budget(policies, arms=2, resamples=40, trials=50).frame["mean"].iloc[-1]
    greedy = ucb_budget(policies, arms=2, scale=1.0, resamples=40, trials=50).frame["mean"].iloc[-1]
    assert scaled > greedy + 1


def test_negative_returns_and_small_pools() -> None:
    policies = [[np.full(5, -100.0)], [np.full(5, -10.0)]]
    found = ucb_budget(policies, episodes=5, resamples=5, trials=5)
    # an arm that was never pulled is not recommended for its mean of 0
    assert found.frame["mean"].iloc[-1] == -10
    assert found.arms == 2
    assert "only 2 settings" in found.sentence
    assert "only 5 stored episodes" in found.sentence
    assert "single seed" in found.sentence
    again = ucb_budget({"a": policies[0], "b": policies[1]}, episodes=5, resamples=5, trials=5)
    pd.testing.assert_frame_equal(found.frame, again.frame)
    with pytest.raises(ScoreError, match="finite returns"):
        ucb_budget([[np.array([np.nan])]])
    with pytest.raises(ScoreError, match="at least one trained policy"):
        ucb_budget([[]])
