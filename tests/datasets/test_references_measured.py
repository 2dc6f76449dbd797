"""Measured references: kept with provenance, offered only in their own environment, and checked against known ones."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from offbench.datasets import Dataset, Reference, find_entry, load_dataset, write_minari
from offbench.datasets.references_measured import (
    Measurement,
    measured_reference,
    measurements,
    references_file,
    store,
)
from offbench.errors import DatasetError, IncompatibleError, SpecError, StorageError, UnknownNameError
from offbench.reference_scores import measure_behaviour, measure_policy, measure_random

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "mujoco_v4" / "hopper-random.hdf5"
LOW = Measurement("Pendulum-v1", "random actions", -1200.0, 30.0, 100, 0, 200, {"gymnasium": "1.0"}, "2026-01-01")
HIGH = replace(LOW, policy="our expert", mean=-150.0, std=90.0, details={"run": "abc"})


def logs(tmp_path: Path, name: str, environment: str, reference: Reference | None = None) -> str:
    """A Minari dataset of four steps that names an environment."""
    data = Dataset.from_arrays(
        np.zeros((4, 3)),
        np.zeros((4, 1)),
        np.full(4, -100.0),
        [0] * 4,
        [0, 0, 0, 1],
        action_space=Box(-2, 2, (1,)),
        environment=environment,
        reference=reference,
    )
    write_minari(data, tmp_path / "minari", name)
    return f"minari:{name}"


def test_what_is_stored_comes_back() -> None:
    assert measurements() == {}
    store(LOW, "minimum")
    path = store(HIGH, "maximum")
    assert path == references_file()
    assert measurements() == {"Pendulum-v1": {"minimum": LOW, "maximum": HIGH}}
    newer = replace(LOW, mean=-1190.0)
    store(newer, "minimum")
    assert measurements()["Pendulum-v1"] == {"minimum": newer, "maximum": HIGH}
    assert LOW.std_error == 3.0
    assert json.loads(path.read_text())["environments"]["Pendulum-v1"]["maximum"]["details"] == {"run": "abc"}


def test_a_reference_needs_both_ends_in_order_and_with_one_limit() -> None:
    assert measured_reference("Pendulum-v1") is None
    store(LOW, "minimum")
    assert measured_reference("Pendulum-v1") is None
    store(replace(HIGH, mean=-1300.0), "maximum")
    assert measured_reference("Pendulum-v1") is None
    store(replace(HIGH, horizon=400), "maximum")
    assert measured_reference("Pendulum-v1") is None
    store(HIGH, "maximum")
    reference = measured_reference("Pendulum-v1")
    assert reference is not None
    assert (reference.minimum, reference.maximum, reference.horizon) == (-1200.0, -150.0, 200)
    for part in ("random actions", "our expert", "± 3", "100 episodes", "gymnasium 1.0", "2026-01-01"):
        assert part in reference.source
    assert measured_reference("Pendulum-v0") is None
    assert measured_reference(None) is None
    with pytest.raises(IncompatibleError):
        reference.normalize([0.0], environment="Pendulum-v0")


def test_datasets_without_a_usable_reference_get_the_measured_one(tmp_path: Path) -> None:
    without = logs(tmp_path, "lab/without-v0", "Pendulum-v1")
    elsewhere = logs(tmp_path, "lab/elsewhere-v0", "Pendulum-v1", Reference(0, 1, "another version", "Pendulum-v0"))
    published = logs(tmp_path, "lab/published-v0", "Pendulum-v1", Reference(0, 1, "published", "Pendulum-v1"))
    version = logs(tmp_path, "lab/version-v0", "Pendulum-v0")
    assert load_dataset(without).reference is None
    store(LOW, "minimum")
    store(HIGH, "maximum")
    expected = measured_reference("Pendulum-v1")
    assert load_dataset(without).reference == expected
    assert load_dataset(elsewhere).reference == expected
    assert load_dataset(published).reference == Reference(0, 1, "published", "Pendulum-v1")
    assert load_dataset(version).reference is None, "never silently in another version"
    given = load_dataset(without, reference={"minimum": 1, "maximum": 2})
    assert given.reference is not None
    assert given.reference.source == "given by the user"
    assert load_dataset(without).fingerprint == load_dataset(published).fingerprint
    hopper = replace(LOW, environment="Hopper-v5", horizon=1000, mean=17.0)
    store(hopper, "minimum")
    store(replace(hopper, mean=3000.0), "maximum")
    entry, other = find_entry("minari:mujoco/hopper/expert-v0"), find_entry("hopper-medium-v2")
    assert entry is not None
    assert other is not None
    assert entry.reference == measured_reference("Hopper-v5")
    assert other.reference is not None
    assert other.reference.maximum == 3234.3


@pytest.mark.parametrize("text", ["{", '{"format": 2, "environments": {}}', '{"format": 1}', "[]"])
def test_damaged_files_are_told(text: str) -> None:
    references_file().parent.mkdir(parents=True)
    references_file().write_text(text)
    with pytest.raises(DatasetError, match="cannot read the measured references"):
        measurements()


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OFFBENCH_REFERENCES", str(tmp_path / "file" / "references.json"))
    with pytest.raises(StorageError, match="OFFBENCH_REFERENCES"):
        store(LOW, "minimum")


def _store_one(number: int) -> None:
    store(replace(LOW, environment=f"Env-v{number}"), "minimum")


def test_processes_that_store_at_once_lose_nothing() -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        pool.map(_store_one, range(8), chunksize=1)
    assert set(measurements()) == {f"Env-v{number}" for number in range(8)}


# --- measuring ---


def test_random_cartpole_agrees_with_playing_it_here() -> None:
    """Another loop over the same task: uniform actions drawn by NumPy instead of the space's own generator."""
    seen: list[int] = []
    measured = measure_random("CartPole-v1", episodes=300, seed=3, progress=lambda done, _: seen.append(done))
    assert seen == list(range(1, 301))
    env, rng, returns = gymnasium.make("CartPole-v1"), np.random.default_rng(11), []
    for episode in range(300):
        env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(int(rng.integers(2)))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    error = np.hypot(measured.std_error, np.std(returns) / 300**0.5)
    assert abs(measured.mean - np.mean(returns)) < 4 * error
    assert (measured.episodes, measured.horizon, measured.seed) == (300, 500, 3)
    assert {"gymnasium", "numpy", "offbench"} <= measured.versions.keys()


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, again, other = (measure_random("Pendulum-v1", episodes=5, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.mean != other.mean


def test_random_hopper_agrees_with_real_data() -> None:
    """The data were recorded in Hopper-v4 by another program."""
    pytest.importorskip("mujoco")
    if not REAL.is_file():
        pytest.skip("real datasets are not on this machine")
    measured = measure_random("Hopper-v4", episodes=300)
    returns = load_dataset(REAL).episode_returns
    error = np.hypot(measured.std_error, returns.std() / len(returns) ** 0.5)
    assert abs(measured.mean - returns.mean()) < 4 * error


def test_the_shipped_expert_reaches_its_recorded_return() -> None:
    measured = measure_behaviour("CartPole-v1", "expert", episodes=10)
    assert (measured.mean, measured.std) == (500.0, 0.0)
    with pytest.raises(UnknownNameError, match="expert"):
        measure_behaviour("CartPole-v1", "expret", episodes=2)


def test_wrong_requests() -> None:
    with pytest.raises(SpecError, match="standard error"):
        measure_random("CartPole-v1", episodes=1)
    with pytest.raises(SpecError, match="cannot make the environment 'CartPole-v99'"):
        measure_random("CartPole-v99")


class Unbounded(gymnasium.Env[np.ndarray, np.ndarray]):
    """An environment whose actions have no bounds."""

    observation_space = Box(-1, 1, (1,))
    action_space = Box(-np.inf, np.inf, (1,))


def test_unbounded_actions_have_no_random_policy() -> None:
    gymnasium.register("Unbounded-v0", Unbounded)
    try:
        with pytest.raises(IncompatibleError, match="no bounds"):
            measure_random("Unbounded-v0")
    finally:
        del gymnasium.registry["Unbounded-v0"]


def test_an_exported_policy_is_measured(tmp_path: Path) -> None:
    import offbench

    data = {"id": "pendulum/random", "options": {"size": 1000}}
    offbench.train("bc", data, updates=20, final_episodes=1, root=tmp_path / "runs")
    folder = next((tmp_path / "runs").rglob("policy.json")).parent
    measured = measure_policy("Pendulum-v1", folder, episodes=4)
    assert "bc trained on pendulum/random" in measured.policy
    assert measured.details["dataset"]["fingerprint"] == load_dataset("pendulum/random", size=1000).fingerprint
    assert -1900 < measured.mean < 0
    with pytest.raises(IncompatibleError, match="does not fit CartPole-v1"):
        measure_policy("CartPole-v1", folder, episodes=4)
