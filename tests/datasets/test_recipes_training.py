"""Behaviours and their training: NumPy policies equal torch's, training repeats bit for bit, logs replay it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.numpy import load_file

from offbench.datasets import behaviour, environments, train_behaviours, training_log, training_plans
from offbench.datasets.behaviour import EpsilonMixture, TanhGaussian, UniformRandom, make_policy
from offbench.datasets.rollout import roll_out
from offbench.datasets.train_dqn import DQN
from offbench.datasets.train_sac import SAC
from offbench.datasets.training_log import DivergedError, TrainingLog, load_log, play, record, save_log
from offbench.datasets.training_plans import PLANS, DQNSettings, Plan, SACSettings

NETWORKS = sorted(name for name, entry in behaviour.behaviour_records().items() if entry["file"])
TINY_DQN = Plan("CartPole-v1", DQNSettings(600, 0.95, every=300, hidden=(16, 16)), select_episodes=2)
TINY_SAC = Plan(
    "Pendulum-v1",
    SACSettings(900, warm_up=200, every=300, hidden=(16, 16), critic=(16, 16), batch=32, update_every=2),
    medium=0.5,
    select_episodes=2,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- policies ---


@pytest.mark.parametrize("environment", NETWORKS)
def test_numpy_expert_equals_what_torch_computed(environment: str) -> None:
    check = behaviour.load_tensors(environment)
    observations = check["check/observations"]
    if "check/mean" in check:
        size = check["check/mean"].shape[1]
        space: spaces.Box | spaces.Discrete = spaces.Box(-1.0, 1.0, (size,), np.float32)
        policy = make_policy(environment, "expert", space, stochastic=False)
        assert isinstance(policy, TanhGaussian)
        mean, log_std = policy.distribution(observations)
        np.testing.assert_allclose(mean, check["check/mean"], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(log_std, check["check/log_std"], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(policy.act(observations, rng()), np.tanh(check["check/mean"]), atol=1e-4)
    else:
        space = spaces.Discrete(check["check/head"].shape[1])
        policy = make_policy(environment, "expert", space, stochastic=False)
        np.testing.assert_allclose(policy.outputs(observations), check["check/head"], atol=1e-3, rtol=1e-4)
        np.testing.assert_array_equal(policy.act(observations, rng()), check["check/head"].argmax(axis=1))


def test_stochastic_tanh_gaussian_follows_its_distribution() -> None:
    space = spaces.Box(-2.0, 2.0, (1,), np.float32)
    policy = make_policy("Pendulum-v1", "medium", space)
    assert isinstance(policy, TanhGaussian)
    frames = behaviour.load_tensors("Pendulum-v1")["check/observations"]
    means, _ = policy.distribution(frames)
    observation = frames[np.abs(means[:, 0]).argmin()]  # where the tanh does not saturate
    observations = np.tile(observation, (20_000, 1))
    mean, log_std = policy.distribution(observations[:1])
    latent = np.arctanh(np.clip(policy.act(observations, rng()) / 2, -0.9999999, 0.9999999))
    deviation = float(np.exp(log_std[0, 0]))
    assert np.median(latent) == pytest.approx(float(mean[0, 0]), abs=0.05 * deviation)
    quartiles = np.quantile(latent, [0.25, 0.75])
    assert np.diff(quartiles)[0] == pytest.approx(2 * 0.6745 * deviation, rel=0.05)


def test_stochastic_categorical_follows_softmax() -> None:
    policy = behaviour.Categorical(
        spaces.Discrete(2),
        behaviour.Network((), "relu"),
        (np.asarray([[1.0], [0.0]], np.float32), np.asarray([0.0, 0.3], np.float32)),
        stochastic=True,
    )
    actions = policy.act(np.full((20_000, 1), 1.2, np.float32), rng())
    assert actions.dtype == np.int64
    assert actions.mean() == pytest.approx(np.exp(0.3) / (np.exp(0.3) + np.exp(1.2)), abs=0.015)


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


@pytest.mark.parametrize("activation", ["relu", "selu", "tanh"])
def test_activations_are_torch_s(activation: str) -> None:
    values = np.linspace(-20, 20, 401, dtype=np.float32)[:, None]
    network = behaviour.Network(((np.ones((1, 1), np.float32), np.zeros(1, np.float32)),), activation)
    theirs = getattr(torch, activation)(torch.as_tensor(values)).numpy()
    np.testing.assert_allclose(network(values), theirs, rtol=1e-5, atol=1e-6)


# --- training ---


def test_roles_follow_the_plan() -> None:
    returns = {0: -90.0, 250: -90.0, 500: -90.0, 750: -70.0, 1000: -48.0, 1250: 0.0, 1500: 0.0}
    roles = train_behaviours.choose_roles(PLANS["pendulum"], returns, returns, random=-100.0)
    assert roles == {"expert": 1500, "medium": 1000}  # of equal experts the one trained longest counts
    assert train_behaviours.choose_roles(PLANS["cartpole"], returns, {}, random=-100.0) == {"expert": 1500}


@pytest.mark.parametrize(("name", "plan"), [("cartpole", TINY_DQN), ("pendulum", TINY_SAC)])
def test_training_repeats_and_its_log_plays_it_again(
    name: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLANS, name, plan)
    for run in ("first", "second"):
        train_behaviours.main([name, "--seed", "1", "--out", str(tmp_path / run), "--episodes", "3"])
    for file in (f"{name}.safetensors", f"{name}.log.safetensors", "behaviours.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file
    out = tmp_path / "first"
    entry = json.loads((out / "behaviours.json").read_text(encoding="utf-8"))[plan.environment]
    shipped = behaviour.behaviour_record(plan.environment)
    assert entry.keys() == shipped.keys() - {"folder"}
    assert entry["training"].keys() == shipped["training"].keys()
    tensors = load_file(out / f"{name}.safetensors")
    assert {array.dtype for key, array in tensors.items() if not key.startswith("check/")} == {np.dtype(np.float16)}

    # What was rewarded in training is rewarded when the log is played: the same episodes, step for step.
    log = load_log(out / f"{name}.log.safetensors")
    rows = (
        (train_behaviours.run_folder(out / "runs", name, 1) / "curve.csv").read_text(encoding="utf-8").splitlines()[1:]
    )
    curve = [(int(row.split(",")[0]), float(row.split(",")[1])) for row in rows]
    episodes = [episode for episode in play(plan.environment, log) if episode.terminated[-1] or episode.truncated[-1]]
    assert len(episodes) == sum(done <= len(log) for done, _ in curve)
    ends = np.cumsum([len(episode) for episode in episodes])
    assert ends.tolist() == [done for done, _ in curve[: len(episodes)]]
    np.testing.assert_allclose([e.rewards.sum() for e in episodes], [total for _, total in curve[: len(episodes)]])


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_plan_trains_and_its_actions_give_the_same_rewards_again(name: str) -> None:
    plan = PLANS[name]
    for package in environments.packages(plan.environment):
        pytest.importorskip({"gymnasium-robotics": "gymnasium_robotics"}.get(package, package))
    changes = {"warm_up": 100, "critic": (16,)} if isinstance(plan.settings, SACSettings) else {"buffer": 150}
    settings = replace(plan.settings, steps=200, every=100, hidden=(16,), batch=16, **changes)
    steps = list(training_plans.train(replace(plan, settings=settings), seed=2))
    assert [step.done for step in steps] == list(range(201))
    assert [step.done for step in steps if step.snapshot is not None] == [0, 100, 200]
    first, last = steps[0].snapshot, steps[-1].snapshot
    assert any((first[key] != last[key]).any() for key in first)  # it learned something
    log = TrainingLog.unchecked(2, np.asarray([step.action for step in steps[1:]], np.int8))
    episodes = play(plan.environment, log)
    rewards = np.concatenate([episode.rewards for episode in episodes])
    np.testing.assert_array_equal(rewards, [step.reward for step in steps[1:]])
    ends = np.cumsum([len(episode) for episode in episodes])
    assert set(ends) - {200} <= {step.done for step in steps if step.ended}


def test_behaviours_trained_here_join_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFBENCH_CACHE", str(tmp_path))
    monkeypatch.setitem(PLANS, "cartpole", replace(TINY_DQN, environment="CartPole-v0"))
    train_behaviours.main(["cartpole", "--seed", "1", "--episodes", "3"])
    records = behaviour.behaviour_records.__wrapped__()
    assert records["CartPole-v0"]["folder"] == tmp_path / "behaviours"
    assert (records["CartPole-v0"]["folder"] / records["CartPole-v0"]["log"]["file"]).exists()
    assert records["CartPole-v1"]["folder"] == behaviour.BEHAVIOURS  # a shipped one wins
    (tmp_path / "behaviours" / "behaviours.json").write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match="damaged"):
        assert set(behaviour.behaviour_records.__wrapped__()) == set(behaviour.behaviour_records())


def test_dqn_moves_towards_the_double_target() -> None:
    """One step of Adam moves every parameter by the rate against the gradient of the loss written out here."""
    settings = DQNSettings(10, discount=0.9, hidden=(8,), rate=1e-3, copy_every=5)
    learner = DQN(3, 2, settings, torch.Generator().manual_seed(0))
    learner.targets = [tensor + 0.1 for tensor in learner.targets]
    generator = torch.Generator().manual_seed(1)
    observations, following = torch.randn(2, 16, 3, generator=generator)
    actions = torch.arange(16) % 2
    rewards, going_on = torch.randn(16, generator=generator), (torch.arange(16) % 4 > 0).float()

    def network(parameters: list[torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.selu(inputs @ parameters[0].T + parameters[2])
        return hidden @ parameters[1].T + parameters[3]

    before = [tensor.detach().clone().requires_grad_() for tensor in learner.parameters]
    best = network(before, following).argmax(1)
    value = network(learner.targets, following)[torch.arange(16), best].detach()
    error = network(before, observations)[torch.arange(16), actions] - (rewards + 0.9 * going_on * value)
    loss = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).mean()
    gradients = torch.autograd.grad(loss, before)
    learner.update(observations, actions, rewards, following, going_on)
    for old, new, gradient in zip(before, learner.parameters, gradients, strict=True):
        step = torch.where(gradient.abs() > 1e-5, -1e-3 * gradient.sign(), new - old)
        torch.testing.assert_close(new - old, step, atol=2e-6, rtol=0)


def test_sac_log_probability_is_that_of_the_squashed_gaussian() -> None:
    """Density of tanh(x): the Gaussian's at x over the slope of the tanh, here from torch.distributions."""
    learner = SAC(3, 2, SACSettings(1, hidden=(8,), critic=(8,)), torch.Generator().manual_seed(0))
    observations = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        actions, log_prob = learner.policy(observations)
        hidden = torch.relu(observations @ learner.actor[0][0] + learner.actor[0][1])
        mean, log_std = (hidden @ learner.actor[1][0] + learner.actor[1][1]).chunk(2, dim=1)
        gaussian = torch.distributions.Normal(mean, log_std.exp())
        squashed = torch.distributions.TransformedDistribution(gaussian, torch.distributions.TanhTransform())
        torch.testing.assert_close(log_prob, squashed.log_prob(actions).sum(1), atol=1e-3, rtol=1e-3)


# --- logs ---


def test_log_survives_its_file(tmp_path: Path) -> None:
    generator = rng()
    for environment, actions in (
        ("CartPole-v1", generator.integers(2, size=203).astype(np.int8)),
        ("Acrobot-v1", generator.integers(3, size=77).astype(np.int8)),
        ("Pendulum-v1", generator.integers(-127, 128, size=(450, 1)).astype(np.int8)),
    ):
        log = record(environment, 3, actions)
        save_log(log, tmp_path / "log.safetensors")
        read = load_log(tmp_path / "log.safetensors")
        assert read.seed == 3
        for column in ("actions", "lengths", "returns", "states"):
            np.testing.assert_array_equal(getattr(read, column), getattr(log, column))
        assert len(play(environment, read)) in (len(log.lengths), len(log.lengths) + 1)


def test_rounding_is_corrected_and_other_dynamics_are_refused() -> None:
    actions = rng().integers(-127, 128, size=(200, 1)).astype(np.int8)
    log = record("Pendulum-v1", 0, actions)
    exact = play("Pendulum-v1", log)[0]
    assert log.states is not None
    rounded = replace(log, states=log.states * (1 + 1e-9))
    corrected = play("Pendulum-v1", rounded)[0]
    np.testing.assert_allclose(corrected.observations, exact.observations, atol=1e-5)
    with pytest.raises(DivergedError, match="state"):
        play("Pendulum-v1", replace(log, states=log.states * 1.01))
    with pytest.raises(DivergedError, match="episode 0"):
        play("Pendulum-v1", replace(log, states=None, returns=log.returns + 1))


def test_grid_of_actions_reaches_its_bounds() -> None:
    low, high = np.asarray([-2.0], np.float32), np.asarray([2.0], np.float32)
    for wanted, code, action in ((-1, -127, -2), (1, 127, 2), (0, 0, 0), (1.5, 127, 2), (0.5, 64, 2 * 64 / 127)):
        logged, played = training_log.grid_action(np.asarray([wanted]), low, high)
        assert logged.dtype == np.int8
        assert int(logged[0]) == code
        assert played[0] == pytest.approx(action, abs=1e-6)


def test_first_steps_of_a_log() -> None:
    log = record("CartPole-v1", 0, rng().integers(2, size=200).astype(np.int8))
    ends = np.cumsum(log.lengths)
    short = log.first(int(ends[2]))
    assert len(short.lengths) == 3
    assert len(log.first(int(ends[2]) - 1).lengths) == 2
    assert sum(len(episode) for episode in play("CartPole-v1", log.first(50))) == 50


def test_plans_are_found_by_environment() -> None:
    assert training_plans.plan_for("Hopper-v5") is PLANS["hopper"]
    with pytest.raises(training_plans.UnknownNameError, match="CartPole-v1"):
        training_plans.plan_for("CartPole-v0")
    for environment in NETWORKS:  # the shipped runs are those of the plans
        entry = behaviour.behaviour_record(environment)["training"]
        settings = json.loads(json.dumps(training_plans.plan_for(environment).settings.__dict__))
        assert entry["settings"] == settings, environment


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
