"""Built-in datasets: NumPy policies equal SB3's, builds are deterministic, atomic and readable."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from safetensors.numpy import load_file

from offbench.datasets import behaviour, recipes, train_behaviours
from offbench.datasets.behaviour import EpsilonMixture, TanhGaussian, UniformRandom, make_policy, roll_out
from offbench.datasets.recipes import RECIPES, Part, Recipe
from offbench.errors import MissingExtraError, StorageError, UnknownNameError

ENVIRONMENTS = sorted(behaviour.behaviour_records())
LIGHT = sorted(name for name in RECIPES if not name.startswith("hopper"))
HOPPER = sorted(name for name in RECIPES if name.startswith("hopper"))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


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


# --- policies ---


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_numpy_expert_equals_what_sb3_computed(environment: str) -> None:
    check = behaviour.load_tensors(environment)
    observations, actions = check["check/observations"], check["check/actions"]
    space = _action_space(environment, actions)
    policy = make_policy(environment, "expert", space, stochastic=False)
    ours = policy.act(observations, rng())
    np.testing.assert_allclose(ours, actions, atol=1e-5)
    if isinstance(policy, TanhGaussian):
        np.testing.assert_allclose(policy.distribution(observations)[1], check["check/log_std"], atol=1e-4)
    else:
        logits = policy.outputs(observations)
        normalized = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(normalized, check["check/logits"], atol=1e-4)


def _action_space(environment: str, actions: np.ndarray) -> spaces.Space:
    """Of the environments that are shipped, without their simulators."""
    known = {
        "CartPole-v1": spaces.Discrete(2),
        "Hopper-v5": spaces.Box(-1.0, 1.0, (3,), np.float32),
        "Pendulum-v1": spaces.Box(-2.0, 2.0, (1,), np.float32),
    }
    return known[environment]


@pytest.mark.parametrize("name", ["pendulum", "cartpole"])
def test_numpy_policy_equals_a_live_sb3_model(name: str) -> None:
    pytest.importorskip("stable_baselines3")
    plan = train_behaviours.PLANS[name]
    model = train_behaviours.make_model(plan, seed=3)
    observations = np.stack([model.observation_space.sample() for _ in range(20)]).astype(np.float32)
    theirs, _ = model.predict(observations, deterministic=True)
    tensors = train_behaviours.policy_tensors(plan, model.policy.state_dict())
    policy = behaviour.build_policy(tensors, plan.activation, model.action_space, stochastic=False)
    np.testing.assert_allclose(policy.act(observations, rng()), theirs, atol=1e-5)


def test_stochastic_tanh_gaussian_follows_its_distribution() -> None:
    space = spaces.Box(-2.0, 2.0, (1,), np.float32)
    policy = make_policy("Pendulum-v1", "replay-0", space)
    assert isinstance(policy, TanhGaussian)
    observations = np.tile(np.asarray([[0.6, 0.8, 0.3]], np.float32), (20_000, 1))
    mean, log_std = policy.distribution(observations[:1])
    latent = np.arctanh(np.clip(policy.act(observations, rng()) / 2, -0.9999999, 0.9999999))
    assert np.median(latent) == pytest.approx(float(mean[0, 0]), abs=0.05)
    quartiles = np.quantile(latent, [0.25, 0.75])
    assert np.diff(quartiles)[0] == pytest.approx(2 * 0.6745 * np.exp(float(log_std[0, 0])), rel=0.05)


def test_stochastic_categorical_follows_softmax() -> None:
    policy = make_policy("CartPole-v1", "expert", spaces.Discrete(2))
    observation = behaviour.load_tensors("CartPole-v1")["check/observations"][:1]
    logits = policy.outputs(observation)[0].astype(np.float64)
    probability = np.exp(logits[1]) / np.exp(logits).sum()
    actions = policy.act(np.repeat(observation, 20_000, axis=0), rng())
    assert actions.dtype == np.int64
    assert actions.mean() == pytest.approx(probability, abs=0.015)


def test_epsilon_mixture_explores_at_its_rate() -> None:
    space = spaces.Box(-2.0, 2.0, (1,), np.float32)
    greedy = make_policy("Pendulum-v1", "expert", space, stochastic=False)
    policy = make_policy("Pendulum-v1", "expert", space, stochastic=False, epsilon=0.3)
    assert isinstance(policy, EpsilonMixture)
    observations = rng().normal(size=(5000, 3)).astype(np.float32)
    changed = policy.act(observations, rng(1)) != greedy.act(observations, rng(1))
    assert changed.mean() == pytest.approx(0.3, abs=0.03)


def test_uniform_random_fills_the_space() -> None:
    box = spaces.Box(np.asarray([-1.0, 0.0], np.float32), np.asarray([1.0, 5.0], np.float32))
    actions = UniformRandom(box).act(np.zeros((10_000, 3)), rng())
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions.mean(axis=0), [0, 2.5], atol=0.1)
    shifted = UniformRandom(spaces.Discrete(3, start=2)).act(np.zeros((1000, 3)), rng())
    assert set(shifted) == {2, 3, 4}


def test_unknown_names_suggest() -> None:
    with pytest.raises(UnknownNameError, match="expert"):
        make_policy("Pendulum-v1", "exprt", spaces.Box(-2, 2, (1,)))
    with pytest.raises(UnknownNameError, match="pendulum/medium"):
        recipes.build("pendulum/mediun")


# --- training ---


def test_roles_follow_the_plan() -> None:
    plan = replace(train_behaviours.PLANS["pendulum"], medium=0.5, replay=3)
    deterministic = {0: -90.0, 250: -90.0, 500: -90.0, 750: -70.0, 1000: -48.0, 1250: 0.0, 1500: 0.0}
    roles = train_behaviours.choose_roles(plan, deterministic, deterministic, random=-100.0)
    # 250 and 0 are as untrained as 500 (warm-up); of equal experts the one trained longest counts.
    assert roles == {"expert": 1500, "medium": 1000, "replay-0": 500, "replay-1": 750, "replay-2": 1000}


def test_training_gives_policies_that_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stable_baselines3")
    plan = replace(train_behaviours.PLANS["cartpole"], steps=2048, every=1024, select_episodes=2)
    monkeypatch.setitem(train_behaviours.PLANS, "cartpole", plan)
    train_behaviours.main(["cartpole", "--seed", "1", "--out", str(tmp_path), "--episodes", "3"])
    records = json.loads((tmp_path / "behaviours.json").read_text(encoding="utf-8"))
    shipped = behaviour.behaviour_record("CartPole-v1")
    assert records["CartPole-v1"].keys() == shipped.keys()
    assert records["CartPole-v1"]["training"].keys() == shipped["training"].keys()
    tensors = load_file(tmp_path / "cartpole.safetensors")
    expert = records["CartPole-v1"]["roles"]["expert"]
    weights = {name.removeprefix(f"{expert}/"): tensor for name, tensor in tensors.items()}
    policy = behaviour.build_policy(weights, "tanh", spaces.Discrete(2), stochastic=False)
    np.testing.assert_array_equal(policy.act(tensors["check/observations"], rng()), tensors["check/actions"])


# --- rolling out ---


def test_episodes_replay_in_the_environment() -> None:
    """Stored actions and reset states reproduce the stored frames and rewards: nothing is shifted."""
    policy = make_policy("Pendulum-v1", "medium", spaces.Box(-2.0, 2.0, (1,), np.float32))
    stream = roll_out("Pendulum-v1", policy, [7], lanes=3)
    episodes = [next(stream) for _ in range(4)]
    env = gymnasium.make("Pendulum-v1")
    for episode in episodes:
        assert len(episode) == 200
        assert len(episode.observations) == 201
        assert episode.truncated.tolist() == [False] * 199 + [True]
        assert not episode.terminated.any()
        env.reset()
        cosine, sine, speed = episode.observations[0].astype(np.float64)
        env.unwrapped.state = np.asarray([np.arctan2(sine, cosine), speed])
        for step in range(20):
            frame, reward, *_ = env.step(episode.actions[step])
            np.testing.assert_allclose(frame, episode.observations[step + 1], atol=1e-3)
            assert reward == pytest.approx(episode.rewards[step], abs=1e-3)


def test_cartpole_failures_are_terminations() -> None:
    stream = roll_out("CartPole-v1", UniformRandom(spaces.Discrete(2)), [0])
    for _ in range(20):
        episode = next(stream)
        assert episode.terminated.tolist() == [False] * (len(episode) - 1) + [True]
        assert not episode.truncated.any()


# --- recipes ---


@pytest.mark.parametrize("name", LIGHT)
def test_light_datasets(name: str, cache: Path) -> None:
    _check_dataset(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", HOPPER)
def test_hopper_datasets(name: str, cache: Path) -> None:
    pytest.importorskip("mujoco")
    _check_dataset(name)


def _check_dataset(name: str) -> None:
    recipe = RECIPES[name]
    dataset = recipes.load(name)
    assert dataset.name == name
    assert dataset.environment == recipe.environment
    assert dataset.provenance.source == f"recipe:{name}"
    assert dataset.num_transitions >= recipe.size
    assert dataset.last_known.all()
    assert dataset.episode_complete.all()
    horizon = gymnasium.spec(recipe.environment).max_episode_steps
    assert dataset.episode_lengths.max() <= horizon
    ends_by_time = dataset.truncated[dataset.is_last]
    assert (dataset.episode_lengths[ends_by_time] == horizon).all()
    assert dataset.num_transitions < recipe.size + horizon  # the last episode is finished, no more
    score = dataset.reference.normalize(dataset.episode_returns, environment=recipe.environment).mean()
    low, high = {
        "random": (-5, 5),
        "medium": (25, 70),
        "expert": (85, 110),
        "medium-replay": (-40, 40),
        "mixed": (-5, 15),
    }[name.split("/")[1]]
    assert low < score < high
    assert dataset.fingerprint == recipes.generate(recipe).fingerprint


def test_mixed_is_random_then_expert(cache: Path) -> None:
    dataset = recipes.load("cartpole/mixed")
    expert = dataset.episode_returns == 500
    first = int(np.argmax(expert))
    assert expert[first:].all()
    assert not expert[:first].any()
    share = dataset.episode_lengths[expert].sum() / dataset.num_transitions
    assert share == pytest.approx(0.2, abs=0.02)


def test_seed_decides_the_data(tiny: Recipe) -> None:
    same, other = recipes.generate(tiny), recipes.generate(replace(tiny, seed=1))
    assert same.fingerprint == recipes.generate(tiny).fingerprint
    assert same.fingerprint != other.fingerprint


def test_hash_follows_recipe_and_weights(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipes.recipe_hash(tiny)
    assert recipes.recipe_hash(replace(tiny, description="other words")) == before
    assert recipes.recipe_hash(replace(tiny, size=301)) != before
    monkeypatch.setattr(recipes, "behaviour_digest", lambda environment, role: "other weights")
    assert recipes.recipe_hash(tiny) != before


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


def test_missing_simulator_names_the_extra(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: object, **__: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr(gymnasium, "make", make)
    with pytest.raises(MissingExtraError, match=r"Hopper-v5(.|\n)*offbench\[mujoco\]"):
        recipes.build("hopper/random")


def _leftovers(cache: Path) -> list[Path]:
    return list((cache / "recipes").glob(".building-*"))
