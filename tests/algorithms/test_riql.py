"""RIQL against its losses written out in plain torch, its switches against IQL, and data with corrupted rewards."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from offbench.algorithms import resolve_config
from offbench.algorithms.batches import Preprocessing, TransitionBuffer
from offbench.algorithms.conformance import random_dataset, tiny_problem, train
from offbench.datasets import Dataset

from .problems import CONTINUOUS, DISCRETE, Plain, adam, make, random_batch

OFF = {"huber": False, "ensemble": False, "clip_targets": False, "edac_start": False}


@pytest.mark.parametrize(("critics", "quantile", "sigma"), [(5, 0.25, 1.0), (3, 0.4, 3.0), (4, 0.9, 0.9)])
def test_riql_equals_the_paper_written_out(critics: int, quantile: float, sigma: float) -> None:
    ours = make(
        "riql",
        CONTINUOUS,
        [5],
        total_updates=40,
        critics=critics,
        quantile=quantile,
        sigma=sigma,
        target_low=-0.5,
        target_high=1.5,
        advantage_clip=1.2,
    )
    value, critic, actor = Plain(ours.value), Plain(ours.critic), Plain(ours.actor)
    for module in critic.modules:  # EDAC's start
        assert (module[0].bias == 0.1).all()
        assert (module[2].bias == 0.1).all()
        assert 0 < module[4].weight.abs().max() <= 3e-3
    assert len(critic.modules) == critics
    old_critic = copy.deepcopy(critic)
    value_step, critic_step, actor_step = adam(value), adam(critic), adam(actor)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(actor_step, 40)
    beta = 1 / sigma**2
    regimes: set[str] = set()
    for step in range(1, 21):
        batch = random_batch(CONTINUOUS, 1, 32, step)
        s, a, r, s2, c = (batch[k][0] for k in ("observations", "actions", "rewards", "next_observations", "continues"))
        with torch.no_grad():
            old = torch.stack([old_critic(s, a, member=i)[:, 0] for i in range(critics)])
            target_q = torch.quantile(old, quantile, dim=0)
            free = r + 0.99 * c * value(s2)[:, 0]
            y = torch.clamp(free, -0.5, 1.5)
        u = target_q - value(s)[:, 0]
        value_loss = torch.mean(torch.abs(0.7 - (u < 0).float()) * u**2)
        d = torch.stack([critic(s, a, member=i)[:, 0] for i in range(critics)]) - y
        critic_loss = torch.where(d.abs() < beta, 0.5 * d**2 / beta, d.abs() - 0.5 * beta).mean()
        weight = torch.exp(3.0 * u.detach()).clamp(max=1.2)
        actor_loss = torch.mean(weight * ((torch.tanh(actor(s)) - a) ** 2).sum(1))
        regimes |= {"inside"} if (d.abs() < beta).any() else set()
        regimes |= {"outside"} if (d.abs() > beta).any() else set()
        regimes |= {"clipped"} if not torch.equal(free, y) else set()
        for optimizer, loss in ((value_step, value_loss), (critic_step, critic_loss), (actor_step, actor_loss)):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        old_critic.move(critic, 0.005)
        metrics = ours.update(batch, {}, step)
        for name, loss in (("value_loss", value_loss), ("critic_loss", critic_loss), ("actor_loss", actor_loss)):
            assert metrics[name].item() == pytest.approx(loss.item(), rel=2e-4, abs=1e-5)
    assert regimes == {"inside", "outside", "clipped"}
    for plain, net in ((value, "value"), (critic, "critic"), (actor, "actor"), (old_critic, "target_critic")):
        plain.assert_equals(getattr(ours, net))


@pytest.mark.parametrize("kind", ["gaussian", "deterministic", "discrete"])
def test_riql_without_its_changes_is_iql_bit_for_bit(kind: str) -> None:
    space = DISCRETE if kind == "discrete" else CONTINUOUS
    policy = {} if kind == "discrete" else {"policy": kind}
    robust, plain = make("riql", space, [3, 4], **OFF, **policy), make("iql", space, [3, 4], **policy)
    for step in range(1, 21):
        batch = random_batch(space, 2, 32, step)
        robust.update(batch, {}, step)
        plain.update(batch, {}, step)
    mine, other = robust.state_dict(), plain.state_dict()
    assert mine.keys() == other.keys()
    for key, tensor in mine.items():
        assert torch.equal(tensor, other[key]), key


@pytest.mark.parametrize("switch", OFF)
def test_every_switch_changes_the_run(switch: str) -> None:
    runs = [make("riql", CONTINUOUS, [3], target_high=0.1, **{**OFF, switch: on}) for on in (False, True)]
    for run in runs:
        for step in range(1, 4):
            run.update(random_batch(CONTINUOUS, 1, 32, step), {}, step)
    assert runs[0].value.flat.shape == runs[1].value.flat.shape
    assert not torch.equal(runs[0].value.flat, runs[1].value.flat)


def test_quantiles_of_lanes_are_torchs_linear_ones() -> None:
    levels = [0.0, 0.1, 0.25, 0.625, 1.0]
    run = make("riql", CONTINUOUS, list(range(5)), quantile=levels)
    q = torch.randn(5, 5, 40, generator=torch.Generator().manual_seed(0)) * 100
    ours = run.pessimistic(q)
    for lane, level in enumerate(levels):
        torch.testing.assert_close(ours[lane], torch.quantile(q[lane], level, dim=0))


def test_presets_are_the_authors_table() -> None:
    def values(preset: str | None) -> tuple[float, float, int]:
        config, origin = resolve_config("riql", "hopper-medium-replay-v2", preset)
        assert origin["preprocessing"] == {"observations": "standardize_transitions"}
        return config.sigma, config.quantile, config.critics  # type: ignore[attr-defined]

    assert values(None) == (1.0, 0.25, 5)
    assert values("random-observations-hopper") == (0.1, 0.25, 3)
    assert values("random-actions-halfcheetah") == (0.5, 0.25, 3)
    assert values("random-dynamics-walker2d") == (1.0, 0.25, 3)
    assert values("random-rewards-walker2d") == (3.0, 0.1, 5)
    assert values("adversarial-dynamics-hopper") == (1.0, 0.5, 5)
    assert values("adversarial-rewards-halfcheetah") == (1.0, 0.1, 5)


def test_statistics_over_transitions_include_corrupted_next_observations() -> None:
    clean = random_dataset(discrete=False)
    s = clean.step_observations
    override = np.array(clean.next_observations)
    override[::3] += 50.0
    data = clean.replace(next_observations_override=override)
    buffer = TransitionBuffer(data, make("riql", CONTINUOUS, [0]).requires, Preprocessing("standardize_transitions"))
    both = np.concatenate([s, override]).astype(np.float64)
    np.testing.assert_allclose(buffer.normalizer.mean.numpy(), both.mean(0), rtol=1e-5)
    np.testing.assert_allclose(buffer.normalizer.scale.numpy(), both.std(0) + 1e-3, rtol=1e-5)
    # Where a time limit hides s', it is left out of the statistics as it is of the batches.
    hidden = TransitionBuffer(clean, make("riql", CONTINUOUS, [0]).requires, Preprocessing("standardize_transitions"))
    both = np.concatenate([s, clean.next_observations[clean.next_valid]]).astype(np.float64)
    assert not clean.next_valid.all()
    np.testing.assert_allclose(hidden.normalizer.mean.numpy(), both.mean(0), rtol=1e-5)


def outliers(data: Dataset) -> Dataset:
    """A tenth of the rewards replaced by U(-30, 30), as the random corruption of rewards does it."""
    rng = np.random.default_rng(1)
    rewards = np.array(data.rewards)
    rows = rng.random(len(rewards)) < 0.1
    rewards[rows] = rng.uniform(-30, 30, rows.sum())
    return data.replace(rewards=rewards)


def test_corrupted_rewards_mislead_the_huber_loss_less() -> None:
    problem = outliers(tiny_problem(discrete=False))
    observations = torch.rand(1, 2000, 2, generator=torch.Generator().manual_seed(2)) * 2 - 1
    actions = torch.rand(1, 2000, 1, generator=torch.Generator().manual_seed(3)) * 2 - 1
    truth = -(actions - observations[..., :1] / 2).abs()[..., 0]
    normalizer = TransitionBuffer(problem, make("riql", CONTINUOUS, [0]).requires, Preprocessing()).normalizer
    inputs = torch.cat([normalizer(observations), actions], -1)

    def error(huber: bool) -> float:
        space = TransitionBuffer(problem, make("riql", CONTINUOUS, [0]).requires, Preprocessing()).space
        run = make("riql", space, [0], total_updates=1500, huber=huber, sigma=2.0, learning_rate=1e-3)
        train(run, problem, 1, 1500)
        q: Tensor = run.critic.detached(inputs).squeeze(-1).median(1).values
        return float((q - truth).square().mean())

    robust, plain = error(True), error(False)
    assert robust < 0.05
    assert robust < plain / 2
