"""Updates against separate plain-torch networks, where gradients flow, and problems whose answer is known."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offbench.algorithms.base import ProblemSpec, Requires
from offbench.algorithms.batches import LaneSampler, Preprocessing, TransitionBuffer
from offbench.datasets import Dataset

from .problems import (
    CASES,
    CONTINUOUS,
    DISCRETE,
    IDS,
    Plain,
    adam,
    histogram_mean,
    make,
    normal_histogram,
    random_batch,
    random_noise,
)


def test_td3_bc_equals_the_paper_written_out() -> None:
    ours = make("td3_bc", CONTINUOUS, [5])
    actor, critic = Plain(ours.actor), Plain(ours.critic)
    old_actor, old_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    actor_step, critic_step = adam(actor), adam(critic)
    for step in range(1, 21):
        batch, noise = random_batch(CONTINUOUS, 1, 32, step), random_noise(ours, 32, step)
        s, a, r, s2, c = (batch[k][0] for k in ("observations", "actions", "rewards", "next_observations", "continues"))
        with torch.no_grad():
            smoothing = torch.clip(0.2 * noise["target_action"][0], -0.5, 0.5)
            a2 = torch.clip(torch.tanh(old_actor(s2)) + smoothing, -1, 1)
            q2 = torch.minimum(old_critic(s2, a2, member=0), old_critic(s2, a2, member=1))[:, 0]
            y = r + 0.99 * c * q2
        loss = sum(nn.functional.mse_loss(critic(s, a, member=i)[:, 0], y) for i in range(2))
        critic_step.zero_grad()
        loss.backward()
        critic_step.step()
        if step % 2 == 0:
            pi = torch.tanh(actor(s))
            q = critic(s, pi, member=0)
            objective = -2.5 / q.abs().mean().detach() * q.mean() + nn.functional.mse_loss(pi, a)
            actor_step.zero_grad()
            objective.backward()
            actor_step.step()
            old_actor.move(actor, 0.005)
            old_critic.move(critic, 0.005)
        metrics = ours.update(batch, noise, step)
        assert metrics["critic_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
        assert ("actor_loss" in metrics) == (step % 2 == 0)
    for plain, net in (
        (actor, "actor"),
        (critic, "critic"),
        (old_actor, "target_actor"),
        (old_critic, "target_critic"),
    ):
        plain.assert_equals(getattr(ours, net))


HL_GAUSS = {"critic_loss": "hl_gauss", "bins": 11, "value_low": -2.0, "value_high": 2.0, "bin_smoothing": 0.6}


@pytest.mark.parametrize("kind", ["gaussian", "deterministic", "discrete"])
@pytest.mark.parametrize("switches", [{}, {"minto": True}, HL_GAUSS], ids=["plain", "minto", "hl-gauss"])
def test_iql_equals_the_paper_written_out(kind: str, switches: dict[str, object]) -> None:
    space = DISCRETE if kind == "discrete" else CONTINUOUS
    values = {**switches} if kind == "discrete" else {"policy": kind, **switches}
    ours = make("iql", space, [5], total_updates=40, expectile=0.8, temperature=2.0, advantage_clip=0.95, **values)
    minto, classifies = bool(switches.get("minto")), "critic_loss" in switches
    value, critic, actor = Plain(ours.value), Plain(ours.critic), Plain(ours.actor)
    old_critic = copy.deepcopy(critic)
    log_std = torch.zeros(space.action_size, requires_grad=True)
    value_step, critic_step, actor_step = adam(value), adam(critic), adam(actor)
    if kind == "gaussian":
        actor_step.add_param_group({"params": [log_std]})
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(actor_step, 40)
    clipped = 0
    for step in range(1, 21):
        batch = random_batch(space, 1, 32, step)
        s, a, r, s2, c = (batch[k][0] for k in ("observations", "actions", "rewards", "next_observations", "continues"))

        def output_of(net: Plain, member: int, s: Tensor = s, a: Tensor = a) -> Tensor:
            if kind == "discrete":
                return net(s, member=member).view(len(s), space.action_size, -1)[torch.arange(len(a)), a]
            return net(s, a, member=member)

        def q_of(net: Plain, member: int, of: Callable[..., Tensor] = output_of) -> Tensor:
            output = of(net, member)
            return histogram_mean(output, -2, 2) if classifies else output[:, 0]

        with torch.no_grad():
            target_q = torch.minimum(q_of(old_critic, 0), q_of(old_critic, 1))
            if minto:
                target_q = torch.stack([target_q, q_of(critic, 0), q_of(critic, 1)]).amin(0)
            y = r + 0.99 * c * value(s2)[:, 0]
        u = target_q - value(s)[:, 0]
        value_loss = torch.mean(torch.abs(0.8 - (u < 0).float()) * u**2)
        if classifies:
            mass = normal_histogram(y, -2, 2, 11, 0.6)
            outputs = [output_of(critic, i) for i in range(2)]
            critic_loss = sum(nn.functional.cross_entropy(output, mass) for output in outputs) / 2
        else:
            critic_loss = sum(nn.functional.mse_loss(q_of(critic, i), y) for i in range(2)) / 2
        weight = torch.exp(2.0 * u.detach()).clamp(max=0.95)
        clipped += int((weight == 0.95).sum())
        if kind == "discrete":
            log_pi = torch.distributions.Categorical(logits=actor(s)).log_prob(a)
        elif kind == "gaussian":
            log_pi = torch.distributions.Normal(torch.tanh(actor(s)), log_std.exp()).log_prob(a).sum(-1)
        else:
            log_pi = -((torch.tanh(actor(s)) - a) ** 2).sum(-1)
        actor_loss = torch.mean(-weight * log_pi)
        for optimizer, loss in ((value_step, value_loss), (critic_step, critic_loss), (actor_step, actor_loss)):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        old_critic.move(critic, 0.005)
        metrics = ours.update(batch, {}, step)
        for name, loss in (("value_loss", value_loss), ("critic_loss", critic_loss), ("actor_loss", actor_loss)):
            assert metrics[name].item() == pytest.approx(loss.item(), rel=2e-4, abs=1e-5)
        if classifies:
            assert metrics["targets_outside"].item() == pytest.approx((y.abs() > 2).float().mean().item())
    assert clipped > 0
    for plain, net in ((value, "value"), (critic, "critic"), (actor, "actor"), (old_critic, "target_critic")):
        plain.assert_equals(getattr(ours, net))
    if kind == "gaussian":
        torch.testing.assert_close(ours.log_std[0], log_std)


@pytest.mark.parametrize("kind", ["gumbel", "chi_square", "total_variation"])
def test_dual_rl_equals_the_papers_written_out(kind: str) -> None:
    special = {"temperature": 0.5, "clip": 1.0} if kind == "gumbel" else {"divergence": kind, "optimism": 0.6}
    name = "xql" if kind == "gumbel" else "dvl"
    ours = make(name, CONTINUOUS, [5], total_updates=40, huber=0.7, advantage_clip=1.1, **special)
    value, critic, actor = Plain(ours.value), Plain(ours.critic), Plain(ours.actor)
    old_critic = copy.deepcopy(critic)
    log_std = torch.zeros(CONTINUOUS.action_size, requires_grad=True)
    value_step, critic_step, actor_step = adam(value), adam(critic), adam(actor)
    actor_step.add_param_group({"params": [log_std]})
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(actor_step, 40)
    for step in range(1, 21):
        batch = random_batch(CONTINUOUS, 1, 32, step)
        s, a, r, s2, c = (batch[k][0] for k in ("observations", "actions", "rewards", "next_observations", "continues"))
        with torch.no_grad():
            q = torch.minimum(old_critic(s, a, member=0), old_critic(s, a, member=1))[:, 0]
        u = q - value(s)[:, 0]
        if kind == "gumbel":
            z = torch.minimum(u / 0.5, torch.tensor(1.0))
            m = max(z.max().item(), -1.0)
            loss = (torch.exp(z - m) - z * math.exp(-m) - math.exp(-m)).mean()
        else:
            surrogate = torch.clamp(u + u**2 / 4, min=0) if kind == "chi_square" else torch.clamp(u, min=0)
            assert u.min() > -4
            loss = (0.6 * surrogate - 0.4 * u).mean()
        value_step.zero_grad()
        loss.backward()
        value_step.step()
        with torch.no_grad():
            weight = torch.exp(3.0 * (q - value(s)[:, 0])).clamp(max=1.1)
            y = r + 0.99 * c * value(s2)[:, 0]
        log_pi = torch.distributions.Normal(torch.tanh(actor(s)), log_std.exp()).log_prob(a).sum(-1)
        actor_loss = -(weight * log_pi).mean()
        critic_loss = sum(nn.functional.huber_loss(critic(s, a, member=i)[:, 0], y, delta=0.7) for i in range(2))
        for optimizer, term in ((critic_step, critic_loss), (actor_step, actor_loss)):
            optimizer.zero_grad()
            term.backward()
            optimizer.step()
        schedule.step()
        old_critic.move(critic, 0.005)
        metrics = ours.update(batch, {}, step)
        for key, term in (("value_loss", loss), ("critic_loss", critic_loss), ("actor_loss", actor_loss)):
            assert metrics[key].item() == pytest.approx(term.item(), rel=2e-4, abs=1e-5)
    for plain, net in ((value, "value"), (critic, "critic"), (actor, "actor"), (old_critic, "target_critic")):
        plain.assert_equals(getattr(ours, net))
    torch.testing.assert_close(ours.log_std[0], log_std)


def test_gumbel_regression_finds_the_log_mean_exp() -> None:
    """The minimizer of XQL's loss over a constant V is beta log E[exp(Q / beta)] (the paper's section 3.3)."""
    ours = make("xql", CONTINUOUS, [0, 1], temperature=[0.5, 2.0], clip=50.0)
    sample = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0)).double()
    centre = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    for _ in range(4000):
        (gradient,) = torch.autograd.grad(ours.value_loss(sample - centre).sum(), [centre])
        with torch.no_grad():
            centre -= gradient
    for lane, beta in enumerate((0.5, 2.0)):
        expected = beta * torch.log(torch.exp(sample[lane] / beta).mean()).item()
        assert centre[lane].item() == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("space", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_bc_equals_supervised_learning(space: ProblemSpec) -> None:
    ours = make("bc", space, [5])
    actor = Plain(ours.actor)
    optimizer = adam(actor)
    for step in range(1, 21):
        batch = random_batch(space, 1, 32, step)
        s, a = batch["observations"][0], batch["actions"][0]
        loss = (
            nn.functional.cross_entropy(actor(s), a)
            if space.discrete
            else nn.functional.mse_loss(torch.tanh(actor(s)), a)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert ours.update(batch, {}, step)["actor_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    actor.assert_equals(ours.actor)


def changed(algorithm_before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {
        k.removeprefix("network.")
        for k in after
        if k.startswith("network.") and not torch.equal(algorithm_before[k], after[k])
    }


@pytest.mark.parametrize(
    ("name", "field", "still"),
    [
        ("td3_bc", "actor_learning_rate", {"actor"}),
        ("td3_bc", "critic_learning_rate", {"critic", "target_critic"}),
    ],
)
def test_a_rate_of_zero_stops_exactly_its_networks(name: str, field: str, still: set[str]) -> None:
    ours = make(name, CONTINUOUS, [0, 1], **{field: 0.0})
    before = ours.state_dict()
    for step in (1, 2):
        ours.update(random_batch(CONTINUOUS, 2, 16, step), random_noise(ours, 16, step), step)
    moved = changed(before, ours.state_dict())
    everything = {"actor", "target_actor", "critic", "target_critic"}
    assert moved == everything - still - ({"target_actor"} if "actor" in still else set())


def test_losses_reach_exactly_their_parameters() -> None:
    td3 = make("td3_bc", CONTINUOUS, [0])
    batch, noise = random_batch(CONTINUOUS, 1, 16, 0), random_noise(td3, 16, 0)
    target = td3.target_value(batch, noise["target_action"])
    assert not target.requires_grad
    parameters = [td3.actor.flat, td3.critic.flat]
    critic = torch.autograd.grad(td3.critic_loss(batch, target).sum(), parameters, allow_unused=True)
    actor = torch.autograd.grad(td3.actor_loss(batch).sum(), parameters, allow_unused=True)
    assert critic[0] is None
    assert critic[1].abs().sum() > 0
    assert actor[1] is None
    assert actor[0].abs().sum() > 0

    iql = make("iql", CONTINUOUS, [0])
    parameters = [iql.value.flat, iql.critic.flat, iql.actor.flat]
    imitation = torch.autograd.grad(iql.imitation_loss(batch).sum(), parameters, allow_unused=True)
    assert imitation[0] is None
    assert imitation[1] is None
    assert imitation[2].abs().sum() > 0
    assert not iql.target_critic.flat.requires_grad


@pytest.mark.parametrize(("name", "space"), CASES, ids=IDS)
def test_actions_are_in_the_environments_units(name: str, space: ProblemSpec) -> None:
    if space.discrete:
        shifted = ProblemSpec(5, 3, True, action_start=4)
        actions = make(name, shifted, [0, 1]).act(torch.randn(2, 50, 5) * 10)
        assert actions.shape == (2, 50)
        assert actions.dtype == torch.int64
        assert set(actions.unique().tolist()) <= {4, 5, 6}
    else:
        box = ProblemSpec(5, 2, False, (0.0, -3.0), (1.0, 9.0))
        ours = make(name, box, [0, 1])
        with torch.no_grad():
            ours.actor.flat.mul_(30)  # saturates the tanh: actions reach both ends of their range
        actions = ours.act(torch.randn(2, 200, 5) * 10)
        assert actions.shape == (2, 200, 2)
        torch.testing.assert_close(actions.amin((0, 1)), torch.tensor([0.0, -3.0]))
        torch.testing.assert_close(actions.amax((0, 1)), torch.tensor([1.0, 9.0]))


# --- problems whose answer is known ---

# A ring of four states; action 0 stays, action 1 moves on. Entering state 3 pays 1 and ends half of the episodes
# (the next state is terminal); staying costs 0.1.
STATES, DISCOUNT, BEHAVIOUR = 4, 0.9, np.array([0.7, 0.3])


def ring_transitions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Next state [S, A], reward [S, A], termination [S, A] of the deterministic ring."""
    following = np.array([[s, (s + 1) % STATES] for s in range(STATES)])
    reward = np.array([[-0.1, 1.0 if (s + 1) % STATES == 3 else 0.0] for s in range(STATES)])
    terminal = np.zeros((STATES, 2), bool)
    terminal[2, 1] = True
    return following, reward, terminal


def ring_dataset(size: int = 4000, seed: int = 0) -> Dataset:
    """Single-step episodes from uniform states under the behaviour policy, cut by a time limit with s' known."""
    rng = np.random.default_rng(seed)
    following, reward, terminal = ring_transitions()
    states = np.arange(size) % STATES
    actions = (rng.random(size) < BEHAVIOUR[1]).astype(np.int64)
    done = terminal[states, actions]
    one_hot = np.eye(STATES, dtype=np.float32)
    return Dataset.from_arrays(
        one_hot[states],
        actions,
        reward[states, actions].astype(np.float32),
        done,
        ~done,
        next_observations=one_hot[following[states, actions]],
        action_space=gymnasium.spaces.Discrete(2),
        name="ring",
    )


def solve_ring(backup: str, data: Dataset) -> np.ndarray:
    """Q [S, A] under the data's behaviour policy or the optimal policy, by iteration."""
    following, reward, terminal = ring_transitions()
    states = data.step_observations.argmax(1)
    policy = np.array([[np.mean(data.actions[states == s] == a) for a in range(2)] for s in range(STATES)])
    q = np.zeros((STATES, 2))
    for _ in range(2000):
        v = (policy * q).sum(1) if backup == "behaviour" else q.max(1)
        q = reward + DISCOUNT * ~terminal * v[following]
    return q


@pytest.mark.slow
@pytest.mark.parametrize(("expectile", "backup", "tolerance"), [(0.5, "behaviour", 0.06), (0.98, "optimal", 0.12)])
def test_iql_lies_between_the_behaviours_values_and_the_optimal_ones(
    expectile: float, backup: str, tolerance: float
) -> None:
    data = ring_dataset()
    ours = make(
        "iql",
        ProblemSpec.of(data),
        [0, 1],
        total_updates=6000,
        hidden=(32, 32),
        expectile=expectile,
        discount=DISCOUNT,
        learning_rate=1e-3,
        target_rate=0.02,
        temperature=10.0,
    )
    buffer = TransitionBuffer(data, Requires(), Preprocessing(observations="none"))
    sampler = LaneSampler(buffer, [0, 1], 128)
    for step in range(1, 6001):
        ours.update(*sampler.draw(step), step)
    states = torch.eye(STATES).expand(2, -1, -1)
    q = ours.critic.detached(states).mean(1)
    expected = torch.from_numpy(solve_ring(backup, data)).float()
    assert (q - expected).abs().max() < tolerance
    if backup == "optimal":
        best = expected.argmax(1)
        assert torch.equal(ours.act(states)[0], best)


def test_bc_learns_the_behaviours_probabilities() -> None:
    data = ring_dataset()
    ours = make("bc", ProblemSpec.of(data), [0], learning_rate=3e-3)
    buffer = TransitionBuffer(data, Requires(next_observations=False), Preprocessing(observations="none"))
    sampler = LaneSampler(buffer, [0], 256)
    for step in range(1, 601):
        ours.update(*sampler.draw(step), step)
    probabilities = ours.actor.detached(torch.eye(STATES)[None]).softmax(-1)[0]
    torch.testing.assert_close(probabilities, torch.tensor([[0.7, 0.3]] * STATES), atol=0.06, rtol=0)


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 0.0), (20.0, 0.5)])
def test_td3_bc_moves_from_imitation_to_the_best_action_with_alpha(alpha: float, expected: float) -> None:
    """A bandit: behaviour uniform on [-1, 1] (mean 0), reward -|a - 0.5|, largest at 0.5."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (4000, 1)).astype(np.float32)
    data = Dataset.from_arrays(
        np.ones((4000, 1), np.float32),
        actions,
        -np.abs(actions[:, 0] - 0.5),
        np.ones(4000, bool),
        np.zeros(4000, bool),
        action_space=gymnasium.spaces.Box(-1.0, 1.0, (1,)),
        name="bandit",
    )
    ours = make(
        "td3_bc",
        ProblemSpec.of(data),
        [0],
        alpha=alpha,
        hidden=(32, 32),
        actor_learning_rate=1e-3,
        critic_learning_rate=3e-3,
    )
    buffer = TransitionBuffer(data, Requires(), Preprocessing(observations="none"))
    sampler = LaneSampler(buffer, [0], 128, ours.noise_spec(128))
    for step in range(1, 2001):
        ours.update(*sampler.draw(step), step)
    assert ours.act(torch.ones(1, 1, 1)).item() == pytest.approx(expected, abs=0.1)


def test_expectile_loss_is_minimal_at_the_expectile() -> None:
    """The tau-expectile m of a sample solves tau E[(x-m)+] = (1-tau) E[(m-x)+]."""
    ours = make("iql", CONTINUOUS, [0, 1], expectile=[0.5, 0.9])
    sample = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0)).double()
    centre = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(ours.expectile_loss(sample - centre).sum(), [centre])
        with torch.no_grad():
            centre -= gradient
    for lane, tau in enumerate((0.5, 0.9)):
        above = (sample[lane] - centre[lane]).clamp(min=0).mean().item()
        below = (centre[lane] - sample[lane]).clamp(min=0).mean().item()
        assert tau * above == pytest.approx((1 - tau) * below, rel=1e-3)
    assert centre[0].item() == pytest.approx(sample[0].mean().item(), abs=1e-3)


def test_gaussian_log_probability_integrates_to_one() -> None:
    space = ProblemSpec(2, 1, False, (-1.0,), (1.0,))
    ours = make("iql", space, [0])
    with torch.no_grad():
        ours.log_std.fill_(-1.2)
    grid = torch.linspace(-4, 4, 4001)
    batch = {"observations": torch.zeros(1, 4001, 2), "actions": grid.view(1, -1, 1)}
    density = torch.exp(-ours.imitation_loss(batch))[0].detach()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=1e-4)
    assert density.max().item() == pytest.approx(1 / (math.exp(-1.2) * math.sqrt(2 * math.pi)), rel=1e-3)
