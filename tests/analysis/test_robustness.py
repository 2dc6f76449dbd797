"""Robustness summaries against numbers worked out by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from offbench.analysis import ScoreTable
from offbench.analysis.robustness import CLEAN, Condition, robustness_rows, severity_rows, worst_conditions
from offbench.errors import SpecError

CONDITIONS = {
    "hop": Condition("hop"),
    "hop-a": Condition("hop", "rewards", "random", 0.3, 1.0),
    "hop-b": Condition("hop", "actions", "adversarial", 0.3, 1.0),
}
# algorithm, dataset, seed, score
SCORES = [
    *(("x", "hop", 0, 50.0), ("x", "hop", 1, 70.0)),
    *(("x", "hop-a", 0, 40.0), ("x", "hop-a", 1, 20.0)),
    *(("x", "hop-b", 0, 10.0), ("x", "hop-b", 1, 30.0)),
    *(("y", "hop", 0, 30.0), ("y", "hop", 1, 30.0)),
    *(("y", "hop-a", 0, 25.0), ("y", "hop-a", 1, 27.0), ("y", "hop-b", 0, 28.0)),
]


def table(rows: list[tuple[str, str, int, float]] = SCORES) -> ScoreTable:
    return ScoreTable.from_frame(pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "score"]))


def test_average_worst_and_change_are_those_of_each_seed() -> None:
    made = robustness_rows(table(), CONDITIONS)
    assert made.datasets[0] == CLEAN
    assert made.cell("x", "random rewards (rate 0.3, scale 1)").tolist() == [40.0, 20.0]
    assert made.cell("x", "average of corruptions").tolist() == [25.0, 25.0]
    assert made.cell("x", "change from clean").tolist() == [-25.0, -45.0]
    # Means 30 and 20: the actions are worst, with the scores of that condition.
    assert made.cell("x", "worst corruption").tolist() == [10.0, 30.0]


def test_a_seed_that_lacks_a_condition_is_left_out_of_the_summaries() -> None:
    made = robustness_rows(table(), CONDITIONS)
    assert made.cell("y", "average of corruptions").tolist() == [26.5]
    assert made.cell("y", "change from clean").tolist() == [-3.5]
    assert made.cell("y", "random rewards (rate 0.3, scale 1)").tolist() == [25.0, 27.0]


def test_several_datasets_are_kept_apart() -> None:
    rows = [*SCORES, ("x", "cheetah", 0, 5.0), ("x", "cheetah-a", 0, 1.0)]
    conditions = {
        **CONDITIONS,
        "cheetah": Condition("cheetah"),
        "cheetah-a": Condition("cheetah", "rewards", "random", 0.3, 1.0),
    }
    made = robustness_rows(table(rows), conditions)
    assert made.cell("x", "cheetah, change from clean").tolist() == [-4.0]
    assert made.cell("x", "hop, change from clean").tolist() == [-25.0, -45.0]
    assert worst_conditions(table(rows), conditions) == {
        ("hop", "x"): "adversarial actions",
        ("hop", "y"): "random rewards",
        ("cheetah", "x"): "random rewards",
    }


def test_an_unknown_condition_is_refused() -> None:
    with pytest.raises(SpecError, match="hop-b"):
        robustness_rows(table(), {name: CONDITIONS[name] for name in ("hop", "hop-a")})


def test_curves_start_at_the_clean_data_and_hold_the_other_strength() -> None:
    conditions = {
        "c": Condition("hop"),
        "r1s1": Condition("hop", "rewards", "random", 0.1, 1.0),
        "r3s1": Condition("hop", "rewards", "random", 0.3, 1.0),
        "r3s2": Condition("hop", "rewards", "random", 0.3, 2.0),
    }
    rows = pd.DataFrame(
        [("x", name, 0, score) for name, score in (("c", 9.0), ("r1s1", 8.0), ("r3s1", 7.0), ("r3s2", 5.0))],
        columns=["algorithm", "dataset", "seed", "score"],
    )
    by_rate = severity_rows(rows, conditions, "rate")
    assert by_rate[["rate", "score"]].to_numpy().tolist() == [[0.0, 9.0], [0.1, 8.0], [0.3, 7.0]]
    by_scale = severity_rows(rows, conditions, "scale")
    assert by_scale[["scale", "score"]].to_numpy().tolist() == [[0.0, 9.0], [1.0, 7.0], [2.0, 5.0]]
    del conditions["r3s2"]
    assert severity_rows(rows, conditions, "scale").empty
