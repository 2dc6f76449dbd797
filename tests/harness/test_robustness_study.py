"""Transforms in suites, and robustness studies from the suite to the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from offbench.datasets import load_dataset
from offbench.errors import SpecError, UnknownNameError
from offbench.execution import run_suite
from offbench.results import load_results
from offbench.robustness import robustness_study
from offbench.suite import Suite

TINY = {"hidden": [16, 16]}
FLIP = "reward_flip(rate=0.5, seed=3)"


def test_a_suite_applies_transforms_and_names_them(make_suite: Callable[..., Suite], data: dict[str, str]) -> None:
    suite = make_suite(datasets=[{"id": data["cartpole"], "transforms": [FLIP]}, data["cartpole"]])
    changed, plain = [next(r for r in suite.expand() if len(r.dataset.transforms) == n).dataset for n in (1, 0)]
    # Without its seed, which is not what a reader of a table wants to see.
    assert changed.name == f"{plain.name} + reward_flip(rate=0.5)"
    assert (changed.transforms[0]["name"], changed.transforms[0]["seed"]) == ("reward_flip", 3)
    assert changed.fingerprint == load_dataset(data["cartpole"], transforms=[FLIP]).fingerprint != plain.fingerprint
    # What a worker process loads is the same data.
    assert load_dataset(changed.source, **json.loads(json.dumps(changed.options))).fingerprint == changed.fingerprint


def test_mistakes_in_transforms_name_their_place(make_suite: Callable[..., Suite], data: dict[str, str]) -> None:
    for transform, error, words in (
        ("corupt(rate=0.1)", UnknownNameError, "corrupt"),
        ("corrupt(rat=0.1)", SpecError, "rate"),
        ("corrupt(rate=2)", SpecError, "0 to 1"),
        ({"corrupt": {}, "reward_flip": {}}, SpecError, "one key"),
    ):
        with pytest.raises(error, match=r"datasets\[0\]") as caught:
            make_suite(datasets=[{"id": data["cartpole"], "transforms": [transform]}]).expand()
        assert words in str(caught.value)


def test_one_name_for_two_datasets_is_refused(make_suite: Callable[..., Suite], data: dict[str, str]) -> None:
    entries = [{"id": data["cartpole"], "transforms": [f"reward_flip(rate=0.5, seed={seed})"]} for seed in (0, 1)]
    with pytest.raises(SpecError, match="same name"):
        make_suite(datasets=entries).expand()


def test_seed_run_draws_the_data_anew_for_every_seed(
    make_suite: Callable[..., Suite], data: dict[str, str], tmp_path: Path
) -> None:
    entry = {"id": data["cartpole"], "label": "flipped", "transforms": ["reward_flip(rate=0.5, seed=run)"]}
    suite = make_suite(datasets=[entry], seeds=3)
    runs = suite.expand()
    assert [run.dataset.transforms[0]["seed"] for run in runs] == [0, 1, 2]
    assert len({run.dataset.fingerprint for run in runs}) == 3
    summary = run_suite(suite, tmp_path, workers=0)
    assert len(summary.finished) == 3
    # Three settings of one label, none of which replaces another.
    assert sorted(load_results(tmp_path)["seed"].unique()) == [0, 1, 2]
    assert run_suite(suite, tmp_path, workers=0).already_done == 3


def test_settings_per_dataset(make_suite: Callable[..., Suite], data: dict[str, str]) -> None:
    flips = {"a": FLIP, "b": "reward_flip"}
    datasets = [{"id": data["cartpole"], "label": name, "transforms": [flip]} for name, flip in flips.items()]
    narrow, wide = ({"name": "bc", "config": {"hidden": size}} for size in ([8], [16]))
    suite = make_suite(datasets=datasets, algorithms=[{**narrow, "datasets": ["a*"]}, {**wide, "datasets": ["b"]}])
    assert {run.dataset.name: run.config["hidden"] for run in suite.expand()} == {"a": [8], "b": [16]}
    overlapping = make_suite(datasets=datasets, algorithms=[narrow, {**wide, "datasets": ["b"]}])
    with pytest.raises(SpecError, match="same name"):
        overlapping.expand()


def test_the_study_crosses_everything_and_takes_settings_per_attack(data: dict[str, str]) -> None:
    study = robustness_study(
        ["bc", "riql"],
        [{"id": data["pendulum"], "label": "hopper-like"}],
        targets=["rewards", "observations+actions"],
        rates=[0.1, 0.3],
        seeds=2,
    )
    assert len(study.conditions) == 1 + 2 * 2 * 2
    presets = {
        name: entry.preset for entry in study.suite.algorithms if entry.name == "riql" for name in entry.datasets
    }
    assert presets["hopper-like"] is None
    assert presets["hopper-like, random rewards (rate 0.1, scale 1)"] == "random-rewards-hopper"
    assert presets["hopper-like, adversarial observations+actions (rate 0.3, scale 1)"] == (
        "adversarial-observations-hopper"
    )
    assert sum(entry.name == "bc" for entry in study.suite.algorithms) == 1
    for wrong in ({"targets": ["reward"]}, {"modes": ["worst"]}, {"rates": [0.0]}, {"scales": [-1.0]}):
        with pytest.raises(SpecError):
            robustness_study(["bc"], [data["pendulum"]], **wrong)  # type: ignore[arg-type]


def test_a_study_is_trained_and_reported(data: dict[str, str], tmp_path: Path) -> None:
    study = robustness_study(
        [{"name": name, "config": TINY} for name in ("bc", "td3_bc")],
        [{"id": data["pendulum"], "label": "pendulum"}],
        targets=["rewards", "actions"],
        modes=["random"],
        rates=[0.2, 0.5],
        seeds=2,
        protocol={"updates": 12, "batch_size": 8, "evaluation_episodes": 1, "final_episodes": 2, "evaluate_every": 6},
    )
    summary = run_suite(study.suite, tmp_path, workers=0)
    assert not summary.failed
    written = study.report(tmp_path, summary)
    assert written is not None
    files, rows = written
    assert rows.rows[0][0].text == "clean"
    named = {row[0].text for row in rows.rows}
    assert {"average of corruptions", "worst corruption", "change from clean"} < named
    assert "random actions (rate 0.2, scale 1)" in named
    # The rest of the report spans the corruptions only.
    assert "pendulum" not in {row[0].text for row in files.dataset_table.rows}
    assert files.figures["robustness"]["png"].stat().st_size > 10_000
    assert "robustness_scale" not in files.figures
    assert "change from clean" in files.html.read_text(encoding="utf-8")
    assert "change from clean" in files.tables["robustness"]["csv"].read_text(encoding="utf-8")
