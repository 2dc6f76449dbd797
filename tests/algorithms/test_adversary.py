"""Adversaries: RIQL's attack against plain torch, what attacks guarantee, the cache, and every critic of the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from offbench.algorithms import get_algorithm
from offbench.algorithms.adversary import Adversary, AdversarySettings, train_adversary
from offbench.algorithms.attacks import AttackRule, riql_starts
from offbench.algorithms.base import ProblemSpec
from offbench.algorithms.batches import Normalizer
from offbench.algorithms.conformance import small_config
from offbench.datasets import Dataset
from offbench.datasets.transforms import restore
from offbench.datasets.transforms.corruption import Corrupt
from offbench.errors import DatasetError, IncompatibleError
from tests.algorithms.problems import torch_networks
from tests.datasets.corruption_data import episodes, qlearning_dataset

SMALL = {"hidden": [32, 32]}
EDAC = {"adversary": "edac", "adversary_updates": 150, "adversary_config": {"hidden": [32, 32], "critics": 3}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFFBENCH_CACHE", str(tmp_path))
    return tmp_path


def adversary_of(
    name: str, *, discrete: bool = False, mean: float = 0.0, scale: float = 1.0, **values: Any
) -> Adversary:
    """An untrained adversary for 4 observations and 2 actions in [-2, 1] (or 3 discrete ones from 5 on)."""
    if discrete:
        space = ProblemSpec(4, 3, True, action_start=5)
    else:
        space = ProblemSpec(4, 2, False, (-2.0, -2.0), (1.0, 1.0))
    kind = get_algorithm(name)
    algorithm = kind([small_config(kind, **values)], space, [0])
    for network in algorithm._networks.values():  # last layers begin near zero; make values differ visibly
        with torch.no_grad():
            network.flat.mul_(3.0)
    return Adversary(algorithm, Normalizer(torch.full((4,), mean), torch.full((4,), scale)))


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((count, 4)).astype(np.float32),
        rng.uniform(-2, 1, (count, 2)).astype(np.float32),
    )


# --- the authors' attack in plain torch ---


def plain_attack(
    adversary: Adversary, element: str, s: np.ndarray, a: np.ndarray, std: np.ndarray, eps: float, steps: int, seed: int
) -> np.ndarray:
    """attack.py, optimize_para and split_gradient_attack, on ordinary torch modules."""
    critics = torch_networks(adversary.algorithm.critic)
    actor = torch_networks(adversary.algorithm.actor)[0]
    std_t = torch.from_numpy(std).view(1, -1)
    mean, scale = adversary.normalizer.mean, adversary.normalizer.scale

    def q(obs: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        x = torch.cat([(obs - mean) / scale, (act + 0.5) / 1.5], -1)
        return torch.stack([critic(x) for critic in critics]).squeeze(-1)

    def loss(para: torch.Tensor, obs: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        if element == "observations":
            return q(obs + para * std_t, act).mean()
        if element == "actions":
            return q(obs, act + para * std_t).mean()
        noised = obs + para * std_t
        mu = actor((noised - mean) / scale).chunk(2, -1)[0]
        return q(noised, torch.tanh(mu) * 1.5 - 0.5).mean()

    generator = torch.Generator().manual_seed(seed)
    obs_t, act_t = torch.from_numpy(s), torch.from_numpy(a)
    base = act_t if element == "actions" else obs_t
    pointer, found = 0, []
    for i in range(10):
        number = len(s) // 10 if i < 9 else len(s) - pointer
        part = slice(pointer, pointer + number)
        para = 2 * eps * std_t * (torch.rand(base[part].shape, generator=generator) - 0.5)
        for _ in range(steps):
            para = torch.nn.Parameter(para.clone(), requires_grad=True)
            adam = torch.optim.Adam([para], lr=0.01 * eps)
            adam.zero_grad()
            loss(para, obs_t[part], act_t[part]).backward()
            adam.step()
            para = torch.clamp(para, -eps, eps).detach()
        found.append((para * std_t + base[part]).numpy())
        pointer += number
    return np.concatenate(found)


@pytest.mark.parametrize("element", ["observations", "actions", "next_observations"])
def test_riql_attack_equals_plain_torch(element: str) -> None:
    adversary = adversary_of("edac", critics=3, mean=0.3, scale=2.0)
    s, a = rows(57)
    std = np.array([1.0, 0.5, 2.0, 0.1] if element != "actions" else [0.7, 1.2], np.float32)
    expected = plain_attack(adversary, element, s, a, std, eps=0.8, steps=12, seed=5)
    base = a if element == "actions" else s
    start = riql_starts(5, [base.shape], [std], 0.8)[0]
    rule = AttackRule("riql", 12, 0.01, 0.8)
    z = adversary.attack(element, s, None if element == "next_observations" else a, std, start, rule)  # type: ignore[arg-type]
    np.testing.assert_allclose(base + z * std, expected, rtol=1e-5, atol=2e-5)


def test_the_result_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    adversary = adversary_of("edac", critics=3)
    s, a = rows(900)
    start = riql_starts(0, [s.shape], [np.ones(4)], 1.0)[0]
    rule = AttackRule("riql", 5, 0.01, 1.0)
    whole = adversary.attack("observations", s, a, np.ones(4), start, rule)
    monkeypatch.setattr(Adversary, "block_rows", lambda self: 256)
    parts = adversary.attack("observations", s, a, np.ones(4), start, rule)
    np.testing.assert_allclose(whole, parts, atol=1e-5)


def test_starts_come_from_one_generator() -> None:
    first, second = riql_starts(3, [(25, 2), (13, 4)], [np.array([2.0, 0.5]), np.ones(4)], 0.5)
    generator = torch.Generator().manual_seed(3)
    draws = [torch.rand((n, 2), generator=generator) for n in [2] * 9 + [7]]
    expected = 2 * 0.5 * torch.tensor([2.0, 0.5]) * (torch.cat(draws) - 0.5)
    np.testing.assert_array_equal(first, expected.numpy())
    more = torch.cat([torch.rand((n, 4), generator=generator) for n in [1] * 9 + [4]])
    np.testing.assert_array_equal(second, (2 * 0.5 * (more - 0.5)).numpy())


# --- guarantees of the clean attack ---


@settings(max_examples=15, deadline=None)
@given(
    scale=st.floats(0, 3), steps=st.integers(1, 8), seed=st.integers(0, 100), target=st.sampled_from(["o", "a", "n"])
)
def test_the_clean_attack_never_raises_q_and_stays_in_its_box(scale: float, steps: int, seed: int, target: str) -> None:
    adversary = adversary_of("edac", critics=2)
    s, a = rows(40, seed)
    rng = np.random.default_rng(seed)
    base = a if target == "a" else s
    low, high = -scale * rng.random(base.shape, np.float32), scale * rng.random(base.shape, np.float32)
    start = low + (high - low) * rng.random(base.shape, np.float32)
    name: Any = {"o": "observations", "a": "actions", "n": "next_observations"}[target]
    actions = None if target == "n" else a
    std = np.ones(base.shape[1], np.float32)
    rule = AttackRule("sign", steps, 2.5 / steps, scale)
    z = adversary.attack(name, s, actions, std, start, rule, bounds=(low, high))
    assert (z >= low).all()
    assert (z <= high).all()
    before = adversary.values(name, s, actions)
    after = adversary.values(name, s if target == "a" else s + z, a + z if target == "a" else actions)
    assert (after <= before + 1e-4 * (1 + np.abs(before))).all()


def test_on_a_linear_critic_the_clean_attack_finds_the_corner() -> None:
    # One layer: Q = w [s, a] + b exactly, so the minimum is the corner -scale sign(w).
    kind = get_algorithm("td3_bc")
    space = ProblemSpec(4, 2, False, (-1.0, -1.0), (1.0, 1.0))
    algorithm = kind([small_config(kind)], space, [0])
    algorithm.critic = type(algorithm.critic)((6, 1), [0], "critic", members=2)
    adversary = Adversary(algorithm, Normalizer(torch.zeros(4), torch.ones(4)))
    s, a = rows(30)
    start = np.random.default_rng(0).uniform(-0.5, 0.5, s.shape).astype(np.float32)
    z = adversary.attack("observations", s, a, np.ones(4), start, AttackRule("sign", 50, 0.05, 0.5))
    slope = adversary.algorithm.critic._layout.views(algorithm.critic.flat.detach()[0])[0][0].mean(0)[:4, 0]
    np.testing.assert_allclose(z, np.broadcast_to(-0.5 * np.sign(slope.numpy()), z.shape), atol=1e-6)


# --- every critic ---

CONTINUOUS = ["td3_bc", "iql", "cql", "awac", "crr", "sac_n", "edac", "rebrac", "xql", "dvl"]
DISCRETE = ["dqn", "bve", "mce", "qr_dqn", "rem", "discrete_bcq", "discrete_cql", "discrete_crr", "iql"]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_critics_can_attack(name: str) -> None:
    adversary = adversary_of(name)
    s, a = rows(64)
    rule = AttackRule("sign", 20, 0.125, 1.0)
    for target in ("observations", "actions", "next_observations"):
        base, actions = (a if target == "actions" else s), (None if target == "next_observations" else a)
        z = adversary.attack(target, s, actions, np.ones(base.shape[1]), np.zeros_like(base), rule)  # type: ignore[arg-type]
        moved = (s, a + z) if target == "actions" else (s + z, actions)
        random = np.random.default_rng(1).uniform(-1, 1, base.shape).astype(np.float32)
        noise = (s, a + random) if target == "actions" else (s + random, actions)
        clean = adversary.values(target, s, actions).mean()  # type: ignore[arg-type]
        attacked = adversary.values(target, *moved).mean()  # type: ignore[arg-type]
        assert attacked < min(clean, adversary.values(target, *noise).mean())  # type: ignore[arg-type]
    # Q and policy are what the algorithm's own networks say, in raw units.
    with torch.no_grad():
        unit = torch.from_numpy((a + 0.5) / 1.5)
        own = adversary.algorithm.critic(torch.cat([torch.from_numpy(s), unit], 1)[None])[0].mean(0).squeeze(-1)
        pi = adversary.algorithm.act(torch.from_numpy(s)[None])[0].numpy()
    np.testing.assert_allclose(adversary.values("observations", s, a), own.numpy(), atol=1e-5)
    np.testing.assert_allclose(
        adversary.values("next_observations", s), adversary.values("observations", s, pi), atol=1e-5
    )


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_critics_can_attack(name: str) -> None:
    adversary = adversary_of(name, discrete=True)
    s, _ = rows(64)
    values = np.stack([adversary.values("actions", s, np.full(64, 5 + i)) for i in range(3)], 1)
    np.testing.assert_array_equal(adversary.worst_actions(s), values.argmin(1) + 5)
    chosen = values.argmax(1) + 5
    z = adversary.attack("observations", s, chosen, np.ones(4), np.zeros_like(s), AttackRule("sign", 20, 0.125, 1.0))
    assert adversary.values("observations", s + z, chosen).mean() < values.max(1).mean()
    z = adversary.attack("next_observations", s, None, np.ones(4), np.zeros_like(s), AttackRule("sign", 5, 0.5, 1.0))
    assert adversary.values("next_observations", s + z).mean() < adversary.values("next_observations", s).mean()


# --- through the transform ---


def two_armed(size: int = 1500, seed: int = 0, bound: float = 1.0) -> Dataset:
    """Reward s_0 + a_0 in episodes of one to ten steps, so that Q falls with both."""
    rng = np.random.default_rng(seed)
    s = rng.standard_normal((size, 3)).astype(np.float32)
    a = rng.uniform(-bound, bound, (size, 2)).astype(np.float32)
    ends = rng.random(size) < 0.2
    ends[-1] = True
    following = np.roll(s, -1, 0)
    following[ends] = rng.standard_normal((int(ends.sum()), 3))
    return Dataset.from_arrays(
        s,
        a,
        s[:, 0] + a[:, 0],
        ends,
        np.zeros(size, bool),
        next_observations=following,
        action_space=spaces.Box(-bound, bound, (2,)),
        name="two-armed",
    )


@pytest.mark.parametrize("preset", ["riql", "clean"])
def test_adversarial_corruption_lowers_q_more_than_random_noise(preset: str) -> None:
    dataset = two_armed()
    transform = Corrupt(
        target=["observations", "actions", "dynamics"],
        mode="adversarial",
        preset=preset,
        rate=0.4,
        steps=40,
        step_size=0.05,
        **EDAC,
    )  # type: ignore[arg-type]
    got = transform.apply(dataset)
    settings_ = AdversarySettings("edac", 150, config=EDAC["adversary_config"])  # type: ignore[arg-type]
    adversary = train_adversary(dataset, settings_)
    measured = got.provenance.transforms[-1].parameters["measured"]
    for target, name in (("observations", "observations"), ("actions", "actions"), ("dynamics", "next_observations")):
        touched = got.infos[f"touched/{name}"]
        numbers = measured[target]
        assert numbers["rows"] == touched.sum() > 400
        assert numbers["q_attacked"] < numbers["q_clean"]
        assert numbers["q_attacked"] < numbers["q_random"]
        if target == "dynamics":
            after = adversary.values("next_observations", got.next_observations[touched])
        elif target == "observations":
            after = adversary.values("observations", got.step_observations[touched], dataset.actions[touched])
        else:  # riql's attack on actions sees the observations that it just corrupted
            seen = (got if preset == "riql" else dataset).step_observations[touched]
            after = adversary.values("actions", seen, got.actions[touched])
        np.testing.assert_allclose(after.mean(), numbers["q_attacked"], rtol=1e-3, atol=1e-3)
        column = "step_observations" if name == "observations" else name
        spread = getattr(dataset, column).std(0)
        assert np.abs((getattr(got, column) - getattr(dataset, column)) / spread).max() < 1.02
    if preset == "clean":
        assert np.abs(got.actions).max() <= 1.0
    else:
        assert np.abs(got.actions).max() > 1.0
    assert restore(got).fingerprint == dataset.fingerprint


def test_riql_transform_is_the_plain_attack_on_qlearning_dataset() -> None:
    dataset = episodes([40, 25, 60, 31, 50], low=-2.0)
    options: Any = {**EDAC, "adversary_updates": 20, "steps": 6, "scale": 0.8, "seed": 3, "mode": "adversarial"}
    got = Corrupt(target=["observations", "actions"], rate=0.5, **options).apply(dataset)
    adversary = train_adversary(dataset, AdversarySettings("edac", 20, config=options["adversary_config"]))
    arrays, rows_ = qlearning_dataset(dataset)
    rng = np.random.RandomState(3)
    attacked = np.where(rng.random(len(rows_)) < 0.5)[0]
    std = arrays["observations"].std(0, dtype=np.float64).astype(np.float32)
    expected = plain_attack(
        adversary, "observations", arrays["observations"][attacked], arrays["actions"][attacked], std, 0.8, 6, 3
    )
    np.testing.assert_allclose(got.step_observations[rows_[attacked]], expected, rtol=1e-4, atol=1e-4)
    second = np.where(rng.random(len(rows_)) < 0.5)[0]
    np.testing.assert_array_equal(np.flatnonzero(got.infos["touched/actions"]), rows_[second])


def test_discrete_actions_become_the_worst_ones() -> None:
    dataset = episodes([30] * 20, discrete=True)
    got = Corrupt(
        target="actions", mode="adversarial", preset="clean", adversary_updates=30, adversary_config=SMALL
    ).apply(dataset)
    adversary = train_adversary(dataset, AdversarySettings("dqn", 30, config=SMALL))
    touched = got.infos["touched/actions"]
    assert touched.sum() == 180
    np.testing.assert_array_equal(got.actions[touched], adversary.worst_actions(dataset.step_observations[touched]))


def test_critics_and_attacks_are_kept_and_found(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, transform = two_armed(300), Corrupt(target="actions", mode="adversarial", steps=3, **EDAC)  # type: ignore[arg-type]
    first = transform.apply(dataset)
    assert "training an adversary" in capsys.readouterr().err
    model, attack = next((cache / "adversaries").glob("*.safetensors")), next((cache / "attacks").glob("*.npz"))
    stamps = model.stat().st_mtime_ns, attack.stat().st_mtime_ns
    assert transform.apply(dataset).fingerprint == first.fingerprint
    assert capsys.readouterr().err == ""
    assert (model.stat().st_mtime_ns, attack.stat().st_mtime_ns) == stamps
    # Another seed of the corruption uses the same critic, and is another attack.
    Corrupt(target="actions", mode="adversarial", steps=3, seed=1, **EDAC).apply(dataset)  # type: ignore[arg-type]
    assert len(list((cache / "adversaries").glob("*.safetensors"))) == 1
    assert len(list((cache / "attacks").glob("*.npz"))) == 2
    # Damaged files are made anew, with the same result.
    model.write_bytes(b"damaged")
    attack.write_bytes(b"damaged")
    assert transform.apply(dataset).fingerprint == first.fingerprint
    # Other data, another critic.
    transform.apply(two_armed(300, seed=1))
    assert len(list((cache / "adversaries").glob("*.safetensors"))) == 2


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    train_adversary(
        two_armed(200),
        AdversarySettings("td3_bc", 10, config=SMALL),
        progress=lambda *at: told.append(at),
        cached=False,
    )
    assert told[-1] == (10, 10)


def test_the_paper_s_adversary_is_what_the_paper_says() -> None:
    resolved = AdversarySettings("paper").resolved(two_armed(100))
    assert (resolved["algorithm"], resolved["updates"], resolved["seed"]) == ("edac", 3_000_000, 0)
    assert resolved["config"]["critics"] == 10
    assert resolved["config"]["hidden"] == [256, 256, 256]
    assert resolved["preprocessing"]["observations"] == "none"


def test_what_cannot_be_attacked_says_why() -> None:
    dataset = two_armed(100)
    with pytest.raises(IncompatibleError, match="no critic"):
        train_adversary(dataset, AdversarySettings("bc", 5))
    with pytest.raises(IncompatibleError, match="discrete actions"):
        train_adversary(dataset, AdversarySettings("dqn", 5))
    unknown = episodes([1] * 10, next_known=False)
    unknown = unknown.replace(terminated=np.zeros(10, bool), truncated=np.ones(10, bool))
    with pytest.raises((DatasetError, IncompatibleError), match=r"next observations|no transition"):
        Corrupt(target="actions", mode="adversarial", preset="clean", **EDAC).apply(unknown)  # type: ignore[arg-type]
