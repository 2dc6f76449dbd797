"""Actor-critics with stochastic policies against their losses written out in plain torch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from offbench.algorithms.gaussian import squashed_sample

from .problems import CONTINUOUS, Plain, adam, histogram_mean, make, normal_histogram, random_batch, random_noise

A = CONTINUOUS.action_size


def columns(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(batch[k][0] for k in ("observations", "actions", "rewards", "next_observations", "continues"))


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A sample and its log-density by torch's own distributions."""
    base = Independent(Normal(mean, log_std.exp()), 1)
    policy = TransformedDistribution(base, [TanhTransform(cache_size=1)])
    action = policy.transforms[0](mean + log_std.exp() * noise)
    return action, policy.log_prob(action)


def step(optimizer: torch.optim.Optimizer, loss: Tensor, **options: bool) -> None:
    optimizer.zero_grad()
    loss.backward(**options)
    optimizer.step()


def test_squashed_density_integrates_to_one_and_is_exact_where_tanh_saturates() -> None:
    noise = torch.linspace(-8, 8, 20_001, dtype=torch.float64)[:, None]
    mean, log_std = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[-0.3]], dtype=torch.float64)
    action, log_density = squashed_sample(mean, log_std, noise)
    assert torch.trapezoid(log_density.exp(), action[:, 0]).item() == pytest.approx(1.0, abs=1e-6)
    # At u = 12 in float32, tanh(u) rounds to 1 and log(1 - tanh^2) would be -inf; the true value is 2 (log 2 - u).
    _, far = squashed_sample(torch.tensor([[12.0]]), torch.tensor([[0.0]]), torch.zeros(1, 1))
    assert far.item() == pytest.approx(-0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - 12), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "extra"), [("sac_n", {}), ("sac_n", {"minto": True}), ("edac", {"diversity": 3.0})], ids=str
)
def test_sac_n_and_edac_equal_the_paper_written_out(name: str, extra: dict[str, object]) -> None:
    ours = make(name, CONTINUOUS, [5], critics=4, **extra)
    actor, critic = Plain(ours.actor), Plain(ours.critic)
    old_critic = copy.deepcopy(critic)
    log_alpha = torch.zeros((), requires_grad=True)
    actor_step, critic_step = adam(actor), adam(critic)
    alpha_step = torch.optim.Adam([log_alpha], lr=3e-4)

    def sample(s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        output = actor(s)
        return squashed(output[:, :A], output[:, A:].clamp(-5, 2), noise)

    for update in range(1, 21):
        batch, noise = random_batch(CONTINUOUS, 1, 32, update), random_noise(ours, 32, update)
        s, a, r, s2, c = columns(batch)
        new, log_pi = sample(s, noise["action"][0])
        step(alpha_step, -(log_alpha * (log_pi.detach() - A)).mean())
        alpha = log_alpha.exp().detach()
        q_new = torch.stack([critic(s, new, member=i)[:, 0] for i in range(4)]).min(0).values
        actor_loss = (alpha * log_pi - q_new).mean()
        step(actor_step, actor_loss)
        with torch.no_grad():
            a2, log_pi2 = sample(s2, noise["next_action"][0])
            used = [old_critic, critic] if extra.get("minto") else [old_critic]
            q2 = torch.stack([net(s2, a2, member=i)[:, 0] for i in range(4) for net in used]).min(0).values
            y = r + 0.99 * c * (q2 - alpha * log_pi2)
        critic_loss = sum(nn.functional.mse_loss(critic(s, a, member=i)[:, 0], y) for i in range(4))
        if name == "edac":
            gradients = []
            for i in range(4):
                action = a.clone().requires_grad_()
                (g,) = torch.autograd.grad(critic(s, action, member=i).sum(), [action], create_graph=True)
                gradients.append(g / (g.norm(dim=1, keepdim=True) + 1e-10))
            pairs = sum((gradients[i] * gradients[j]).sum(1) for i in range(4) for j in range(4) if i != j)
            critic_loss = critic_loss + 3.0 * pairs.mean() / 3
        step(critic_step, critic_loss)
        old_critic.move(critic, 0.005)
        metrics = ours.update(batch, noise, update)
        assert metrics["critic_loss"].item() == pytest.approx(critic_loss.item(), rel=2e-4)
        assert metrics["actor_loss"].item() == pytest.approx(actor_loss.item(), rel=2e-4, abs=1e-5)
    for plain, net in ((actor, "actor"), (critic, "critic"), (old_critic, "target_critic")):
        plain.assert_equals(getattr(ours, net))
    assert ours.log_temperature.item() == pytest.approx(log_alpha.item(), rel=1e-4)


def test_awac_equals_the_paper_written_out() -> None:
    ours = make("awac", CONTINUOUS, [5], advantage_clip=1.02, temperature=0.5)
    actor, critic = Plain(ours.actor), Plain(ours.critic)
    old_critic = copy.deepcopy(critic)
    log_std = torch.zeros(A, requires_grad=True)
    actor_step, critic_step = adam(actor), adam(critic)
    actor_step.add_param_group({"params": [log_std]})
    clipped = 0
    for update in range(1, 21):
        batch, noise = random_batch(CONTINUOUS, 1, 32, update), random_noise(ours, 32, update)
        s, a, r, s2, c = columns(batch)

        def smaller(net: Plain, s: Tensor, a: Tensor) -> Tensor:
            return torch.minimum(net(s, a, member=0), net(s, a, member=1))[:, 0]

        with torch.no_grad():
            a2 = (actor(s2) + log_std.exp() * noise["next_action"][0]).clamp(-1, 1)
            y = r + 0.99 * c * smaller(old_critic, s2, a2)
        critic_loss = sum(nn.functional.mse_loss(critic(s, a, member=i)[:, 0], y) for i in range(2))
        step(critic_step, critic_loss)
        with torch.no_grad():
            own = (actor(s) + log_std.exp() * noise["action"][0]).clamp(-1, 1)
            weight = torch.exp((smaller(critic, s, a) - smaller(critic, s, own)) / 0.5).clamp(max=1.02)
            clipped += int((weight == 1.02).sum())
        log_pi = Normal(actor(s), log_std.exp()).log_prob(a).sum(1)
        actor_loss = -(weight * log_pi).mean()
        step(actor_step, actor_loss)
        old_critic.move(critic, 0.005)
        metrics = ours.update(batch, noise, update)
        assert metrics["critic_loss"].item() == pytest.approx(critic_loss.item(), rel=2e-4)
        assert metrics["actor_loss"].item() == pytest.approx(actor_loss.item(), rel=2e-4, abs=1e-5)
    assert 0 < clipped < 20 * 32
    for plain, net in ((actor, "actor"), (critic, "critic"), (old_critic, "target_critic")):
        plain.assert_equals(getattr(ours, net))
    torch.testing.assert_close(ours.log_std[0], log_std)


@pytest.mark.parametrize(
    "settings",
    [{}, {"weighting": "exponential", "baseline": "max", "temperature": 0.1, "weight_clip": 1.2}],
    ids=["binary-mean", "exponential-max"],
)
def test_crr_equals_the_paper_written_out(settings: dict[str, object]) -> None:
    ours = make("crr", CONTINUOUS, [5], samples=3, **settings)
    actor, critic = Plain(ours.actor), Plain(ours.critic)
    old_actor, old_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    log_std = torch.zeros(A, requires_grad=True)
    actor_step, critic_step = adam(actor), adam(critic)
    actor_step.add_param_group({"params": [log_std]})
    weights = []
    for update in range(1, 21):
        batch, noise = random_batch(CONTINUOUS, 1, 32, update), random_noise(ours, 32, update)
        s, a, r, s2, c = columns(batch)

        def smaller(net: Plain, s: Tensor, a: Tensor) -> Tensor:
            return torch.minimum(net(s, a, member=0), net(s, a, member=1))[:, 0]

        with torch.no_grad():
            a2 = (torch.tanh(old_actor(s2)) + log_std.exp() * noise["next_action"][0]).clamp(-1, 1)
            y = r + 0.99 * c * smaller(old_critic, s2, a2)
        critic_loss = sum(nn.functional.mse_loss(critic(s, a, member=i)[:, 0], y) for i in range(2))
        step(critic_step, critic_loss)
        with torch.no_grad():
            draws = [(torch.tanh(actor(s)) + log_std.exp() * z).clamp(-1, 1) for z in noise["action"][0]]
            own = torch.stack([smaller(critic, s, draw) for draw in draws])
            advantage = smaller(critic, s, a) - (own.max(0).values if "baseline" in settings else own.mean(0))
            weight = torch.exp(advantage / 0.1).clamp(max=1.2) if settings else (advantage > 0).float()
            weights.append(weight)
        log_pi = Normal(torch.tanh(actor(s)), log_std.exp()).log_prob(a).sum(1)
        step(actor_step, -(weight * log_pi).mean())
        old_critic.move(critic, 0.005)
        old_actor.move(actor, 0.005)
        assert ours.update(batch, noise, update)["critic_loss"].item() == pytest.approx(critic_loss.item(), rel=2e-4)
    assert torch.cat(weights).unique().numel() > 1
    nets = {"actor": actor, "critic": critic, "target_actor": old_actor, "target_critic": old_critic}
    for name, plain in nets.items():
        plain.assert_equals(getattr(ours, name))
    torch.testing.assert_close(ours.log_std[0], log_std)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lagrange": True, "gap": 0.8, "conservatism": 5.0},
        {"max_backup": True, "clip_difference": 1.4},
        {"minto": True},
        {"critic_loss": "hl_gauss", "bins": 11, "value_low": -4.0, "value_high": 4.0},
    ],
    ids=["plain", "lagrange", "max-backup", "minto", "hl-gauss"],
)
def test_cql_equals_the_paper_written_out(settings: dict[str, object]) -> None:
    ours = make("cql", CONTINUOUS, [5], actions=4, actor_learning_rate=3e-4, **settings)
    actor, critic = Plain(ours.actor), Plain(ours.critic)
    old_critic = copy.deepcopy(critic)
    scale, offset = torch.ones((), requires_grad=True), torch.full((), -1.0, requires_grad=True)
    log_alpha, log_multiplier = torch.zeros((), requires_grad=True), torch.ones((), requires_grad=True)
    actor_step, critic_step = adam(actor), adam(critic)
    actor_step.add_param_group({"params": [scale, offset]})
    alpha_step, multiplier_step = (torch.optim.Adam([x], lr=3e-4) for x in (log_alpha, log_multiplier))
    weight = settings.get("conservatism", 10.0)
    classifies = "critic_loss" in settings

    def sample(s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Samples [B, n, A] and log-densities [B, n]."""
        output = actor(s)[:, None].expand(-1, noise.shape[1], -1)
        return squashed(output[..., :A], (scale * output[..., A:] + offset).clamp(-20, 2), noise)

    def value_of(output: Tensor) -> Tensor:
        return histogram_mean(output, -4, 4) if classifies else output[..., 0]

    def q_of(net: Plain, i: int, s: Tensor, a: Tensor) -> Tensor:
        return value_of(net(s[:, None].expand(-1, a.shape[1], -1), a, member=i))

    for update in range(1, 21):
        batch, noise = random_batch(CONTINUOUS, 1, 32, update), random_noise(ours, 32, update)
        s, a, r, s2, c = columns(batch)
        n = {name: value[0] for name, value in noise.items()}
        new, log_pi = sample(s, n["action"])
        alpha = log_alpha.exp().detach()
        alpha_loss = -(log_alpha * (log_pi.detach() - A)).mean()
        q_new = torch.minimum(q_of(critic, 0, s, new), q_of(critic, 1, s, new))
        actor_loss = (alpha * log_pi - q_new).mean()
        with torch.no_grad():
            a2, _ = sample(s2, n["backup_action"])
            q2 = torch.minimum(q_of(old_critic, 0, s2, a2), q_of(old_critic, 1, s2, a2))
            if settings.get("minto"):
                q2 = torch.stack([q2, q_of(critic, 0, s2, a2), q_of(critic, 1, s2, a2)]).amin(0)
            y = r + 0.99 * c * q2.max(1).values
            current, current_log = sample(s, n["current_action"])
            following, following_log = sample(s2, n["next_action"])
        critic_loss = multiplier_loss = td_loss = torch.zeros(())
        for i in range(2):
            output = critic(s, a, member=i)
            q = value_of(output)
            values = torch.cat(
                [
                    q_of(critic, i, s, 2 * n["uniform_action"] - 1) - math.log(0.5**A),
                    q_of(critic, i, s, following) - following_log,
                    q_of(critic, i, s, current) - current_log,
                ],
                1,
            )
            difference = torch.logsumexp(values, 1) - q
            if "clip_difference" in settings:
                difference = difference.clamp(min=settings["clip_difference"])
            term = weight * difference.mean()
            if settings.get("lagrange"):
                multiplier = log_multiplier.exp().clamp(0, 1e6)
                excess = weight * (difference.mean() - 0.8)
                term = multiplier.detach() * excess
                multiplier_loss = multiplier_loss - 0.5 * multiplier * excess.detach()
            if classifies:
                fit = nn.functional.cross_entropy(output, normal_histogram(y, -4, 4, 11, 0.75))
            else:
                fit = nn.functional.mse_loss(q, y)
            td_loss = td_loss + fit
            critic_loss = critic_loss + fit + term
        actor_gradients = torch.autograd.grad(actor_loss, [*actor.parameters(), scale, offset])
        for parameter, gradient in zip([*actor.parameters(), scale, offset], actor_gradients, strict=True):
            parameter.grad = gradient
        step(critic_step, critic_loss)
        actor_step.step()
        step(alpha_step, alpha_loss)
        if settings.get("lagrange"):
            step(multiplier_step, multiplier_loss)
        old_critic.move(critic, 0.005)
        metrics = ours.update(batch, noise, update)
        assert metrics["critic_loss"].item() == pytest.approx(td_loss.item(), rel=3e-4)
        assert metrics["actor_loss"].item() == pytest.approx(actor_loss.item(), rel=3e-4, abs=1e-5)
    for plain, net in ((actor, "actor"), (critic, "critic"), (old_critic, "target_critic")):
        plain.assert_equals(getattr(ours, net))
    assert ours.log_temperature.item() == pytest.approx(log_alpha.item(), rel=1e-3)
    assert ours.std_scale.item() == pytest.approx(scale.item(), rel=1e-4)
    assert ours.std_offset.item() == pytest.approx(offset.item(), rel=1e-4)
    if settings.get("lagrange"):
        assert ours.log_multiplier.item() == pytest.approx(log_multiplier.item(), rel=1e-4)
        assert ours.log_multiplier.item() != 1.0
