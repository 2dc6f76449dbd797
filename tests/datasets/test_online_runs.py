"""Online DQN runs: datasets of several creation runs, their caching, and behaviours that are trained when needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offbench.datasets import behaviour, list_datasets, load_dataset, online_runs, recipe_table, recipes
from offbench.datasets.environments import make_environment
from offbench.datasets.online_runs import online_run, run_settings
from offbench.datasets.registry import locate
from offbench.datasets.training_plans import PLANS, DQNSettings, Plan, train
from offbench.errors import SpecError

STEPS = 450  # two evaluations at every 200th step, and the last


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFFBENCH_CACHE", str(tmp_path))
    return tmp_path


def test_the_buffer_and_the_evaluations_are_the_paper_s() -> None:
    small, large = run_settings("CartPole-v1", 100_000), run_settings("offbench/MinAtar-Breakout-v0", 2_000_000)
    assert (small.buffer, small.discount, small.steps // small.every) == (50_000, 0.95, 500)
    assert (large.buffer, large.discount, large.steps // large.every) == (500_000, 0.99, 500)
    for settings in (small, large):
        assert (settings.batch, settings.rate, settings.copy_every, settings.hidden) == (32, 1e-4, 100, (256,) * 3)
        assert (settings.epsilon, settings.explore_updates) == (0.01, 1_000)


def test_schemes_of_a_run_come_from_its_steps_and_its_last_policy(cache: Path) -> None:
    run = online_run("CartPole-v1", 142, STEPS)
    # Evaluating meanwhile changes nothing: the same actions as training alone.
    plan = replace(PLANS["cartpole"], settings=run_settings("CartPole-v1", STEPS))
    alone = list(train(plan, 142))
    np.testing.assert_array_equal(run.log().actions, [step.action for step in alone[1:]])
    assert alone[-1].snapshot is not None
    assert run.evaluations[:, 0].tolist() == [200, 400, STEPS]

    replay = load_dataset("cartpole/replay", run=142, steps=STEPS)
    assert len(replay) == STEPS
    np.testing.assert_array_equal(replay.actions, run.log().actions)
    assert replay.name == "cartpole/replay-run142"
    assert replay.provenance.details["training"]["seed"] == 142

    space = make_environment("CartPole-v1").action_space
    last = behaviour.build_policy(alone[-1].snapshot, "selu", space, stochastic=False)
    expert = load_dataset("cartpole/expert", run=142, steps=STEPS)
    acted = last.act(expert.observations[expert.frame_index], np.random.default_rng(0))
    # Equal values of two actions may be told apart differently in batches of other sizes: hence not quite 1.
    assert (acted == expert.actions).mean() > 0.99
    noisy = load_dataset("cartpole/noisy", run=142, steps=STEPS)
    greedy = last.act(noisy.observations[noisy.frame_index], np.random.default_rng(0)) == noisy.actions
    assert 0.84 < greedy.mean() < 0.96  # 0.9 expected: half of the 20 % random actions are the greedy one
    mixed, random = (load_dataset(f"cartpole/{scheme}", run=142, steps=STEPS) for scheme in ("mixed", "random"))
    share = round(0.8 * STEPS)
    np.testing.assert_array_equal(mixed.actions[:share], random.actions[:share])

    reference = replay.reference
    assert reference is not None
    assert reference.maximum == max(mean for _, mean in run.record["evaluations"])
    assert reference.minimum == run.record["random"]["mean"]
    assert load_dataset("cartpole/random", run=143, steps=STEPS).fingerprint != random.fingerprint


def test_a_run_is_trained_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    first = load_dataset("cartpole/expert", run=7, steps=300, progress=lambda done, total: seen.append((done, total)))
    assert (200, 300) in seen  # of the training; then the roll-out reports

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(online_runs, "train", refuse)
    options = {"run": 7, "steps": 300}
    assert locate("cartpole/expert", options) is not None
    assert locate("cartpole/noisy", options) is None
    assert load_dataset("cartpole/expert", **options).fingerprint == first.fingerprint
    assert len(load_dataset("cartpole/noisy", size=50, **options)) >= 50
    assert not list((cache / "runs").glob(".training-*"))


def test_unusable_runs_are_explained() -> None:
    with pytest.raises(SpecError, match="`run`"):
        load_dataset("cartpole/replay", steps=1000)
    with pytest.raises(SpecError, match="continuous"):
        load_dataset("hopper/expert", run=42)
    with pytest.raises(SpecError, match="no 2000 transitions"):
        load_dataset("cartpole/replay", run=42, steps=1000, size=2000)
    with pytest.raises(SpecError, match="at least 200"):
        load_dataset("cartpole/replay", run=42, steps=10)
    with pytest.raises(SpecError, match="run -1"):
        load_dataset("cartpole/replay", run=-1)


@pytest.fixture
def untrained(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A family with a plan and without behaviours."""
    family = "cartpole-short"
    before = dict(recipe_table.RECIPES)
    settings = DQNSettings(1200, 0.95, every=300, hidden=(32, 32), rate=1e-3)
    monkeypatch.setitem(PLANS, family, Plan("CartPole-v0", settings, select_episodes=2))
    monkeypatch.setitem(recipe_table.FAMILIES, family, ("CartPole-v0", 200))
    behaviour.behaviour_records.cache_clear()  # another cache folder
    for recipe in recipe_table._schemes(family):
        monkeypatch.setitem(recipe_table.UNTRAINED, recipe.id, recipe)
    yield family
    recipe_table.RECIPES.clear()
    recipe_table.RECIPES.update(before)
    monkeypatch.undo()
    behaviour.behaviour_records.cache_clear()
    behaviour.load_tensors.cache_clear()


def test_building_trains_the_behaviours_of_a_family_that_has_none(
    untrained: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("offbench.datasets.train_behaviours.EPISODES", 3)
    listed = {entry.id: entry for entry in list_datasets()}
    assert "trains" in listed[f"{untrained}/replay"].description
    assert locate(f"{untrained}/replay") is None
    seen: list[tuple[int, int]] = []
    path = recipes.build(f"{untrained}/expert", size=150, progress=lambda done, total: seen.append((done, total)))
    assert path.is_dir()
    assert (cache / "behaviours" / f"{untrained}.log.safetensors").exists()
    assert capsys.readouterr().err == ""  # progress is the caller's business
    replay = load_dataset(f"{untrained}/replay")
    assert len(replay) == 200
    assert replay.reference is not None
    assert recipes.recipe_hash(recipes.get_recipe(f"{untrained}/expert"))
