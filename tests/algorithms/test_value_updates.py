"""Value-based methods and ReBRAC against their losses written out in plain torch, and against solved problems."""

from __future__ import annotations

import copy

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offbench.algorithms.base import ProblemSpec, Requires
from offbench.algorithms.batches import LaneSampler, Preprocessing, TransitionBuffer, best_episodes
from offbench.algorithms.conformance import random_dataset
from offbench.datasets import Dataset
from offbench.datasets.returns import returns_to_go

from .problems import (
    CONTINUOUS,
    DISCRETE,
    Plain,
    adam,
    histogram_mean,
    make,
    normal_histogram,
    random_batch,
    random_noise,
)
from .test_updates import BEHAVIOUR, DISCOUNT, STATES, ring_transitions, solve_ring

ACTIONS = DISCRETE.action_size


def huber(difference: Tensor) -> Tensor:
    size = difference.abs()
    return torch.where(size < 1, 0.5 * size**2, size - 0.5)


def pick(values: Tensor, actions: Tensor) -> Tensor:
    return values[torch.arange(len(actions)), actions]


def written_out(name: str, settings: dict, nets: dict[str, Plain], batch: dict, noise: dict) -> Tensor:
    """The loss of one update on one lane, from the papers' formulas."""
    s, a, r, s2, c = (batch[k][0] for k in ("observations", "actions", "rewards", "next_observations", "continues"))
    critic, old = nets["critic"], nets["target_critic"]
    if name == "mce":
        return huber(pick(critic(s), a) - batch["returns"][0]).mean()
    if name == "bve":
        source = old if settings.get("target_network") else critic
        y = r + 0.9 * c * pick(source(s2), batch["next_actions"][0]).detach()
        return huber(pick(critic(s), a) - y).mean()
    if name == "qr_dqn":
        n = 7
        with torch.no_grad():
            chooser = critic if settings.get("double", True) else old
            best = chooser(s2).view(-1, ACTIONS, n).mean(2).argmax(1)
            y = r[:, None] + 0.9 * c[:, None] * old(s2).view(-1, ACTIONS, n)[torch.arange(len(a)), best]
        theta = critic(s).view(-1, ACTIONS, n)[torch.arange(len(a)), a]
        total = torch.zeros(())
        for i in range(n):
            level = (i + 1) / n if settings.get("levels") == "upper" else (2 * i + 1) / (2 * n)
            for j in range(n):
                u = y[:, j] - theta[:, i]
                total = total + ((level - (u < 0).float()).abs() * huber(u)).mean() / n
        return total
    if name == "rem":
        m = noise["mixture"][0]
        first, second, third = (m[0], m[0], m[0]) if settings.get("shared_mixture", True) else m
        mix = lambda net, x, w: (net(x).view(len(x), ACTIONS, -1) * (w / w.sum())).sum(2)  # noqa: E731
        with torch.no_grad():
            y = r + 0.9 * c * pick(mix(old, s2, second), mix(critic, s2, third).argmax(1))
        return huber(pick(mix(critic, s, first), a) - y).mean()
    if name == "discrete_bcq":
        behaviour = nets["behaviour"]
        with torch.no_grad():
            probability = behaviour(s2).softmax(1)
            allowed = probability / probability.max(1, keepdim=True).values > 0.6
            if settings.get("minto"):
                smaller = torch.minimum(critic(s2), old(s2))
                y = r + 0.9 * c * torch.where(allowed, smaller, torch.full_like(smaller, -1e9)).amax(1)
            else:
                best = torch.where(allowed, critic(s2), torch.full_like(critic(s2), -1e9)).argmax(1)
                y = r + 0.9 * c * pick(old(s2), best)
        logits = behaviour(s)
        return huber(pick(critic(s), a) - y).mean() + nn.functional.cross_entropy(logits, a) + 0.01 * (logits**2).mean()
    if name == "discrete_crr":
        actor, old_actor = nets["actor"], nets["target_actor"]

        def draw(logits: Tensor, uniform: Tensor) -> Tensor:
            edges = logits.softmax(1).cumsum(1)
            return torch.stack([(u[:, None] >= edges).sum(1) for u in uniform.T], 1).clamp(max=ACTIONS - 1)

        with torch.no_grad():
            y = r + 0.9 * c * pick(old(s2), draw(old_actor(s2), noise["next_action"][0])[:, 0])
            q = critic(s)
            if settings.get("samples") == 0:
                baseline = (actor(s).softmax(1) * q).sum(1)
            else:
                baseline = q.gather(1, draw(actor(s), noise["action"][0])).mean(1)
            advantage = pick(q, a) - baseline
            weight = (advantage > 0).float()
            if settings.get("weighting") == "exponential":
                weight = torch.exp(advantage / 0.5).clamp(max=1.05)
        imitation = nn.functional.cross_entropy(actor(s), a, reduction="none")
        return huber(pick(critic(s), a) - y).mean() + (weight * imitation).mean()
    classifies = settings.get("critic_loss") == "hl_gauss"

    def value(net: Plain, x: Tensor) -> Tensor:
        return histogram_mean(net(x).view(len(x), ACTIONS, -1), -10, 10) if classifies else net(x)

    with torch.no_grad():
        if settings.get("minto"):
            y = r + 0.9 * c * torch.minimum(value(old, s2), value(critic, s2)).amax(1)
        else:
            best = value(critic if settings.get("double", True) else old, s2).argmax(1)
            y = r + 0.9 * c * pick(value(old, s2), best)
    values = value(critic, s)
    loss = huber(pick(values, a) - y).mean()
    if classifies:
        logits = critic(s).view(len(s), ACTIONS, -1)[torch.arange(len(a)), a]
        loss = nn.functional.cross_entropy(logits, normal_histogram(y, -10, 10, 11, 0.75))
    if name == "discrete_cql":
        loss = loss + 2.0 * (torch.log(values.exp().sum(1)) - pick(values, a)).mean()
    return loss


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dqn", {}),
        ("dqn", {"double": False}),
        ("bve", {}),
        ("bve", {"target_network": True}),
        ("mce", {}),
        ("qr_dqn", {"quantiles": 7}),
        ("qr_dqn", {"quantiles": 7, "levels": "upper", "double": False}),
        ("rem", {"heads": 5}),
        ("rem", {"heads": 5, "shared_mixture": False}),
        ("dqn", {"minto": True}),
        ("discrete_bcq", {"minto": True, "threshold": 0.6}),
        ("discrete_cql", {"conservatism": 2.0}),
        ("discrete_cql", {"conservatism": 2.0, "minto": True, "critic_loss": "hl_gauss", "bins": 11}),
        ("discrete_bcq", {"threshold": 0.6}),
        ("discrete_crr", {}),
        ("discrete_crr", {"samples": 0, "weighting": "exponential", "temperature": 0.5, "weight_clip": 1.05}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value) or "default",
)
def test_updates_equal_the_papers_written_out(name: str, settings: dict) -> None:
    ours = make(name, DISCRETE, [5], discount=0.9, target_period=4, learning_rate=3e-4, **settings)
    nets = {key: Plain(net) for key, net in ours._networks.items()}
    online = [net for key, net in nets.items() if not key.startswith("target_")]
    optimizer = adam(*online)
    for step in range(1, 22):
        batch, noise = random_batch(DISCRETE, 1, 32, step), random_noise(ours, 32, step)
        batch = {k: 3 * v if k == "rewards" else v for k, v in batch.items()}  # both branches of the Huber loss
        loss = written_out(name, settings, nets, batch, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 4 == 0:
            for key, net in nets.items():
                if key.startswith("target_"):
                    net.move(nets[key.removeprefix("target_")], 1.0)
        metrics = ours.update(batch, noise, step)
        assert sum(m.item() for m in metrics.values()) == pytest.approx(loss.item(), rel=2e-4)
    for key, net in nets.items():
        net.assert_equals(ours._networks[key])


def test_rebrac_equals_the_paper_written_out() -> None:
    ours = make("rebrac", CONTINUOUS, [5], actor_penalty=0.3, critic_penalty=0.7)
    actor, critic = Plain(ours.actor), Plain(ours.critic)
    assert any(isinstance(layer, nn.LayerNorm) for layer in critic.modules[0])
    old_actor, old_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    actor_step, critic_step = adam(actor), adam(critic)
    for step in range(1, 21):
        batch, noise = random_batch(CONTINUOUS, 1, 32, step), random_noise(ours, 32, step)
        s, a, r, s2, c = (batch[k][0] for k in ("observations", "actions", "rewards", "next_observations", "continues"))
        with torch.no_grad():
            smoothing = torch.clip(0.2 * noise["target_action"][0], -0.5, 0.5)
            a2 = torch.clip(torch.tanh(old_actor(s2)) + smoothing, -1, 1)
            q2 = torch.minimum(old_critic(s2, a2, member=0), old_critic(s2, a2, member=1))[:, 0]
            y = r + 0.99 * c * (q2 - 0.7 * ((a2 - batch["next_actions"][0]) ** 2).sum(1))
        loss = sum(nn.functional.mse_loss(critic(s, a, member=i)[:, 0], y) for i in range(2))
        critic_step.zero_grad()
        loss.backward()
        critic_step.step()
        if step % 2 == 0:
            pi = torch.tanh(actor(s))
            q = torch.minimum(critic(s, pi, member=0), critic(s, pi, member=1))[:, 0]
            objective = (0.3 * ((pi - a) ** 2).sum(1) - q / q.abs().mean().detach()).mean()
            actor_step.zero_grad()
            objective.backward()
            actor_step.step()
            old_actor.move(actor, 0.005)
            old_critic.move(critic, 0.005)
        assert ours.update(batch, noise, step)["critic_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    nets = {"actor": actor, "critic": critic, "target_actor": old_actor, "target_critic": old_critic}
    for name, plain in nets.items():
        plain.assert_equals(getattr(ours, name))


# --- what batches hold ---


def test_returns_to_go_equal_a_loop_over_rows() -> None:
    rng = np.random.default_rng(0)
    starts = np.array([0, 3, 4, 11, 12])
    rewards = rng.standard_normal(20)
    expected = np.zeros(20)
    for first, last in zip(starts, [*starts[1:], 20], strict=True):
        running = 0.0
        for row in range(last - 1, first - 1, -1):
            running = rewards[row] + 0.9 * running
            expected[row] = running
    np.testing.assert_allclose(returns_to_go(rewards, starts, 0.9), expected)
    np.testing.assert_allclose(returns_to_go(rewards[:1], np.array([0]), 0.9), rewards[:1])


@pytest.mark.parametrize("discrete", [False, True])
def test_next_actions_and_returns_belong_to_the_same_episode(discrete: bool) -> None:
    data = random_dataset(discrete=discrete)
    requires = Requires(next_actions=True, return_discount=0.9)
    buffer = TransitionBuffer(data, requires, Preprocessing(reward_scale=2.0, reward_shift=0.5))
    batch = buffer.gather(torch.arange(len(buffer))[None])
    rows = [i for i in range(len(data)) if data.terminated[i] or not data.is_last[i]]
    assert len(buffer) == len(rows)
    for position, row in enumerate(rows):
        end = row
        while not data.is_last[end]:
            end += 1
        rewards = 2.0 * data.rewards[row : end + 1].astype(float) + 0.5
        expected = float((rewards * 0.9 ** np.arange(len(rewards))).sum())
        assert batch["returns"][0, position].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
        np.testing.assert_allclose(batch["actions"][0, position], data.actions[row], rtol=1e-6)
        if not data.terminated[row]:
            np.testing.assert_allclose(batch["next_actions"][0, position], data.actions[row + 1], rtol=1e-6)
            np.testing.assert_array_equal(batch["continues"][0, position], 1.0)


def test_the_best_episodes_are_whole_and_complete() -> None:
    rewards = np.array([1, 1, 5, 0, 0, 0, 2, 2, 2, 9], np.float32)
    ends = np.array([0, 0, 1, 0, 0, 1, 0, 0, 1, 0], bool)  # the last episode is not complete: its return is unknown
    data = Dataset.from_arrays(
        np.zeros((10, 1), np.float32), np.zeros(10, int), rewards, ends, np.zeros(10, bool),
        action_space=gymnasium.spaces.Discrete(2),
    )  # fmt: skip
    assert best_episodes(data, 0.5).tolist() == [0]
    assert best_episodes(data, 0.7).tolist() == [0, 2]
    buffer = TransitionBuffer(data, Requires(next_observations=False, top_fraction=0.7), Preprocessing("none"))
    assert buffer.gather(torch.arange(len(buffer))[None])["rewards"][0].tolist() == [1, 1, 5, 2, 2, 2]


# --- a solved problem ---


def ring_episodes(episodes: int = 1500, seed: int = 0) -> Dataset:
    """Whole episodes of the ring under the behaviour policy, from uniform states to termination."""
    rng = np.random.default_rng(seed)
    following, reward, terminal = ring_transitions()
    states, actions, done = [], [], []
    for episode in range(episodes):
        state, over = episode % STATES, False
        while not over:
            action = int(rng.random() < BEHAVIOUR[1])
            over = bool(terminal[state, action])
            states.append(state)
            actions.append(action)
            done.append(over)
            state = following[state, action]
    s, a = np.array(states), np.array(actions)
    one_hot = np.eye(STATES, dtype=np.float32)
    return Dataset.from_arrays(
        one_hot[s],
        a,
        reward[s, a].astype(np.float32),
        np.array(done),
        np.zeros(len(s), bool),
        next_observations=one_hot[following[s, a]],
        action_space=gymnasium.spaces.Discrete(2),
        name="ring",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backup", "settings"),
    [
        ("dqn", "optimal", {}),
        ("qr_dqn", "optimal", {"quantiles": 8}),
        ("rem", "optimal", {"heads": 8}),
        ("discrete_bcq", "optimal", {"threshold": 0.1}),
        ("bve", "behaviour", {}),
        ("mce", "behaviour", {}),
        ("discrete_cql", "below", {"conservatism": 0.5}),
    ],
)
def test_values_on_the_ring_are_those_of_theory(name: str, backup: str, settings: dict) -> None:
    data = ring_episodes()
    small = {"hidden": (32, 32), "activation": "relu", "learning_rate": 1e-3, "discount": DISCOUNT}
    ours = make(name, ProblemSpec.of(data), [0, 1], target_period=50, **small, **settings)
    buffer = TransitionBuffer(data, ours.needs(ours.config), Preprocessing(observations="none"))
    sampler = LaneSampler(buffer, [0, 1], 128, ours.noise_spec(128))
    for step in range(1, 4001):
        ours.update(*sampler.draw(step), step)
    states = torch.eye(STATES).expand(2, -1, -1)
    q = ours.values(ours.critic.detached(states))
    optimal = torch.from_numpy(solve_ring("optimal", data)).float()
    if backup == "below":
        behaviour = torch.from_numpy(solve_ring("behaviour", data)).float()
        # The value of the greedy policy is underestimated, and actions that the data prefer (staying) lose least.
        assert (q.amax(-1) < optimal.amax(-1)).all()
        assert ((optimal - q)[..., 1] > (optimal - q)[..., 0]).all()
        assert (q[..., 1] < behaviour[:, 1] + 0.1).all()
        return
    expected = optimal if backup == "optimal" else torch.from_numpy(solve_ring("behaviour", data)).float()
    # The mean of Huber quantiles is not exactly the mean, and where targets are samples of the behaviour's future, the
    # network keeps following the noise of its last batches.
    assert (q - expected).abs().max() < (0.1 if name in ("qr_dqn", "mce", "bve") else 0.06)
    assert torch.equal(ours.act(states)[0], expected.argmax(1))


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["binary", "exponential"])
def test_crr_improves_on_the_behaviour_of_the_ring(weighting: str) -> None:
    data = ring_episodes()
    ours = make(
        "discrete_crr", ProblemSpec.of(data), [0], target_period=50, hidden=(32, 32), activation="relu",
        learning_rate=1e-3, discount=DISCOUNT, weighting=weighting, temperature=0.1, samples=0,
    )  # fmt: skip
    buffer = TransitionBuffer(data, ours.requires, Preprocessing(observations="none"))
    sampler = LaneSampler(buffer, [0], 128, ours.noise_spec(128))
    for step in range(1, 4001):
        ours.update(*sampler.draw(step), step)
    probabilities = ours.actor.detached(torch.eye(STATES)[None]).softmax(-1)[0]
    # The behaviour moves on with probability 0.3 and moving on is optimal. The binary filter leaves nothing else;
    # exponential weights tilt the behaviour without ever excluding its other action.
    assert (probabilities[:, 1] > (0.9 if weighting == "binary" else 0.65)).all()
