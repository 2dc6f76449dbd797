"""Performance profiles: rliable's numbers, naive formulas, coverage with few seeds, axis, order of algorithms."""

from __future__ import annotations

import numpy as np
import pytest

from offbench.analysis import ScoreError, performance_profile
from tests.analysis.real_scores import SETS, expected, needs_scores, real_table

KINDS = {"score_distribution": "scores", "average_score": "averages"}


@needs_scores
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_rliable(name: str, kind: str) -> None:
    reference = expected("rliable_expected_profiles.csv")
    reference = reference[(reference["set"] == name) & (reference["kind"] == kind)].reset_index(drop=True)
    algorithms = list(reference["algorithm"].unique())
    found = performance_profile(
        real_table(name, algorithms, scale=100),
        reference["tau"].unique(),
        kind=KINDS[kind],  # type: ignore[arg-type]
        method="percentile",
        compat="rliable",
        reps=2000,
    ).curves
    assert found["algorithm"].tolist() == reference["algorithm"].tolist()
    np.testing.assert_allclose(found["profile"], reference["profile"], atol=6e-9)
    np.testing.assert_allclose(found["low"], reference["ci_low"], atol=6e-7)
    np.testing.assert_allclose(found["high"], reference["ci_high"], atol=6e-7)


def ragged(seed: int) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {name: [rng.normal(50 + 10 * i, 20, n) for n in (3, 5, 4)] for i, name in enumerate("ab")}


def test_profiles_of_ragged_scores_equal_their_definition() -> None:
    scores = ragged(0)
    taus = [20.0, 50.0, 80.0]
    runs = performance_profile(scores, taus).curves
    means = performance_profile(scores, taus, kind="averages").curves
    for name, cells in scores.items():
        for tau in taus:
            of_runs = runs[(runs["algorithm"] == name) & (runs["tau"] == tau)]["profile"].item()
            assert of_runs == pytest.approx(np.mean([np.mean(cell > tau) for cell in cells]))
            of_means = means[(means["algorithm"] == name) & (means["tau"] == tau)]["profile"].item()
            assert of_means == pytest.approx(np.mean([cell.mean() > tau for cell in cells]))


@pytest.mark.parametrize("kind", ["scores", "averages"])
def test_percentile_band_of_ragged_scores_equals_a_naive_bootstrap(kind: str) -> None:
    scores = {"a": ragged(1)["a"]}
    found = performance_profile(scores, [45.0, 60.0], kind=kind, method="percentile", reps=8000).curves  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    naive = []
    for _ in range(3000):
        drawn = [rng.choice(cell, cell.size) for cell in scores["a"]]
        values = [cell.mean() if kind == "averages" else cell for cell in drawn]
        naive.append([np.mean([np.mean(v > tau) for v in values]) for tau in (45.0, 60.0)])
    low, high = np.percentile(naive, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(found["low"], low, atol=0.05)
    np.testing.assert_allclose(found["high"], high, atol=0.05)


def test_thresholds_are_strict() -> None:
    found = performance_profile({"a": np.array([[1.0, 2.0], [1.0, 3.0]])}, [1.0, 2.0, 3.0]).curves
    assert found["profile"].tolist() == [0.5, 0.25, 0.0]


@pytest.mark.parametrize("kind", ["scores", "averages"])
def test_calibrated_bands_cover_with_three_seeds(kind: str) -> None:
    rng = np.random.default_rng(0)
    centres, spread = np.linspace(10, 90, 10), np.linspace(4, 12, 10)
    taus = [20.0, 40.0, 60.0, 80.0]
    big = rng.normal(centres, spread, (20_000, 10))
    truth = (np.mean(big > np.array(taus)[:, None, None], axis=(1, 2)) if kind == "scores" else
             np.array([np.mean(centres > tau) for tau in taus]))  # fmt: skip
    hits = {"percentile": 0.0, "calibrated": 0.0}
    for trial in range(150):
        scores = {"a": rng.normal(centres, spread, (3, 10))}
        for method in hits:
            band = performance_profile(scores, taus, kind=kind, method=method, reps=200, seed=trial).curves  # type: ignore[arg-type]
            hits[method] += float(np.mean((band["low"] <= truth + 1e-12) & (truth <= band["high"] + 1e-12)))
    assert hits["calibrated"] / 150 > 0.92
    if kind == "scores":
        assert hits["percentile"] / 150 < 0.88


def test_axis_dominance_and_sentence() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(50, 10, (5, 6))
    found = performance_profile({"low": x, "high": x + 5})
    first = found.curves[found.curves["algorithm"] == "low"]
    other = found.curves[found.curves["algorithm"] == "high"]
    average = (first["profile"].to_numpy() + other["profile"].to_numpy()) / 2
    np.testing.assert_allclose(first["position"], 1 - average)
    assert (np.diff(first["position"]) >= 0).all()
    assert found.position([found.taus[3]])[0] == pytest.approx(first["position"].iloc[3])
    assert found.dominance().to_numpy().tolist() == [["high", "low"]]
    assert "The profile of high is nowhere below that of low." in found.sentence


def test_bad_input_and_single_seeds() -> None:
    with pytest.raises(ScoreError, match="increasing"):
        performance_profile({"a": np.ones((2, 2))}, [2.0, 1.0])
    with pytest.raises(ScoreError, match="kind"):
        performance_profile({"a": np.ones((2, 2))}, [1.0], kind="means")  # type: ignore[arg-type]
    single = performance_profile({"a": np.ones((1, 2))}, [0.5])
    assert single.curves["low"].isna().all()
    assert "single seed" in single.sentence
