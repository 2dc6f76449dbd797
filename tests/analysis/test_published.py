"""Published scores: no printed number is lost, names are canonical, verdicts follow the stated rule."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from offbench.analysis import ScoreTable
from offbench.analysis.published import (
    canonical_algorithm,
    disagreement,
    find,
    published_scores,
    published_sources,
    version_of,
)
from offbench.analysis.published_compare import (
    Difference,
    beside_published,
    sample_std,
    verdict,
    welch_difference,
)
from offbench.datasets.references import d4rl_entries
from offbench.errors import UnknownNameError

RAW = Path(__file__).parents[2] / ".." / "shared" / "reference" / "published_scores.csv"
# Spellings that were changed, and nothing else may have been.
RENAMED = {
    "bear": "BEAR",
    "cql": "CQL",
    "iql": "IQL",
    "plas_p": "PLAS+P",
    "CQL +COCOA": "CQL+COCOA",
    "IQL +COCOA": "IQL+COCOA",
    "MOBILE +COCOA": "MOBILE+COCOA",
    "MOPO +COCOA": "MOPO+COCOA",
    "XQL (per-dataset tuned)": "XQL",
    "CFPI (one-step)": "CFPI",
    "Onestep RL": "OneStep",
    "QRDQN": "QR-DQN",
}


@pytest.mark.skipif(not RAW.exists(), reason="the gathered table is not here")
def test_no_row_of_the_gathered_table_was_lost_or_changed() -> None:
    raw, ours = pd.read_csv(RAW), published_scores()
    assert len(raw) == len(ours) == 2262
    dataset = raw["dataset"].str.replace(r"^(atari-\w+) \(1% DQN replay\)$", r"\1-1pct", regex=True)
    left = pd.DataFrame(
        {
            "printed_source": raw["source"],
            "algorithm": raw["algorithm"].map(lambda name: RENAMED.get(name, name)),
            "dataset": dataset,
            "mean": raw["mean"],
            "spread": raw["std"],
            "seeds": raw["n_seeds"],
            "notes": raw["notes"],
        }
    )
    right = ours[list(left.columns)].astype({"seeds": float})
    order = ["printed_source", "algorithm", "dataset", "notes", "mean"]
    pd.testing.assert_frame_equal(
        left.sort_values(order).reset_index(drop=True),
        right.sort_values(order).reset_index(drop=True),
        check_dtype=False,
    )
    kept = ours["printed_algorithm"].where(ours["printed_algorithm"] != "", ours["algorithm"])
    assert sorted(kept) == sorted(raw["algorithm"])


def test_names_are_canonical_and_sources_known() -> None:
    frame = published_scores()
    assert {name for name in frame["dataset"].unique() if name not in d4rl_entries()} == {
        f"atari-{game}-1pct" for game in ("asterix", "breakout", "pong", "qbert", "seaquest")
    }
    assert set(frame["source"]) == set(published_sources())
    assert set(frame["spread_kind"]) == {
        "",
        "std, divisor n",
        "std, divisor n - 1",
        "std, divisor unstated",
        "standard error",
        "unreliable",
    }
    assert ((frame["spread_kind"] == "") == frame["spread"].isna()).all()
    assert frame["mean"].notna().all()
    keys = ["source", "algorithm", "dataset", "unit", "selection", "condition", "origin"]
    assert not frame.duplicated(keys).any()


def test_numbers_that_anyone_can_look_up() -> None:
    corl = published_scores("hopper-medium-v2", "IQL").set_index(["source", "selection"])
    assert corl.loc[("corl", "last"), "mean"] == 67.53
    assert corl.loc[("corl", "best"), "mean"] == 80.46
    assert corl.loc[("corl", "last"), "seeds"] == 4
    assert corl.loc[("corl", "last"), "updates"] == 1_000_000
    damaged = published_scores(algorithm="TRACER")
    assert (damaged["condition"] != "").all()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("td3_bc", ("algorithm", "TD3+BC")),
        ("TD3BC", ("algorithm", "TD3+BC")),
        ("rebrac", ("algorithm", "ReBRAC")),
        ("10%BC", ("algorithm", "BC-10%")),
        ("hopper-medium-v2", ("dataset", "hopper-medium-v2")),
        ("Hopper_Medium_V2", ("dataset", "hopper-medium-v2")),
    ],
)
def test_names_are_found_in_any_spelling(name: str, found: tuple[str, str]) -> None:
    assert find(name) == found


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="hopper-medium-v2"):
        find("hoper-medium-v2")
    assert canonical_algorithm("my new method") is None
    assert version_of("hopper-medium-v2") == ("hopper-medium", "v2")
    assert version_of("maze") == ("maze", "")


def test_disagreement_counts_first_hand_sources_only() -> None:
    rows = published_scores("hopper-medium-v2", "IQL")
    table = disagreement(rows).set_index("choice")
    first_hand = rows[rows["origin"] != "copy"]
    offline = first_hand[first_hand["selection"] != "best"]
    assert table.loc["offline", "sources"] == offline["source"].nunique()
    assert table.loc["offline", "range"] == pytest.approx(offline["mean"].max() - offline["mean"].min())
    assert "66.3" not in {str(value) for value in offline["mean"]}  # the copied value of the IQL paper


def test_welch_interval_equals_scipy() -> None:
    first, second = np.array([60.0, 64.0, 70.0, 61.0]), np.array([55.0, 70.0, 58.0, 66.0, 59.0])
    ours = welch_difference(first.mean(), first.std(ddof=1), 4, second.mean(), second.std(ddof=1), 5)
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high))
    assert math.isnan(welch_difference(1.0, math.nan, 1, 2.0, 1.0, 4).low)


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (3.0, -2.0, 8.0, "reproduced"),
        (3.0, -12.0, 18.0, "close"),
        (5.0, math.nan, math.nan, "close"),
        (-7.0, -20.0, 6.0, "undecided"),
        (-7.0, -9.0, -5.0, "differs"),
        (7.0, math.nan, math.nan, "differs"),
    ],
)
def test_verdict_rule(value: float, low: float, high: float, expected: str) -> None:
    assert verdict(Difference(value, low, high)) == expected


def test_printed_spreads_become_sample_deviations() -> None:
    scores = np.array([1.0, 2.0, 4.0, 9.0])
    assert sample_std(scores.std(), "std, divisor n", 4) == pytest.approx(scores.std(ddof=1))
    assert sample_std(scores.std(ddof=1) / 2, "standard error", 4) == pytest.approx(scores.std(ddof=1))
    assert math.isnan(sample_std(3.0, "unreliable", 4))


def _table(dataset: str, scores: list[float], **columns: object) -> ScoreTable:
    frame = pd.DataFrame({"algorithm": "iql", "dataset": dataset, "seed": range(len(scores)), "score": scores})
    return ScoreTable.from_frame(frame.assign(**columns))


def test_users_scores_beside_published_ones_name_what_differs() -> None:
    beside = beside_published(_table("hopper-medium-v2", [66.0, 67.0, 69.0]), updates=500_000)
    corl = beside[beside["source"] == "corl"].set_index("published_mean")
    assert corl.loc[67.53, "verdict"] == "reproduced"
    assert corl.loc[67.53, "protocol_differences"] == (
        "settings tuned per dataset; 1M updates instead of 500k; 4 seeds instead of 3"
    )
    assert corl.loc[80.46, "verdict"] == ""
    assert "their best checkpoints" in corl.loc[80.46, "protocol_differences"]
    assert (beside["published_dataset"] == "hopper-medium-v2").all()


def test_another_version_is_named_and_never_judged() -> None:
    beside = beside_published(_table("hopper-medium-v1", [66.0, 67.0, 69.0]))
    assert len(beside)
    assert set(beside["verdict"]) == {""}
    assert beside["protocol_differences"].str.contains("instead of v1").all()
    assert beside_published(_table("my-own-data", [1.0, 2.0])).empty


SEEDS = Path(__file__).parents[2] / "docs" / "gallery_data"


@pytest.mark.parametrize(
    ("file", "source", "columns", "ddof", "digit"),
    [
        ("d3rlpy_d4rl_final", "d3rlpy", {"last": "score", "best": "best_score"}, 0, 0.1),
        ("rebrac_d4rl_final", "rebrac", {"last": "score"}, 1, 0.01),
    ],
)
def test_printed_numbers_follow_from_the_runs_where_these_are_public(
    file: str, source: str, columns: dict[str, str], ddof: int, digit: float
) -> None:
    runs = pd.read_csv(SEEDS / f"{file}.csv.gz").groupby(["algorithm", "dataset"])
    printed = published_scores()
    printed = printed[(printed["source"] == source) & (printed["unit"] == "normalized score")]
    checked = 0
    for selection, column in columns.items():
        rows = printed[printed["selection"] == selection].set_index(["algorithm", "dataset"])
        for cell, scores in runs[column]:
            row = rows.loc[cell]
            assert row["mean"] == pytest.approx(scores.mean(), abs=0.51 * digit), cell
            assert row["spread"] == pytest.approx(scores.std(ddof=ddof), abs=0.51 * digit), cell
            assert row["seeds"] == len(scores)
            checked += 1
    assert checked == len(columns) * len(runs)
