"""BCQ, PRDC and A2PR against their losses written out in plain torch, their auto-encoder and the neighbour search."""

from __future__ import annotations

import copy
import dataclasses
import math

import gymnasium
import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from offbench.algorithms import get_algorithm, neighbours, vae
from offbench.algorithms.base import Algorithm, ProblemSpec, Requires
from offbench.algorithms.batches import LaneSampler, Preprocessing, TransitionBuffer
from offbench.algorithms.conformance import random_dataset
from offbench.algorithms.neighbours import NeighbourIndex
from offbench.algorithms.networks import StackedMLP
from offbench.datasets import Dataset
from offbench.errors import SpecError

from .problems import CONTINUOUS, Plain, adam, make, random_batch, random_noise

A = CONTINUOUS.action_size


def columns(batch: dict[str, Tensor], lane: int = 0) -> tuple[Tensor, ...]:
    return tuple(batch[k][lane] for k in ("observations", "actions", "rewards", "next_observations", "continues"))


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def encoded(encoder: Plain, s: Tensor, a: Tensor) -> Normal:
    """The encoder's distribution of latents."""
    mean, log_std = encoder(s, a).split(2 * A, -1)
    return Normal(mean, torch.exp(log_std.clamp(-4, 15)))


def alone(ours: Algorithm, name: str, lane: int) -> StackedMLP:
    """A network of one lane."""
    network = make(ours.name, CONTINUOUS, [0])._networks[name]
    network.flat.data.copy_(ours._networks[name].flat.data[lane : lane + 1])
    return network


def lane_of(ours: Algorithm, name: str, lane: int) -> Plain:
    """A network of one lane as torch modules."""
    return Plain(alone(ours, name, lane))


def vae_terms(encoder: Plain, decoder: Plain, s: Tensor, a: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors of reconstructed actions, and the divergence from the prior averaged over latents."""
    q = encoded(encoder, s, a)
    actions = torch.tanh(decoder(s, q.mean + q.stddev * noise))
    return (actions - a) ** 2, kl_divergence(q, Normal(torch.zeros(()), torch.ones(()))).mean()


def reached(ours: Algorithm, loss: Tensor) -> set[str]:
    """The networks whose parameters receive a gradient of `loss` that is not zero."""
    nets = {name: net.flat for name, net in ours._networks.items() if net.flat.requires_grad}
    gradients = torch.autograd.grad(loss.sum(), list(nets.values()), allow_unused=True)
    return {name for name, g in zip(nets, gradients, strict=True) if g is not None and g.abs().sum() > 0}


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
    model = vae.ActionVAE(ours, (16, 16), 1)
    batch = random_batch(CONTINUOUS, 1, 1, 4)
    variance = 1 / 8
    grid, weights = np.polynomial.hermite_e.hermegauss(60)
    noise = torch.from_numpy(grid.astype(np.float32))[None, :, None]
    many = {key: batch[key].expand(1, len(grid), -1) for key in ("observations", "actions", "observation_actions")}
    errors, divergence = model.losses(many, noise)
    error = float((errors[0].detach().sum(-1) * torch.from_numpy(weights / weights.sum())).sum())
    bound = -error / (2 * variance) - A / 2 * math.log(2 * math.pi * variance)
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


def test_bcqs_gradients_reach_the_right_parameters() -> None:
    ours = make("bcq", CONTINUOUS, [0, 1])
    batch, noise = random_batch(CONTINUOUS, 2, 32, 0), random_noise(ours, 32, 0)
    target = ours.target_value(batch, noise["next_latents"])
    assert not target.requires_grad
    assert reached(ours, ours.vae_loss(batch, noise["reconstruction"])) == {"encoder", "decoder"}
    assert reached(ours, ours.critic_loss(batch, target)) == {"critic"}
    assert reached(ours, ours.actor_loss(batch, noise["latents"])) == {"actor"}


# --- nearest neighbours ---


def brute_force(rows: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest row number among the nearest rows, and squared distances, in float64."""
    distances = np.stack([((rows.astype(float) - query) ** 2).sum(1) for query in queries.astype(float)])
    return distances.argmin(1), distances.min(1)


@pytest.mark.parametrize("count", [1, 2, 15, 17, 100, 5000])
@pytest.mark.parametrize("dimensions", [1, 3, 14])
def test_neighbours_are_exact(count: int, dimensions: int) -> None:
    rng = np.random.default_rng(count + dimensions)
    rows = (rng.standard_normal((count, dimensions)) * rng.uniform(0.1, 3, dimensions)).astype(np.float32)
    start = rng.integers(0, count, 200)
    queries = rows[start] + (rng.uniform(0, 2, (200, 1)) * rng.standard_normal((200, dimensions))).astype(np.float32)
    bound = ((queries - rows[start]) ** 2).sum(1)
    found, squared = NeighbourIndex(torch.from_numpy(rows)).nearest(torch.from_numpy(queries), torch.from_numpy(bound))
    distances, _ = cKDTree(rows.astype(float)).query(queries.astype(float))
    np.testing.assert_allclose(squared.sqrt(), distances, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(((rows[found].astype(float) - queries) ** 2).sum(1) ** 0.5, distances, rtol=2e-6)


def test_of_equally_near_rows_the_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # Integer grids: distances are exact, and most queries have several nearest rows; all rows occur five times.
    monkeypatch.setattr(neighbours, "_PAIRS", 64)  # ties in different portions too
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(6.0)] * 3), -1).reshape(-1, 3).astype(np.float32)
    rows = rng.permutation(np.repeat(grid, 5, 0))
    queries = rng.integers(-1, 13, (500, 3)).astype(np.float32) / 2
    expected, squared = brute_force(rows, queries)
    bound = ((queries - rows[0]) ** 2).sum(1)
    found, ours = NeighbourIndex(torch.from_numpy(rows)).nearest(torch.from_numpy(queries), torch.from_numpy(bound))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(ours, squared)


def test_a_query_in_the_data_finds_itself_and_one_that_is_nan_harms_no_other() -> None:
    rows = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))
    queries = rows[:50].clone()
    queries[7] = float("nan")
    found, squared = NeighbourIndex(rows).nearest(queries, (queries - rows[:50]).square().sum(1))
    expected = torch.arange(50)
    expected[7] = 0
    assert torch.equal(found, expected)
    assert squared[7] == float("inf")
    assert squared.nan_to_num(posinf=0.0).abs().sum() == 0


# --- PRDC ---


def test_prdc_equals_the_paper_written_out() -> None:
    data = random_dataset(discrete=False)
    buffer = TransitionBuffer(data, Requires(), Preprocessing())
    rows = buffer.gather(torch.arange(len(buffer))[None])
    states, actions = rows["observations"][0], rows["actions"][0]
    ours = make("prdc", buffer.space, [5, 6], state_weight=[0.02, 2.0], alpha=1.5)
    ours.attach(buffer)
    sampler = LaneSampler(buffer, [5, 6], 32, ours.noise_spec(32))
    nets = [[lane_of(ours, name, lane) for name in ("actor", "critic")] for lane in (0, 1)]
    old = copy.deepcopy(nets)
    steps = [[adam(actor), adam(critic)] for actor, critic in nets]
    elsewhere = [0, 0]
    for update in range(1, 21):
        batch, noise = sampler.draw(update)
        for lane, beta in enumerate((0.02, 2.0)):
            (actor, critic), (old_actor, old_critic) = nets[lane], old[lane]
            s, a, r, s2, c = columns(batch, lane)
            with torch.no_grad():
                smoothing = torch.clip(0.2 * noise["target_action"][lane], -0.5, 0.5)
                a2 = torch.clip(torch.tanh(old_actor(s2)) + smoothing, -1, 1)
                y = r + 0.99 * c * torch.minimum(old_critic(s2, a2, member=0), old_critic(s2, a2, member=1))[:, 0]
            step(steps[lane][1], sum(nn.functional.mse_loss(critic(s, a, member=i)[:, 0], y) for i in range(2)))
            if update % 2 == 0:
                pi = torch.tanh(actor(s))
                keys = torch.cat([beta * s, pi.detach()], 1).numpy()
                nearest, _ = brute_force(torch.cat([beta * states, actions], 1).numpy(), keys)
                elsewhere[lane] += int((actions[nearest] != a).any(1).sum())
                q = critic(s, pi, member=0)
                step(
                    steps[lane][0],
                    -1.5 / q.abs().mean().detach() * q.mean() + nn.functional.mse_loss(pi, actions[nearest]),
                )
                old_actor.move(actor, 0.005)
                old_critic.move(critic, 0.005)
        ours.update(batch, noise, update)
    assert elsewhere[0] > 150  # of 320: where states hardly count, the nearest action was mostly taken elsewhere
    assert 0 < elsewhere[1] < 150
    for lane in (0, 1):
        for plain, name in zip(
            nets[lane] + old[lane], ("actor", "critic", "target_actor", "target_critic"), strict=True
        ):
            plain.assert_equals(alone(ours, name, lane))


def test_prdcs_gradient_reaches_the_actor_alone() -> None:
    data = random_dataset(discrete=False)
    buffer = TransitionBuffer(data, Requires(), Preprocessing())
    ours = make("prdc", buffer.space, [0, 1])
    batch, _ = LaneSampler(buffer, [0, 1], 32).draw(1)
    with pytest.raises(SpecError, match="attach"):
        ours.actor_loss(batch)
    ours.attach(buffer)
    assert reached(ours, ours.actor_loss(batch)) == {"actor"}
    assert not any("data" in key for key in ours.state_dict())


# --- A2PR ---


def test_a2pr_equals_the_authors_update_written_out() -> None:
    settings = {"imitation_weight": 0.4, "reconstruction_weight": 1.5, "divergence_weight": 0.3, "alpha": 1.7}
    ours = make("a2pr", CONTINUOUS, [5], **settings)
    actor, critic, value = Plain(ours.actor), Plain(ours.critic), Plain(ours.value)
    encoder, decoder = Plain(ours.vae.encoder), Plain(ours.vae.decoder)
    old_actor, old_critic = copy.deepcopy(actor), copy.deepcopy(critic)
    actor_step, critic_step, value_step, vae_step = adam(actor), adam(critic), adam(value), adam(encoder, decoder)
    vae_step.param_groups[0]["lr"] = 1e-3
    modelled_is_better = masked = 0
    for update in range(1, 21):
        batch, noise = random_batch(CONTINUOUS, 1, 32, update), random_noise(ours, 32, update)
        s, a, r, s2, c = columns(batch)
        n = {name: value[0] for name, value in noise.items()}

        def smaller(net: Plain, s: Tensor, a: Tensor) -> Tensor:
            return torch.minimum(net(s, a, member=0), net(s, a, member=1))[:, 0]

        with torch.no_grad():
            a2 = torch.clip(torch.tanh(old_actor(s2)) + torch.clip(0.2 * n["target_action"], -0.5, 0.5), -1, 1)
            y = r + 0.99 * c * smaller(old_critic, s2, a2)
        critic_loss = sum(nn.functional.mse_loss(critic(s, a, member=i)[:, 0], y) for i in range(2))
        step(critic_step, critic_loss)
        with torch.no_grad():
            y_value = torch.minimum(r + 0.99 * c * smaller(critic, s2, a2), y)
        v = value(s)[:, 0]
        value_loss = nn.functional.mse_loss(v, y_value)
        step(value_step, value_loss)
        v = v.detach()
        q_data = critic(s, a, member=0)[:, 0].detach()
        errors, divergence = vae_terms(encoder, decoder, s, a, n["reconstruction"])
        vae_loss = (1.5 * (q_data > v).float()[:, None] * errors).mean() + 0.3 * divergence
        step(vae_step, vae_loss)
        metrics = ours.update(batch, noise, update)
        assert metrics["critic_loss"].item() == pytest.approx(critic_loss.item(), rel=2e-4)
        assert metrics["value_loss"].item() == pytest.approx(value_loss.item(), rel=2e-4)
        assert metrics["vae_loss"].item() == pytest.approx(vae_loss.item(), rel=2e-4)
        if update % 2 == 0:
            pi = torch.tanh(actor(s))
            q = critic(s, pi, member=0)
            posterior = encoded(encoder, s, pi)
            b = torch.tanh(decoder(s, posterior.mean + posterior.stddev * n["policy_reconstruction"]))
            q_b = critic(s, b, member=0)[:, 0]
            imitation = torch.zeros(())
            for i in range(32):
                best = b[i] if q_b[i] - v[i] >= q_data[i] - v[i] else a[i]
                if q_b[i] >= v[i] or q_data[i] > v[i]:
                    imitation = imitation + 0.4 * (pi[i] - best).square().mean() / 32
                else:
                    masked += 1
                modelled_is_better += int(q_b[i] >= q_data[i])
            actor_loss = imitation - 1.7 / q.abs().mean().detach() * q.mean()
            step(actor_step, actor_loss)
            old_actor.move(actor, 0.005)
            old_critic.move(critic, 0.005)
            assert metrics["actor_loss"].item() == pytest.approx(actor_loss.item(), rel=2e-4)
    assert 50 < modelled_is_better < 270  # of 320
    assert masked > 20
    for plain, net in (
        (actor, ours.actor),
        (critic, ours.critic),
        (value, ours.value),
        (encoder, ours.vae.encoder),
        (decoder, ours.vae.decoder),
        (old_actor, ours.target_actor),
        (old_critic, ours.target_critic),
    ):
        plain.assert_equals(net)


def test_a2prs_gradients_reach_the_right_parameters() -> None:
    ours = make("a2pr", CONTINUOUS, [0, 1])
    batch, noise = random_batch(CONTINUOUS, 2, 32, 0), random_noise(ours, 32, 0)
    values = ours.value(batch["observations"]).squeeze(-1)
    assert reached(ours, ours.value_loss(values, batch["rewards"])) == {"value"}
    values = values.detach()
    assert reached(ours, ours.vae_loss(batch, values, noise["reconstruction"])) == {"encoder", "decoder"}
    assert reached(ours, ours.guided_actor_loss(batch, values, noise["policy_reconstruction"])) == {"actor"}


def test_a2prs_policy_is_pulled_through_the_auto_encoder() -> None:
    # The imitation term alone (alpha 0), with an auto-encoder whose output depends on its input clearly.
    ours = make("a2pr", CONTINUOUS, [0], alpha=0.0)
    with torch.no_grad():
        for net in (ours.vae.encoder, ours.vae.decoder):
            net.flat.mul_(4.0)
    batch, noise = random_batch(CONTINUOUS, 1, 32, 0), random_noise(ours, 32, 0)
    low = torch.full((1, 32), -100.0)  # nothing is masked
    (gradient,) = torch.autograd.grad(
        ours.guided_actor_loss(batch, low, noise["policy_reconstruction"]).sum(), ours.actor.flat
    )
    s, a, *_ = columns(batch)
    actor, critic, encoder, decoder = (lane_of(ours, name, 0) for name in ("actor", "critic", "encoder", "decoder"))

    def bias_gradient(detached: bool) -> Tensor:
        pi = torch.tanh(actor(s))
        posterior = encoded(encoder, s, pi)
        b = torch.tanh(decoder(s, posterior.mean + posterior.stddev * noise["policy_reconstruction"][0]))
        better = critic(s, b, member=0) >= critic(s, a, member=0)
        best = torch.where(better, b.detach() if detached else b, a)
        return torch.autograd.grad((pi - best).square().mean(), actor.modules[0][-1].bias)[0]

    assert (bias_gradient(True) - bias_gradient(False)).norm() > 0.005 * bias_gradient(False).norm()
    torch.testing.assert_close(gradient.flatten()[-A:], bias_gradient(False), rtol=1e-4, atol=1e-7)


# --- learning ---


def walk_dataset(episodes: int = 300, length: int = 15) -> Dataset:
    """A point on a line moved at random: s' = s + 0.3 a, r = -s'^2, a uniform in [-1, 1], cut by a time limit."""
    rng = np.random.default_rng(0)
    position = rng.uniform(-1, 1, episodes)
    moves = rng.uniform(-1, 1, (episodes, length))
    after = position[:, None] + 0.3 * np.cumsum(moves, 1)
    before = np.concatenate([position[:, None], after[:, :-1]], 1)
    last = np.tile(np.arange(length) == length - 1, episodes)
    return Dataset.from_arrays(
        before.reshape(-1, 1).astype(np.float32),
        moves.reshape(-1, 1).astype(np.float32),
        -(after.ravel() ** 2).astype(np.float32),
        np.zeros(len(last), bool),
        last,
        next_observations=after.reshape(-1, 1).astype(np.float32),
        action_space=gymnasium.spaces.Box(-1.0, 1.0, (1,)),
        name="walk",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bcq", "prdc", "a2pr"])
def test_they_improve_on_a_random_behaviour(name: str) -> None:
    # Imitation stays where it started (return -5.0); the best walks to 0 at full speed (-0.33).
    data = walk_dataset()
    hidden = {field: (32, 32) for field in ("hidden", "vae_hidden", "value_hidden")}
    known = {field.name for field in dataclasses.fields(get_algorithm(name).config_class)}
    rates = {field: 1e-3 for field in known if field.endswith("learning_rate")}
    values = {field: width for field, width in hidden.items() if field in known}
    run = make(name, ProblemSpec.of(data), [0, 1], discount=0.9, **values, **rates)
    buffer = TransitionBuffer(data, Requires(), Preprocessing("none"))
    run.attach(buffer)
    sampler = LaneSampler(buffer, [0, 1], 64, run.noise_spec(64))
    for update in range(1, 2001):
        run.update(*sampler.draw(update), update)
    position, total = torch.linspace(-1, 1, 101).view(1, -1, 1).repeat(2, 1, 1), 0.0
    for _ in range(15):
        position = position + 0.3 * run.act(position)
        total = total - position.square().mean((1, 2))
    assert (total > -1.5).all(), total
