"""load_scores: every kind of source gives the same table, and faults are told with their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from offbench.analysis import RETURN, SCORE, ScoreError, load_scores
from offbench.analysis.score_checks import row_ranges
from offbench.analysis.score_logs import parse_corl_run, read_d3rlpy_logs, read_wandb_exports
from offbench.datasets.records import Reference
from offbench.errors import IncompatibleError, UnknownNameError

SCORES = Path(__file__).parents[2] / ".." / "shared" / "scores"


def tidy(**changes: Any) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "algo": ["bc"] * 4 + ["iql"] * 4,
            "env": ["hopper-medium-v2", "hopper-medium-v2", "pen-human-v1", "pen-human-v1"] * 2,
            "run_seed": [0, 1] * 4,
            "final": [40.0, 44.0, 60.0, 61.0, 55.0, 56.0, 70.0, 72.0],
        }
    )
    return frame.assign(**changes)


NAMES = {"algorithm": "algo", "dataset": "env", "seed": "run_seed", "score": "final"}


def codes(table: Any) -> set[str]:
    return {notice.code for notice in table.notices}


def test_columns_are_named_by_the_user_in_frames_csv_and_parquet(tmp_path: Path) -> None:
    tidy().to_csv(tmp_path / "s.csv", index=False)
    tidy().to_parquet(tmp_path / "s.parquet")
    for source in (tidy(), tmp_path / "s.csv", str(tmp_path / "s.parquet")):
        table = load_scores(source, columns=NAMES)
        assert table.cell("iql", "pen-human-v1").tolist() == [70, 72]
        assert set(table.rows["unit"]) == {SCORE}
    with pytest.raises(ScoreError, match=r"lacks the column.*'nope'"):
        load_scores(tidy(), columns={**NAMES, "score": "nope"})
    with pytest.raises(UnknownNameError, match="algorithm"):
        load_scores(tidy(), columns={"algoritm": "algo"})
    with pytest.raises(ScoreError, match="no file"):
        load_scores(tmp_path / "absent.csv")


def test_a_renamed_column_replaces_one_of_the_same_name() -> None:
    frame = tidy(score=-1.0, seed=["a"] * 8)
    table = load_scores(frame, columns=NAMES)
    assert table.cell("bc", "hopper-medium-v2").tolist() == [40, 44]


def test_matrices_as_rliable_takes_them() -> None:
    x = np.arange(6.0).reshape(3, 2) + 50
    y = np.arange(4.0).reshape(2, 2) + 60
    y[1, 0] = np.nan
    table = load_scores({"a": x, "b": y}, datasets=["u", "v"])
    assert table.cell("a", "v").tolist() == [51, 53, 55]
    assert table.cell("b", "u").tolist() == [60]
    assert "ragged" in codes(table)
    with pytest.raises(ScoreError, match="transpose"):
        load_scores({"a": x.T}, datasets=["u", "v"])
    curves = load_scores({"a": np.stack([x, x + 10], axis=2)}, datasets=["u", "v"])
    assert curves.cell("a", "u").tolist() == [60, 62, 64]
    assert curves.curves is not None
    assert len(curves.curves) == 12


def test_episodes_are_averaged_before_evaluations_are_reduced() -> None:
    rows = [
        ("x", "d", seed, step, episode, 10.0 * step + seed + episode)
        for seed in (0, 1)
        for step in (1, 2, 3)
        for episode in (0, 1)
    ]
    frame = pd.DataFrame(rows, columns=["algorithm", "dataset", "seed", "step", "episode", "score"])
    assert load_scores(frame).cell("x", "d").tolist() == [30.5, 31.5]
    assert load_scores(frame, protocol="last-k", last_k=2).cell("x", "d").tolist() == [25.5, 26.5]
    assert "best" in codes(load_scores(frame, protocol="best"))
    only_episodes = frame[frame["step"] == 3].drop(columns="step")
    assert load_scores(only_episodes).cell("x", "d").tolist() == [30.5, 31.5]


def test_missing_scores_are_an_error_or_left_out_by_row() -> None:
    frame = tidy()
    frame.loc[[2, 3], "final"] = np.nan
    with pytest.raises(ScoreError, match="row 2: algorithm bc"):
        load_scores(frame, columns=NAMES)
    table = load_scores(frame, columns=NAMES, missing="leave-out")
    assert table.cell("bc", "pen-human-v1").size == 0
    assert any("rows 2-3" in n.text for n in table.notices if n.code == "not-finite")
    with pytest.raises(ScoreError, match=r"rows repeat.*\n.*row 0.*row 8"):
        load_scores(pd.concat([tidy(), tidy().head(1)]), columns=NAMES)


def test_scales_and_episodes_are_told_with_their_rows() -> None:
    frame = tidy()
    frame.loc[4:, "final"] /= 100
    table = load_scores(frame, columns=NAMES)
    assert any("rows 4-7" in n.text for n in table.notices if n.code == "mixed-scales")
    small = tidy(final=tidy()["final"] / 100)
    assert "fraction-scale" in codes(load_scores(small, columns=NAMES))
    scaled = load_scores(small, columns=NAMES, scale=100)
    assert "fraction-scale" not in codes(scaled)
    assert scaled.cell("bc", "hopper-medium-v2").tolist() == pytest.approx([40, 44])
    many = pd.DataFrame({"algorithm": "a", "dataset": "d", "seed": range(60), "score": np.linspace(0, 90, 60)})
    assert any("rows 0-59" in n.text for n in load_scores(many).notices if n.code == "episodes-as-seeds")


def test_normalization_by_the_registry_refuses_other_versions() -> None:
    columns = {**NAMES, "return": "final"}
    del columns["score"]
    table = load_scores(tidy(), columns=columns, normalize="registry")
    low, high = -20.272305, 3234.3  # D4RL's infos.py, hopper
    assert table.cell("bc", "hopper-medium-v2")[0] == pytest.approx(100 * (40 - low) / (high - low))
    assert set(table.rows["unit"]) == {SCORE}
    assert set(load_scores(tidy(), columns=columns).rows["unit"]) == {RETURN}
    with pytest.raises(ScoreError, match="hopper-medium-v9"):
        load_scores(tidy(env="hopper-medium-v9"), columns=columns, normalize="registry")
    wrong = tidy(env="hopper-medium-v2", run_seed=range(8), gym=["Hopper-v4"] * 5 + ["Hopper-v5"] * 3)
    with pytest.raises(IncompatibleError, match=r"rows 5-7.*Hopper-v5"):
        load_scores(wrong, columns={**columns, "environment": "gym"}, normalize="registry")


def test_normalization_by_given_references() -> None:
    columns = {"algorithm": "algo", "dataset": "env", "seed": "run_seed", "return": "final"}
    given = {"hopper-medium-v2": (40.0, 60.0), "pen-human-v1": Reference(0.0, 100.0, "test")}
    table = load_scores(tidy(), columns=columns, normalize=given)
    assert table.cell("iql", "hopper-medium-v2").tolist() == pytest.approx([75, 80])
    with pytest.raises(ScoreError, match="pen-human-v1"):
        load_scores(tidy(), columns=columns, normalize={"hopper-medium-v2": (0.0, 1.0)})


def test_domains_ride_along() -> None:
    table = load_scores(tidy(group=["easy", "easy", "hard", "hard"] * 2), columns={**NAMES, "domain": "group"})
    assert dict(zip(table.rows["dataset"], table.rows["domain"], strict=True))["pen-human-v1"] == "hard"


def write_d3rlpy(root: Path, name: str, values: list[float]) -> None:
    (root / name).mkdir()
    lines = [f"{i + 1},{(i + 1) * 1000},{value}" for i, value in enumerate(values)]
    (root / name / "environment.csv").write_text("\n".join(lines) + "\n")


def test_d3rlpy_folders(tmp_path: Path) -> None:
    write_d3rlpy(tmp_path, "TD3PlusBC_hopper-medium-v0_1_20220504124857", [100.0, 300.0])
    write_d3rlpy(tmp_path, "TD3PlusBC_hopper-medium-v0_2_20220504124858", [100.0, 500.0])
    table = load_scores(tmp_path)
    assert table.cell("TD3PlusBC", "hopper-medium-v0").tolist() == [300, 500]
    assert set(table.rows["unit"]) == {RETURN}
    scored = load_scores(tmp_path, normalize="registry")
    assert scored.cell("TD3PlusBC", "hopper-medium-v0")[0] == pytest.approx(100 * 320.272305 / 3254.572305)
    write_d3rlpy(tmp_path, "TD3PlusBC_hopper-medium-v0_2_20230504124858", [1.0])
    with pytest.raises(ScoreError, match="share one algorithm"):
        read_d3rlpy_logs(tmp_path)
    write_d3rlpy(tmp_path, "my_experiment", [1.0])
    with pytest.raises(ScoreError, match="my_experiment"):
        read_d3rlpy_logs(tmp_path)
    with pytest.raises(ScoreError, match=r"no loss\.csv"):
        read_d3rlpy_logs(tmp_path, metric="loss")


def test_wandb_exports_of_corl(tmp_path: Path) -> None:
    runs = ["TD3_BC-hopper-medium-v2-0a1b2c3d", "SAC-N-halfcheetah-medium-expert-v2-ffffffff"]
    chart = pd.DataFrame({"Step": [0, 5000, 10000]})
    for k, run in enumerate(runs):
        chart[f"{run} - d4rl_normalized_score"] = [1.0, np.nan, 40.0 + k]
        chart[f"{run} - d4rl_normalized_score__MIN"] = 0.0
    chart.to_csv(tmp_path / "chart.csv", index=False)
    table = load_scores(tmp_path / "chart.csv", layout="wandb")
    assert table.algorithms == ["TD3_BC", "SAC-N"]
    assert table.cell("SAC-N", "halfcheetah-medium-expert-v2").tolist() == [41]
    assert table.rows["seed"].tolist() == ["0a1b2c3d", "ffffffff"]
    (tmp_path / "h").mkdir()
    pd.DataFrame({"_step": [0, 1], "d4rl_normalized_score": [3.0, 9.0]}).to_csv(tmp_path / "h" / f"{runs[0]}.csv")
    assert read_wandb_exports(tmp_path / "h")["score"].tolist() == [3, 9]
    with pytest.raises(ScoreError, match="no column of 'loss'"):
        read_wandb_exports(tmp_path / "h", key="loss")
    with pytest.raises(ScoreError, match="does not say"):
        parse_corl_run("lively-forest-12")


def test_row_ranges() -> None:
    assert row_ranges([3]) == "row 3"
    assert row_ranges([9, 3, 4, 5]) == "rows 3-5, 9"
    assert row_ranges(range(0, 20, 2)) == "rows 0, 2, 4, 6 and 6 more"


@pytest.mark.skipif(not SCORES.exists(), reason="reference scores are not beside the repository")
def test_published_tables_follow_from_seed_level_rows() -> None:
    """d3rlpy's own table, to its decimal: means and population deviations of final and best scores."""
    published = pd.read_csv(SCORES / "d3rlpy_d4rl_published.csv").set_index(["algorithm", "dataset"])
    for column, name, half in (
        ("score", "final", 0.0501),
        ("best_score", "best", 0.0501),
        ("raw_return", "final_raw", 0.11),
    ):
        # Half a unit of the last printed place; raw returns above 10,000 are recorded to 0.1 only.
        table = load_scores(SCORES / "d3rlpy_d4rl_final.csv", columns={"score": column}, unit="score")
        assert len(published) == 149
        for (algorithm, dataset), row in published.iterrows():
            scores = table.cell(algorithm, dataset)
            assert scores.mean() == pytest.approx(row[f"{name}_mean"], abs=half), (algorithm, dataset, name)
            assert scores.std() == pytest.approx(row[f"{name}_std"], abs=half), (algorithm, dataset, name)


@pytest.mark.skipif(not SCORES.exists(), reason="reference scores are not beside the repository")
def test_published_fine_tuning_table_follows_from_curves() -> None:
    """d3rlpy's table of scores before and after online fine-tuning: the last evaluation of each phase."""
    published = pd.read_csv(SCORES / "d3rlpy_antmaze_published.csv").set_index(["algorithm", "dataset"])
    curves = pd.read_csv(SCORES / "d3rlpy_antmaze_finetune.csv")
    for phase, name in (("pretraining", "pre"), ("finetuning", "fine")):
        table = load_scores(curves[curves["phase"] == phase])
        for (algorithm, dataset), row in published.iterrows():
            scores = table.cell(algorithm, dataset)
            assert scores.size in (5, 10)
            assert scores.mean() == pytest.approx(row[f"{name}_mean"], abs=0.0501), (algorithm, dataset)
            assert scores.std() == pytest.approx(row[f"{name}_std"], abs=0.0501), (algorithm, dataset)
