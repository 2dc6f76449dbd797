"""Power and numbers of seeds: scipy's noncentral t and simulation as oracles."""

from __future__ import annotations

import numpy as np
import pytest

from offbench.analysis import ScoreError, plan_seeds, seeds_needed
from offbench.analysis.exact_tests import smallest_p
from offbench.analysis.pairwise_tests import welch
from offbench.analysis.seed_planning import power_of_t


@pytest.mark.parametrize(("n", "gap"), [(2, 1.0), (3, 2.0), (10, 1.3), (200, 0.3)])
@pytest.mark.parametrize("alpha", [0.05, 0.003])
def test_power_of_equal_groups_equals_noncentral_t(n: int, gap: float, alpha: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    df, shift = 2 * n - 2, gap / np.sqrt(2 / n)
    bound = stats.t.ppf(1 - alpha / 2, df)
    expected = stats.nct.sf(bound, df, shift) + stats.nct.cdf(-bound, df, shift)
    assert power_of_t(gap, 1.0, 1.0, n, n, alpha) == pytest.approx(expected, abs=1e-8)


def test_power_of_unequal_groups_equals_simulation() -> None:
    rng = np.random.default_rng(0)
    found = np.mean([welch(rng.normal(2, 1, 6), rng.normal(0, 3, 12)).p < 0.05 for _ in range(3000)])
    assert power_of_t(2.0, 1.0, 3.0, 6, 12) == pytest.approx(found, abs=0.03)


def test_no_gap_is_found_at_the_level() -> None:
    assert power_of_t(0.0, 1.0, 1.0, 5, 5, 0.05) == pytest.approx(0.05, abs=1e-9)


def test_seeds_needed_is_the_smallest_number_with_the_power() -> None:
    plan = seeds_needed(10.0, 8.0, 12.0, power=0.9)
    assert plan.seeds is not None
    assert power_of_t(10, 8, 12, plan.seeds, plan.seeds) >= 0.9 > power_of_t(10, 8, 12, plan.seeds - 1, plan.seeds - 1)
    corrected = seeds_needed(10.0, 8.0, 12.0, power=0.9, tests=18)
    assert corrected.seeds is not None
    assert corrected.seeds > plan.seeds
    assert "corrected for 18 tests" in corrected.sentence
    # without spread, the number of splits alone decides
    exact = seeds_needed(10.0, 0.0, 0.0, tests=18, test="permutation")
    assert exact.seeds == 6
    assert smallest_p(6, 6) < 0.05 / 18 <= smallest_p(5, 5)
    assert seeds_needed(1e-9, 1.0, 1.0).seeds is None
    with pytest.raises(ScoreError, match="no plan"):
        seeds_needed(0.0, 1.0, 1.0)


def test_plan_of_a_table() -> None:
    rng = np.random.default_rng(0)
    scores = {
        "a": [rng.normal(10, 5, 4), np.array([3.0]), np.ones(2)],
        "b": [rng.normal(0, 5, 4), np.ones(2), np.ones(2)],
    }
    plan = plan_seeds(scores, "a", "b", 10.0)
    x, y = scores["a"][0], scores["b"][0]
    assert plan.loc[0, "std_first"] == pytest.approx(x.std(ddof=1))
    assert plan.loc[0, "power"] == pytest.approx(power_of_t(10, x.std(ddof=1), y.std(ddof=1), 4, 4, 0.05 / 3))
    assert plan.loc[0, "seeds"] == seeds_needed(10, x.std(ddof=1), y.std(ddof=1), tests=3).seeds
    assert plan["seeds"].isna().tolist() == [False, True, False]
    observed = plan_seeds(scores, "a", "b")
    assert observed.loc[2, "sentence"] == "No plan: no difference was observed."
