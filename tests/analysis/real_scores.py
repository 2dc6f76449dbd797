"""Seed-level scores of published work, for tests that compare with expected values; absent outside development."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from offbench.analysis import ScoreTable

SCORES = Path(__file__).parents[2] / ".." / "shared" / "scores"
needs_scores = pytest.mark.skipif(not SCORES.exists(), reason="reference scores are not beside the repository")

SETS = {
    "d3rlpy_d4rl_v0_final": ("d3rlpy_d4rl_final.csv", r"^(?!ant).*-v0$"),
    "rebrac_locomotion": ("rebrac_d4rl_final.csv", r"^(hopper|halfcheetah|walker2d).*-v2$"),
}


def expected(name: str) -> pd.DataFrame:
    return pd.read_csv(SCORES / name)


def real_table(name: str, algorithms: list[str] | None = None, scale: float = 1.0) -> ScoreTable:
    """Scores of one of `SETS`, in the order in which the reference software was given them."""
    file, chosen = SETS[name]
    frame = pd.read_csv(SCORES / file)
    frame = frame[frame["dataset"].str.match(chosen)].sort_values(["dataset", "seed"], kind="stable")
    frame = frame.assign(score=frame["score"] / scale)
    if algorithms is not None:
        frame = pd.concat([frame[frame["algorithm"] == a] for a in algorithms])
    return ScoreTable.from_frame(frame)
