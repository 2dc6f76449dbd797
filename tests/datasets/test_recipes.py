"""Built-in datasets: every recipe builds, the schemes are what they say, builds are deterministic and atomic."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from scipy import stats

from offbench.datasets import Dataset, behaviour, environments, list_datasets, load_dataset, recipes
from offbench.datasets.behaviour import Categorical, make_policy
from offbench.datasets.environments import make_environment
from offbench.datasets.recipes import RECIPES, Part, Recipe
from offbench.datasets.rollout import roll_out
from offbench.datasets.training_log import DivergedError, load_log
from offbench.errors import MissingExtraError, SpecError, StorageError, UnknownNameError

SIMULATORS = {"mujoco": "mujoco", "minigrid": "minigrid", "minatar": "minatar", "robotics": "gymnasium_robotics"}
DISCRETE = sorted({r.environment for r in RECIPES.values() if r.id.endswith("/noisy") and "Maze" not in r.environment})
REPLAYS = sorted(name for name, recipe in RECIPES.items() if recipe.parts[0].behaviour == "training")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def needs(environment: str) -> None:
    """Skip where the simulator of `environment` is not installed."""
    for package in environments.packages(environment):
        if package != "gymnasium":
            pytest.importorskip(SIMULATORS.get(package, package).replace("-", "_"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFFBENCH_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe of two parts that builds in a moment, registered for the test."""
    recipe = Recipe("cartpole/tiny", "CartPole-v1", 300, (Part("random", 0.5), Part("expert", 0.5)), "for tests")
    monkeypatch.setitem(RECIPES, recipe.id, recipe)
    return recipe


# --- every recipe ---


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_builds(name: str, cache: Path) -> None:
    recipe = recipes.get_recipe(name, size=400)
    needs(recipe.environment)
    dataset = load_dataset(name, size=400)
    assert dataset.name == name
    assert dataset.environment == recipe.environment
    assert dataset.provenance.source == f"recipe:{name}"
    horizon = gymnasium.spec(recipe.environment).max_episode_steps
    assert dataset.reference is not None
    assert dataset.reference.horizon == horizon
    assert dataset.last_known.all()
    assert dataset.episode_lengths.max() <= horizon
    ends_by_time = dataset.truncated[dataset.is_last]
    assert (dataset.episode_lengths[ends_by_time] == horizon).all()
    if name in REPLAYS:
        assert dataset.num_transitions == 400  # a log is cut where asked
    else:
        assert dataset.episode_complete.all()
        parts = len(recipe.parts)
        assert 400 <= dataset.num_transitions < 400 + parts * horizon
    env = make_environment(recipe.environment)
    assert dataset.observation_space.shape == env.observation_space.shape
    assert dataset.action_space == env.action_space
    env.close()
    if recipe.environment in ("CartPole-v1", "Pendulum-v1") or name in REPLAYS or name.endswith("/random"):
        assert dataset.fingerprint == recipes.generate(recipe).fingerprint


@pytest.mark.parametrize("environment", sorted(behaviour.behaviour_records()))
def test_references_are_what_the_policies_reach(environment: str) -> None:
    needs(environment)
    record = behaviour.behaviour_record(environment)
    env = make_environment(environment)
    count = 8
    for role, statistics in (
        ("random", record["random"]),
        ("expert", record["snapshots"][record["roles"]["expert"]]["deterministic"]),
    ):
        policy = make_policy(environment, role, env.action_space, stochastic=False)
        episodes = itertools.islice(roll_out(environment, policy, [11]), count)
        mean = np.mean([episode.rewards.sum() for episode in episodes])
        # Returns are skewed, so 5 standard errors of a mean of eight; and 1 % for an expert without any spread.
        allowed = 5 * statistics["std"] / np.sqrt(count) + 0.01 * (1 + abs(statistics["mean"]))
        assert abs(mean - statistics["mean"]) <= allowed, role
        error = statistics["std"] / np.sqrt(statistics["episodes"] - 1)
        assert statistics["standard_error"] == pytest.approx(error, abs=2e-3)
    env.close()


def test_listing_shows_the_built_in_datasets() -> None:
    listed = {entry.id: entry for entry in list_datasets()}
    assert set(RECIPES) <= set(listed)
    assert listed["cartpole/replay"].environment == "CartPole-v1"


# --- schemes ---


def _policy(environment: str, space: spaces.Space) -> Categorical:
    policy = make_policy(environment, "expert", space, stochastic=False)
    assert isinstance(policy, Categorical)
    return policy


def _greedy(dataset: Dataset, start: int = 0) -> np.ndarray:
    """Whether each action from `start` on is the expert's."""
    policy = _policy(str(dataset.environment), dataset.action_space)
    observations = dataset.observations[dataset.frame_index[start:]]
    return policy.act(observations, rng()) == dataset.actions[start:]


@pytest.mark.parametrize("environment", DISCRETE)
def test_five_schemes(environment: str) -> None:
    needs(environment)
    family = next(recipe.id for recipe in RECIPES.values() if recipe.environment == environment).split("/")[0]
    size = 3000
    made = {
        scheme: recipes.generate(recipes.get_recipe(f"{family}/{scheme}", size=size))
        for scheme in ("random", "expert", "noisy", "mixed")
    }
    actions = int(made["random"].action_space.n)

    counts = np.bincount(made["random"].actions, minlength=actions)
    assert stats.chisquare(counts).pvalue > 1e-4
    # Equal values of two actions may be told apart differently in batches of other sizes: hence not quite 1.
    assert _greedy(made["expert"]).mean() > 0.998

    # A random action is the greedy one by chance in one of n cases.
    off = 0.2 * (1 - 1 / actions)
    noisy = _greedy(made["noisy"])
    expected = np.asarray([off, 1 - off]) * len(noisy)
    assert stats.chisquare([(~noisy).sum(), noisy.sum()], expected).pvalue > 1e-4

    mixed = made["mixed"]
    starts = mixed.episode_starts
    border = int(starts[np.searchsorted(starts, 0.8 * size)])  # the first episode after 80 % of the transitions
    assert _greedy(mixed, border).mean() > 0.998
    random_counts = np.bincount(mixed.actions[:border], minlength=actions)
    assert stats.chisquare(random_counts).pvalue > 1e-4
    same = made["random"].actions[:border]
    np.testing.assert_array_equal(mixed.actions[: len(same)], same)  # the random part is the random dataset's


def test_medium_expert_is_medium_then_expert() -> None:
    both = recipes.generate(recipes.get_recipe("pendulum/medium-expert", size=2000))
    medium = recipes.generate(recipes.get_recipe("pendulum/medium", size=1000))
    np.testing.assert_array_equal(both.actions[:1000], medium.actions[:1000])
    policy = make_policy("Pendulum-v1", "expert", both.action_space, stochastic=False)
    later = both.observations[both.frame_index[1000:]]
    np.testing.assert_allclose(both.actions[1000:], policy.act(later, rng()), atol=1e-4)


@pytest.mark.parametrize("name", REPLAYS)
def test_replay_is_the_training_run(name: str) -> None:
    recipe = recipes.get_recipe(name, size=min(RECIPES[name].size, 3000))
    needs(recipe.environment)
    log = load_log(behaviour.log_path(recipe.environment))
    dataset = recipes.generate(recipe)
    assert dataset.provenance.details["training_run"] == "the logged one"
    assert dataset.num_transitions == recipe.size
    complete = dataset.episode_complete
    np.testing.assert_array_equal(dataset.episode_lengths[complete], log.lengths[: complete.sum()])
    np.testing.assert_allclose(dataset.episode_returns[complete], log.returns[: complete.sum()], rtol=1e-5, atol=1e-3)
    if isinstance(dataset.action_space, spaces.Discrete):
        np.testing.assert_array_equal(dataset.actions, log.actions[: recipe.size])
        # Exploration falls from 1 to 0.01 over 1,000 updates, so the first half is more random than the last third.
        record = behaviour.behaviour_record(recipe.environment)["training"]["settings"]
        assert (record["explore_updates"], record["epsilon"], record["batch"]) == (1000, 0.01, 32)
        assert stats.chisquare(np.bincount(dataset.actions[:200], minlength=dataset.action_space.n)).pvalue > 1e-4
    else:
        low, high = dataset.action_space.low, dataset.action_space.high
        played = np.rint((dataset.actions - low) / (high - low) * 254 - 127)
        np.testing.assert_array_equal(played, log.actions[: recipe.size])


def test_whole_replay_of_a_classic_environment(cache: Path) -> None:
    """All transitions of the run, with the size of the paper and the very episodes of training."""
    dataset = load_dataset("cartpole/replay")
    log = load_log(behaviour.log_path("CartPole-v1"))
    assert dataset.num_transitions == 100_000 == len(log)
    complete = dataset.episode_complete
    np.testing.assert_array_equal(dataset.episode_lengths[complete], log.lengths)
    assert dataset.episode_returns[:20].mean() < 60 < dataset.episode_returns[-20:].mean()


# --- sizes, seeds and names ---


def test_seed_decides_the_data(tiny: Recipe) -> None:
    same, other = recipes.generate(tiny), recipes.generate(replace(tiny, seed=1))
    assert same.fingerprint == recipes.generate(tiny).fingerprint
    assert same.fingerprint != other.fingerprint
    assert recipes.load(tiny.id, seed=1).fingerprint == other.fingerprint


def test_sizes_have_their_own_place_in_the_cache(tiny: Recipe) -> None:
    small, usual = recipes.load(tiny.id, size=100), recipes.load(tiny.id)
    assert 100 <= small.num_transitions < usual.num_transitions
    assert recipes.build(tiny.id, size=100) != recipes.build(tiny.id)
    assert recipes.build(tiny.id, size=300, seed=0) == recipes.build(tiny.id)


def test_unusable_requests_are_explained() -> None:
    with pytest.raises(UnknownNameError, match="pendulum/medium"):
        recipes.build("pendulum/mediun")
    with pytest.raises(SpecError, match="0 transitions"):
        recipes.build("cartpole/random", size=0)
    with pytest.raises(SpecError, match="seed -1"):
        recipes.build("cartpole/random", seed=-1)
    with pytest.raises(UnknownNameError, match="expert"):
        make_policy("Pendulum-v1", "exprt", spaces.Box(-2, 2, (1,)))


def test_another_seed_of_a_replay_is_another_training_run(cache: Path) -> None:
    first = recipes.generate(recipes.get_recipe("cartpole/replay", size=150, seed=5))
    assert first.provenance.details["training_run"] == "trained here"
    assert first.num_transitions == 150
    again = recipes.generate(recipes.get_recipe("cartpole/replay", size=150, seed=5))
    assert first.fingerprint == again.fingerprint
    shipped = recipes.generate(recipes.get_recipe("cartpole/replay", size=150))
    assert first.fingerprint != shipped.fingerprint


def test_a_simulator_that_does_not_repeat_the_log_trains_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    play = recipes.play

    def differs(environment: str, log: recipes.TrainingLog, progress: object = None) -> object:
        calls.append(len(log.lengths))
        if len(calls) == 1:
            raise DivergedError("the simulator's state differs")
        return play(environment, log)

    monkeypatch.setattr(recipes, "play", differs)
    with pytest.warns(UserWarning, match="training anew"):
        dataset = recipes.generate(recipes.get_recipe("cartpole/replay", size=120))
    assert dataset.provenance.details["training_run"] == "trained here"
    assert dataset.num_transitions == 120


def test_hash_follows_recipe_and_weights(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipes.recipe_hash(tiny)
    assert recipes.recipe_hash(replace(tiny, description="other words")) == before
    assert recipes.recipe_hash(replace(tiny, size=301)) != before
    assert recipes.recipe_hash(replace(tiny, seed=1)) != before
    monkeypatch.setattr(recipes, "behaviour_digest", lambda environment, role: "other weights")
    assert recipes.recipe_hash(tiny) != before


# --- the cache ---


def test_build_is_cached_and_forced(tiny: Recipe, cache: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = recipes.build(tiny.id, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] >= tiny.size
    assert all(done <= total for done, total in calls)
    count = len(calls)
    assert recipes.build(tiny.id, progress=lambda done, total: calls.append((done, total))) == path
    assert len(calls) == count
    recipes.build(tiny.id, force=True, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == 2 * count
    assert _leftovers(cache) == []


def test_opens_in_minari(tiny: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    path = recipes.build(tiny.id)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(cache / "recipes"))
    theirs = minari.load_dataset(path.relative_to(cache / "recipes").as_posix())
    ours = recipes.load(tiny.id)
    assert theirs.total_steps == ours.num_transitions
    assert theirs.total_episodes == ours.num_episodes
    assert theirs.recover_environment().spec.id == "CartPole-v1"
    last = theirs[theirs.total_episodes - 1]
    np.testing.assert_array_equal(last.observations, ours.observations[-len(last.observations) :])
    np.testing.assert_array_equal(last.rewards, ours.rewards[-len(last.rewards) :])


def test_concurrent_builds_agree(tiny: Recipe, cache: Path) -> None:
    paths: list[Path] = []

    def build() -> None:
        paths.append(recipes.build(tiny.id, force=True))

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 3
    assert len(set(paths)) == 1
    assert recipes.load(tiny.id).fingerprint == recipes.generate(tiny).fingerprint
    assert _leftovers(cache) == []


def test_full_disk_is_a_storage_error_and_leaves_nothing(
    tiny: Recipe, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recipes, "write_minari", full)
    with pytest.raises(StorageError, match="No space left"):
        recipes.build(tiny.id)
    assert _leftovers(cache) == []
    assert not recipes.dataset_path(tiny).exists()


@pytest.mark.parametrize(("name", "extra"), [("hopper/random", "mujoco")])
def test_missing_simulator_names_the_extra(name: str, extra: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: object, **__: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("the simulator is not installed")

    monkeypatch.setattr(gymnasium, "make", make)
    environment = RECIPES[name].environment
    with pytest.raises(MissingExtraError, match=rf"{environment}(.|\n)*offbench\[{extra}\]"):
        recipes.build(name)


def _leftovers(cache: Path) -> list[Path]:
    return list((cache / "recipes").glob(".building-*"))
