"""ScoreTable: reduction of episodes to runs, errors that name rows, notices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from offbench.analysis import RETURN, SCORE, ScoreError, ScoreTable


def episodes(**changes: Any) -> pd.DataFrame:
    """Two algorithms, two datasets, two seeds, three evaluations of two episodes; score = return / 10."""
    rows = []
    for a, algorithm in enumerate(["bc", "iql"]):
        for d, dataset in enumerate(["hopper", "pendulum"]):
            for seed in (0, 1):
                for step in (10, 20, 30):
                    for episode in (0, 1):
                        value = 100.0 * a + 10.0 * d + seed + step + 2.0 * episode
                        rows.append(
                            {
                                "algorithm": algorithm,
                                "dataset": dataset,
                                "seed": seed,
                                "step": step,
                                "episode": episode,
                                "return": value,
                                "score": value / 10,
                                "final": step == 30,
                                "environment": f"{dataset.capitalize()}-v5",
                                "run": f"{algorithm}{dataset}{seed}",
                            }
                        )
    return pd.DataFrame(rows).assign(**changes)


def codes(table: ScoreTable) -> set[str]:
    return {notice.code for notice in table.notices}


def simple(scores: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"algorithm": a, "dataset": d, "seed": i, "score": s}
            for (a, d), values in scores.items()
            for i, s in enumerate(values)
        ]
    )


def test_last_averages_closing_episodes_and_seed_is_the_unit() -> None:
    table = ScoreTable.from_runs(episodes())
    assert len(table.rows) == 8
    assert table.cell("iql", "pendulum").tolist() == pytest.approx([14.1, 14.2])
    assert set(table.rows["episodes"]) == {2}
    assert table.selection == "last"
    assert table.curves is not None
    assert len(table.curves) == 24


def test_last_k_and_best() -> None:
    frame = episodes()
    assert ScoreTable.from_runs(frame, protocol="last-k", last_k=2).cell("bc", "hopper")[0] == pytest.approx(2.6)
    frame.loc[frame["step"] == 10, "score"] += 50
    best = ScoreTable.from_runs(frame, protocol="best")
    assert best.cell("bc", "hopper")[0] == pytest.approx(51.1)
    assert "best" in codes(best)
    assert "oracle" in best.protocol


def test_closing_evaluation_counts_where_it_shares_its_step() -> None:
    frame = episodes()
    regular = frame[frame["final"]].assign(final=False, score=1000.0)
    assert ScoreTable.from_runs(pd.concat([frame, regular])).cell("bc", "hopper")[0] == pytest.approx(3.1)


def test_order_of_rows_does_not_change_scores() -> None:
    table = ScoreTable.from_runs(episodes())
    shuffled = ScoreTable.from_runs(episodes().sample(frac=1, random_state=3))
    for algorithm in table.algorithms:
        for dataset in table.datasets:
            np.testing.assert_allclose(
                np.sort(table.cell(algorithm, dataset)), np.sort(shuffled.cell(algorithm, dataset))
            )


def test_missing_reference_falls_back_to_returns_for_the_whole_dataset() -> None:
    frame = episodes()
    frame.loc[(frame["dataset"] == "pendulum") & (frame["seed"] == 1), "score"] = np.nan
    table = ScoreTable.from_runs(frame)
    assert table.units == {"hopper": SCORE, "pendulum": RETURN}
    assert table.cell("iql", "pendulum").tolist() == pytest.approx([141, 142])
    assert "no-reference" in codes(table)


def test_unfinished_runs_are_left_out_and_named() -> None:
    frame = episodes()
    frame.loc[frame["run"] == "bchopper1", "final"] = False
    table = ScoreTable.from_runs(frame)
    assert table.cell("bc", "hopper").size == 1
    assert any("bc on hopper, seed 1" in n.text for n in table.notices if n.code == "unfinished")
    with pytest.raises(ScoreError, match="no run has finished"):
        ScoreTable.from_runs(frame.assign(final=False))
    assert len(ScoreTable.from_runs(frame.assign(final=False), unfinished="include").rows) == 8


def test_environment_versions_are_compared() -> None:
    frame = episodes()
    frame.loc[frame["run"] == "bchopper1", "environment"] = "Hopper-v4"
    assert "mixed-environments" in codes(ScoreTable.from_runs(frame))
    assert "mixed-environments" not in codes(ScoreTable.from_runs(episodes()))


def test_two_runs_under_one_label_are_an_error() -> None:
    frame = pd.concat([episodes(), episodes().assign(run="other", episode=7)])
    with pytest.raises(ScoreError, match="different runs share"):
        ScoreTable.from_runs(frame)
    with pytest.raises(ScoreError, match="repeat the same"):
        ScoreTable.from_runs(pd.concat([episodes(), episodes().head(1)]))


def test_nan_and_duplicates_name_their_rows() -> None:
    frame = simple({("bc", "d"): [1.0, np.nan, 3.0]})
    with pytest.raises(ScoreError, match=r"row 1: algorithm bc, dataset d, seed 1"):
        ScoreTable.from_frame(frame)
    with pytest.raises(ScoreError, match=r"rows repeat.*\n.*row 0.*row 3"):
        ScoreTable.from_frame(simple({("bc", "d"): [1, 2, 3]}).assign(seed=[0, 1, 2]).pipe(_repeat_first))
    returns = episodes()
    returns.loc[5, "return"] = np.inf
    with pytest.raises(ScoreError, match="row 5"):
        ScoreTable.from_runs(returns)


def _repeat_first(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, frame.head(1)])


def test_episodes_given_as_rows_are_recognised() -> None:
    frame = simple({("bc", "d"): [1.0, 2.0]}).assign(seed=0, episode=[0, 1])
    with pytest.raises(ScoreError, match="look like episodes"):
        ScoreTable.from_frame(frame)
    many = simple({("bc", "d"): list(np.linspace(0, 90, 60))})
    assert "episodes-as-seeds" in codes(ScoreTable.from_frame(many))
    success = simple({("bc", "d"): [0.0, 100.0] * 5})
    assert "episodes-as-seeds" in codes(ScoreTable.from_frame(success))


def test_mixed_scales_are_noticed_without_crying_wolf() -> None:
    mixed = {("bc", "a"): [0.5, 0.6], ("bc", "b"): [0.7, 0.8], ("iql", "a"): [50, 60], ("iql", "b"): [70, 80]}
    assert "mixed-scales" in codes(ScoreTable.from_frame(simple(mixed)))
    low = {("bc", "maze"): [0.0, 0.0], ("iql", "maze"): [0.0, 1.0], ("bc", "b"): [70, 80], ("iql", "b"): [60, 70]}
    assert "mixed-scales" not in codes(ScoreTable.from_frame(simple(low)))


def test_ragged_missing_and_single_seed_cells_are_shown() -> None:
    table = ScoreTable.from_frame(simple({("bc", "a"): [1, 2, 3], ("iql", "a"): [4], ("bc", "b"): [5, 6]}))
    assert table.seed_counts().to_numpy().tolist() == [[3, 1], [2, 0]]
    assert table.common_datasets() == ["a"]
    assert {"ragged", "missing", "single-seed"} <= codes(table)


def test_frame_with_steps_scores_the_last_and_keeps_curves() -> None:
    frame = pd.DataFrame(
        {"algo": ["x"] * 4, "env": "e", "s": [0, 0, 1, 1], "t": [1, 2, 2, 1], "value": [1.0, 2.0, 4.0, 3.0]}
    )
    table = ScoreTable.from_frame(frame, algorithm="algo", dataset="env", seed="s", score="value", step="t")
    assert table.cell("x", "e").tolist() == [2.0, 4.0]
    assert table.curves is not None
    assert len(table.curves) == 4
    with pytest.raises(ScoreError, match="lacks the column"):
        ScoreTable.from_frame(frame)
