"""BCQ, PRDC and A2PR against their losses written out in plain torch, their auto-encoder and the neighbour search."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from offbench.algorithms import vae
from offbench.algorithms.base import Algorithm

from .problems import CONTINUOUS, Plain, adam, make, random_batch, random_noise

A = CONTINUOUS.action_size


def columns(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(batch[k][0] for k in ("observations", "actions", "rewards", "next_observations", "continues"))


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def encoded(encoder: Plain, s: Tensor, a: Tensor) -> Normal:
    """The encoder's distribution of latents."""
    mean, log_std = encoder(s, a).split(2 * A, -1)
    return Normal(mean, torch.exp(log_std.clamp(-4, 15)))


def lane_of(ours: Algorithm, name: str, lane: int) -> Plain:
    """A network of one lane as torch modules."""
    alone = make(ours.name, CONTINUOUS, [0])._networks[name]
    alone.flat.data.copy_(ours._networks[name].flat.data[lane : lane + 1])
    return Plain(alone)


def vae_terms(encoder: Plain, decoder: Plain, s: Tensor, a: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors of reconstructed actions, and the divergence from the prior averaged over latents."""
    q = encoded(encoder, s, a)
    actions = torch.tanh(decoder(s, q.mean + q.stddev * noise))
    return (actions - a) ** 2, kl_divergence(q, Normal(torch.zeros(()), torch.ones(()))).mean()


# --- the auto-encoder ---


def test_divergence_equals_torchs_and_the_integral() -> None:
    mean, log_std = torch.tensor([0.0, 1.5, -2.0], dtype=torch.float64), torch.tensor([0.0, -1.0, 0.7]).double()
    ours = vae.kl_divergence(mean, log_std)
    torch.testing.assert_close(ours, kl_divergence(Normal(mean, log_std.exp()), Normal(0.0 * mean, 1.0)))
    z = torch.linspace(-25, 25, 200_001, dtype=torch.float64)[:, None]
    q = Normal(mean, log_std.exp())
    integrand = q.log_prob(z).exp() * (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z))
    torch.testing.assert_close(ours, torch.trapezoid(integrand, z, dim=0), rtol=1e-8, atol=1e-8)


def test_loss_is_an_evidence_bound() -> None:
    # With one latent per action dimension and the divergence weighted by 1/4, the loss is the negative bound of a
    # Gaussian decoder of variance 1/8 (as with two latents and 1/2). So bound + KL(q | posterior) = log p(a|s), which
    # is integrated over the latent.
    ours = make("bcq", CONTINUOUS, [3])
    space = CONTINUOUS
    model = vae.ActionVAE(ours, (16, 16), 1)
    batch = random_batch(space, 1, 1, 4)
    variance = 1 / 8
    grid, weights = np.polynomial.hermite_e.hermegauss(60)
    noise = torch.from_numpy(grid.astype(np.float32))[None, :, None]
    many = {key: batch[key].expand(1, len(grid), -1) for key in ("observations", "actions", "observation_actions")}
    errors, divergence = model.losses(many, noise)
    error = float((errors[0].sum(-1) * torch.from_numpy(weights / weights.sum())).sum())
    bound = -error / (2 * variance) - space.action_size / 2 * math.log(2 * math.pi * variance)
    bound -= divergence[0, 0].sum().item()

    encoder, decoder = Plain(model.encoder), Plain(model.decoder)
    mean, log_std = encoder(batch["observations"][0], batch["actions"][0])[0].detach().double()
    z = torch.linspace(-12, 12, 40_001)[:, None]
    with torch.no_grad():
        actions = torch.tanh(decoder(batch["observations"][0].expand(len(z), -1), z)).double()
    z = z.double()[:, 0]
    likelihood = Normal(actions, math.sqrt(variance)).log_prob(batch["actions"][0].double()).sum(-1)
    joint = likelihood + Normal(0.0, 1.0).log_prob(z)
    evidence = torch.log(torch.trapezoid(joint.exp(), z))
    q = Normal(mean, log_std.exp())
    gap = torch.trapezoid(q.log_prob(z).exp() * (q.log_prob(z) - joint + evidence), z)
    assert gap > 0.01
    assert bound + gap.item() == pytest.approx(evidence.item(), abs=2e-4)


def test_sampled_actions_come_from_clipped_latents() -> None:
    ours = make("bcq", CONTINUOUS, [3])
    s = random_batch(CONTINUOUS, 1, 6, 1)["observations"]
    noise = 3 * torch.randn(1, 6, 2 * A, generator=torch.Generator().manual_seed(0))
    expected = torch.tanh(Plain(ours.vae.decoder)(s[0], noise[0].clip(-0.5, 0.5)))
    torch.testing.assert_close(ours.vae.sample(s, noise)[0], expected.detach())


# --- BCQ ---


def test_bcq_equals_the_authors_update_written_out() -> None:
    settings = {"perturbation": 0.3, "minimum_weight": 0.6, "target_samples": 4, "divergence_weight": 0.8}
    ours = make("bcq", CONTINUOUS, [5], **settings)
    encoder, decoder = Plain(ours.vae.encoder), Plain(ours.vae.decoder)
    actor, critic = Plain(ours.actor), Plain(ours.critic)
    old_actor, old_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    vae_step, actor_step, critic_step = adam(encoder, decoder), adam(actor), adam(critic)
    for optimizer in (vae_step, actor_step, critic_step):
        optimizer.param_groups[0]["lr"] = 1e-3

    def behaviour(s: Tensor, noise: Tensor) -> Tensor:
        return torch.tanh(decoder(s, noise.clip(-0.5, 0.5)))

    for update in range(1, 21):
        batch, noise = random_batch(CONTINUOUS, 1, 32, update), random_noise(ours, 32, update)
        s, a, r, s2, c = columns(batch)
        n = {name: value[0] for name, value in noise.items()}
        errors, divergence = vae_terms(encoder, decoder, s, a, n["reconstruction"])
        vae_loss = errors.mean() + 0.8 * divergence
        step(vae_step, vae_loss)
        with torch.no_grad():
            values = []
            for sample in range(4):
                b = behaviour(s2, n["next_latents"][:, sample])
                a2 = torch.clip(b + 0.3 * torch.tanh(old_actor(s2, b)), -1, 1)
                q = torch.stack([old_critic(s2, a2, member=i)[:, 0] for i in range(2)])
                values.append(0.6 * q.min(0).values + 0.4 * q.max(0).values)
            y = r + 0.99 * c * torch.stack(values).max(0).values
        critic_loss = sum(nn.functional.mse_loss(critic(s, a, member=i)[:, 0], y) for i in range(2))
        step(critic_step, critic_loss)
        b = behaviour(s, n["latents"])
        actor_loss = -critic(s, torch.clip(b + 0.3 * torch.tanh(actor(s, b)), -1, 1), member=0).mean()
        step(actor_step, actor_loss)
        old_actor.move(actor, 0.005)
        old_critic.move(critic, 0.005)
        metrics = ours.update(batch, noise, update)
        for name, loss in (("vae_loss", vae_loss), ("critic_loss", critic_loss), ("actor_loss", actor_loss)):
            assert metrics[name].item() == pytest.approx(loss.item(), rel=2e-4, abs=1e-5)
    for plain, net in (
        (encoder, ours.vae.encoder),
        (decoder, ours.vae.decoder),
        (actor, ours.actor),
        (critic, ours.critic),
        (old_actor, ours.target_actor),
        (old_critic, ours.target_critic),
    ):
        plain.assert_equals(net)


def test_bcq_acts_by_its_best_candidate() -> None:
    ours = make("bcq", CONTINUOUS, [5, 6], evaluation_samples=7, perturbation=0.2)
    observations = random_batch(CONTINUOUS, 2, 300, 1)["observations"]  # more than one chunk
    actions = ours.policy(observations)
    for lane in (0, 1):
        decoder, actor = (lane_of(ours, name, lane) for name in ("decoder", "actor"))
        critic = lane_of(ours, "critic", lane)
        for row in (0, 255, 256, 299):
            s = observations[lane, row].expand(7, -1)
            b = torch.tanh(decoder(s, ours.evaluation_latents[lane].clip(-0.5, 0.5)))
            candidates = torch.clip(b + 0.2 * torch.tanh(actor(s, b)), -1, 1)
            best = candidates[critic(s, candidates, member=0)[:, 0].argmax()]
            torch.testing.assert_close(actions[lane, row], best.detach(), rtol=1e-4, atol=1e-5)
    # A function of the state: what it was asked before, and together with what, changes nothing.
    torch.testing.assert_close(ours.policy(observations[:, 290:]), actions[:, 290:], rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours.evaluation_latents[0], ours.evaluation_latents[1])
